"""The operator's control API: what this node knows, as JSON, on loopback and for whoever can read the token file.

GET changes nothing; POST gives a committee member's listing orders. Bytes are 0x hex; amounts are JSON integers of any
size.
"""

import dataclasses
import enum
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.typed_data import Address, Digest
from node.errors import Unanswerable
from node.files import write_atomic

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatusSource(Protocol):
    """What a node can tell. Anything that :func:`jsonable` takes may be returned; None is answered with 404, and
    so is :class:`~node.errors.Unanswerable`, with its reason."""

    async def status(self) -> Any:
        """Who this node is, its peers, its height."""

    async def book(self) -> Any:
        """Live bids."""

    async def models(self) -> Any:
        """Models on offer, and who has proven to have them."""

    async def batch(self, height: int) -> Any:
        """One certified batch."""

    async def certified(self, height: int) -> Any:
        """One certified batch as it is gossiped: what anybody may submit to the contract."""

    async def ticket(self, ticket_id: Digest) -> Any:
        """What became of a ticket: height, credit and reason."""

    async def sessions(self) -> Any:
        """The user's sessions."""

    async def session(self, rfc_id: Digest) -> Any:
        """One of the user's sessions."""

    async def rfcs(self) -> Any:
        """The RFCs that this node heard last."""

    async def explain_rfc(self, rfc_id: Digest) -> Any:
        """Why an RFC went where it went, in lines of text."""

    async def claims(self) -> Any:
        """The provider's claims."""

    async def evidence(self) -> Any:
        """Every offence that this node has evidence of."""

    async def committee(self) -> Any:
        """Where a committee member and the others stand; None for a node that is no member."""

    async def hand_overs(self, from_epoch: int) -> Any:
        """What opens the epochs after ``from_epoch`` in the registry."""

    async def signed(self) -> Any:
        """What a committee member signed last, and why."""

    async def listing(self) -> Any:
        """The list of payable models, and at a member the orders that wait."""

    async def look_at(self, model_id: Digest) -> Any:
        """Who bids for a model, for a member that is asked to list it. Raises :class:`~node.errors.Unanswerable`."""

    async def order(self, model_id: Digest, *, is_listed: bool) -> Any:
        """Give this member's order to list a model or not. Raises :class:`~node.errors.Unanswerable`."""

    async def proof(self, height: int, provider: Address) -> Any:
        """A provider's cumulative credit at a height, with its Merkle proof."""

    async def explain_day(self, day: int | None) -> Any:
        """How a day's numbers come about, in lines of text; the present day's for None."""

    async def explain_allowance(self, user: Address) -> Any:
        """How today's allowance of an address comes about, in lines of text."""

    async def explain_earnings(self, provider: Address) -> Any:
        """What a provider has been credited and when it comes, in lines of text."""

    async def metrics(self) -> str:
        """Prometheus text."""


def create_token(path: Path) -> str:
    """A fresh token, written to ``path`` (0600); whoever can read the file may ask this node."""
    token = secrets.token_urlsafe(32)
    write_atomic(path, token.encode() + b"\n")
    return token


def build_control(source: StatusSource, token: str) -> ASGIApp:
    """The control API as an ASGI app that wants ``Authorization: Bearer <token>``."""

    def answer(path: str, ask: Callable[[Request], Awaitable[Any]], method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                found = await ask(request)
            except _BadParameter as error:
                return JSONResponse({"error": str(error)}, 400)
            except Unanswerable as error:
                return JSONResponse({"error": error.reason}, 404)
            if found is None:
                return JSONResponse({"error": f"{request.url.path}: nothing is known of it"}, 404)
            return Response(json.dumps(jsonable(found)), media_type="application/json")

        return Route(path, endpoint, methods=[method])

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(await source.metrics(), media_type=METRICS_TYPE)

    routes = [
        answer("/status", lambda _: source.status()),
        answer("/book", lambda _: source.book()),
        answer("/models", lambda _: source.models()),
        answer("/batches/{height}", lambda r: source.batch(_height(r))),
        answer("/batches/{height}/certified", lambda r: source.certified(_height(r))),
        answer("/tickets/{ticket_id}", lambda r: source.ticket(Digest(_hex(r, "ticket_id", 32)))),
        answer("/sessions", lambda _: source.sessions()),
        answer("/sessions/{rfc_id}", lambda r: source.session(Digest(_hex(r, "rfc_id", 32)))),
        answer("/rfcs", lambda _: source.rfcs()),
        answer("/explain/rfc/{rfc_id}", lambda r: source.explain_rfc(Digest(_hex(r, "rfc_id", 32)))),
        answer("/claims", lambda _: source.claims()),
        answer("/evidence", lambda _: source.evidence()),
        answer("/committee", lambda _: source.committee()),
        answer("/committee/log", lambda _: source.signed()),
        answer("/committee/hand-overs/{epoch}", lambda r: source.hand_overs(_number(r, "epoch"))),
        answer("/committee/listing", lambda _: source.listing()),
        answer("/committee/listing/{model_id}", lambda r: source.look_at(_model(r))),
        answer("/committee/list/{model_id}", lambda r: source.order(_model(r), is_listed=True), "POST"),
        answer("/committee/unlist/{model_id}", lambda r: source.order(_model(r), is_listed=False), "POST"),
        answer("/proof/{height}/{provider}", lambda r: source.proof(_height(r), Address(_hex(r, "provider", 20)))),
        answer("/explain/day", lambda _: source.explain_day(None)),
        answer("/explain/day/{day}", lambda r: source.explain_day(_number(r, "day"))),
        answer("/explain/allowance/{user}", lambda r: source.explain_allowance(Address(_hex(r, "user", 20)))),
        answer("/explain/earnings/{who}", lambda r: source.explain_earnings(Address(_hex(r, "who", 20)))),
        Route("/metrics", metrics),
    ]
    return _BearerOnly(Starlette(routes=routes), token)


def jsonable(value: Any) -> Any:
    """``value`` as JSON has it: bytes become 0x hex, structs objects, tuples lists. Raises TypeError for the rest."""
    match value:
        case None | bool() | str() | float():
            return value
        case enum.Enum():
            return value.name.lower()
        case int():
            return int(value)
        case bytes():
            return "0x" + value.hex()
        case msgspec.Struct():
            return {name: jsonable(getattr(value, name)) for name in value.__struct_fields__}
        case _ if dataclasses.is_dataclass(value):
            return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case Mapping():
            return {_json_key(key): jsonable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [jsonable(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


class _BadParameter(Exception):
    """A path parameter is not what it should be."""


class _BearerOnly:
    """ASGI middleware: 401 without the token, compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                headers = {"www-authenticate": "Bearer"}
                error = {"error": "wants 'Authorization: Bearer <token>', the token from the node's control.token"}
                await JSONResponse(error, 401, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _json_key(key: Any) -> str:
    return str(jsonable(key))


def _model(request: Request) -> Digest:
    return Digest(_hex(request, "model_id", 32))


def _height(request: Request) -> int:
    return _number(request, "height")


def _number(request: Request, name: str) -> int:
    text = request.path_params[name]
    if not text.isdecimal() or len(text) > 18:
        raise _BadParameter(f"{name} {text!r} is not a number")
    return int(text)


def _hex(request: Request, name: str, size: int) -> bytes:
    text = request.path_params[name]
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise _BadParameter(f"{name} {text!r} is not {size} bytes of hex")
    return raw
