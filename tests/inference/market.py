"""Keys, a ticket and a provider's side for tests of the session protocol."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
import trio

from consensus.params import NetworkParams, Terms
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, Digest, Domain
from gossip.messages import Signed, Unit, sign
from gossip.messages.market import Ticket
from gossip.messages.records import Bid
from gossip.messages.session import Cosigned, Voucher
from inference.engine import ChatMessage, Engine
from inference.errors import SessionError
from inference.session.client import SessionOutcome, open_session
from inference.session.pace import FramePace
from inference.session.provider import SessionServer
from inference.session.query import QueryBody
from inference.synthetic import SyntheticEngine
from tests.inference.memory_stream import MemoryStream, stream_pair

NOW_MS = 1_700_000_000_000
TERMS = Terms(Domain(77_101, ZERO_ADDRESS), 0, NetworkParams(voucher_window=8))
ROUTER, PROVIDER, SESSION = Key.generate(), Key.generate(), Key.generate()
BODY = QueryBody((ChatMessage("user", "What is the capital of France?"),))


def make_bid(engine: Engine, **changes: object) -> Bid:
    bid = Bid(PROVIDER.address, engine.model_id, Unit.TEXT_TOKEN, 9 * 10**10, 2, 512, 1, NOW_MS + 60_000)
    return msgspec.structs.replace(bid, **changes)


def make_ticket(
    engine: Engine, *, bid: Signed[Bid] | None = None, key: Key = ROUTER, **changes: object
) -> Signed[Ticket]:
    ticket = Ticket(
        rfc_id=Digest(b"r" * 32),
        session_key=SESSION.address,
        bid=bid or sign(make_bid(engine), PROVIDER, TERMS.domain),
        token_max=64,
        prompt_bound=128,
        slot=7,
        expires_ms=NOW_MS + 30_000,
        router=ROUTER.address,
    )
    return sign(msgspec.structs.replace(ticket, **changes), key, TERMS.domain)


@dataclass
class ProviderSide:
    """A session server over a synthetic engine, and what it handed out."""

    engine: Engine
    terms: Terms = TERMS
    used: set[Digest] = field(default_factory=set)
    vouchers: list[int] = field(default_factory=list)
    receipts: list[Cosigned] = field(default_factory=list)
    on_voucher: Callable[[Signed[Ticket], Signed[Voucher]], Awaitable[None]] | None = None
    pace: FramePace = field(default_factory=FramePace)

    def __post_init__(self) -> None:
        self.server = SessionServer(
            lambda model_id: self.engine if model_id == self.engine.model_id else None,
            PROVIDER,
            self.terms,
            on_voucher=self.on_voucher or self.keep_voucher,
            on_receipt=self.keep_receipt,
            now_ms=lambda: NOW_MS,
            accept_ticket=self.accept,
            pace=self.pace,
        )

    async def accept(self, ticket: Signed[Ticket]) -> None:
        ticket_id = ticket.id(self.terms.domain)
        if ticket_id in self.used:
            raise SessionError("ticket_used", "this ticket opened a session before")
        self.used.add(ticket_id)

    async def keep_voucher(self, ticket: Signed[Ticket], voucher: Signed[Voucher]) -> None:
        assert voucher.payload.ticket_id == ticket.id(self.terms.domain)
        self.vouchers.append(voucher.payload.tokens)

    async def keep_receipt(self, ticket: Signed[Ticket], receipt: Cosigned) -> None:
        assert receipt.receipt.ticket_id == ticket.id(self.terms.domain)
        self.receipts.append(receipt)

    def connect(self, nursery: trio.Nursery) -> MemoryStream:
        """A user's end of a stream that is being served."""
        user, provider = stream_pair()
        nursery.start_soon(self.server.serve, provider)
        return user


def ticking(start: int = 1_000, step: int = 5) -> Callable[[], int]:
    """A clock that is ``step`` ms later at every look."""
    times: Iterator[int] = iter(range(start, 10**9, step))
    return lambda: next(times)


async def talk(
    stream: MemoryStream,
    ticket: Signed[Ticket],
    body: QueryBody = BODY,
    key: Key = SESSION,
    *,
    on_piece: Callable[[SessionOutcome], None] = lambda _: None,
    terms: Terms = TERMS,
) -> tuple[SessionOutcome, str | None]:
    """A whole session as a user sees it, and the code of the error that ended it, None where none did."""
    session, code = None, None
    with trio.fail_after(100):
        try:
            async with open_session(stream, ticket, body, key, terms, ticking()) as session:
                async for _ in session.pieces():
                    on_piece(session.outcome)
        except SessionError as error:
            code = error.code
    assert session is not None
    assert session.outcome.interrupted == code
    return session.outcome, code


@pytest.fixture
def side() -> ProviderSide:
    return ProviderSide(SyntheticEngine(answer_tokens=40))
