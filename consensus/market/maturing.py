"""Credits that are not due yet, and the picks that decide over them (S8): the ledger's part of second opinions.

A settled session's wei are put by for ``audit_slots``; what is put by has left its day's budget and is no provider's
yet. It is forfeited and goes back to its day, or comes due: then it fills the provider's deposit, and what that doesn't
need matures into the cumulative credit that the contract sees. Sums are kept by pair and day within a part of the
window, so that a batch costs what it settles and what comes due.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from consensus.market import deposits
from consensus.market.deposits import DepositDraft, Deposits, has_release
from consensus.market.opinions import (
    CONVICTING,
    Offer,
    Pick,
    bucket_of,
    check_opinion,
    contradicted,
    decide,
    draw_scorers,
    due_slot,
    fees,
    is_picked,
    with_offer,
    with_opinion,
)
from consensus.market.trie import Trie, numbered_roots
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages.opinions import Opinion
from gossip.messages.session import Settlement

NOTHING = Uint256(0)


class Audits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The state after a batch. All of it is empty on a network without a window."""

    immature_wei: Uint256 = NOTHING
    """Put by, those that the last batch settled included."""
    forfeited_wei: Uint256 = NOTHING
    """Since genesis, deposits included."""
    opinions_wei: Uint256 = NOTHING
    """Of the total credited, what scorers were paid for opinions."""
    immature: Mapping[int, Mapping[bytes, Uint256]] = {}
    """Part of the window to provider ‖ session key ‖ day of the ticket (8 bytes) to wei."""
    picks: Mapping[int, Mapping[Digest, Pick]] = {}
    """Part of the window in which they end to ticket to pick."""
    struck: Mapping[bytes, int] = {}
    """Provider ‖ session key, or provider, to the last part of the window whose credits are forfeited."""
    offers: Mapping[Digest, tuple[Offer, ...]] = {}
    """Model to those who score it, by address."""
    deposits: Deposits = Deposits()

    def pick(self, ticket_id: Digest) -> Pick | None:
        """The pick of a ticket, until its window ends."""
        return next((held[ticket_id] for held in self.picks.values() if ticket_id in held), None)

    def is_struck(self, provider: Address, session_key: Address, bucket: int) -> bool:
        """Whether what a pair has put by in a part of the window is forfeited."""
        return max(self.struck.get(provider + session_key, -1), self.struck.get(provider, -1)) >= bucket


class Credited(msgspec.Struct, frozen=True):
    """A session that the batch before settled, and what it commits to."""

    ticket_id: Digest
    session_key: Address
    provider: Address
    model_id: Digest
    tokens: int
    wei: int
    day: int
    transcript: Digest


class Matured(msgspec.Struct, frozen=True):
    """What a batch makes of what was put by."""

    audits: Audits
    credits: Mapping[Address, int]
    """Wei by provider that have matured, and deposits that are paid back."""
    returned: Mapping[int, int]
    """Wei by day of the ticket that are forfeited."""
    fees: tuple[tuple[Address, int], ...]
    """Wei for scorers."""
    penalised: tuple[tuple[Address, Address], ...]
    """Provider and session key for each point (S44): who failed, and scorers that others contradicted."""


class AuditDraft:
    """The next :class:`Audits` in the making, beside the old one, which stays as it is."""

    def __init__(self, held: Audits, params: NetworkParams, slot: int, credits: Mapping[Address, int]) -> None:
        """``credits`` are the cumulative ones before the batch: scorers are drawn by them."""
        self._held = held
        self._credits = credits
        self._weights: dict[Address, int] = {}
        self._params = params
        self._slot = slot
        self._settled_wei = 0
        self._offers: dict[Digest, tuple[Offer, ...]] = {}
        self._picks: dict[Digest, Pick] = {}

    @property
    def is_on(self) -> bool:
        """Whether credits wait at all."""
        return self._params.audit_slots > 0

    def settle(self, settlement: Settlement, wei: int) -> None:
        """Put by what a session is credited, and learn from its ticket who could score."""
        self._settled_wei += wei
        ticket = settlement.ticket.payload
        model_id = ticket.bid.payload.model_id
        held = offers = self._offers.get(model_id, self._held.offers.get(model_id, ()))
        for signed in (ticket.bid, *ticket.rivals):
            if signed.payload.scores:
                offers = with_offer(offers, signed.payload, ticket.slot, self._params, self._credit_of)
        if offers is not held:
            self._offers[model_id] = offers

    def opine(self, opinion: Opinion) -> None:
        """Take an opinion whose signature holds. Raises :class:`OpinionInvalid` and then changes nothing."""
        held = self._picks.get(opinion.ticket_id) or self._held.pick(opinion.ticket_id)
        pick = check_opinion(held, opinion, self._slot, self._params)
        opined = with_opinion(pick, opinion, self._params)
        if opined.decision == "unread" and self._has_unread(pick.provider):
            opined = replace(opined, decision="unheard")
        self._picks[opinion.ticket_id] = opined

    def _has_unread(self, provider: Address) -> bool:
        """Whether a session of ``provider`` that nobody could read is among the picks whose window has not ended."""
        older = (pick for some in self._held.picks.values() for pick in some.values())
        return any(pick.provider == provider and pick.decision == "unread" for pick in (*self._picks.values(), *older))

    def _credit_of(self, provider: Address) -> int:
        """What the ledger before has credited, deposit included; looked up once a batch."""
        found = self._weights.get(provider)
        if found is None:
            deposit = self._held.deposits.of(provider)
            found = self._weights[provider] = self._credits.get(provider, 0) + deposit.wei
        return found

    def finish(self, beacon: Digest, credited: Iterable[Credited], *, price_wei: int, pay_wei: int) -> Matured:
        """Pick among what the batch before credited, and close what is due; asked again it says the same.

        ``price_wei`` is the day's reference price, ``pay_wei`` what the batch pays to deposits that left before it.
        """
        held, params, slot = self._held, self._params, self._slot
        if not self.is_on:
            return Matured(held, {}, {}, (), ())
        immature = dict(held.immature)
        picks = {bucket: Trie.of(some).with_items(self._opined(some)) for bucket, some in held.picks.items()}
        staked = DepositDraft(held.deposits, params, slot, price_wei)
        self._put_by(beacon, tuple(credited), immature, picks, staked)
        due = sorted(bucket for bucket in {*immature, *picks} if due_slot(bucket, params) <= slot)
        concluded = [pick for pick in self._picks.values() if pick.decision]
        for bucket in due:
            for pick in picks.pop(bucket, {}).values():
                if not pick.decision:
                    concluded.append(replace(pick, decision=decide(pick)))
        struck = self._strike(concluded)
        lost = sum(staked.forfeit(pick.provider) for pick in concluded if pick.decision in CONVICTING)
        came_due, returned = _come_due(replace(held, struck=struck), immature, due)
        credits = {provider: left for provider, wei in came_due.items() if (left := staked.fill(provider, wei))}
        deposits_after, paid = staked.close(pay_wei)
        for provider, paid_wei in paid.items():
            credits[provider] = credits.get(provider, 0) + paid_wei
        forfeited = sum(returned.values())
        oldest = min((*immature, *picks), default=0)
        audits = Audits(
            immature_wei=Uint256(held.immature_wei + self._settled_wei - sum(came_due.values()) - forfeited),
            forfeited_wei=Uint256(held.forfeited_wei + forfeited + lost),
            opinions_wei=held.opinions_wei,
            immature=dict(sorted(immature.items())),
            picks=dict(sorted(picks.items())),
            struck={key: last for key, last in sorted(struck.items()) if last >= oldest and (immature or picks)},
            offers=Trie.of(held.offers).with_items(self._offers),
            deposits=deposits_after,
        )
        return Matured(audits, credits, returned, _fees(concluded), _penalised(concluded))

    def _opined(self, some: Mapping[Digest, Pick]) -> dict[Digest, Pick]:
        return {ticket_id: pick for ticket_id, pick in self._picks.items() if ticket_id in some}

    def _put_by(
        self,
        beacon: Digest,
        credited: tuple[Credited, ...],
        immature: dict[int, Mapping[bytes, Uint256]],
        picks: dict[int, Trie[Digest, Pick]],
        staked: DepositDraft,
    ) -> None:
        bucket = bucket_of(self._slot, self._params)
        sums: dict[bytes, Uint256] = {}
        picked: dict[Digest, Pick] = {}
        before = immature.get(bucket, {})
        for one in credited:
            key = one.provider + one.session_key + one.day.to_bytes(8, "big")
            held = sums.get(key)
            sums[key] = Uint256(one.wei + (before.get(key, NOTHING) if held is None else held))
            staked.note(one.provider)
            if (
                is_picked(beacon, one.ticket_id, one.tokens, self._params)
                and (pick := self._pick(beacon, one)) is not None
            ):
                picked[one.ticket_id] = pick
        if sums:
            immature[bucket] = Trie.of(before).with_items(sums)
        if picked:
            picks[bucket] = Trie.of(picks.get(bucket, Trie[Digest, Pick]())).with_items(picked)

    def _pick(self, beacon: Digest, one: Credited) -> Pick | None:
        """None where nobody else is known who could score."""
        offers = self._held.offers.get(one.model_id, ())
        oldest = self._slot - self._params.settle_window_slots
        scorers = draw_scorers(
            beacon, one.ticket_id, one.provider, offers, oldest_slot=oldest, credit_of=self._credit_of
        )
        if not scorers:
            return None
        return Pick(one.session_key, one.provider, one.model_id, one.transcript, one.tokens, self._slot, scorers)

    def _strike(self, concluded: Iterable[Pick]) -> dict[bytes, int]:
        """Whose credits are forfeited: all that a pair, or its provider, has put by until this batch."""
        struck, last = dict(self._held.struck), bucket_of(self._slot, self._params)
        for pick in concluded:
            if pick.decision in CONVICTING:
                whole = self._params.forfeits == "provider"
                struck[pick.provider if whole else pick.provider + pick.session_key] = last
        return struck


def _come_due(
    audits: Audits, immature: dict[int, Mapping[bytes, Uint256]], due: Iterable[int]
) -> tuple[dict[Address, int], dict[int, int]]:
    """Take out of ``immature`` what is due: wei by provider that are its own, and wei by day that are forfeited."""
    own: dict[Address, int] = {}
    forfeited: dict[int, int] = {}
    for bucket in due:
        for key, wei in immature.pop(bucket, {}).items():
            provider, day = Address(key[:20]), int.from_bytes(key[40:], "big")
            if audits.is_struck(provider, Address(key[20:40]), bucket):
                forfeited[day] = forfeited.get(day, 0) + wei
            else:
                own[provider] = own.get(provider, 0) + wei
    return own, forfeited


def _fees(concluded: Iterable[Pick]) -> tuple[tuple[Address, int], ...]:
    return tuple(fee for pick in concluded for fee in fees(pick, pick.decision))


def _penalised(concluded: Iterable[Pick]) -> tuple[tuple[Address, Address], ...]:
    points: list[tuple[Address, Address]] = []
    for pick in concluded:
        if pick.decision in CONVICTING:
            points.append((pick.provider, pick.session_key))
        points += [(scorer, pick.session_key) for scorer in contradicted(pick, pick.decision)]
    return tuple(points)


def has_work(audits: Audits, credited_wei: int, slot: int, params: NetworkParams, *, is_new_day: bool) -> bool:
    """Whether a batch that closes ``slot`` would pick or mature something, though nothing new is to be settled.

    ``credited_wei`` is what the last batch credited; ``is_new_day`` says that it was of an earlier day.
    """
    if params.audit_slots == 0:
        return False
    is_due = any(due_slot(one, params) <= slot for one in {*audits.immature, *audits.picks})
    return credited_wei > 0 or is_due or has_release(audits.deposits, slot, params, is_new_day=is_new_day)


# The state's encodings.


def without_tries(audits: Audits) -> Audits:
    """What is small, for a state root: the rest enters by :func:`audit_roots`."""
    return replace(audits, immature={}, picks={}, offers={}, deposits=deposits.without_tries(audits.deposits))


def audit_roots(audits: Audits) -> list[bytes]:
    """The roots of what grows."""
    growing = (*numbered_roots(audits.immature), *numbered_roots(audits.picks))
    return [Trie.of(audits.offers).root, *growing, *deposits.deposit_roots(audits.deposits)]


def plain(audits: Audits) -> Audits:
    """For a snapshot."""
    return replace(
        audits,
        immature={bucket: dict(some) for bucket, some in audits.immature.items()},
        picks={bucket: dict(some) for bucket, some in audits.picks.items()},
        offers=dict(audits.offers),
        deposits=deposits.plain(audits.deposits),
    )


def restored(audits: Audits) -> Audits:
    """From a snapshot."""
    return replace(
        audits,
        immature={bucket: Trie.of(some) for bucket, some in audits.immature.items()},
        picks={bucket: Trie.of(some) for bucket, some in audits.picks.items()},
        offers=Trie.of(audits.offers),
        deposits=deposits.restored(audits.deposits),
    )
