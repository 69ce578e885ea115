"""The stock OpenAI client's test drive against a network as a user starts it, bad requests, and a worker that dies."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.integration.local_network import MODEL, LocalNetwork, NodeView, wait_for

PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a long story about a river."}]


def ask(network: LocalNetwork, **fields: Any) -> Any:
    body: dict[str, Any] = {"model": MODEL, "messages": PARIS, "max_tokens": 16, "temperature": 0} | fields
    return network.client.chat.completions.create(**body)


def test_list_chat_usage_and_logarithms(network: LocalNetwork) -> None:
    # a test before this one may have left another model's bid
    (model,) = (found for found in network.client.models.list() if found.id == MODEL)
    shown = network.client.models.retrieve(MODEL)
    assert shown == model
    about = shown.model_extra["yellowstone"] if shown.model_extra else {}
    assert about["providers"] == 2
    assert about["lowest_price_wei"] > 0
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=PARIS, max_tokens=16, temperature=0, logprobs=True, top_logprobs=2
    )
    answer = raw.parse()
    (choice,) = answer.choices
    assert choice.message.content == "The capital of France is Paris."
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == choice.message.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 and token.top_logprobs[0].logprob >= token.logprob for token in tokens)
    for name in ("rfc", "provider", "price-wei", "pass-left"):
        assert raw.headers[f"x-yellowstone-{name}"]


def test_eight_at_once_wait_or_are_told_to(network: LocalNetwork) -> None:
    """Two providers of two slots: whoever finds none is told 503 and when to come back, which the client does."""
    with ThreadPoolExecutor(8) as threads:
        client = network.client.with_options(max_retries=10)
        body: dict[str, Any] = {"model": MODEL, "messages": PARIS, "max_tokens": 16, "temperature": 0}
        answers: list[ChatCompletion] = list(threads.map(lambda _: client.chat.completions.create(**body), range(8)))
    assert {answer.choices[0].message.content for answer in answers} == {"The capital of France is Paris."}
    assert len({answer.id for answer in answers}) == 8


def test_what_the_engine_cannot_do_is_refused_by_name(network: LocalNetwork) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(network, tools=[tool])
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")
    assert "llama.cpp" in refused.value.message


def test_bad_requests_are_400s_and_harm_nobody(network: LocalNetwork) -> None:
    good = {"model": MODEL, "messages": PARIS, "max_tokens": 4}
    cases: list[tuple[bytes, int, str]] = [
        (
            json.dumps(good | {"messages": [{"role": "user", "content": "x" * 10_000_000}]}).encode(),
            413,
            "body_too_large",
        ),
        (json.dumps(good | {"max_tokens": 10**9}).encode(), 400, "invalid_value"),
        (json.dumps(good | {"temperature": -0.5}).encode(), 400, "invalid_value"),
        (json.dumps(good)[:-9].encode(), 400, "invalid_json"),
        (json.dumps(good).encode().replace(b"France", b"Fran\xffe"), 400, "invalid_json"),
        (json.dumps(good | {"model": "gpt-9"}).encode(), 404, "model_not_found"),
    ]
    with httpx.Client(trust_env=False, timeout=60) as client:
        for body, status, code in cases:
            response = client.post(network.base + "/chat/completions", content=body)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        fine = client.post(network.base + "/chat/completions", json=good | {"unknown": {"a": [1]}, "service_tier": "x"})
    assert fine.status_code == 200


def test_t_are_counted_by_the_user_and_a_client_that_leaves_frees_its_slot(network: LocalNetwork) -> None:
    stream = ask(network, messages=STORY, max_tokens=400, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    user = network.node("user")
    wait_for("the broken session", lambda: _last(user)["state"] != "open" or None, 10)

    def recounted() -> bool | None:
        ask(network)
        return True if _last(user)["recounted"] else None

    # the vocabulary of each provider's model is one, fetched once
    wait_for("an answer that the user counted", recounted, 60)
    assert _last(user)["passed"] is True


def _last(user: NodeView) -> Any:
    return user.get("/sessions")[-1]


def test_a_worker_killed_in_a_stream_costs_that_answer_alone(network: LocalNetwork) -> None:
    raw = network.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=STORY, max_tokens=400, stream=True
    )
    provider = network.provider_at(raw.headers["x-yellowstone-provider"])
    (worker,) = _workers(provider.pid)
    chunks = iter(raw.parse())
    next(chunk for chunk in chunks if chunk.choices[0].delta.content)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert "engine_crashed" in str(broken.value.code)
    answer = network.client.with_options(max_retries=5).chat.completions.create(
        model=MODEL, messages=PARIS, max_tokens=16, temperature=0
    )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert provider.is_alive()
    # the same node serves again, with another worker
    wait_for("another worker", lambda: True if set(_workers(provider.pid)) - {worker} else None, 60)

    def served() -> bool | None:
        found = network.client.chat.completions.with_raw_response.create(model=MODEL, messages=PARIS, max_tokens=2)
        return True if found.headers["x-yellowstone-provider"] == provider.ready["address"] else None

    wait_for("an answer of the provider whose worker died", served, 60)


def _workers(parent: int) -> list[int]:
    """The engine workers among a process's children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text().rsplit(")", 1)[1].split()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if int(status[1]) == parent and status[0] != "Z" and b"inference.llamacpp.worker" in command:
            found.append(int(process.name))
    return found
