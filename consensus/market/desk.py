"""The home router's desk: passes, RFCs, tickets and filings of its users, from the request to the settlement.

All bookkeeping and no I/O: the router's role calls it with what has arrived and the time, and sends what it returns.
Every call is deterministic, so a journal of calls restores a desk. An RFC goes through: :meth:`Desk.admit` → waiting →
:meth:`Desk.next_waiting` → matching → :meth:`Desk.place` (matched) or :meth:`Desk.refuse`; a ticket through: placed →
filings → a settlement, or nothing filed until its deadline → charged a voucher window's T.
"""

from collections import Counter
from collections.abc import Iterable

from consensus.market.allowances import Allowances, RoutersOf
from consensus.market.book import StandingBid
from consensus.market.day_account import DayAccount
from consensus.market.errors import RfcRefused, SettlementInvalid
from consensus.market.filings import OpenTicket, is_bare, unfiled_charge
from consensus.market.ledger import charged_tokens
from consensus.market.listing import Listing, unlisted
from consensus.market.pairs import pair_key
from consensus.market.promises import Promises, worth_wei
from consensus.market.seats import Held, Seats, count_held, find_silent, seat_of
from consensus.market.throttle import Throttle, most_waiting, rfc_rate
from consensus.market.waiting import MAX_WAITING, Waiting, WaitingRoom
from consensus.market.withdrawals import Withdrawals
from consensus.params import Terms
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed, Unit
from gossip.messages.market import Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.router import DeliveryFiling, Matched, ReportFiling
from gossip.messages.session import Settlement

MAX_TICKETS = 20_000
"""Tickets that are open, or wait for their batch, at once."""

MAX_REMEMBERED = 20_000
"""Answers that are remembered for those who ask again."""


class Desk:
    """One router's bookkeeping. ``routers`` are a day's home routers, ``router`` is its own address."""

    def __init__(self, terms: Terms, router: Address, routers: RoutersOf) -> None:
        self._terms = terms
        self._router = router
        self._promises = Promises()
        self.allowances = Allowances(router, routers, self._promises)
        self._room = WaitingRoom(terms.params.age_boost_ms)
        self._throttle = Throttle()
        self._waiting_of: Counter[Address] = Counter()
        """RFCs that wait or are being matched, by user: however many session keys it has."""
        self._asker: dict[Digest, Address] = {}
        """Whose each of them is."""
        self._answers: dict[Digest, Matched | RfcRefused] = {}
        self._withdrawals = Withdrawals()
        self._matched: dict[Digest, Signed[Rfc]] = {}
        """The RFCs that were matched, for who asks why."""
        self._open: dict[Digest, OpenTicket] = {}
        self._unsettled: dict[Digest, Ticket] = {}
        """Tickets that have become settlements and are not in a batch yet."""
        self._shrunk: dict[Digest, int] = {}
        """T still reserved for tickets whose user has reported a Pass of less than TokenMax."""
        self._least: dict[Digest, int] = {}
        """T that unsettled tickets cost at least, whatever a batch says; those that cost nothing by it left out."""
        self._replayed: dict[Digest, tuple[OpenTicket, bool]] = {}
        """After a restart: tickets that are done, and whether a batch settled them."""
        self._done: dict[Digest, None] = {}
        self._paired: dict[bytes, int] = {}
        """T promised and not settled, by session key and provider."""
        self.seats = Seats()
        """Slots that this desk has filled."""

    def admit(
        self, rfc: Signed[Rfc], rfc_id: Digest, *, now_ms: int, slot: int, account: DayAccount, listing: Listing
    ) -> None:
        """Let an RFC whose signatures hold into the queue and reserve its TokenMax; ``account`` is the day's.

        An RFC that is here already, or has its answer, is left as it is: ask :meth:`outcome`. Raises
        :class:`RfcRefused` with wrong_router, unit_unsupported (S16), expired, wrong_day, model_not_listed (S8),
        budget_spent (S37), index_used, token_max_over_allowance (S36), busy (no room, or more than its user may send or
        have waiting), or with budget_held or allowance_held where what is short may yet come back, and then changes
        nothing but the user's rate.
        """
        if self.outcome(rfc_id) is not None:
            return
        asked = rfc.payload
        access_pass, day = asked.access_pass.payload, self._terms.params.day_of(slot)
        left = self.allowances.left(asked.session_key)
        if access_pass.issuer != self._router or access_pass.session_key != asked.session_key:
            raise RfcRefused("wrong_router", f"the pass was issued by 0x{access_pass.issuer.hex()}")
        if asked.unit is not Unit.TEXT_TOKEN:
            raise RfcRefused("unit_unsupported", f"{asked.unit.name} isn't served yet, only TEXT_TOKEN is", left)
        if asked.deadline_ms <= now_ms:
            raise RfcRefused("expired", f"the deadline passed {now_ms - asked.deadline_ms} ms ago", left)
        if access_pass.day != day:
            raise RfcRefused("wrong_day", f"the pass is for day {access_pass.day}, it is day {day}", left)
        if (why := unlisted(listing, asked.model_id, day, self._terms.params)) is not None:
            raise RfcRefused("model_not_listed", why, left)
        self.allowances.check_standing(asked.session_key)
        self._check_budget(asked.token_max, 1, account, left)  # no bid is below 1 wei
        if len(self._open) + len(self._unsettled) >= MAX_TICKETS:
            raise RfcRefused("busy", f"{len(self._open)} tickets are open", left)
        user = self.allowances.user_of(asked.session_key)
        if user is not None:
            self._check_rate(user, access_pass.priority, now_ms, left)
        if self._withdrawals.has_come(asked.session_key, rfc_id):
            raise RfcRefused("withdrawn", "its asker left before it came", left)
        waiting = Waiting(rfc, rfc_id, access_pass.priority, now_ms)
        last = self._last_in(waiting, now_ms, left)
        self.allowances.reserve(asked)
        if last is not None:
            self.refuse(last.rfc_id, "busy", f"the queue is full of {MAX_WAITING} RFCs that stand before this one")
        if user is not None:
            self._waiting_of[user] += 1
            self._asker[rfc_id] = user
        self._room.add(waiting)

    def _last_in(self, newcomer: Waiting, now_ms: int, left: int) -> Waiting | None:
        """Who has to leave a full queue for a newcomer that stands before it (S26): balance and patience count as ever.

        Raises :class:`RfcRefused` (busy) where the newcomer would be the last itself.
        """
        if not self._room.is_full:
            return None
        last = self._room.last(now_ms, stands_below=newcomer.priority)
        if last is None:
            raise RfcRefused("busy", f"{len(self._room)} RFCs wait, and all stand before this one", left)
        return last

    def _check_rate(self, user: Address, priority: int, now_ms: int, left: int) -> None:
        """A user's share of this router follows its balance. Raises :class:`RfcRefused` (busy)."""
        most = most_waiting(priority)
        if self._waiting_of[user] >= most:
            raise RfcRefused("busy", f"{most} RFCs of this user wait already, as many as its balance allows", left)
        per_s, burst = rfc_rate(priority)
        if wait_ms := self._throttle.take(user, per_s, burst, now_ms):
            raise RfcRefused("busy", f"more than {per_s} RFCs a second by this user: come back in {wait_ms} ms", left)

    def queue(self) -> tuple[Waiting, ...]:
        """The RFCs that wait for their turn, in no order."""
        return self._room.queue()

    def _leave_queue(self, rfc_id: Digest) -> Waiting | None:
        waiting = self._room.remove(rfc_id)
        if (user := self._asker.pop(rfc_id, None)) is not None:
            self._waiting_of[user] -= 1
            if self._waiting_of[user] <= 0:
                del self._waiting_of[user]
        return waiting

    def outcome(self, rfc_id: Digest) -> Waiting | Matched | RfcRefused | None:
        """Where an RFC stands: waiting or being matched, matched, refused after it was admitted, or unknown."""
        return self._answers.get(rfc_id) or self._room.get(rfc_id)

    def matched_rfc(self, rfc_id: Digest) -> Signed[Rfc] | None:
        """An RFC that was matched, as long as its answer is remembered."""
        return self._matched.get(rfc_id)

    def next_waiting(self, now_ms: int) -> Waiting | None:
        """The RFC to match now (S26), None where none waits. Those past their deadline are refused on the way."""
        for waiting in self._room.expired(now_ms):
            self.refuse(waiting.rfc_id, "expired", "no match was made before the deadline")
        return self._room.next(now_ms)

    def requeue(self, rfc_id: Digest) -> None:
        """Put an RFC back that can't be matched at the moment; it keeps its age."""
        if (waiting := self._room.get(rfc_id)) is not None:
            self._room.add(waiting)

    def refuse(self, rfc_id: Digest, code: str, detail: str) -> RfcRefused | None:
        """Refuse an admitted RFC (unknown_model, no_provider, …) and give its reservation back; the index is spent.

        None where the RFC is not waiting.
        """
        waiting = self._leave_queue(rfc_id)
        if waiting is None:
            return None
        asked = waiting.rfc.payload
        self.allowances.release(asked.session_key, asked.token_max, 0)
        refused = RfcRefused(code, detail, self.allowances.left(asked.session_key))
        self._remember(rfc_id, refused)
        return refused

    def withdraw(self, rfc_id: Digest, session_key: Address, *, is_drawn: bool) -> int | Matched:
        """Take an RFC back at the word of the session key that signed it; T that it costs, or the match that it had.

        It costs nothing while it waits. Where ``is_drawn``, a provider is being asked already, and whoever hears which
        one could have the draw repeated until it pleases: then it costs as much as a ticket that nobody opens, and so
        does one that was matched. One that hasn't come yet is refused when it comes. Saying it twice changes nothing.
        Raises :class:`RfcRefused` with not_the_asker, with unknown_rfc where no pass of the session key is known here,
        and with its own refusal where it has had one.
        """
        outcome = self.outcome(rfc_id)
        if (cost := self._withdrawals.cost(session_key, rfc_id)) is not None:
            return cost
        if outcome is None:
            if (user := self.allowances.user_of(session_key)) is None:
                raise RfcRefused("unknown_rfc", f"session key 0x{session_key.hex()} has no pass of this router")
            self._withdrawals.note_early(user, session_key, rfc_id)
            return 0
        if isinstance(outcome, RfcRefused):
            raise outcome
        asker = outcome.rfc.payload if isinstance(outcome, Waiting) else outcome.ticket.payload
        if asker.session_key != session_key:
            raise RfcRefused("not_the_asker", f"0x{session_key.hex()} did not sign the RFC")
        if isinstance(outcome, Matched):
            if (held := self._open.get(outcome.match.payload.ticket_id)) is not None:
                held.is_withdrawn = True
            return outcome
        cost = unfiled_charge(asker.token_max, self._terms.params) if is_drawn else 0
        self._leave_queue(rfc_id)
        self.allowances.release(session_key, asker.token_max, cost)
        self._withdrawals.note(session_key, rfc_id, cost)
        self._remember(rfc_id, RfcRefused("withdrawn", "its asker left", self.allowances.left(session_key)))
        return cost

    def free(self, bids: Iterable[StandingBid]) -> tuple[StandingBid, ...]:
        """Those of ``bids`` whose provider has a slot that this desk has not filled."""
        return tuple(standing for standing in bids if self.slots_left(standing.bid) > 0)

    def slots_left(self, bid: Bid) -> int:
        """Slots of a bid that this desk has not filled."""
        return bid.slots - self.seats.filled(seat_of(bid))

    def budget_left(self, account: DayAccount) -> int:
        """Wei that this router may still promise of the day of ``account`` (S37)."""
        return self._promises.left(account.day, account.reference_price_wei, account.budget_left_wei)

    def check_budget(self, rfc_id: Digest, price_wei: int, account: DayAccount) -> None:
        """Raise :class:`RfcRefused` (as :meth:`open_ticket`) where a waiting RFC can't be paid at ``price_wei``."""
        if (waiting := self._room.get(rfc_id)) is not None:
            asked = waiting.rfc.payload
            self._check_budget(asked.token_max, price_wei, account, self.allowances.left(asked.session_key))

    def _check_budget(self, token_max: int, price_wei: int, account: DayAccount, allowance_left: int) -> None:
        needed, left = worth_wei(token_max, price_wei), self.budget_left(account)
        if left < needed or left <= 0:
            raise self._promises.refusal((token_max, price_wei), account.day, left, allowance_left)

    def open_ticket(
        self,
        rfc_id: Digest,
        bid: Signed[Bid],
        *,
        slot: int,
        now_ms: int,
        account: DayAccount,
        rivals: tuple[Signed[Bid], ...] = (),
    ) -> Ticket:
        """The ticket for a match of a waiting RFC, to be signed; nothing is booked before :meth:`place`.

        Raises :class:`RfcRefused` with expired where the RFC isn't waiting any more, and where the day's budget, as
        far as this router may promise it, doesn't pay for TokenMax at the bid's price: with budget_held where it would
        if other tickets' promises came back, else with budget_spent.
        """
        waiting = self._room.get(rfc_id)
        if waiting is None:
            raise RfcRefused("expired", f"RFC 0x{rfc_id.hex()} isn't waiting")
        self.check_budget(rfc_id, bid.payload.price_wei, account)
        asked = waiting.rfc.payload
        return Ticket(
            rfc_id=rfc_id,
            session_key=asked.session_key,
            bid=bid,
            token_max=asked.token_max,
            prompt_bound=asked.prompt_bound,
            slot=slot,
            expires_ms=now_ms + self._terms.params.ticket_ttl_ms,
            router=self._router,
            rivals=rivals,
        )

    def promised_to(self, session_key: Address, provider: Address) -> int:
        """T of tickets of a pair that no batch has settled yet."""
        return self._paired.get(pair_key(session_key, provider), 0)

    def place(self, matched: Matched) -> Digest:
        """Book a match: the RFC has its answer, the provider one slot less. Returns the ticket's id.

        Raises :class:`RfcRefused` (expired) where the RFC isn't waiting any more.
        """
        ticket = matched.ticket.payload
        waiting = self._leave_queue(ticket.rfc_id)
        if waiting is None:
            raise RfcRefused("expired", f"RFC 0x{ticket.rfc_id.hex()} isn't waiting")
        self._remember(ticket.rfc_id, matched)
        self._matched[ticket.rfc_id] = waiting.rfc
        return self._book(waiting.rfc, matched.ticket, matched.match.payload.ticket_id)

    def restore(
        self,
        rfc: Signed[Rfc],
        ticket: Signed[Ticket],
        *,
        is_settled: bool,
        is_over: bool = False,
        credited_wei: int = 0,
    ) -> None:
        """After a restart: take up a ticket that was placed, or remember one that a batch has settled since, or that
        ``is_over`` without.

        ``credited_wei`` is what it was credited where it is settled. Its pass comes first, by
        :meth:`Allowances.note_issued`, its filings follow, and :meth:`restored` comes last.
        """
        ticket_id = ticket.id(self._terms.domain)
        if not is_settled and not is_over:
            self.allowances.restore(rfc.payload, ticket.payload.token_max)
            self._book(rfc, ticket, ticket_id)
            return
        self.allowances.restore(rfc.payload, 0)
        self._done[ticket_id] = None
        self._replayed[ticket_id] = OpenTicket(rfc, ticket, 0), is_settled
        self._promises.credit(self._terms.params.day_of(ticket.payload.slot), credited_wei)

    def restored(self) -> None:
        """All that was done before a restart has been done again: what tickets cost beyond their batches counts too."""
        for held, is_settled in self._replayed.values():
            settlement = held.settlement()
            if is_settled and settlement is None:
                continue  # whatever settled it, this router heard nothing of it
            told = charged_tokens(settlement) if is_settled and settlement is not None else 0
            extra = held.least_charge(self._terms.params) - told
            self.allowances.release(held.ticket.payload.session_key, 0, max(0, extra))
        self._replayed.clear()

    def provider_of(self, ticket_id: Digest) -> Address | None:
        """The provider of a ticket that waits for filings."""
        held = self._open.get(ticket_id)
        return None if held is None else held.ticket.payload.bid.payload.provider

    def session_of(self, ticket_id: Digest) -> Address | None:
        """Whose session key a ticket of this desk is for, until it is settled."""
        if (held := self._open.get(ticket_id)) is not None:
            return held.ticket.payload.session_key
        ticket = self._unsettled.get(ticket_id)
        return None if ticket is None else ticket.session_key

    def seats_held(self, now_ms: int) -> Counter[Held]:
        """Slots of all providers that this desk has filled, by reason."""
        return count_held(self._open.values(), now_ms)

    def silent(self, now_ms: int) -> tuple[tuple[Digest, Address], ...]:
        """Tickets that expired before ``now_ms`` and hold a seat, though no provider says that a session runs."""
        return find_silent(self._open, now_ms)

    def is_open(self, ticket_id: Digest) -> bool:
        """Whether a ticket of this desk waits for filings."""
        return ticket_id in self._open

    def _book(self, rfc: Signed[Rfc], ticket: Signed[Ticket], ticket_id: Digest) -> Digest:
        params = self._terms.params
        last_ms = ticket.payload.expires_ms + params.session_max_ms
        ends_slot = params.slot_at(last_ms, self._terms.genesis_ms) + 1 + params.report_deadline_slots
        self._open[ticket_id] = held = OpenTicket(rfc, ticket, ends_slot)
        self._promises.promise(ticket_id, ticket.payload, params.day_of(ticket.payload.slot))
        self._count_pair(ticket.payload, ticket.payload.token_max)
        self.seats.take(held)
        return ticket_id

    def file_report(self, filing: ReportFiling, slot: int) -> Settlement | None:
        """Take the user's report (S30); the settlement, where nothing is missing any more.

        Filing twice is harmless: the first report counts. Raises :class:`SettlementInvalid` for a filing that
        belongs to no ticket here or is signed by somebody else.
        """
        if filing.ticket_id in self._done:
            if (replayed := self._replayed.get(filing.ticket_id)) is not None:
                replayed[0].report, replayed[0].filed_slot = replayed[0].report or filing.report, slot
                replayed[0].receipt = replayed[0].receipt or filing.receipt
            return None
        held = self._held(filing.ticket_id)
        held.check_signed("report", filing.report, filing.ticket_id, self._terms.domain)
        if filing.report.payload.unit is not held.rfc.payload.unit:
            raise SettlementInvalid("report_unit", filing.report.payload.unit.name)
        held.check_receipt(filing.receipt, filing.ticket_id, self._terms.domain)
        if held.report is None:
            held.report = filing.report
            self._shrink(filing.ticket_id, held.ticket.payload, filing)
        held.receipt = held.receipt or filing.receipt
        return self._filed(filing.ticket_id, held, slot)

    def _shrink(self, ticket_id: Digest, ticket: Ticket, filing: ReportFiling) -> None:
        """After a Pass the user's own count is charged, or what the receipt says, or a window more where there is none:
        the rest of the reservation is free at once, as for the rest of an answer that another provider gives."""
        report, beyond = filing.report.payload, self._terms.params.voucher_window
        if filing.receipt is not None:
            beyond = max(0, filing.receipt.receipt.tokens - report.tokens)
        charged_at_most = min(ticket.token_max, max(1, report.tokens + beyond))
        if report.passed and charged_at_most < ticket.token_max:
            self.allowances.release(ticket.session_key, ticket.token_max - charged_at_most, 0)
            self._shrunk[ticket_id] = charged_at_most

    def file_delivery(self, filing: DeliveryFiling, slot: int) -> Settlement | None:
        """Take the provider's last voucher or receipt; the settlement, where nothing is missing any more.

        The highest voucher counts. Unless the session goes on its slot is free from now on, whatever the money waits
        for: a provider that says so too early takes on more than it can serve, and harms nobody else. Where it says no
        more than that, nothing has been filed. Raises :class:`SettlementInvalid` as :meth:`file_report` does.
        """
        if filing.ticket_id in self._done:
            if (replayed := self._replayed.get(filing.ticket_id)) is not None and not is_bare(filing):
                replayed[0].take_delivery(filing)
                replayed[0].filed_slot = slot
            return None
        held = self._held(filing.ticket_id)
        if filing.voucher is not None:
            held.check_signed("voucher", filing.voucher, filing.ticket_id, self._terms.domain)
        held.check_receipt(filing.receipt, filing.ticket_id, self._terms.domain)
        held.take_delivery(filing)
        if held.is_over:
            self.seats.free(held)
        if is_bare(filing) or (filing.runs and held.receipt is None):
            return None
        return self._filed(filing.ticket_id, held, slot)

    def due(self, slot: int) -> tuple[Settlement, ...]:
        """Settlements that have waited ``report_deadline_slots`` for the other side; what counts is what was filed.

        Tickets without any: :meth:`lapse`.
        """
        patience, settlements = self._terms.params.report_deadline_slots, []
        late = [ticket_id for ticket_id, held in self._open.items() if held.is_due(slot, patience)]
        for ticket_id in late:
            held = self._open[ticket_id]
            if (settlement := held.settlement()) is not None:
                self._leave(ticket_id, held)
                settlements.append(settlement)
        return tuple(settlements)

    def lapse(self, slot: int) -> tuple[tuple[Digest, Address], ...]:
        """Charge for tickets that no batch will hear of, and free the rest of what they reserved.

        Where nobody has filed until the end, a window's T are charged; where the provider alone has, for T that nobody
        vouched for, those are. Returns the tickets, and whose session keys they were for.
        """
        patience = self._terms.params.report_deadline_slots
        late = [
            (ticket_id, held.ticket.payload)
            for ticket_id, held in self._open.items()
            if held.settlement() is None and held.is_due(slot, patience)
        ]
        for ticket_id, ticket in late:
            held = self._open[ticket_id]
            self.settled(ticket_id, 0 if held.is_filed else unfiled_charge(ticket.token_max, self._terms.params))
        return tuple((ticket_id, ticket.session_key) for ticket_id, ticket in late)

    def settled(self, ticket_id: Digest, charged: int, credited_wei: int = 0) -> bool:
        """A batch has settled a ticket at ``charged`` T: the rest of its reservation and of its worth is free again.

        Also for a settlement that no batch will take (``charged`` and ``credited_wei`` 0). What the user signed for,
        and its provider has sent beyond, is charged at least. False where the ticket isn't this desk's.
        """
        if (held := self._open.get(ticket_id)) is not None:
            self._leave(ticket_id, held)
        ticket = self._unsettled.pop(ticket_id, None)
        if ticket is None:
            return False
        self._count_pair(ticket, -ticket.token_max)
        charged = max(charged, self._least.pop(ticket_id, 0))
        self.allowances.release(ticket.session_key, self._shrunk.pop(ticket_id, ticket.token_max), charged)
        self._promises.settle(ticket_id, credited_wei)
        return True

    def _count_pair(self, ticket: Ticket, tokens: int) -> None:
        pair = pair_key(ticket.session_key, ticket.bid.payload.provider)
        if (left := self._paired.pop(pair, 0) + tokens) > 0:
            self._paired[pair] = left

    def _held(self, ticket_id: Digest) -> OpenTicket:
        held = self._open.get(ticket_id)
        if held is None:
            raise SettlementInvalid("unknown_ticket", ticket_id)
        return held

    def _filed(self, ticket_id: Digest, held: OpenTicket, slot: int) -> Settlement | None:
        if held.filed_slot is None:
            held.filed_slot = slot
        if held.is_complete:
            self._leave(ticket_id, held)
            return held.settlement()
        return None

    def _leave(self, ticket_id: Digest, held: OpenTicket) -> None:
        """The session is over: its provider's slot is free again, its reservation stays until a batch settles it."""
        del self._open[ticket_id]
        ticket = held.ticket.payload
        self._unsettled[ticket_id] = ticket
        if held.is_filed and (least := held.least_charge(self._terms.params)):
            self._least[ticket_id] = least
        self.seats.free(held)
        self._done[ticket_id] = None
        if len(self._done) > MAX_REMEMBERED:
            del self._done[next(iter(self._done))]

    def _remember(self, rfc_id: Digest, answer: Matched | RfcRefused) -> None:
        self._answers[rfc_id] = answer
        if len(self._answers) > MAX_REMEMBERED:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._matched.pop(oldest, None)
