"""Ask a prompt through the user's OpenAI endpoint, as any client would, and hand on the answer while it streams."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from testnet.errors import AnswerRefused

CONNECT_S = 10.0
SILENCE_S = 90.0
"""The longest wait between two pieces of an answer."""
RETRIED = frozenset({404, 429, 502, 503})
"""Statuses of an endpoint that knows no provider yet; asked again while the network is coming up."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a client saw: the text, the headers and its own clock."""

    text: str
    rfc_id: str
    headers: dict[str, str]
    """The ``x-yellowstone-*`` headers."""
    finish: str | None
    first_ms: int
    """From sending the request to the first text."""
    total_ms: int
    """From sending the request to the end."""


def gateway_base(url: str) -> str:
    """The gateway's address with ``/v1``, whether it was given with it or not."""
    return url.rstrip("/").removesuffix("/v1") + "/v1"


async def list_models(gateway_url: str, transport: httpx.AsyncBaseTransport | None = None) -> tuple[str, ...]:
    """The models that the user's node knows a bid for; none while it doesn't answer."""
    try:
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=CONNECT_S) as client:
            response = await client.get(f"{gateway_base(gateway_url)}/models")
        return tuple(str(model["id"]) for model in response.json()["data"]) if response.status_code == 200 else ()
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return ()


async def ask(
    gateway_url: str,
    model: str,
    prompt: str,
    *,
    max_tokens: int,
    on_text: Callable[[str], None],
    transport: httpx.AsyncBaseTransport | None = None,
) -> Answer:
    """Stream one chat completion.

    Raises :class:`AnswerRefused` for any status but 200, an error event, or a stream that breaks off.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    reader = _Reader(on_text)
    url = f"{gateway_base(gateway_url)}/chat/completions"
    try:
        async with (
            httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as client,
            client.stream("POST", url, json=body) as response,
        ):
            if response.status_code != 200:
                raise AnswerRefused(response.status_code, _error_message(await response.aread()))
            # to the very end, whatever comes: httpx's line iterators clean up only when they are exhausted
            async for line in response.aiter_lines():
                reader.take(line)
            headers = {name: value for name, value in response.headers.items() if name.startswith("x-yellowstone-")}
    except httpx.TransportError as error:
        raise AnswerRefused(0, f"{type(error).__name__}: {error}") from error
    return reader.answer(headers)


class _Reader:
    """Reads an answer's server-sent events line by line, with the client's own clock."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._started = time.monotonic()
        self._first: float | None = None
        self._texts: list[str] = []
        self._finish: str | None = None
        self._is_done = False
        self._fault: str | None = None

    def take(self, line: str) -> None:
        """One line of the stream; after a fault or the end nothing counts any more."""
        if not line.startswith("data:") or self._is_done or self._fault is not None:
            return
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._is_done = True
            return
        try:
            event = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError:
            self._fault = f"an event is not JSON: {data[:200]}"
            return
        if event.get("error"):
            self._fault = _error_message(data.encode())
            return
        for choice in event.get("choices", ()):
            self._take_text((choice.get("delta") or {}).get("content"))
            self._finish = choice.get("finish_reason") or self._finish

    def _take_text(self, text: str | None) -> None:
        if text:
            self._first = time.monotonic() if self._first is None else self._first
            self._texts.append(text)
            self._on_text(text)

    def answer(self, headers: dict[str, str]) -> Answer:
        """The answer, once the stream has ended. Raises :class:`AnswerRefused` where it ended too early."""
        if not self._is_done:
            raise AnswerRefused(200, self._fault or "the stream ended without [DONE]")
        ended = time.monotonic()
        first = ended if self._first is None else self._first
        return Answer(
            text="".join(self._texts),
            rfc_id=headers.get("x-yellowstone-rfc", ""),
            headers=headers,
            finish=self._finish,
            first_ms=round((first - self._started) * 1_000),
            total_ms=round((ended - self._started) * 1_000),
        )


def _error_message(body: bytes) -> str:
    """The message of an OpenAI error object, or the body's beginning."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
