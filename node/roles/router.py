"""The home router: answers its users' pass requests and RFCs, and takes the filings of both sides.

It sees keys, counts and times, never a prompt or a result (S13).
"""

import hashlib
import secrets as randomness
from collections.abc import Callable

import trio
from msgspec.structs import replace

from consensus.cases import Case
from consensus.evidence import OffenceKind
from consensus.market.access import home_routers, pass_commitment, user_max
from consensus.market.day_account import DayAccount
from consensus.market.desk import Desk
from consensus.market.errors import MarketError, OpinionInvalid, PassRefused, RfcRefused, SettlementInvalid
from consensus.market.ledger_state import account_of
from consensus.market.opinions import check_opinion
from consensus.market.penalties import fail_mark
from consensus.market.throttle import Throttle
from consensus.market.waiting import Waiting
from contracts.errors import ChainError
from contracts.typed_data import Address, Digest
from gossip.doorway import DoorLimits
from gossip.messages import Signed, encode, sign
from gossip.messages.committee import CaughtUpFrame, CertifiedBatch, PassFrame, RouterFrame, UsageFrame
from gossip.messages.market import PassEnd, PassIssued, PassRequest, Refusal, Rfc, Withdrawal
from gossip.messages.opinions import Opinion
from gossip.messages.router import (
    Account,
    DeliveryFiling,
    Filed,
    Granted,
    MatchAsk,
    Matched,
    OpinionFiling,
    PassAsk,
    Queued,
    Refused,
    ReportFiling,
    RfcAsk,
    RouterAnswer,
    WithdrawAsk,
    Withdrawn,
    decode_router_ask,
)
from gossip.messages.session import FailMark, Settlement
from gossip.streams import FrameStream
from gossip.topics import ROUTER
from node.context import Node, now_ms
from node.roles.balances import Balances
from node.roles.evidence import EvidencePool
from node.roles.journal import DeskJournal
from node.roles.link import CommitteeLink
from node.roles.matching import Matcher
from node.roles.public import PublicState
from node.roles.seats import SeatKeeper
from node.roles.succession import Succession

MAX_ASK_BYTES = 16_384

FIRST_PLACE_S, PLACE_EVERY_S = 0.25, 1.0
"""An RFC that has waited so long is told its place in the queue, and then so often where that has changed."""

ASKS_PER_S, ASKS_AT_ONCE = 200, 1_000
"""Questions of one peer that are answered; nothing of a question is parsed or recovered before that is looked at."""

STREAMS = 512
"""Users and providers being answered at once."""


class HomeRouter:
    """A committee member's desk, open to the network."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        *,
        desk: Desk,
        matcher: Matcher,
        journal: DeskJournal,
        balances: Balances,
        file_settlement: Callable[[Settlement], None],
        file_opinion: Callable[[Signed[Opinion]], None],
        link: CommitteeLink,
        evidence: EvidencePool,
        succession: Succession,
    ) -> None:
        self._node = node
        self._public = public
        self._desk = desk
        self._matcher = matcher
        self._journal = journal
        self._balances = balances
        self._file_settlement = file_settlement
        self._file_opinion = file_opinion
        self._link = link
        self._evidence = evidence
        self._mark_secret = hashlib.sha256(node.terms.domain.separator() + b"fail mark" + node.key.reveal()).digest()
        self._succession = succession
        matcher.on_match = succession.tell_usage
        journal.on_pass = succession.note_ends
        link.on_linked.append(succession.welcome)
        self._seats = SeatKeeper(node, public, desk, self._file)
        self._throttle = Throttle()
        self.on_rfc: Callable[[Signed[Rfc]], None] = lambda _: None
        """Called with every RFC that has been let into the queue, before others hear of it."""
        self._restored: tuple[Settlement, ...] = ()
        self.over_issued: dict[tuple[Address, int], int] = {}
        """By router and day: T that it has issued to one user above UserMax. Known among members only (S34)."""
        self._new_passes_in, self._new_passes_out = trio.open_memory_channel[Signed[PassIssued]](4_096)
        public.on_batch.append(self._settled)

    async def restore(self) -> None:
        """Take up where an earlier run stopped: before the link opens, for what others tell at once of passes that have
        ended since is about passes that this router must know by then."""
        async with self._public.still():
            self._restored = await self._journal.restore(self._desk, self._public.ledger, self._node.slot())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer for ever; :meth:`restore` comes before."""
        for settlement in self._restored:
            self._hand_over(settlement)
        self._evidence.watch(self._end_pass)
        self._node.network.serve(ROUTER, self._serve, max_concurrent=STREAMS, door=DoorLimits())
        async with trio.open_nursery() as nursery:
            await nursery.start(self._matcher.run)
            nursery.start_soon(self._watch_deadlines)
            nursery.start_soon(self._keep_passes)
            nursery.start_soon(self._seats.run)
            task_status.started()

    async def _serve(self, stream: FrameStream) -> None:
        data = await stream.receive(limit=MAX_ASK_BYTES, timeout=10)
        if data is None:
            return
        if wait_ms := self._throttle.take(stream.remote_peer, ASKS_PER_S, ASKS_AT_ONCE, now_ms()):
            self._node.network.penalise(stream.remote_peer, 1, "more questions than a router answers")
            await stream.fail("slow_down", f"more than {ASKS_PER_S} questions a second: come back in {wait_ms} ms")
            return
        match decode_router_ask(data):
            case PassAsk(request):
                answer: RouterAnswer = await self._grant(request)
            case RfcAsk(rfc):
                answer = await self._match(rfc, stream)
            case WithdrawAsk(withdrawal):
                answer = await self._withdraw(withdrawal)
            case MatchAsk(rfc_id):
                answer = self._account_of(rfc_id)
            case ReportFiling() | DeliveryFiling() as filing:
                if isinstance(filing, DeliveryFiling) and not self._is_providers(filing, stream.remote_peer):
                    why = "only its provider files what was delivered"
                    answer = self._refuse(filing.ticket_id, "not_the_provider", why)
                else:
                    answer = await self._file(filing)
            case OpinionFiling(opinion):
                answer = self._file_opinion_of(opinion)
        await stream.send(encode(answer))
        await stream.end()

    # Passes (S25, S36).

    async def _grant(self, request: Signed[PassRequest]) -> RouterAnswer:
        user = request.signer(self._node.terms.domain)
        request_id = request.id(self._node.terms.domain)
        salt = Digest(randomness.token_bytes(32))
        allowances = self._desk.allowances
        if (why := self._succession.why_not()) is not None:
            return self._refuse(request_id, "no_quorum", why)
        try:
            account = self._account()
            balance_wei = await self._balances.of(user, account.snapshot_block)
            rank = self._accept_rank(user, account.day)
            gone = self._succession.gone(account.day) if rank else frozenset[Address]()
            ends = self._ends_of(user, account.day, gone)
            access_pass = allowances.grant(
                request.payload,
                balance_wei=balance_wei,
                account=account,
                salt=salt,
                now_ms=now_ms(),
                accept_rank=rank,
                gone=gone,
            )
        except PassRefused as refused:
            return self._refuse(request_id, refused.code, refused.detail)
        except ChainError as error:
            self._node.log.warning("pass waits for the chain", reason=str(error))
            return self._refuse(request_id, "busy", f"the balance is not known yet: {error}")
        signed = sign(access_pass, self._node.key, self._node.terms.domain)
        if access_pass.commitment == pass_commitment(user, salt):
            await self._tell_committee(PassIssued(signed, request, salt, self._node.address, ends))
        return Granted(signed, allowances.used(access_pass.session_key), allowances.next_index(access_pass.session_key))

    def _ends_of(self, user: Address, day: int, gone: frozenset[Address]) -> tuple[PassEnd, ...]:
        """The passes that a new one would end, with what is used of them by all that is known here."""
        allowances, settled = self._desk.allowances, self._public.ledger.sessions.get(day, {})
        for end in allowances.ends_of(user, day, gone):
            if (use := settled.get(end.session_key)) is not None:
                allowances.note_settled(end.session_key, use.used)
        return allowances.ends_of(user, day, gone)

    def _account(self) -> DayAccount:
        params = self._node.terms.params
        return account_of(self._public.ledger, self._node.terms, params.day_of(self._node.slot()))

    def _accept_rank(self, user: Address, day: int) -> int:
        """How far down a user's ranking this router may stand: those before it must be out of its reach, or were
        caught giving one session key two passes that day."""
        ranking = home_routers(user, day, self._public.routers(day))
        if self._node.address not in ranking:
            return 0
        before = ranking[: ranking.index(self._node.address)]
        serving = [
            router
            for router in before
            if router in self._link.linked and not self._evidence.has_issued_twice(router, day)
        ]
        return 0 if serving else len(before)

    async def _tell_committee(self, issued: PassIssued) -> None:
        signed = sign(issued, self._node.key, self._node.terms.domain)
        self._succession.note_ends(signed)
        await self._journal.note_pass(signed, own=True)
        self._link.broadcast(PassFrame(signed))

    def hear(self, member: Address, frame: RouterFrame) -> None:
        """What another member's router tells. Raises :class:`~gossip.errors.MessageError` or PassRefused."""
        match frame:
            case PassFrame(issued):
                self.note_pass(issued)
                if issued.payload.issuer == member:
                    self._succession.hear_pass(issued.payload)
            case UsageFrame():
                self._succession.hear_usage(member, frame)
            case CaughtUpFrame():
                self._succession.hear_caught_up(member)

    def note_pass(self, issued: Signed[PassIssued]) -> None:
        """Another member issued a pass. Raises :class:`~gossip.errors.MessageError` or PassRefused."""
        issued.signer(self._node.terms.domain)
        issued.payload.access_pass.signer(self._node.terms.domain)
        issued.payload.request.signer(self._node.terms.domain)
        self._desk.allowances.note_issued(issued.payload)
        self._succession.note_ends(issued)
        self._evidence.note_pass(issued.payload.access_pass)
        try:
            self._new_passes_in.send_nowait(issued)
        except trio.WouldBlock:
            self._node.log.error("pass of another router is not stored", router=issued.payload.issuer.hex())

    async def _keep_passes(self) -> None:
        """Other routers' passes go to disk too: this member may have to take over."""
        async for issued in self._new_passes_out:
            await self._journal.note_pass(issued, own=False)
            await self._compare(issued.payload)

    async def _compare(self, issued: PassIssued) -> None:
        """One router's passes for a user must stay within UserMax; members see it, and nobody else can.

        What the day runs on is only final once a batch has opened it: before that nobody is blamed.
        """
        day, user = issued.access_pass.payload.day, issued.request.payload.user
        account = self._public.ledger.days.get(day)
        if account is None:
            return
        try:
            balance_wei = await self._balances.of(user, account.snapshot_block)
        except ChainError as error:
            self._node.log.info("pass not compared with UserMax", reason=str(error))
            return
        most = user_max(account.max_t, account.supply_wei, balance_wei)
        over = self._desk.allowances.issued_by(issued.issuer, user, day) - most
        if over > 0:
            self._node.log.error("router issued more than UserMax", router=issued.issuer.hex(), day=day, over=over)
            self.over_issued[issued.issuer, day] = max(over, self.over_issued.get((issued.issuer, day), 0))

    # RFCs (S22, S26).

    async def _match(self, rfc: Signed[Rfc], stream: FrameStream) -> RouterAnswer:
        domain = self._node.terms.domain
        rfc.signer(domain)
        rfc.payload.access_pass.signer(domain)
        rfc_id = rfc.id(domain)
        if (why := self._succession.why_not()) is not None:
            return self._refuse(rfc_id, "no_quorum", why)
        if rfc.payload.access_pass.payload.issuer == self._node.address:
            self._evidence.note_rfc(rfc)
        is_new = self._desk.outcome(rfc_id) is None
        try:
            slot, listing = self._node.slot(), self._public.ledger.listing
            self._desk.admit(rfc, rfc_id, now_ms=now_ms(), slot=slot, account=self._account(), listing=listing)
        except RfcRefused as refused:
            return self._refuse(rfc_id, refused.code, refused.detail, refused.allowance_left)
        self._matcher.hurry()
        if is_new:
            self.on_rfc(rfc)
            await self._node.network.publish(self._node.topics.rfc(rfc.payload.model_id), encode(rfc))
        await self._tell_place(rfc_id, stream)
        outcome = await self._matcher.answer(rfc_id)
        if isinstance(outcome, Matched):
            return outcome
        return self._refuse(rfc_id, outcome.code, outcome.detail, outcome.allowance_left)

    async def _withdraw(self, withdrawal: Signed[Withdrawal]) -> RouterAnswer:
        """Raises :class:`~gossip.errors.SignerMismatch` for a forged one."""
        withdrawal.signer(self._node.terms.domain)
        rfc_id, session_key = withdrawal.payload.rfc_id, withdrawal.payload.session_key
        waiting = self._desk.outcome(rfc_id)
        try:
            withdrawn = self._matcher.withdraw(rfc_id, session_key)
        except RfcRefused as refused:
            return self._refuse(rfc_id, refused.code, refused.detail, refused.allowance_left)
        if isinstance(withdrawn, Matched):
            return withdrawn
        if withdrawn and isinstance(waiting, Waiting):
            self._succession.tell_usage(session_key)
            await self._journal.note_withdrawal(waiting.rfc, withdrawn)
        return Withdrawn(rfc_id, withdrawn)

    async def _tell_place(self, rfc_id: Digest, stream: FrameStream) -> None:
        """Until an RFC has its answer: where it stands, at first and whenever that has changed (S26)."""
        told: Queued | None = None
        pause = FIRST_PLACE_S
        while not await self._matcher.settled_within(rfc_id, pause):
            pause = PLACE_EVERY_S
            queued = self._matcher.queued(rfc_id)
            if queued is not None and queued != told:
                told = queued
                await stream.send(encode(queued))

    def _account_of(self, rfc_id: Digest) -> RouterAnswer:
        """Why an RFC went where it went: what its user was told, to anybody who has heard it."""
        outcome, rfc = self._desk.outcome(rfc_id), self._desk.matched_rfc(rfc_id)
        if isinstance(outcome, Matched) and rfc is not None:
            return Account(rfc, outcome)
        if isinstance(outcome, RfcRefused):
            return self._refuse(rfc_id, outcome.code, outcome.detail)
        if outcome is not None:
            return self._refuse(rfc_id, "waiting", "no provider has been matched yet")
        return self._refuse(rfc_id, "unknown_rfc", "this router knows no such RFC, or has forgotten it")

    def _refuse(self, request_id: Digest, code: str, detail: str, left: int = 0) -> Refused:
        refusal = Refusal(request_id, code, detail[:256], left, self._node.address)
        return Refused(sign(refusal, self._node.key, self._node.terms.domain))

    def _end_pass(self, case: Case) -> None:
        """A session key that used an index twice gets nothing more on its pass."""
        if case.offence.kind is OffenceKind.RFC_INDEX:
            self._desk.allowances.end(case.offence.offender, case.offence.day)

    # Filings (S30).

    async def _file(self, filing: ReportFiling | DeliveryFiling) -> RouterAnswer:
        slot = self._node.slot()
        is_open = self._desk.is_open(filing.ticket_id)
        try:
            if isinstance(filing, ReportFiling):
                settlement = self._desk.file_report(filing, slot)
            else:
                settlement = self._desk.file_delivery(filing, slot)
        except SettlementInvalid as error:
            return self._refuse(filing.ticket_id, error.reason, str(error))
        if is_open:
            if isinstance(filing, ReportFiling) or not filing.runs:
                self._matcher.filed(filing.ticket_id)
                self._matcher.hurry()
            await self._journal.note_filing(filing)
        if settlement is not None:
            self._hand_over(settlement)
        return Filed(filing.ticket_id)

    def _is_providers(self, filing: DeliveryFiling, peer: str) -> bool:
        """A user that could file vouchers as its provider could commit it to a transcript that it never sent, and one
        that could say that the session is over could have more matched to it than it has slots for."""
        provider = self._desk.provider_of(filing.ticket_id)
        record = None if provider is None else self._public.book.record(provider, now_ms())
        if record is None:  # what is signed speaks for itself; of a ticket that isn't open nothing is believed
            return provider is None or filing.voucher is not None or filing.receipt is not None
        return record.payload.peer_id == peer

    def _file_opinion_of(self, signed: Signed[Opinion]) -> RouterAnswer:
        """A scorer's verdict (S8); one that is not its scorer's turn yet waits for its batch."""
        opinion = signed.payload
        signed.signer(self._node.terms.domain)
        pick = self._public.ledger.audits.pick(opinion.ticket_id)
        try:
            check_opinion(pick, opinion, self._node.slot(), self._node.terms.params)
        except OpinionInvalid as error:
            if not error.retry:
                return self._refuse(opinion.ticket_id, error.reason, str(error))
        self._file_opinion(signed)
        return Filed(opinion.ticket_id)

    def _hand_over(self, settlement: Settlement) -> None:
        """To this member's pool and everybody else's."""
        try:
            self._file_settlement(self._marked(settlement))
        except MarketError as error:
            self._node.log.error("own settlement refused", reason=str(error))
            self._give_back(settlement.ticket.id(self._node.terms.domain), 0)
            return
        self._matcher.hurry()

    def _marked(self, settlement: Settlement) -> Settlement:
        """A Fail with the mark that lets each user count once against a provider (S44); anything else as it is."""
        ticket = settlement.ticket.payload
        user = self._desk.allowances.user_of(ticket.session_key)
        if settlement.report is None or settlement.report.payload.passed or user is None:
            return settlement
        domain, day = self._node.terms.domain, settlement.rfc.payload.access_pass.payload.day
        mark = fail_mark(self._mark_secret, user, ticket.bid.payload.provider, day)
        told = FailMark(settlement.ticket.id(domain), mark, self._node.address)
        return replace(settlement, fail_mark=sign(told, self._node.key, domain))

    async def _watch_deadlines(self) -> None:
        slot = self._node.slot()
        day_of = self._node.terms.params.day_of
        while True:
            before, slot = slot, await self._node.next_slot(slot)
            for settlement in self._desk.due(slot):
                self._hand_over(settlement)
            for ticket_id, session_key in self._desk.lapse(slot):
                self._journal.forget_filings(ticket_id)
                self._succession.tell_usage(session_key)
                self._matcher.hurry()
            if day_of(slot) > day_of(before):
                self._desk.allowances.forget_before(day_of(slot))
                self._succession.forget_before(day_of(slot))
                for place in [one for one in self.over_issued if one[1] < day_of(before)]:
                    del self.over_issued[place]
                await self._journal.begin_day()

    def _settled(self, _: CertifiedBatch) -> None:
        for outcome in self._public.ledger.outcomes:
            self._give_back(outcome.ticket_id, outcome.charged, outcome.credited_wei)

    def dropped(self, ticket_id: Digest) -> None:
        """No batch will settle a ticket."""
        self._give_back(ticket_id, 0)

    def _give_back(self, ticket_id: Digest, charged: int, credited_wei: int = 0) -> None:
        self._journal.forget_filings(ticket_id)
        session_key = self._desk.session_of(ticket_id)
        if self._desk.settled(ticket_id, charged, credited_wei) and session_key is not None:
            self._succession.tell_usage(session_key)
