"""Settling: a draft of the next ledger, to which a batch's parts are applied one by one.

A draft keeps what it changes beside the ledger that it came from, which stays as it was, and checks everything before
it changes anything; so a batch costs what it settles, however many users and providers there are.
Proposer and checker use the same draft, so they can't differ.
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from consensus.committee import Committee
from consensus.errors import HandOverInvalid
from consensus.market import access, indexes, pairs
from consensus.market.beacon import next_beacon
from consensus.market.bootstrap import bootstrap_reserve, bootstrap_shares
from consensus.market.day_account import DayAccount, check_opening, oldest_day
from consensus.market.errors import BatchInvalid, OpinionInvalid, SettlementInvalid
from consensus.market.ledger_state import Ledger, Outcome, SessionUse, as_speed, day_accounts, day_ranks, page_of
from consensus.market.listing import ListingDraft
from consensus.market.maturing import AuditDraft, Audits, Credited, Matured
from consensus.market.opinions import transcript_of
from consensus.market.penalties import Penalties, PenaltyDraft, counted_as
from consensus.market.settlement import VerifiedIds
from consensus.market.speed import SpeedDraft, Timed, us_per_t
from consensus.market.trie import Trie, numbered_from
from consensus.membership import Draw, Term, check_drawn, hand_over_to, verify_hand_over
from consensus.params import Terms
from contracts.merkle import CreditTree
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Uint256
from gossip.errors import SignerMismatch
from gossip.messages.base import Signed
from gossip.messages.committee import DayOpening, HandOverCertificate
from gossip.messages.opinions import Opinion
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement

MAX_COMMIT_AHEAD_DAYS = 7
"""How many days ahead a member may commit its secrets."""

NO_RANKS: Mapping[Address, int] = {}
NO_TIPS: Mapping[Address, Digest] = {}


class Draft:
    """The ledger that a batch closing ``slot`` will leave behind, in the making.

    Raises :class:`BatchInvalid` for a slot that isn't later than the last, and for an opening that opens nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        terms: Terms,
        slot: int,
        opening: DayOpening | None = None,
    ) -> None:
        if slot <= ledger.slot:
            raise BatchInvalid("slot", slot)
        self._ledger = ledger
        self._terms = terms
        self._params = terms.params
        self.slot = slot
        self.day = self._params.day_of(slot)
        if opening is not None:
            if self.day == ledger.day:
                raise BatchInvalid("opening_not_first", opening.day)
            check_opening(opening, self.day, ledger.account.snapshot_block)
            self._check_drawn(opening)
            if opening.ranks and not self._params.tells_ranks:
                raise BatchInvalid("opening_ranks", len(opening.ranks))
        self._days = day_accounts(ledger, terms, self.day, opening)
        self._ranks = day_ranks(ledger, self._days, opening) if self._params.tells_ranks else {}
        is_new_day = self.day > ledger.day
        self._credits: dict[Address, int] = {}
        self._day_credits = Trie[Address, Uint256]() if is_new_day else Trie.of(ledger.day_credits)
        self._credited_today: dict[Address, Uint256] = {}
        self._sessions: dict[int, dict[Address, SessionUse]] = {}
        self._indexes: dict[int, dict[bytes, bytes]] = {}
        self._speed: dict[Digest, SpeedDraft] = {}
        self._pairs: dict[int, dict[bytes, int]] = {}
        self._routers: dict[int, Committee] = {}
        self._penalties = PenaltyDraft(
            Penalties.of(ledger.penalties, ledger.day).on(self.day),
            Trie[bytes, bool]() if is_new_day else Trie.of(ledger.penalised),
        )
        self._commitments = dict(ledger.commitments)
        self._outcomes: list[Outcome] = []
        self._audits = AuditDraft(ledger.audits, self._params, slot, ledger.credits)
        self.listing = ListingDraft(ledger.listing, terms, slot)
        self._drawn = ledger.drawn
        if opening is not None and opening.drawn:
            self._drawn = Draw(self.day, Term(ledger.running.epoch + 1, opening.drawn))
        self._hands_over = False
        self._bootstrap = int(ledger.bootstrap_credited)
        if is_new_day:
            self._pay_leaders()

    def _pay_leaders(self) -> None:
        """The day that the ledger stands on is over: its leaders share its bootstrap reserve (S24)."""
        old = self._ledger
        for provider, share in bootstrap_shares(
            old.day_credits, bootstrap_reserve(old.day, self._terms), self._params
        ).items():
            self._add_credit(provider, share)
            self._bootstrap += share

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
        if commitment.member in self._commitments.get(commitment.day, NO_TIPS):
            raise BatchInvalid("commitment_twice", commitment.member)
        tips = {**self._commitments.get(commitment.day, NO_TIPS), commitment.member: commitment.tip}
        self._commitments[commitment.day] = dict(sorted(tips.items()))

    def opine(self, signed: Signed[Opinion]) -> None:
        """Take a scorer's verdict on what was picked (S8). Raises :class:`OpinionInvalid`, and then changes nothing."""
        try:
            signed.signer(self._terms.domain)
        except SignerMismatch as error:
            raise OpinionInvalid("signature", str(error)) from error
        self._audits.opine(signed.payload)

    def settle(self, settlement: Settlement, ids: VerifiedIds) -> Outcome:
        """Settle a session whose signatures hold. Raises :class:`SettlementInvalid` and then changes nothing."""
        account, session = self._check(settlement, ids)
        if not self.listing.is_payable(model_id := settlement.rfc.payload.model_id, account.day):
            raise SettlementInvalid("model_not_listed", model_id)
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
        day = self._params.day_of(ticket.slot)
        account = self._days.get(day)
        if access_pass.day != day or account is None:
            raise SettlementInvalid("wrong_day", access_pass.day)
        if self._routers_of(day).weight(access_pass.issuer) == 0:
            raise SettlementInvalid("issuer_not_a_member", access_pass.issuer)
        price, ceiling = ticket.bid.payload.price_wei, account.ceiling_wei(self._params)
        if price > ceiling:
            raise SettlementInvalid("price_over_ceiling", price)
        for rival in ticket.rivals:
            if rival.payload.price_wei > ceiling:
                raise SettlementInvalid("rival_over_ceiling", rival.payload.price_wei)
        if access_pass.allowance > account.max_t:
            raise SettlementInvalid("allowance_over_max_t", access_pass.allowance)
        session = self._session(day, ids.session_key) or SessionUse(day, access_pass.allowance, 0)
        if session.allowance != access_pass.allowance:
            raise SettlementInvalid("pass_changed", access_pass.allowance)
        if indexes.holds(self._page(day, indexes.page_key(ids.session_key, rfc.index)), rfc.index):
            raise SettlementInvalid("index_used", rfc.index)
        if settlement.report is None and self.slot < ticket.slot + self._params.report_deadline_slots:
            raise SettlementInvalid("report_awaited", ids.ticket_id, retry=True)
        return account, session

    def _routers_of(self, day: int) -> Committee:
        found = self._routers.get(day)
        if found is None:
            found = self._routers[day] = self._ledger.routers(day)
        return found

    def _page(self, day: int, key: bytes) -> bytes:
        """The settled indexes on a page, those of this batch included."""
        drafted = self._indexes.get(day)
        if drafted is not None and (found := drafted.get(key)) is not None:
            return found
        return page_of(self._ledger, day, key)

    def _session(self, day: int, session_key: Address) -> SessionUse | None:
        drafted = self._sessions.get(day)
        if drafted is not None and (found := drafted.get(session_key)) is not None:
            return found
        held = self._ledger.sessions.get(day)
        return None if held is None else held.get(session_key)

    def _outcome(self, settlement: Settlement, ids: VerifiedIds, charged: int) -> Outcome:
        ticket = settlement.ticket.payload
        tokens, price = delivered_tokens(settlement), ticket.bid.payload.price_wei
        reason = self._verdict(settlement, ids, tokens, price)
        if reason == "credited":
            tokens, reason = self._capped(settlement, ids, tokens)
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
            day=settlement.rfc.payload.access_pass.payload.day,
            transcript=transcript_of(settlement) if self._audits.is_on else ZERO_DIGEST,
        )

    def _verdict(self, settlement: Settlement, ids: VerifiedIds, tokens: int, price: int) -> str:
        """``credited``, or the first reason why not (S30, S31, S37, S44)."""
        report = settlement.report
        if report is not None and not report.payload.passed and self._withholds(settlement, ids):
            return "failed"
        if tokens == 0:
            return "nothing_delivered"
        if self._audits.is_on and transcript_of(settlement) == ZERO_DIGEST:
            return "no_transcript"
        if report is not None and report.payload.passed:
            speed = self._speed_of(settlement.rfc.payload.model_id)
            if not speed.is_fast_enough(us_per_t(report.payload.last_ms, tokens)):
                return "slow"
        if tokens * price > self._days[settlement.rfc.payload.access_pass.payload.day].budget_left_wei:
            return "budget_spent"
        return "credited"

    def _capped(self, settlement: Settlement, ids: VerifiedIds, tokens: int) -> tuple[int, str]:
        """T that are credited of ``tokens``, and the reason: the bounds on self-dealing (S8)."""
        params, access_pass = self._params, settlement.rfc.payload.access_pass.payload
        if pairs.is_capped(params):
            pair = pairs.pair_key(ids.session_key, ids.provider)
            tokens = min(tokens, pairs.pair_cap(access_pass.allowance, params) - self._paired(access_pass.day, pair))
            if tokens <= 0:
                return 0, "pair_capped"
        if params.earnings_percent:
            held = access.least_balance(self._rank(ids.provider, access_pass.day))
            bound = held * params.earnings_percent // 100
            earned = self._credited_today.get(ids.provider) or self._day_credits.get(ids.provider, 0)
            if earned + tokens * settlement.ticket.payload.bid.payload.price_wei > bound:
                return 0, "over_balance"
        return tokens, "credited"

    def _paired(self, day: int, pair: bytes) -> int:
        drafted = self._pairs.get(day, pairs.EMPTY).get(pair)
        return self._ledger.pairs.get(day, pairs.EMPTY).get(pair, 0) if drafted is None else drafted

    def _withholds(self, settlement: Settlement, ids: VerifiedIds) -> bool:
        """Whether a Fail costs the reward: always, or in the variant only where the user holds more (S44).

        The user's balance isn't public; the rank on the pass is, and the day's opening tells the provider's as
        coarsely. Whoever isn't listed there counts as holding nothing, so that a Fail withholds.
        """
        if not self._params.withhold_only_if_user_richer:
            return True
        access_pass = settlement.rfc.payload.access_pass.payload
        return access_pass.priority > self._rank(ids.provider, access_pass.day)

    def _rank(self, provider: Address, day: int) -> int:
        """A provider's coarse rank by MOR at the day's snapshot block; 0 where the opening doesn't list it."""
        return self._ranks.get(day, NO_RANKS).get(provider, 0)

    def _record(self, settlement: Settlement, outcome: Outcome, account: DayAccount, session: SessionUse) -> None:
        rfc, report, day = settlement.rfc.payload, settlement.report, account.day
        if not session.used:
            account = replace(account, issued_t=Uint256(account.issued_t + session.allowance))
        if outcome.credited_wei:
            account = replace(
                account,
                credited_t=Uint256(account.credited_t + outcome.tokens),
                credited_wei=Uint256(account.credited_wei + outcome.credited_wei),
            )
            if self._audits.is_on:
                self._audits.settle(settlement, outcome.credited_wei)
            else:
                self._add_credit(outcome.provider, outcome.credited_wei)
            self._count_today(outcome.provider, outcome.credited_wei)
            if pairs.is_capped(self._params):
                pair = pairs.pair_key(outcome.session_key, outcome.provider)
                self._pairs.setdefault(day, {})[pair] = self._paired(day, pair) + outcome.tokens
        self._days[day] = account
        use = SessionUse(day, session.allowance, session.used + outcome.charged)
        self._sessions.setdefault(day, {})[outcome.session_key] = use
        page = indexes.page_key(outcome.session_key, rfc.index)
        self._indexes.setdefault(day, {})[page] = indexes.with_index(self._page(day, page), rfc.index)
        self._outcomes.append(outcome)
        if report is not None and not report.payload.passed:
            self._penalties.fail(outcome.provider, counted_as(settlement), outcome.charged)
            return
        self._penalties.serve(outcome.provider, outcome.charged)
        if report is not None and (tokens := delivered_tokens(settlement)):
            speed = us_per_t(report.payload.last_ms, tokens)
            self._speed_of(rfc.model_id).add(Timed(outcome.session_key, outcome.provider, speed, tokens))

    def _speed_of(self, model_id: Digest) -> SpeedDraft:
        speed = self._speed.get(model_id)
        if speed is None:
            speed = self._speed[model_id] = SpeedDraft(self._ledger.speed.get(model_id, ()), self._params)
        return speed

    def _add_credit(self, provider: Address, wei: int) -> None:
        held = self._credits.get(provider)
        self._credits[provider] = wei + (self._ledger.credits.get(provider, 0) if held is None else held)

    def _count_today(self, provider: Address, wei: int) -> None:
        held = self._credited_today.get(provider)
        before = self._day_credits.get(provider, 0) if held is None else held
        self._credited_today[provider] = Uint256(before + wei)

    def close(self, reveal: Digest) -> Ledger:
        """The new ledger, with what is too old to matter left out. Its ``parent`` is still the old batch's hash."""
        old, first_day = self._ledger, oldest_day(self.slot, self._params)
        beacon = next_beacon(old.beacon, reveal, old.parent)
        account = self._days[self.day]
        leaving_wei = account.released_wei if self.day > old.day else 0
        matured = self._audits.finish(
            beacon, _credited(old.outcomes), price_wei=account.reference_price_wei, pay_wei=leaving_wei
        )
        credits, days, audits = self._mature(matured)
        penalties, penalised = self._penalties.finish()
        speed = {model: kept for model, made in self._speed.items() if (kept := made.finish(beacon, model))}
        return Ledger(
            height=old.height + 1,
            slot=self.slot,
            day=self.day,
            parent=old.parent,
            beacon=beacon,
            total_credited=Uint256(old.total_credited + _gained(old.credits, credits)),
            credits=CreditTree.of(old.credits).with_items(credits),
            days=dict(sorted((day, account) for day, account in days.items() if day >= first_day)),
            sessions=numbered_from(old.sessions, self._sessions, first_day),
            indexes=numbered_from(old.indexes, self._indexes, first_day),
            speed=as_speed(old.speed).with_items(speed),
            penalties=penalties,
            penalised=penalised,
            commitments=dict(sorted((day, tips) for day, tips in self._commitments.items() if day >= first_day)),
            outcomes=tuple(self._outcomes),
            committees=self._committees(first_day),
            drawn=None if self._hands_over else self._drawn,
            since=old.height + 1 if self._hands_over else old.since,
            is_rescued=False,
            bootstrap_credited=Uint256(self._bootstrap),
            day_credits=self._day_credits.with_items(self._credited_today),
            ranks=dict(sorted((day, held) for day, held in self._ranks.items() if day >= first_day)),
            pairs=numbered_from(old.pairs, self._pairs, first_day),
            audits=audits,
            listing=self.listing.finish(first_day),
        )

    def _mature(self, matured: Matured) -> tuple[dict[Address, int], dict[int, DayAccount], Audits]:
        """Cumulative credits that change, the days' accounts and the audits, with what came due in this batch."""
        credits, days = dict(self._credits), dict(self._days)

        def add(provider: Address, wei: int) -> None:
            held = credits.get(provider)
            credits[provider] = wei + (self._ledger.credits.get(provider, 0) if held is None else held)

        for provider, wei in matured.credits.items():
            add(provider, wei)
        for day, wei in matured.returned.items():
            if (account := days.get(day)) is not None:
                days[day] = replace(account, returned_wei=Uint256(account.returned_wei + wei))
        paid = 0
        for scorer, wei in matured.fees:
            fee = min(wei, days[self.day].budget_left_wei - paid)
            paid += fee
            add(scorer, fee)
        if paid:
            account = days[self.day]
            days[self.day] = replace(account, opinions_wei=Uint256(account.opinions_wei + paid))
        for provider, session_key in matured.penalised:
            self._penalties.accuse(provider, session_key)
        audits = matured.audits
        return credits, days, replace(audits, opinions_wei=Uint256(audits.opinions_wei + paid)) if paid else audits

    def _committees(self, first_day: int) -> tuple[Term, ...]:
        """Those whose tickets may still be settled, and the one that decides the next height."""
        old = self._ledger
        oldest = min(account.epoch for day, account in self._days.items() if day >= first_day)
        kept = tuple(term for term in old.committees if term.epoch >= oldest or term is old.running)
        return (*kept, old.drawn.term) if self._hands_over and old.drawn is not None else kept


def _gained(before: Mapping[Address, int], after: Mapping[Address, int]) -> int:
    return sum(wei - before.get(provider, 0) for provider, wei in after.items())


def _credited(outcomes: Iterable[Outcome]) -> Iterator[Credited]:
    """What the batch before settled and put by."""
    return (
        Credited(
            made.ticket_id,
            made.session_key,
            made.provider,
            made.model_id,
            made.tokens,
            made.credited_wei,
            made.day,
            made.transcript,
        )
        for made in outcomes
        if made.credited_wei
    )


def settle(
    ledger: Ledger,
    settlement: Settlement,
    ids: VerifiedIds,
    slot: int,
    terms: Terms,
) -> Outcome:
    """What would become of ``settlement`` if it were the first of a batch that closes ``slot``.

    Raises :class:`SettlementInvalid`, and :class:`BatchInvalid` for a slot that isn't later than the ledger's.
    """
    return Draft(ledger, terms, slot).settle(settlement, ids)


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
