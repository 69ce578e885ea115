"""The user's OpenAI-compatible endpoint: any OpenAI client asks the market as it would ask a company.

The status is 200 only once the first token is there, so that a refusal keeps its own status. What goes wrong after that
is said in the stream by an error event, without ``[DONE]``. A client that leaves cancels its session.

Decision: chat completions are answered by a plain ASGI callable rather than starlette's StreamingResponse, because the
answer's context must be entered before the status is known and left in the same task, and because an async generator
must not yield inside a nursery.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import structlog
import trio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gossip.messages import Unit
from inference.engine import Piece
from node.api.api_keys import ApiKey
from node.api.backend import Answer, BackendError, ChatBackend
from node.api.openai_answers import (
    ChatEnvelope,
    Envelope,
    TextEnvelope,
    error_headers,
    error_object,
    model_object,
    usage_object,
)
from node.api.openai_types import Asked, parse_completion, parse_request
from node.api.requests import cancel_when_gone, read_body
from node.api.shares import Gate, Reservation

BODY_MAX = 1 << 20
"""Bytes of a request that are read: as much as a query may have on the wire."""

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


def build_gateway(
    backend: ChatBackend,
    *,
    gate: Gate | None = None,
    default_tokens: int = 256,
    most_tokens: int = 4_096,
    body_max: int = BODY_MAX,
    now_s: Callable[[], float] = time.time,
) -> Starlette:
    """The gateway as an ASGI app.

    ``gate`` asks for API keys where there are any. ``default_tokens`` is the TokenMax (T) of a request that names none,
    ``most_tokens`` the most that one may name; ``body_max`` is in bytes; ``now_s`` is Unix seconds, for ``created``.
    """

    async def models(request: Request) -> Response:
        _admit(gate, request.scope)
        cards = await backend.models()
        return JSONResponse({"object": "list", "data": [model_object(card) for card in cards]})

    async def model(request: Request) -> Response:
        _admit(gate, request.scope)
        name = request.path_params["name"]
        for card in await backend.models():
            if name in (card.name, "0x" + card.model_id.hex()):
                return JSONResponse(model_object(card))
        return _error_response(_unknown_model(name))

    def answering(parse: Callable[..., Asked], form: type[Envelope]) -> _Completions:
        read = partial(parse, default_tokens=default_tokens, most_tokens=most_tokens)
        return _Completions(backend, gate, read, form, body_max, now_s)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", answering(parse_request, ChatEnvelope), methods=["POST"]),
            Route("/v1/audio/{rest:path}", _other_unit(Unit.AUDIO_SAMPLE), methods=["GET", "POST"]),
            Route("/v1/videos{rest:path}", _other_unit(Unit.VIDEO_FRAME), methods=["GET", "POST"]),
            Route("/v1/completions", answering(parse_completion, TextEnvelope), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _on_http_error, BackendError: _on_backend_error, Exception: _on_bug},
    )


def _other_unit(unit: Unit) -> Callable[[Request], Awaitable[Response]]:
    """What answers for a unit that bids and RFCs can name and nobody serves yet (S16)."""

    async def endpoint(_: Request) -> Response:
        text = f"{unit.name} is not served by this network yet, only {Unit.TEXT_TOKEN.name} is"
        return _error_response(BackendError(400, "unit_unsupported", text, kind="invalid_request_error"))

    return endpoint


def _admit(gate: Gate | None, scope: Scope) -> ApiKey | None:
    """The request's API key. Raises :class:`BackendError`."""
    return None if gate is None else gate.admit(Headers(scope=scope).get("authorization"))


class _Completions:
    """POST /v1/chat/completions, and /v1/completions, which differ in form alone."""

    def __init__(  # noqa: PLR0917  # build_gateway alone makes them
        self,
        backend: ChatBackend,
        gate: Gate | None,
        parse: Callable[[bytes], Asked],
        form: type[Envelope],
        body_max: int,
        now_s: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._parse = parse
        self._form = form
        self._body_max = body_max
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, and answer, until the answer is out or the client has left."""
        try:
            key = _admit(self._gate, scope)
            raw = await read_body(receive, self._body_max)
            if raw is None:
                return
            asked = self._parse(raw)
        except BackendError as error:
            await _send_last(error, scope, receive, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
            await self._answer(asked, key, scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _answer(self, asked: Asked, key: ApiKey | None, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response | None = None
        answered = False
        try:
            async with (
                self._reserve(key, asked.chat.max_tokens) as reserved,
                self._backend.chat(asked.chat) as answer,
            ):
                answered = True
                headers = answer.headers() | _share_headers(reserved)
                chat = asked.chat
                envelope = self._form(
                    answer.rfc_id.hex(),
                    int(self._now_s()),
                    chat.model,
                    asked.include_usage,
                    chat.logprobs is not None,
                )
                try:
                    if asked.stream:
                        await _stream(answer, envelope, headers, send)
                    else:
                        response = await _whole(answer, envelope, headers)
                finally:
                    reserved.spent = answer.tokens
        except BackendError as error:
            if answered:  # the client has its answer; what failed is the farewell
                _log.warning("session did not end well", code=error.code, reason=error.message)
            else:
                response = _error_response(error)
        if response is not None:
            await response(scope, receive, send)

    @asynccontextmanager
    async def _reserve(self, key: ApiKey | None, tokens: int) -> AsyncIterator[Reservation]:
        if self._gate is None:
            yield Reservation(None)
            return
        async with self._gate.reserve(key, tokens) as reserved:
            yield reserved


def _share_headers(reserved: Reservation) -> dict[str, str]:
    """What the key has left: for its holder that is what counts."""
    return {} if reserved.limit is None else reserved.limit.headers()


async def _whole(answer: Answer, envelope: Envelope, headers: dict[str, str]) -> Response:
    """The answer in one object. What breaks off has been paid for all the same."""
    pieces: list[Piece] = []
    try:
        async with _closing(answer.pieces()) as arriving:
            async for piece in arriving:
                pieces.append(piece)
    except BackendError as error:
        error.paid = True
        return _error_response(error, headers)
    usage = usage_object(answer.prompt_tokens, answer.tokens)
    whole = Piece(
        "".join(piece.text for piece in pieces),
        (),
        details=tuple(detail for piece in pieces for detail in piece.details),
        calls=tuple(call for piece in pieces for call in piece.calls),
    )
    return JSONResponse(envelope.whole(whole, answer.finish or "stop", usage), headers=headers)


async def _stream(answer: Answer, envelope: Envelope, headers: dict[str, str], send: Send) -> None:
    """The answer as server-sent events. A break is told by an error event, and ``[DONE]`` is left out."""
    await send({"type": "http.response.start", "status": 200, "headers": _stream_headers(headers)})
    try:
        if (opening := envelope.opening()) is not None:
            await _send_event(send, opening)
        async with _closing(answer.pieces()) as arriving:
            async for piece in arriving:
                await _send_event(send, envelope.piece(piece))
        await _send_event(send, envelope.ending(answer.finish or "stop"))
        if envelope.include_usage:
            await _send_event(send, envelope.usage_chunk(usage_object(answer.prompt_tokens, answer.tokens)))
        await _send_body(send, b"data: [DONE]\n\n")
    except BackendError as error:
        _log.warning("answer broke off", rfc=envelope.rfc, code=error.code, reason=error.message)
        await _send_event(send, error_object(error))
    except Exception:
        await _send_event(send, error_object(_internal_error()))
        await _send_body(send, b"", more=False)
        raise
    await _send_body(send, b"", more=False)


@asynccontextmanager
async def _closing(pieces: AsyncIterator[Piece]) -> AsyncIterator[AsyncIterator[Piece]]:
    """Close a generator where its reader stops early, rather than whenever it is collected."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _send_event(send: Send, value: dict[str, Any]) -> None:
    await _send_body(send, b"data: " + msgspec.json.encode(value) + b"\n\n")


def _stream_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",  # or nginx gathers the tokens
        "x-should-retry": "false",
        **headers,
    }
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _send_body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _send_last(error: BackendError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request whose body may still be coming, and have the connection closed.

    What still comes is read and thrown away meanwhile, or the server would wait to hand it over.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_gone, receive, trio.CancelScope())
        headers = {"connection": "close"} if error.status in (408, 413) else {}
        await _error_response(error, headers)(scope, receive, send)
        nursery.cancel_scope.cancel()


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
