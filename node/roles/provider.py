"""The provider: offers models, answers liveness checks, serves sessions, files what was delivered."""

from collections import OrderedDict
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass

import trio

from consensus.market.listing import unlisted
from consensus.market.rivals import find_fault
from contracts.typed_data import ZERO_DIGEST, Address, Digest
from gossip.errors import GossipError, TransportError
from gossip.messages import Signed, Unit, decode, encode, sign
from gossip.messages.market import LivenessAnswer, LivenessQuery, Ticket
from gossip.messages.records import Bid, ModelProof
from gossip.messages.router import DeliveryFiling, Filed, Refused, decode_router_answer
from gossip.messages.session import Cosigned, Voucher
from gossip.streams import FrameStream
from gossip.topics import CHALLENGE, LIVENESS, ROUTER, SEAT, SESSION, VOCABULARY
from inference.engine import Engine, Scorer
from inference.errors import EngineError, ModelError, SessionError
from inference.model_files import Identified, ModelIdentity
from inference.session.client import Recount
from inference.session.provider import SessionServer
from inference.session.stream import Code
from node.config import ModelOffer
from node.context import Node, now_ms
from node.engines import open_engine
from node.progress import still_loading
from node.roles import seats
from node.roles.evidence import EvidencePool
from node.roles.librarian import MOST_STREAMS as MOST_READERS
from node.roles.librarian import Librarian
from node.roles.prover import MOST_STREAMS, Prover
from node.roles.public import PublicState
from node.roles.scoring import Filer, Scoring
from node.roles.strangers import MAX_STREAMS, PER_PEER, Strangers
from node.roles.transcripts import Opener, Transcript, Transcripts

BID_LIFE_MS = 120_000
"""A bid is valid for so long and renewed at half of it: a dead provider leaves the book by itself."""

WARM_S, STRANGER_S = 3_600.0, 10.0
"""How long a liveness stream may be silent: a member's, and one of anybody else."""

FILE_EVERY_S = 2.0

TOLD_AFTER = 3
"""A session that has lasted a third of a router's patience for filings is said to go on."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One model on sale."""

    config: ModelOffer
    engine: Engine


@dataclass(slots=True)
class _Session:
    """A session that runs."""

    ticket: Signed[Ticket]
    since_s: float
    voucher: Signed[Voucher] | None = None
    sent: int = 0
    has_receipt: bool = False
    is_told: bool = False
    """Its router knows that it goes on."""


_ACCEPTED: ContextVar[list[Digest]] = ContextVar("accepted")
"""The tickets that the session of the running task has accepted."""

OWN_BIDS = 256
"""Bids of this provider that a liveness check may still name."""


class Provider:
    """Sells the models of its configuration."""

    def __init__(self, node: Node, public: PublicState, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._evidence = evidence
        self._offers: dict[Digest, Offer] = {}
        self._own_bids: OrderedDict[Digest, Digest] = OrderedDict()
        self._active: dict[Digest, _Session] = {}
        self._strangers = Strangers(public, lambda member: public.book.record(member, now_ms()))
        self._file_now = trio.Event()
        self._transcripts = Transcripts()
        self._filer = Filer(node, public)
        self._engines: dict[Digest, Engine] = {}
        self._scoring = Scoring(node, public, self._engines, self._filer)
        patience = node.terms.params.audit_slots // 4
        self._opener = Opener(node, public, self._transcripts, patience=patience, file=self._filer.file)
        self._prover = Prover(node, public, self._identity_of)
        self._librarian = Librarian(node, self._identity_of)
        self._server = SessionServer(
            engine_for=self._engine_for,
            key=node.key,
            terms=node.terms,
            on_voucher=self._keep_voucher,
            on_receipt=self._keep_receipt,
            now_ms=now_ms,
            accept_ticket=self._accept,
            on_served=self._note_served,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models, then serve for ever."""
        async with trio.open_nursery() as outer, AsyncExitStack() as stack:
            for config in self._node.config.models:
                with still_loading(outer, self._node.log, config.model):
                    engine = await stack.enter_async_context(open_engine(config, self._node.config.data_dir))
                self._offers[engine.model_id] = Offer(config, engine)
                self._engines[engine.model_id] = engine
            slots = sum(offer.config.slots for offer in self._offers.values())
            answer = self._answer_liveness
            self._node.network.serve(LIVENESS, answer, max_concurrent=MAX_STREAMS, max_per_peer=PER_PEER)
            self._node.network.serve(CHALLENGE, self._prover.serve, max_concurrent=MOST_STREAMS)
            self._node.network.serve(VOCABULARY, self._librarian.serve, max_concurrent=MOST_READERS)
            self._node.network.serve(SESSION, self._serve_session, max_concurrent=slots + 8)
            self._node.network.serve(
                SEAT, self._answer_seats, max_concurrent=seats.STREAMS, max_per_peer=seats.PER_PEER
            )
            self._scoring.serve()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._filer.run)
                nursery.start_soon(self._opener.run)
                nursery.start_soon(self._announce)
                nursery.start_soon(self._file_deliveries)
                task_status.started()

    # Offers.

    async def _announce(self) -> None:
        topics, domain = self._node.topics, self._node.terms.domain
        pause = 1.0
        while True:
            for model_id, offer in self._offers.items():
                if not await self._is_unchanged(offer):
                    continue  # its bid runs out
                expires = now_ms() + BID_LIFE_MS
                proof = ModelProof(self._node.address, model_id, offer.engine.name, offer.engine.family, expires)
                bid = Bid(
                    provider=self._node.address,
                    model_id=model_id,
                    unit=Unit.TEXT_TOKEN,
                    price_wei=offer.config.price_wei,
                    slots=offer.config.slots,
                    prompt_max=offer.config.prompt_max,
                    sequence=now_ms(),
                    expires_ms=expires,
                    scores=isinstance(offer.engine, Scorer),
                )
                signed_proof, signed_bid = sign(proof, self._node.key, domain), sign(bid, self._node.key, domain)
                self._remember_bid(signed_bid)
                self._public.add(signed_proof)
                self._public.add(signed_bid)
                await self._node.network.publish(topics.proofs, encode(signed_proof))
                await self._node.network.publish(topics.bids, encode(signed_bid))
            await trio.sleep(pause)
            pause = min(pause * 4, BID_LIFE_MS / 2_000)

    def _remember_bid(self, bid: Signed[Bid]) -> None:
        self._own_bids[bid.id(self._node.terms.domain)] = bid.payload.model_id
        while len(self._own_bids) > OWN_BIDS:
            self._own_bids.popitem(last=False)

    # Liveness (S28).

    async def _answer_liveness(self, stream: FrameStream) -> None:
        """One warm stream of a router: question, answer, question, …"""
        with self._strangers.place(stream.remote_peer):
            while (data := await stream.receive(limit=1_024, timeout=self._patience(stream))) is not None:
                if not await self._answer_question(stream, data):
                    return

    def _patience(self, stream: FrameStream) -> float:
        """Seconds to wait for a question: it may be a member's whose record isn't here yet, but has to come soon."""
        return WARM_S if self._strangers.is_member(stream.remote_peer) else STRANGER_S

    async def _answer_question(self, stream: FrameStream, data: bytes) -> bool:
        """Whether it was a member's, and is answered."""
        domain = self._node.terms.domain
        query = decode(Signed[LivenessQuery], data)
        router = query.signer(domain)
        if router not in self._public.recent_members():
            await stream.fail("not_a_router", f"0x{router.hex()} is not a committee member")
            return False
        if self._evidence.has_issued_twice(router, self._today()):
            await stream.fail("double_pass", f"0x{router.hex()} gave one session key two passes today")
            return False
        free = 0
        with trio.move_on_after(self._node.terms.params.liveness_ms / 1_000) as deadline:
            free = await self._free_slots(query.payload.bid_id)
        if deadline.cancelled_caught:
            # whoever asked has given up, and asks on another stream next time: one that an engine hangs in must not
            # take the place of that one
            self._node.log.warning("too slow for a liveness check", bid=query.payload.bid_id.hex())
            return False
        answer = LivenessAnswer(query.id(domain), self._node.address, free)
        await stream.send(encode(sign(answer, self._node.key, domain)))
        return True

    async def _answer_seats(self, stream: FrameStream) -> None:
        """Whoever knows a ticket's id may ask: its router does, and its user."""
        await seats.answer_seats(stream, self._active.__contains__)

    def _today(self) -> int:
        return self._node.terms.params.day_of(self._node.slot())

    async def _free_slots(self, bid_id: Digest) -> int:
        offer = self._offers.get(self._own_bids.get(bid_id, ZERO_DIGEST))
        if offer is None or not await self._is_unchanged(offer):
            return 0
        try:
            health = await offer.engine.health()
        except EngineError as error:
            self._node.log.warning("engine is not healthy", model=offer.engine.name, reason=str(error))
            return 0
        return max(0, min(offer.config.slots, health.slots) - self._server.running(offer.engine.model_id))

    # Sessions (S29).

    async def _serve_session(self, stream: FrameStream) -> None:
        accepted: list[Digest] = []
        _ACCEPTED.set(accepted)
        try:
            await self._server.serve(stream)
        finally:
            with trio.CancelScope(shield=True):
                await self._keep_sent(accepted)
            self._file_now.set()

    async def _keep_sent(self, ended: list[Digest]) -> None:
        """T that nobody vouched for are not paid, and the router hears of them: they are not free either."""
        for ticket_id in ended:
            session = self._active[ticket_id]
            vouched = 0 if session.voucher is None else session.voucher.payload.tokens
            try:
                if not session.has_receipt and session.sent > vouched:
                    await self._node.store.put_sent(ticket_id, session.sent)
            finally:
                del self._active[ticket_id]

    def _identity_of(self, model_id: Digest) -> ModelIdentity | None:
        """The identity of a model on sale; None also for an engine that cannot show which model it runs."""
        offer = self._offers.get(model_id)
        return offer.engine.identity if offer is not None and isinstance(offer.engine, Identified) else None

    async def _is_unchanged(self, offer: Offer) -> bool:
        """Whether the model's files are still those whose id it is sold under."""
        identity = self._identity_of(offer.engine.model_id)
        if identity is None:
            return True
        try:
            await trio.to_thread.run_sync(identity.check)
        except ModelError as error:
            self._node.log.error("model is not served", model=offer.engine.name, reason=str(error))
            return False
        return True

    def _engine_for(self, model_id: Digest) -> Engine | None:
        offer = self._offers.get(model_id)
        return offer.engine if offer is not None else None

    def recount_of(self, model_id: Digest) -> Recount | None:
        """How to count T of a text by a model that this node runs itself; None for any other."""
        engine = self._engine_for(model_id)
        return None if engine is None else engine.count_text

    async def _accept(self, ticket: Signed[Ticket]) -> None:
        """Only tickets of committee members, each once. Raises SessionError."""
        day = self._node.terms.params.day_of(ticket.payload.slot)
        if not self._public.is_router(ticket.payload.router, day):
            raise SessionError(Code.BAD_TICKET, f"0x{ticket.payload.router.hex()} is not a router of day {day}")
        if self._evidence.has_issued_twice(ticket.payload.router, day):
            raise SessionError(Code.BAD_TICKET, f"0x{ticket.payload.router.hex()} gave one session key two passes")
        if (fault := find_fault(ticket.payload, self._node.terms)) is not None:
            raise SessionError(Code.BAD_TICKET, f"no batch would pay for it: {fault[0]} {fault[1]}")
        listing, model_id = self._public.ledger.listing, ticket.payload.bid.payload.model_id
        if (why := unlisted(listing, model_id, day, self._node.terms.params)) is not None:
            raise SessionError(Code.BAD_TICKET, f"no batch would pay for it: {why}")
        offer = self._offers.get(ticket.payload.bid.payload.model_id)
        if offer is not None and not await self._is_unchanged(offer):
            raise SessionError(Code.ENGINE_FAILED, "the provider's model files changed: it must hash them again")
        ticket_id = ticket.id(self._node.terms.domain)
        if ticket_id in self._active:
            raise SessionError(Code.TICKET_USED, f"ticket 0x{ticket_id.hex()} has a session open")
        # before it is in the store, where it would be taken for one that has ended
        self._active[ticket_id] = _Session(ticket, trio.current_time())
        accepted = False
        try:
            await self._node.store.accept_ticket(ticket_id, ticket)
            accepted = True
        finally:
            if not accepted:
                del self._active[ticket_id]
        _ACCEPTED.get().append(ticket_id)

    def _note_served(self, ticket_id: Digest, body: bytes, token_ids: tuple[int, ...]) -> None:
        self._active[ticket_id].sent = len(token_ids)
        if self._node.terms.params.audit_slots:
            self._transcripts.keep(ticket_id, Transcript(body, token_ids, self._node.slot()))

    async def _keep_voucher(self, ticket: Signed[Ticket], voucher: Signed[Voucher]) -> None:
        ticket_id = ticket.id(self._node.terms.domain)
        await self._node.store.put_voucher(ticket_id, voucher)
        self._active[ticket_id].voucher = voucher

    async def _keep_receipt(self, ticket: Signed[Ticket], receipt: Cosigned) -> None:
        ticket_id = ticket.id(self._node.terms.domain)
        await self._node.store.put_receipt(ticket_id, receipt)
        self._active[ticket_id].has_receipt = True

    # Deliveries.

    async def _file_deliveries(self) -> None:
        """Tell the routers what was delivered, until each has said that it knows."""
        while True:
            self._file_now = trio.Event()  # before anything is read: whoever sets it meanwhile is not missed
            deaf: set[Address] = set()
            for unfiled in await self._node.store.unfiled_deliveries():
                router = unfiled.ticket.payload.router
                if router not in deaf and not await self._file_end(unfiled.ticket_id):
                    deaf.add(router)  # the others' seats don't wait for it
            await self._tell_running()
            await self._forget_old()
            with trio.move_on_after(FILE_EVERY_S):
                await self._file_now.wait()

    async def _file_end(self, ticket_id: Digest) -> bool:
        """Tell what a session came to, nothing at all too: its router holds the slot until it hears that it is over.

        False where the router does not hear. The delivery is read here: a session that ran when the unfiled ones were
        listed may have got its receipt since.
        """
        if ticket_id in self._active or (held := await self._node.store.delivery(ticket_id)) is None:
            return True
        sent = held.sent if held.receipt is None else 0
        if not await self._tell(held.ticket, DeliveryFiling(ticket_id, held.voucher, held.receipt, sent)):
            return False
        await self._node.store.mark_filed(ticket_id)
        return True

    async def _forget_old(self) -> None:
        """Forget tickets that no batch can settle any more: neither their pay nor their use again needs them.

        A ticket expires after its slot, and none is taken that has expired; a session goes on for a while beyond.
        """
        params = self._node.terms.params
        before_ms = now_ms() - params.settle_window_slots * params.slot_ms - params.session_max_ms
        forgotten, unconfirmed = await self._node.store.forget_deliveries(before_ms)
        if unconfirmed:
            self._node.log.warning("deliveries that no router took are too old to be paid", count=unconfirmed)
        if forgotten:
            self._node.log.info("old tickets are forgotten", count=forgotten)
            self._file_now.set()  # there may be more than were looked at

    async def _tell_running(self) -> None:
        """A report that comes before a session has ended would be the last word once the router's patience is over:
        tell it in time that the session goes on."""
        params = self._node.terms.params
        long_s = params.report_deadline_slots * params.slot_ms / 1_000 / TOLD_AFTER
        for ticket_id, session in tuple(self._active.items()):
            if session.is_told or session.has_receipt or trio.current_time() < session.since_s + long_s:
                continue
            sent = 0 if session.voucher is None else session.voucher.payload.tokens
            filing = DeliveryFiling(ticket_id, session.voucher, None, sent, runs=True)
            session.is_told = await self._tell(session.ticket, filing)

    async def _tell(self, ticket: Signed[Ticket], filing: DeliveryFiling) -> bool:
        """Whether the router has heard."""
        try:
            await self._file(ticket, filing)
        except GossipError as error:
            self._node.log.info("filing waits", ticket=filing.ticket_id.hex(), reason=str(error))
            return False
        return True

    async def _file(self, ticket: Signed[Ticket], filing: DeliveryFiling) -> None:
        record = self._public.book.record(ticket.payload.router, now_ms())
        if record is None:
            raise TransportError(f"no node record of router 0x{ticket.payload.router.hex()}")
        stream = await self._node.network.open_stream(record.payload.peer_id, ROUTER, timeout=5)
        try:
            await stream.send(encode(filing))
            answer = decode_router_answer(await stream.receive(limit=131_072, timeout=5) or b"")
        finally:
            await stream.aclose()
        match answer:
            case Filed():
                return
            case Refused(refusal):
                self._node.log.warning("filing refused", code=refusal.payload.code, reason=refusal.payload.detail)
            case _:
                raise TransportError(f"router answered a filing with {type(answer).__name__}")
