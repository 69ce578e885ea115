"""The user's OpenAI-compatible endpoint: any OpenAI client asks the market as it would ask a company.

The status is 200 only once the first token is there, so that a refusal keeps its own status. What goes wrong after that
is said in the stream by an error event, without ``[DONE]``. A client that leaves cancels its session.

Decision: chat completions are answered by a plain ASGI callable rather than starlette's StreamingResponse, because the
answer's context must be entered before the status is known and left in the same task, and because an async generator
must not yield inside a nursery.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.api.backend import Answer, BackendError, ChatBackend
from node.api.openai_answers import Envelope, error_headers, error_object, model_object, usage_object
from node.api.openai_types import Asked, parse_request

BODY_MAX = 1 << 20
"""Bytes of a request that are read: as much as a query may have on the wire."""

DRAIN_LIMITS = 16
"""A body of so many times the limit is no longer read to its end."""

BODY_S = 30.0
"""How long a client may take to send its body."""

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


def build_gateway(
    backend: ChatBackend,
    *,
    default_tokens: int = 256,
    most_tokens: int = 4_096,
    body_max: int = BODY_MAX,
    now_s: Callable[[], float] = time.time,
) -> Starlette:
    """The gateway as an ASGI app.

    ``default_tokens`` is the TokenMax (T) of a request that names none, ``most_tokens`` the most that one may name;
    ``body_max`` is in bytes; ``now_s`` is Unix seconds, for ``created``.
    """

    async def models(_: Request) -> Response:
        cards = await backend.models()
        return JSONResponse({"object": "list", "data": [model_object(card) for card in cards]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        for card in await backend.models():
            if name in (card.name, "0x" + card.model_id.hex()):
                return JSONResponse(model_object(card))
        return _error_response(_unknown_model(name))

    completions = _Completions(backend, default_tokens, most_tokens, body_max, now_s)
    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _on_http_error, BackendError: _on_backend_error, Exception: _on_bug},
    )


class _Completions:
    """POST /v1/chat/completions."""

    def __init__(
        self, backend: ChatBackend, default_tokens: int, most_tokens: int, body_max: int, now_s: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._default_tokens = default_tokens
        self._most_tokens = most_tokens
        self._body_max = body_max
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, and answer, until the answer is out or the client has left."""
        try:
            raw = await _read_body(receive, self._body_max)
            if raw is None:
                return
            asked = parse_request(raw, default_tokens=self._default_tokens, most_tokens=self._most_tokens)
        except BackendError as error:
            await _send_last(error, scope, receive, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            await self._answer(asked, scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response | None = None
        answered = False
        try:
            async with self._backend.chat(asked.chat) as answer:
                answered = True
                envelope = Envelope(f"chatcmpl-{answer.rfc_id.hex()}", int(self._now_s()), asked.chat.model)
                if asked.stream:
                    await _stream(answer, envelope, send, include_usage=asked.include_usage)
                else:
                    response = await _whole(answer, envelope)
        except BackendError as error:
            if answered:  # the client has its answer; what failed is the farewell
                _log.warning("session did not end well", code=error.code, reason=error.message)
            else:
                response = _error_response(error)
        if response is not None:
            await response(scope, receive, send)


async def _whole(answer: Answer, envelope: Envelope) -> Response:
    """The answer in one object. What breaks off has been paid for all the same."""
    pieces: list[str] = []
    try:
        async with _closing(answer.pieces()) as arriving:
            async for piece in arriving:
                pieces.append(piece)
    except BackendError as error:
        error.paid = True
        return _error_response(error, answer.headers())
    usage = usage_object(answer.prompt_tokens, answer.tokens)
    return JSONResponse(envelope.completion("".join(pieces), answer.finish or "stop", usage), headers=answer.headers())


async def _stream(answer: Answer, envelope: Envelope, send: Send, *, include_usage: bool) -> None:
    """The answer as server-sent events. A break is told by an error event, and ``[DONE]`` is left out."""

    async def tell(delta: dict[str, str], finish: str | None = None) -> None:
        await _send_event(send, envelope.chunk(delta, finish, include_usage=include_usage))

    await send({"type": "http.response.start", "status": 200, "headers": _stream_headers(answer)})
    try:
        await tell({"role": "assistant", "content": ""})
        async with _closing(answer.pieces()) as arriving:
            async for piece in arriving:
                await tell({"content": piece})
        await tell({}, answer.finish or "stop")
        if include_usage:
            await _send_event(send, envelope.usage_chunk(usage_object(answer.prompt_tokens, answer.tokens)))
        await _send_body(send, b"data: [DONE]\n\n")
    except BackendError as error:
        _log.warning("answer broke off", rfc=envelope.id, code=error.code, reason=error.message)
        await _send_event(send, error_object(error))
    except Exception:
        await _send_event(send, error_object(_internal_error()))
        await _send_body(send, b"", more=False)
        raise
    await _send_body(send, b"", more=False)


@asynccontextmanager
async def _closing(pieces: AsyncIterator[str]) -> AsyncIterator[AsyncIterator[str]]:
    """Close a generator where its reader stops early, rather than whenever it is collected."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _send_event(send: Send, value: dict[str, Any]) -> None:
    await _send_body(send, b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


def _stream_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-should-retry": "false",
        **answer.headers(),
    }
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _send_body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The request's body; None where the client left. Raises :class:`BackendError` (408, 413).

    Somewhat too large a body is read to its end and thrown away: a client that is still writing when the connection
    closes never sees why.
    """
    body, size = bytearray(), 0
    with trio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                body += chunk
            ended = not message.get("more_body", False)
            if size > DRAIN_LIMITS * limit or (ended and size > limit):
                text = f"the body has more than {limit} bytes"
                raise BackendError(413, "body_too_large", text, kind="invalid_request_error")
            if ended:
                return bytes(body)
    raise BackendError(408, "body_timeout", f"the body took more than {BODY_S:g} s", kind="invalid_request_error")


async def _send_last(error: BackendError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request whose body may still be coming, and have the connection closed.

    What still comes is read and thrown away meanwhile, or the server would wait to hand it over.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, receive, trio.CancelScope())
        headers = {"connection": "close"} if error.status in (408, 413) else {}
        await _error_response(error, headers)(scope, receive, send)
        nursery.cancel_scope.cancel()


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _error_response(error: BackendError, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error_object(error), error.status, {**(headers or {}), **error_headers(error)})


def _unknown_model(name: str) -> BackendError:
    message = f"The model '{name}' does not exist or nobody serves it now"
    return BackendError(404, "model_not_found", message, kind="invalid_request_error", param="model")


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path}: {getattr(error, 'detail', error)}"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(status, "http_error")
    response = _error_response(BackendError(status, code, message, kind="invalid_request_error"))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _on_backend_error(_: Request, error: Exception) -> Response:
    if isinstance(error, BackendError):
        return _error_response(error)
    raise error


async def _on_bug(_: Request, __: Exception) -> Response:
    """The error itself goes on to the server, which logs it."""
    return _error_response(_internal_error())


def _internal_error() -> BackendError:
    return BackendError(500, "internal_error", "the gateway failed; its log says more")
