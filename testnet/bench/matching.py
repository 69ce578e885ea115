"""The matching core alone, and a router's whole work on an RFC: how many a second on one core.

The core is everything between an RFC whose signatures hold and a booked ticket: allowance, budget, queue, live book,
draw and slot. A router adds what the wire wants: bytes to messages, signatures checked and made, bytes again. Its
network, its disk and the liveness check are :mod:`testnet.bench.runs`'. Times are CPU time of this process.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from consensus.market.access import pass_commitment
from consensus.market.book import Book, StandingBid
from consensus.market.day_account import DayAccount, opened
from consensus.market.desk import Desk
from consensus.market.listing import genesis_listing
from consensus.market.matching import build_match, candidates, draw, pick
from consensus.market.ranking import Ranking
from consensus.market.rivals import draw_rivals, payable
from consensus.params import NetworkParams, Terms
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Signature, Uint256
from gossip.messages.base import Signed, Unit, encode, sign
from gossip.messages.committee import DayOpening
from gossip.messages.market import AccessPass, PassIssued, PassRequest, Rfc, Ticket
from gossip.messages.records import Bid, ModelProof, NodeRecord
from gossip.messages.router import Matched, RfcAsk, decode_router_ask
from testnet.errors import TestnetError

DOMAIN = Domain(77_101, Address(b"\x07" * 20))
FAR_MS = 2**50
NOW_MS, SLOT = 13_000, 1
PRICE_WEI = 10**11
TOKEN_MAX = 256
CORE_RATE, ROUTER_RATE = 20_000, 1_500
"""RFCs a second on one core that are wanted."""
WAVE = 256
"""RFCs that wait at once."""
OPEN = 1_024
"""Tickets open at once; the oldest is settled before the next is placed."""
RFCS_PER_PASS = 10
SIGNATURE = Signature(bytes(65))
"""Of messages whose signature nobody looks at."""


@dataclass(frozen=True, slots=True)
class BookSize:
    """``providers`` that each bid for ``bids`` of ``models``."""

    providers: int = 1_000
    models: int = 100
    bids: int = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """``rfcs`` took ``cpu_s`` of one core."""

    rfcs: int
    cpu_s: float

    @property
    def rate(self) -> float:
        """RFCs a second of CPU time."""
        return self.rfcs / self.cpu_s


class Market:
    """One router's desk and book, with users that have passes."""

    def __init__(self, size: BookSize, *, ranked: bool = True) -> None:
        self._ranked = ranked
        """Whether bids are put in order once for many RFCs, as the matcher does, or filtered and sorted for each."""
        self.terms = Terms(DOMAIN, 0, NetworkParams())
        self.router = _key("router")
        self.models = [_digest("model", number) for number in range(size.models)]
        self.book = _book(self.terms, size, self.models)
        self.listing = genesis_listing(self.models, 0, self.terms.params)
        self.account: DayAccount = opened(
            DayOpening(0, 1, Uint256(10**25), Uint256(10**30)), reference_price_wei=PRICE_WEI, epoch=1
        )
        self.desk = Desk(self.terms, self.router.address, lambda _: (self.router.address,))
        self._rankings: dict[Digest, Ranking] = {}
        self.desk.seats.on_seat = self._note_seat
        self._open: deque[Digest] = deque()
        self._pass: Signed[AccessPass] | None = None
        self._session = self.router

    # What users send.

    def rfc(self, number: int, *, signed: bool) -> Signed[Rfc]:
        """The ``number``-th RFC, with real signatures where they are to be checked."""
        if number % RFCS_PER_PASS == 0 or self._pass is None:
            self._session = _key(f"session {number // RFCS_PER_PASS}")
            self._pass = self._issue(number, signed=signed)
        asked = Rfc(
            access_pass=self._pass,
            session_key=self._session.address,
            index=number % RFCS_PER_PASS,
            model_id=self.models[number * 7 % len(self.models)],
            unit=Unit.TEXT_TOKEN,
            token_max=TOKEN_MAX,
            prompt_bound=512 + number % 64,
            deadline_ms=FAR_MS,
        )
        return sign(asked, self._session, DOMAIN) if signed else Signed(asked, SIGNATURE)

    def _issue(self, number: int, *, signed: bool) -> Signed[AccessPass]:
        user, salt = _address("user", number), ZERO_DIGEST
        request = Signed(PassRequest(user, self._session.address, 0, 0, 0), SIGNATURE)
        granted = AccessPass(
            self._session.address,
            0,
            1_000_000,
            1 + number // RFCS_PER_PASS % 20,
            self.router.address,
            pass_commitment(user, salt),
        )
        access_pass = sign(granted, self.router, DOMAIN) if signed else Signed(granted, SIGNATURE)
        self.desk.allowances.note_issued(PassIssued(access_pass, request, salt, self.router.address))
        return access_pass

    # What the router does with them.

    def admit(self, rfc: Signed[Rfc], rfc_id: Digest) -> None:
        """Into the queue."""
        self.desk.admit(rfc, rfc_id, now_ms=NOW_MS, slot=SLOT, account=self.account, listing=self.listing)

    def draw_next(self) -> "Drawn":
        """Whose turn it is, and the provider that is drawn for it."""
        waiting = self.desk.next_waiting(NOW_MS)
        if waiting is None:
            raise TestnetError("nobody waits")
        rfc = waiting.rfc.payload
        if not self.book.is_offered(rfc.model_id, NOW_MS):
            raise TestnetError("a model without a bid")
        field = self.book.live(
            rfc.model_id,
            SLOT,
            NOW_MS,
            prompt_bound=rfc.prompt_bound,
            ceiling_wei=self.account.ceiling_wei(self.terms.params),
        )
        if self._ranked:
            band = self._ranking(rfc.model_id, field).draw(rfc.prompt_bound).bids
        else:
            band = candidates(self.desk.free(payable(field, field, self.terms.params)), self.terms.params.tie_percent)
        value = draw(ZERO_DIGEST, ZERO_DIGEST, waiting.rfc_id, 0)
        return Drawn(waiting.rfc_id, field, band, pick(band, (), value), value)

    def _ranking(self, model_id: Digest, field: tuple[StandingBid, ...]) -> Ranking:
        held = self._rankings.get(model_id)
        if held is None or held.bids is not field:
            held = self._rankings[model_id] = Ranking(field, self.terms.params)
        return held

    def _note_seat(self, seat: tuple[Address, Digest]) -> None:
        held = self._rankings.get(seat[1])
        if held is not None and (standing := held.bid_of(seat[0])) is not None:
            held.note_full(seat[0], is_full=self.desk.slots_left(standing.bid) <= 0)

    def place(self, drawn: "Drawn", *, hashed: bool, signed: bool) -> Matched:
        """The winner's ticket, booked; by the RFC's id where its own is not worked out."""
        rivals = draw_rivals(drawn.winner.bid.provider, drawn.field, drawn.value, self.terms.params)
        opened_ticket = self.desk.open_ticket(
            drawn.rfc_id,
            drawn.winner.signed,
            slot=SLOT,
            now_ms=NOW_MS,
            account=self.account,
            rivals=tuple(rival.signed for rival in rivals),
        )
        ticket = sign(opened_ticket, self.router, DOMAIN) if signed else Signed(opened_ticket, SIGNATURE)
        matched = self._match(ticket, drawn, hashed=hashed, signed=signed)
        self._open.append(self.desk.place(matched))
        if len(self._open) > OPEN:
            self.desk.settled(self._open.popleft(), TOKEN_MAX, TOKEN_MAX * PRICE_WEI)
        return matched

    def _match(self, ticket: Signed[Ticket], drawn: "Drawn", *, hashed: bool, signed: bool) -> Matched:
        record = self.book.record(drawn.winner.bid.provider, NOW_MS)
        if record is None:
            raise TestnetError("a provider without a record")
        ticket_id = ticket.id(DOMAIN) if hashed else drawn.rfc_id
        match = build_match(
            ticket.payload, ticket_id, beacon=ZERO_DIGEST, secret=ZERO_DIGEST, band=drawn.band, unlive=()
        )
        return Matched(sign(match, self.router, DOMAIN) if signed else Signed(match, SIGNATURE), ticket, record)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw: the RFC, every live bid for its model, those that took part, who won."""

    rfc_id: Digest
    field: tuple[StandingBid, ...]
    band: tuple[StandingBid, ...]
    winner: StandingBid
    value: Digest


def measure_core(size: BookSize, rfcs: int, *, hashed: bool, ranked: bool = True) -> Speed:
    """RFCs with checked signatures, from the queue to the booked ticket; with its EIP-712 id where ``hashed``."""
    market = Market(size, ranked=ranked)
    made = [(market.rfc(number, signed=False), _digest("rfc", number)) for number in range(rfcs)]
    used = 0.0
    for start in range(0, rfcs, WAVE):
        wave = made[start : start + WAVE]
        began = time.process_time()
        for rfc, rfc_id in wave:
            market.admit(rfc, rfc_id)
        for _ in wave:
            market.place(market.draw_next(), hashed=hashed, signed=False)
        used += time.process_time() - began
    return Speed(rfcs, used)


def measure_router(size: BookSize, rfcs: int) -> Speed:
    """RFCs from bytes to the bytes of their answers, all signatures checked or made, drawn as the matcher does."""
    market = Market(size)
    asks = [encode(RfcAsk(market.rfc(number, signed=True))) for number in range(rfcs)]
    used = 0.0
    for start in range(0, rfcs, WAVE):
        wave = asks[start : start + WAVE]
        began = time.process_time()
        for data in wave:
            ask = decode_router_ask(data)
            if not isinstance(ask, RfcAsk):
                raise TestnetError(f"an RFC was read back as {type(ask).__name__}")
            rfc_id = ask.rfc.id(DOMAIN)
            ask.rfc.signer_of(rfc_id)
            ask.rfc.payload.access_pass.signer(DOMAIN)
            market.admit(ask.rfc, rfc_id)
        for _ in wave:
            encode(market.place(market.draw_next(), hashed=True, signed=True))
        used += time.process_time() - began
    return Speed(rfcs, used)


def _book(terms: Terms, size: BookSize, models: list[Digest]) -> Book:
    """Records, bids and proofs of every provider, at prices up to a fifth above and below the reference price."""
    book = Book()
    for number in range(size.providers):
        provider = _address("provider", number)
        record = NodeRecord(provider, f"peer {number}", ("provider",), ("/ip4/127.0.0.1/tcp/1",), 1, FAR_MS)
        book.add_record(Signed(record, SIGNATURE), NOW_MS)
        for offered in range(size.bids):
            model_id = models[(number + offered * 37) % len(models)]
            price = PRICE_WEI * (80 + (number * 31 + offered * 17) % 41) // 100
            bid = Bid(provider, model_id, Unit.TEXT_TOKEN, price, 1_000, 2_048, 1, FAR_MS, scores=True)
            signed = Signed(bid, SIGNATURE)
            book.add_bid(signed, signed.id(terms.domain), SLOT - 1, NOW_MS)
            book.add_proof(Signed(ModelProof(provider, model_id, "a model", "an engine", FAR_MS), SIGNATURE), NOW_MS)
    return book


def _key(name: str) -> Key:
    """The same in every run: worth nothing, for benchmarks alone."""
    return Key(_digest("key", name))


def _address(kind: str, number: int) -> Address:
    return Address(_digest(kind, number)[:20])


def _digest(kind: str, name: object) -> Digest:
    return Digest(sha256(f"{kind} {name}".encode()).digest())


def rows(size: BookSize, rfcs: int) -> Iterator[tuple[str, ...]]:
    """(what, RFCs, µs of CPU each, RFCs a second, target), one after another; smaller and larger books last."""
    core = "core: allowance, budget, queue, draw, slot"
    yield _row(core, measure_core(size, rfcs, hashed=False), f"{CORE_RATE:,}")
    yield _row("core, and the ticket's id", measure_core(size, rfcs, hashed=True), "")
    yield _row("core, bids filtered for each RFC", measure_core(size, rfcs, hashed=False, ranked=False), "")
    yield _row("router: bytes to bytes, signatures", measure_router(size, max(1, rfcs // 8)), f"{ROUTER_RATE:,}")
    for providers in (size.providers // 2, size.providers * 2, size.providers * 4):
        other = BookSize(providers, size.models, size.bids)
        yield _row(f"core, {providers:,} providers", measure_core(other, rfcs, hashed=False), "")


def _row(what: str, speed: Speed, target: str) -> tuple[str, ...]:
    return what, f"{speed.rfcs:,}", f"{speed.cpu_s / speed.rfcs * 1e6:.1f}", f"{speed.rate:,.0f}", target
