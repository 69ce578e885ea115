"""Settling: a draft of the next ledger, to which a batch's parts are applied one by one.

A draft starts as a copy, checks everything before it changes anything, and leaves the ledger it came from as it was.
Proposer and checker use the same draft, so they can't differ.
"""

from bisect import insort
from collections.abc import Mapping

from msgspec.structs import replace

from consensus.errors import HandOverInvalid
from consensus.market import access
from consensus.market.beacon import next_beacon
from consensus.market.errors import BatchInvalid, SettlementInvalid
from consensus.market.ledger_state import (
    DayAccount,
    Ledger,
    Outcome,
    SessionUse,
    check_opening,
    day_accounts,
    oldest_day,
)
from consensus.market.settlement import VerifiedIds
from consensus.market.shards import KeyShards, SlotTickets
from consensus.market.speed import SpeedSample, is_fast_enough, us_per_t, with_sample
from consensus.membership import Draw, Term, check_drawn, hand_over_to, verify_hand_over
from consensus.params import Terms
from contracts.typed_data import Address, Digest, Uint256
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.committee import DayOpening, HandOverCertificate
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement

MAX_COMMIT_AHEAD_DAYS = 7
"""How many days ahead a member may commit its secrets."""

NO_BALANCES: Mapping[Address, int] = {}


class Draft:
    """The ledger that a batch closing ``slot`` will leave behind, in the making.

    ``balances`` are providers' balances in wei at the day's snapshot block; only the variant of S44 reads them, and
    whoever is missing there holds nothing. Raises :class:`BatchInvalid` for a slot that isn't later than the last.
    """

    def __init__(
        self,
        ledger: Ledger,
        terms: Terms,
        slot: int,
        opening: DayOpening | None = None,
        *,
        balances: Mapping[Address, int] = NO_BALANCES,
    ) -> None:
        if slot <= ledger.slot:
            raise BatchInvalid("slot", slot)
        self._ledger = ledger
        self._terms = terms
        self._params = terms.params
        self._balances = balances
        self.slot = slot
        self.day = self._params.day_of(slot)
        if opening is not None:
            if self.day == ledger.day:
                raise BatchInvalid("opening_not_first", opening.day)
            check_opening(opening, self.day, ledger.account.snapshot_block)
            self._check_drawn(opening)
        self._days = day_accounts(ledger, self._params, self.day, opening)
        self._credits = dict(ledger.credits)
        self._total = int(ledger.total_credited)
        self._held_sessions = KeyShards.of(ledger.sessions)
        self._sessions: dict[Address, SessionUse] = {}
        self._held_settled = SlotTickets.of(ledger.settled)
        self._settled: dict[Digest, int] = {}
        self._speed = dict(ledger.speed)
        gone = self.day - ledger.day
        self._penalties = {who: left for who, points in ledger.penalties.items() if (left := points >> gone)}
        self._penalised = dict(ledger.penalised) if gone == 0 else {}
        self._commitments = {day: dict(tips) for day, tips in ledger.commitments.items()}
        self._outcomes: list[Outcome] = []
        self._drawn = ledger.drawn
        if opening is not None and opening.drawn:
            self._drawn = Draw(self.day, Term(ledger.running.epoch + 1, opening.drawn))
        self._hands_over = False

    def _check_drawn(self, opening: DayOpening) -> None:
        """A draw waits until it has taken over: whoever signed for it signed once in an epoch."""
        if not opening.drawn:
            return
        if self._ledger.drawn is not None:
            raise BatchInvalid("opening_drawn", opening.day)
        try:
            check_drawn(opening.drawn, self._ledger.running)
        except HandOverInvalid as error:
            raise BatchInvalid("opening_drawn", str(error)) from error

    def hand_over(self, certificate: HandOverCertificate) -> None:
        """Let who was drawn before this batch take over after it. Raises :class:`BatchInvalid`."""
        ledger = self._ledger
        if ledger.drawn is None:
            raise BatchInvalid("hand_over", "nobody was drawn")
        try:
            expected = hand_over_to(ledger.drawn, ledger.running)
            verify_hand_over(certificate, expected, ledger.running, self._terms.domain)
        except HandOverInvalid as error:
            raise BatchInvalid("hand_over", str(error)) from error
        self._hands_over = True

    def commit(self, signed: Signed[BeaconCommitment]) -> None:
        """Take a member's commitment for a later day. Raises :class:`BatchInvalid`."""
        commitment = signed.payload
        try:
            signed.signer(self._terms.domain)
        except SignerMismatch as error:
            raise BatchInvalid("commitment_signature", str(error)) from error
        if not self._ledger.is_recent_member(commitment.member):
            raise BatchInvalid("commitment_member", commitment.member)
        if not self.day < commitment.day <= self.day + MAX_COMMIT_AHEAD_DAYS:
            raise BatchInvalid("commitment_day", commitment.day)
        if commitment.member in self._commitments.get(commitment.day, {}):
            raise BatchInvalid("commitment_twice", commitment.member)
        self._commitments.setdefault(commitment.day, {})[commitment.member] = commitment.tip

    def settle(self, settlement: Settlement, ids: VerifiedIds) -> Outcome:
        """Settle a session whose signatures hold. Raises :class:`SettlementInvalid` and then changes nothing."""
        account, session = self._check(settlement, ids)
        charged = charged_tokens(settlement)
        if session.used + charged > session.allowance:
            raise SettlementInvalid("allowance_exceeded", session.used + charged)
        outcome = self._outcome(settlement, ids, charged)
        self._record(settlement, outcome, account, session)
        return outcome

    def _check(self, settlement: Settlement, ids: VerifiedIds) -> tuple[DayAccount, SessionUse]:
        """What the ledger has to say about a settlement; its day's account and its session's use so far."""
        ticket, rfc = settlement.ticket.payload, settlement.rfc.payload
        access_pass = rfc.access_pass.payload
        if ticket.slot > self.slot:
            raise SettlementInvalid("ticket_from_future", ticket.slot, retry=True)
        if self.slot - ticket.slot > self._params.settle_window_slots:
            raise SettlementInvalid("ticket_too_old", ticket.slot)
        if ids.ticket_id in self._settled or self._held_settled.holds(ids.ticket_id, ticket.slot):
            raise SettlementInvalid("already_settled", ids.ticket_id)
        account = self._days.get(access_pass.day)
        if access_pass.day != self._params.day_of(ticket.slot) or account is None:
            raise SettlementInvalid("wrong_day", access_pass.day)
        if self._ledger.routers(access_pass.day).weight(access_pass.issuer) == 0:
            raise SettlementInvalid("issuer_not_a_member", access_pass.issuer)
        price = ticket.bid.payload.price_wei
        if price > account.ceiling_wei(self._params):
            raise SettlementInvalid("price_over_ceiling", price)
        if access_pass.allowance > account.max_t:
            raise SettlementInvalid("allowance_over_max_t", access_pass.allowance)
        fresh = SessionUse(access_pass.day, access_pass.allowance, 0, ())
        session = self._sessions.get(ids.session_key) or self._held_sessions.get(ids.session_key, fresh)
        if (session.day, session.allowance) != (fresh.day, fresh.allowance):
            raise SettlementInvalid("pass_changed", access_pass.allowance)
        if rfc.index in session.indexes:
            raise SettlementInvalid("index_used", rfc.index)
        if settlement.report is None and self.slot < ticket.slot + self._params.report_deadline_slots:
            raise SettlementInvalid("report_awaited", ids.ticket_id, retry=True)
        return account, session

    def _outcome(self, settlement: Settlement, ids: VerifiedIds, charged: int) -> Outcome:
        ticket = settlement.ticket.payload
        tokens, price = delivered_tokens(settlement), ticket.bid.payload.price_wei
        reason = self._verdict(settlement, ids, tokens, price)
        paid = tokens if reason == "credited" else 0
        return Outcome(
            ticket_id=ids.ticket_id,
            session_key=ids.session_key,
            provider=ids.provider,
            model_id=ticket.bid.payload.model_id,
            tokens=paid,
            charged=charged,
            price_wei=price,
            credited_wei=Uint256(paid * price),
            reason=reason,
        )

    def _verdict(self, settlement: Settlement, ids: VerifiedIds, tokens: int, price: int) -> str:
        """``credited``, or the first reason why not (S30, S31, S37, S44)."""
        report = settlement.report
        if report is not None and not report.payload.passed and self._withholds(settlement, ids):
            return "failed"
        if tokens == 0:
            return "nothing_delivered"
        if report is not None and report.payload.passed:
            samples = self._speed.get(settlement.rfc.payload.model_id, ())
            if not is_fast_enough(samples, us_per_t(report.payload.last_ms, tokens), self._params):
                return "slow"
        if tokens * price > self._days[self.day].budget_left_wei:
            return "budget_spent"
        return "credited"

    def _withholds(self, settlement: Settlement, ids: VerifiedIds) -> bool:
        """Whether a Fail costs the reward: always, or in the variant only where the user holds more (S44).

        The user's balance isn't public; the rank on the pass is, and the provider's is told as coarsely.
        """
        if not self._params.withhold_only_if_user_richer:
            return True
        user_rank = settlement.rfc.payload.access_pass.payload.priority
        return user_rank > access.rank(self._balances.get(ids.provider, 0))

    def _record(self, settlement: Settlement, outcome: Outcome, account: DayAccount, session: SessionUse) -> None:
        rfc, report = settlement.rfc.payload, settlement.report
        indexes = list(session.indexes)
        insort(indexes, rfc.index)
        if not session.indexes:
            issued = Uint256(account.issued_t + session.allowance)
            self._days[account.day] = replace(account, issued_t=issued)
        self._sessions[outcome.session_key] = replace(
            session, used=session.used + outcome.charged, indexes=tuple(indexes)
        )
        self._settled[outcome.ticket_id] = settlement.ticket.payload.slot
        self._outcomes.append(outcome)
        if outcome.credited_wei:
            self._credit(outcome)
        if report is None:
            return
        tokens = delivered_tokens(settlement)
        if report.payload.passed and tokens:
            sample = SpeedSample(outcome.session_key, outcome.provider, us_per_t(report.payload.last_ms, tokens))
            self._speed[rfc.model_id] = with_sample(self._speed.get(rfc.model_id, ()), sample, self._params)
        elif not report.payload.passed:
            self._penalise(outcome.provider, outcome.session_key)

    def _credit(self, outcome: Outcome) -> None:
        provider, amount = outcome.provider, outcome.credited_wei
        today = self._days[self.day]
        self._days[self.day] = replace(
            today,
            credited_t=Uint256(today.credited_t + outcome.tokens),
            credited_wei=Uint256(today.credited_wei + amount),
        )
        self._credits[provider] = Uint256(self._credits.get(provider, 0) + amount)
        self._total += amount

    def _penalise(self, provider: Address, session_key: Address) -> None:
        """One point for the provider, but each session key counts once a day."""
        counted = self._penalised.get(provider, ())
        if session_key not in counted:
            self._penalised[provider] = tuple(sorted((*counted, session_key)))
            self._penalties[provider] = self._penalties.get(provider, 0) + 1

    def close(self, reveal: Digest) -> Ledger:
        """The new ledger, with what is too old to matter left out. Its ``parent`` is still the old batch's hash."""
        params, old = self._params, self._ledger
        first_slot, first_day = self.slot - params.settle_window_slots, oldest_day(self.slot, params)
        sessions = self._held_sessions.with_items(self._sessions)
        if first_day > oldest_day(old.slot, params):
            sessions = sessions.where(lambda use: use.day >= first_day)
        commitments = {day: dict(sorted(tips.items())) for day, tips in self._commitments.items() if day >= first_day}
        return Ledger(
            height=old.height + 1,
            slot=self.slot,
            day=self.day,
            parent=old.parent,
            beacon=next_beacon(old.beacon, reveal, old.parent),
            total_credited=Uint256(self._total),
            credits=dict(sorted(self._credits.items())),
            days=dict(sorted((day, account) for day, account in self._days.items() if day >= first_day)),
            sessions=sessions,
            settled=self._held_settled.moved_on(self._settled, max(0, first_slot)),
            speed=dict(sorted(self._speed.items())),
            penalties=dict(sorted(self._penalties.items())),
            penalised=dict(sorted(self._penalised.items())),
            commitments=dict(sorted(commitments.items())),
            outcomes=tuple(self._outcomes),
            committees=self._committees(first_day),
            drawn=None if self._hands_over else self._drawn,
            since=old.height + 1 if self._hands_over else old.since,
            is_rescued=False,
        )

    def _committees(self, first_day: int) -> tuple[Term, ...]:
        """Those whose tickets may still be settled, and the one that decides the next height."""
        old = self._ledger
        oldest = min(account.epoch for day, account in self._days.items() if day >= first_day)
        kept = tuple(term for term in old.committees if term.epoch >= oldest or term is old.running)
        return (*kept, old.drawn.term) if self._hands_over and old.drawn is not None else kept


def settle(
    ledger: Ledger,
    settlement: Settlement,
    ids: VerifiedIds,
    slot: int,
    terms: Terms,
    *,
    balances: Mapping[Address, int] = NO_BALANCES,
) -> Outcome:
    """What would become of ``settlement`` if it were the first of a batch that closes ``slot``.

    Raises :class:`SettlementInvalid`, and :class:`BatchInvalid` for a slot that isn't later than the ledger's.
    """
    return Draft(ledger, terms, slot, balances=balances).settle(settlement, ids)


def delivered_tokens(settlement: Settlement) -> int:
    """T delivered: the lowest of the user's count, the provider's (receipt, else voucher) and TokenMax."""
    counts = [settlement.ticket.payload.token_max]
    if settlement.report is not None:
        counts.append(settlement.report.payload.tokens)
    if (provider_count := _provider_count(settlement)) is not None:
        counts.append(provider_count)
    return min(counts)


def charged_tokens(settlement: Settlement) -> int:
    """T off the user's allowance: what was delivered, and after a Fail the highest count on either side.

    A Fail is therefore never free, and no RFC costs less than 1 T (S43).
    """
    report = settlement.report
    if report is None or report.payload.passed:
        return max(1, delivered_tokens(settlement))
    highest = max(report.payload.tokens, _provider_count(settlement) or 0)
    return max(1, min(settlement.ticket.payload.token_max, highest))


def _provider_count(settlement: Settlement) -> int | None:
    if settlement.receipt is not None:
        return settlement.receipt.receipt.tokens
    return None if settlement.voucher is None else settlement.voucher.payload.tokens
