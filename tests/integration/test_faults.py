"""What a network survives: a provider that dies in mid-answer, a member that is killed, a chain that falls silent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import openai

from contracts.signing import Key
from node.config import KeyFiles, NodeFile, load_node, write_node
from node.keys import create_node_seed, store_secret
from tests.integration.local_network import MODEL, ROOT, LocalNetwork, NodeView, wait_for

STORY = "Tell me a long story about a river."


def _say(network: LocalNetwork, words: str = "Say hello.", tokens: int = 8) -> str:
    """Ask something; the RFC's id."""
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": words}], max_tokens=tokens
    )
    return str(raw.headers["x-yellowstone-rfc"])


def test_a_network_outlives_a_provider_a_member_and_its_chain(own_network: LocalNetwork) -> None:
    """One network for all three, one after the other: each leaves enough of it for the next."""
    _provider_dies_in_mid_answer(own_network)
    _member_is_killed(own_network)
    _chain_falls_silent(own_network)


def _provider_dies_in_mid_answer(network: LocalNetwork) -> None:
    user = network.node("user")
    with network.client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=[{"role": "user", "content": STORY}], max_tokens=300, stream=True
    ) as response:
        provider = network.provider_at(response.headers["x-yellowstone-provider"])
        rfc_id = response.headers["x-yellowstone-rfc"]
        lines = response.iter_lines()
        for _ in range(40):
            next(lines)
        os.kill(provider.pid, signal.SIGKILL)
        rest = list(lines)
    assert not any('"error"' in line for line in rest), "another provider goes on"
    assert rest[-2:] == ["data: [DONE]", ""]
    session = wait_for(
        "the session's end", lambda: found if (found := user.get(f"/sessions/{rfc_id}")).get("tokens") else None, 30
    )
    outcome = network.settled(session["ticket_id"])
    assert outcome["reason"] == "credited"
    assert outcome["tokens"] == session["tokens"] > 0
    assert outcome["credited_wei"] == session["tokens"] * session["price_wei"]
    last = user.get("/sessions")[-1]
    assert last["rfc_id"] != rfc_id
    assert last["provider"] != provider.ready["address"]
    continued = network.settled(last["ticket_id"])
    assert 0 < continued["tokens"] == last["tokens"] <= 300 - session["tokens"]
    assert "Traceback" not in _log(network, "user")


def _member_is_killed(network: LocalNetwork) -> None:
    user = network.node("user")
    session = user.get(f"/sessions/{_say(network)}")
    network.settled(session["ticket_id"])
    killed = network.node("member-4")
    os.kill(killed.pid, signal.SIGKILL)
    wait_for("the member's end", lambda: True if not killed.is_alive() else None, 10)
    for _ in range(3):
        rfc_id = wait_for("an answer without the member", lambda: _try_to_say(network), 60)
        outcome = network.settled(user.get(f"/sessions/{rfc_id}")["ticket_id"], 90)
        assert outcome["reason"] == "credited"
    batch = user.get(f"/batches/{outcome['height']}")
    assert killed.ready["address"] not in batch["signers"]
    assert len(batch["signers"]) == 3


def _try_to_say(network: LocalNetwork) -> str | None:
    """An answer, or None while the home router is the dead member and the next in rank has not taken over."""
    try:
        return _say(network)
    except openai.InternalServerError:
        return None


def _chain_falls_silent(network: LocalNetwork) -> None:
    user, chain = network.node("user"), network.chain_pid()
    os.kill(chain, signal.SIGSTOP)
    try:
        rfc_id = _say(network)
        session = user.get(f"/sessions/{rfc_id}")
        outcome = network.settled(session["ticket_id"])
        provider = network.provider_at(session["provider"])
        assert outcome["reason"] == "credited"
        wait_for("the claim waiting", lambda: True if "chain" in _warnings(network, provider) else None, 60)
    finally:
        os.kill(chain, signal.SIGCONT)

    def claimed() -> bool | None:
        claims = provider.get("/claims")
        return True if any(c["height"] >= outcome["height"] and c["status"] == "paid" for c in claims) else None

    wait_for("the claim going through", claimed, 90)


def _log(network: LocalNetwork, name: str) -> str:
    return (network.folder / "logs" / f"{name}.log").read_text(errors="replace")


def _warnings(network: LocalNetwork, node: NodeView) -> str:
    lines = _log(network, node.folder.name).splitlines()
    return "\n".join(line for line in lines if '"warning"' in line)


def test_a_user_without_mor_is_refused(network: LocalNetwork, tmp_path: Path) -> None:
    config = _user_with_a_new_key(network, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli", "run", "--config", str(config)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the poor user being ready", lambda: (tmp_path / "data" / "ready.json").exists() or None, 40)
        base = str(NodeView(tmp_path).ready["gateway_url"])
        wait_for("the model being known", lambda: httpx.get(f"{base}/v1/models").json()["data"] or None, 30)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}

        def answer() -> httpx.Response | None:
            """What the router says, once the new node has found one."""
            response = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=30)
            return None if response.status_code == 503 else response

        refused = wait_for("a router's answer", answer, 60)
    finally:
        process.terminate()
        process.wait(20)
    assert refused.json()["error"]["code"] == "no_balance"
    assert refused.status_code == 403


def _user_with_a_new_key(network: LocalNetwork, folder: Path) -> Path:
    guest = load_node(network.folder / "guest" / "node.toml")
    password = folder / "password"
    password.touch(0o600)
    password.write_text("a password\n")
    store_secret(folder / "mor.json", Key.generate().reveal(), "a password", "mor")
    create_node_seed(folder / "node.json", "a password")
    path = folder / "node.toml"
    keys = KeyFiles(mor=folder / "mor.json", node=folder / "node.json", password_file=password)
    write_node(
        path,
        NodeFile(
            network=guest.network,
            data_dir=folder / "data",
            keys=keys,
            roles=("full", "user"),
            listen=guest.listen,
            bootstrap=guest.bootstrap,
        ),
    )
    return path
