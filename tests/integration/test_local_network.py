"""The main job on real parts: libp2p, an EVM chain, a language model, one process per node; and what goes wrong."""

import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio

from gossip import topics
from gossip.errors import TransportError
from gossip.network import NetworkConfig, Verdict, open_network
from node.config import load_network
from tests.integration.local_network import MODEL, ROOT, LocalNetwork, wait_for

PARIS = "What is the capital of France?"


def test_the_prompt_was_answered_and_paid(network: LocalNetwork) -> None:
    text = " ".join(network.text().split())
    assert "Paris" in text
    assert "received exactly T × its bid" in text
    signed = re.search(r"signed by (\d) of 4", text)
    assert signed is not None
    assert int(signed[1]) >= 3


def test_the_official_client_streams_an_answer(network: LocalNetwork) -> None:
    stream = network.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PARIS}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert "Paris" in text
    assert usage is not None
    assert usage.completion_tokens > 0


def test_a_whole_answer_is_settled_at_its_bid(network: LocalNetwork) -> None:
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=12
    )
    completion = raw.parse()
    assert completion.usage is not None
    session = network.node("user").get(f"/sessions/{raw.headers['x-yellowstone-rfc']}")
    outcome = network.settled(session["ticket_id"])
    assert outcome["reason"] == "credited"
    assert outcome["tokens"] == completion.usage.completion_tokens
    assert outcome["credited_wei"] == outcome["tokens"] * session["price_wei"]


def test_a_match_is_explained_and_holds_once_its_secret_is_known(network: LocalNetwork) -> None:
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4
    )
    rfc_id = raw.headers["x-yellowstone-rfc"]

    def verdict() -> list[str] | None:
        lines: list[str] = network.node("user").get(f"/sessions/{rfc_id}")["explanation"]
        return lines if any("secret" in line and "0x" in line for line in lines) else None

    lines = wait_for("the slot's secret being revealed", verdict, 30)
    assert lines[-1] == "verdict: the match holds"
    credit = wait_for("the credit", lambda: _credit_of(network, rfc_id), 30)
    assert credit[0].startswith("credit: at once")


def _credit_of(network: LocalNetwork, rfc_id: str) -> list[str] | None:
    lines: list[str] = network.node("user").get(f"/sessions/{rfc_id}")["credit"]
    return None if lines == ["credit: not settled yet"] else lines


def test_an_unknown_model_is_openais_404(network: LocalNetwork) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        network.client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"


def test_a_prompt_over_the_providers_limit_is_refused(network: LocalNetwork) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        network.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "many words " * 2_000}], max_tokens=4
        )
    assert caught.value.code == "context_length_exceeded"


def test_token_max_over_the_allowance_is_refused_and_costs_nothing(network: LocalNetwork) -> None:
    left = _pass_left(network)
    body = {"model": MODEL, "max_tokens": 4_000_000, "messages": [{"role": "user", "content": "hi"}]}
    refused = httpx.post(f"{network.base}/chat/completions", json=body, timeout=30)
    assert refused.status_code in {400, 429}
    assert "token" in refused.json()["error"]["message"].lower()
    assert _pass_left(network) >= left - 64


def _pass_left(network: LocalNetwork) -> int:
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=1
    )
    return int(raw.headers["x-yellowstone-pass-left"])


def _run(network: LocalNetwork, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _is_one_clear_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_config_with_an_unknown_key_names_it(network: LocalNetwork, tmp_path: Path) -> None:
    config = network.folder / "guest" / "node.toml"
    done = _run(network, "run", "--config", str(config), "--set", "listen.contol_port=1")
    _is_one_clear_error(done, "contol_port", "unknown key")


def test_a_port_in_use_is_named(network: LocalNetwork) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = network.folder / "guest" / "node.toml"
        control = _run(network, "run", "--config", str(config), "--set", f"listen.control_port={port}")
        p2p = _run(network, "run", "--config", str(config), "--set", f'listen.p2p=["/ip4/127.0.0.1/tcp/{port}"]')
    _is_one_clear_error(control, str(port), "in use")
    _is_one_clear_error(p2p, str(port), "in use")


def test_a_wrong_keystore_password_names_the_file(network: LocalNetwork, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not it\n")
    wrong.chmod(0o600)
    config = network.folder / "guest" / "node.toml"
    done = _run(network, "run", "--config", str(config), "--set", f"keys.password_file={wrong}")
    _is_one_clear_error(done, "password")


def test_an_unreachable_chain_does_not_keep_a_provider_from_starting(network: LocalNetwork, tmp_path: Path) -> None:
    config = network.folder / "guest" / "node.toml"
    data = tmp_path / "data"
    offer = '[{model = "echo", engine = "synthetic", price_wei = 90000000000}]'
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "node.cli", "run", "--config", str(config)),
            *("--set", 'roles=["full", "provider"]', "--set", f"models={offer}", "--set", f"data_dir={data}"),
            *("--set", "chain.rpc_url=http://127.0.0.1:9", "--set", "chain.timeout_s=2"),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for("the provider being ready", lambda: (data / "ready.json").exists() or None, 40)
        wait_for("its model being on offer", lambda: "echo" in _models(network) or None, 30)
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "starting without the chain" in log


def _models(network: LocalNetwork) -> list[str]:
    return [model.id for model in network.client.models.list()]


@pytest.mark.seed(1)
def test_random_bytes_on_every_protocol_harm_nobody(network: LocalNetwork, chance: random.Random) -> None:
    nodes = network.nodes()
    trio.run(_throw_garbage, network, [node.ready["multiaddrs"][0] for node in nodes], chance)
    assert all(node.is_alive() for node in nodes)
    completion = network.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PARIS}], max_tokens=8
    )
    assert completion.choices[0].message.content


async def _throw_garbage(network: LocalNetwork, multiaddrs: list[str], rng: random.Random) -> None:
    genesis = load_network(network.folder / "network.toml")
    name = topics.network_id(genesis.terms().domain)
    protocols = (topics.COMMITTEE, topics.ROUTER, topics.LIVENESS, topics.SESSION, topics.SYNC)
    async with open_network(NetworkConfig(), rng.randbytes(32)) as host:
        for multiaddr in multiaddrs:
            peer = await host.connect([multiaddr], timeout=5)
            for protocol in protocols:
                await _send_garbage(host, peer, protocol, rng)
        for topic in (topics.records, topics.bids, topics.proofs, topics.batches, topics.reveals):
            await host.subscribe(topic(name), lambda *_: Verdict.IGNORE, max_bytes=65_536)
            await host.publish(topic(name), rng.randbytes(4_096))


async def _send_garbage(host: Any, peer: str, protocol: str, rng: random.Random) -> None:
    """A peer that does not speak the protocol, or has had enough of us, may refuse."""
    try:
        stream = await host.open_stream(peer, protocol, timeout=5)
        await stream.send(rng.randbytes(4_096))
        await stream.receive(limit=65_536, timeout=1)
    except TransportError as error:
        print(peer, protocol, type(error).__name__)
    else:
        await stream.aclose()
