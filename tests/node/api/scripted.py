"""A backend that answers from a script, and a server around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.types import ASGIApp

from contracts.typed_data import Address, Digest
from inference.engine import Piece
from node.api.backend import Allowance, BackendError, ChatRequest, ModelCard
from node.api.serve import Served, serve

RFC = Digest(b"\xab" * 32)
MODEL = ModelCard("smollm2-135m-instruct", Digest(b"\x44" * 32), 2, 9 * 10**10)
OTHER = ModelCard("org/other-model", Digest(b"\x55" * 32), 1, 10**11)


class ScriptedAnswer:
    """Yields the backend's pieces; after ``break_after`` of them it breaks off."""

    rfc_id = RFC
    provider = Address(b"\x0c" * 20)
    prompt_tokens = 11

    def __init__(self, backend: "ScriptedBackend") -> None:
        self._backend = backend
        self.tokens = 0
        self.finish: str | None = None

    async def pieces(self) -> AsyncIterator[Piece]:
        for number, piece in enumerate(self._backend.pieces):
            if number == self._backend.break_after:
                raise self._backend.failure
            await trio.lowlevel.checkpoint()
            self.tokens += 1
            yield Piece(piece, (self.tokens,)) if isinstance(piece, str) else piece
        if self._backend.hang:
            await trio.sleep_forever()
        self.finish = self._backend.finish

    def headers(self) -> dict[str, str]:
        return {"x-yellowstone-rfc": "0x" + RFC.hex(), "x-ratelimit-remaining-tokens": "77"}


class ScriptedBackend:
    """What the gateway is given in these tests; ``entered`` and ``left`` count its contexts."""

    def __init__(self) -> None:
        self.finish = "stop"
        self.pieces: list[str | Piece] = ["The capital", " of France", " is Paris. ☃"]
        self.refusal: Exception | None = None
        self.failure: Exception = BackendError(502, "provider_failed", "the provider broke off")
        self.farewell: Exception | None = None
        self.break_after: int | None = None
        self.hang = False
        self.hang_on_entry = False
        self.allowed = Allowance(3, 600, 10_000, 9_000)
        self.requests: list[ChatRequest] = []
        self.answers: list[ScriptedAnswer] = []
        self.entered = trio.Event()
        self.left = trio.Event()

    async def models(self) -> tuple[ModelCard, ...]:
        return MODEL, OTHER

    async def allowance(self) -> Allowance:
        return self.allowed

    @asynccontextmanager
    async def chat(self, request: ChatRequest) -> AsyncIterator[ScriptedAnswer]:
        self.requests.append(request)
        self.entered.set()
        try:
            if self.hang_on_entry:
                await trio.sleep_forever()
            if self.refusal is not None:
                raise self.refusal
            async with trio.open_nursery() as nursery:  # a real backend has one: leaving must be in the same task
                nursery.start_soon(trio.sleep_forever)
                self.answers.append(ScriptedAnswer(self))
                yield self.answers[-1]
                nursery.cancel_scope.cancel()
            if self.farewell is not None:
                raise self.farewell
        finally:
            self.left.set()


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Served]:
    """``app`` on a real port; leaving stops it."""
    async with trio.open_nursery() as nursery:
        served: Served = await nursery.start(serve, app, "test server")
        yield served
        nursery.cancel_scope.cancel()
