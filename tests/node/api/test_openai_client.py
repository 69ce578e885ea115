"""The official OpenAI client, unchanged, against the gateway on a real port."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import openai
import pytest
import trio

from node.api.backend import BackendError
from node.api.gateway import build_gateway
from tests.node.api.scripted import MODEL, RFC, ScriptedBackend, serving

T = TypeVar("T")
TEXT = "The capital of France is Paris. ☃"


class Client:
    """The synchronous client, in a thread."""

    def __init__(self, url: str) -> None:
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none needed", max_retries=2, timeout=20)

    async def run(self, call: Callable[[openai.OpenAI], T]) -> T:
        with trio.fail_after(30):
            return await trio.to_thread.run_sync(call, self.openai)


@pytest.fixture
async def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[Client]:
    async with serving(build_gateway(backend)) as served:
        client = Client(served.url)
        yield client
        client.openai.close()


def complete(client: openai.OpenAI) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": "capital of France?"}],
        max_completion_tokens=50,
    )


def stream(client: openai.OpenAI) -> list[openai.types.chat.ChatCompletionChunk]:
    with client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "user", "content": [{"type": "text", "text": "capital of France?"}]}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        return list(chunks)


async def test_models(client: Client) -> None:
    assert MODEL.name in [model.id for model in await client.run(lambda c: list(c.models.list()))]
    assert (await client.run(lambda c: c.models.retrieve(MODEL.name))).owned_by == "yellowstone"
    with pytest.raises(openai.NotFoundError):
        await client.run(lambda c: c.models.retrieve("gpt-9"))


async def test_completion(client: Client, backend: ScriptedBackend) -> None:
    answer = await client.run(complete)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert backend.requests[0].max_tokens == 50


async def test_stream(client: Client) -> None:
    chunks = await client.run(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].id == f"chatcmpl-{RFC.hex()}"


async def test_headers(client: Client) -> None:
    raw = await client.run(
        lambda c: c.chat.completions.with_raw_response.create(
            model=MODEL.name, messages=[{"role": "user", "content": "hello"}]
        )
    )
    assert raw.headers["x-yellowstone-rfc"] == "0x" + RFC.hex()


async def test_broken_stream_raises(client: Client, backend: ScriptedBackend) -> None:
    backend.break_after = 1
    with pytest.raises(openai.APIError, match="the provider broke off"):
        await client.run(stream)
    assert len(backend.requests) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendError(404, "model_not_found", "no such model"), openai.NotFoundError),
        (BackendError(403, "no_balance", "no MOR", kind="insufficient_quota"), openai.PermissionDeniedError),
        (BackendError(429, "allowance_used", "used up", kind="insufficient_quota"), openai.RateLimitError),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
async def test_refusals_are_typed_and_not_repeated(
    client: Client, backend: ScriptedBackend, error: BackendError, expected: type[openai.APIStatusError]
) -> None:
    backend.refusal = error
    with pytest.raises(expected, match=error.message):
        await client.run(complete)
    assert len(backend.requests) == 1


async def test_what_was_paid_for_is_not_repeated(client: Client, backend: ScriptedBackend) -> None:
    backend.break_after = 1
    with pytest.raises(openai.APIStatusError, match="the provider broke off"):
        await client.run(complete)
    assert len(backend.requests) == 1


async def test_unsupported_parameter(client: Client) -> None:
    with pytest.raises(openai.BadRequestError, match="'n' is not supported"):
        await client.run(
            lambda c: c.chat.completions.create(model=MODEL.name, messages=[{"role": "user", "content": "hello"}], n=2)
        )
