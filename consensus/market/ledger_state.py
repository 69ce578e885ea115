"""The ledger: everything that the committee agrees on about the market, as one frozen value.

What grows with users, providers or traffic stands in maps that share what stayed as it was and keep their roots
(:class:`Trie`, :class:`CreditTree`); the small mappings are sorted by key, so that a state has one encoding and one
root. Nothing outside :mod:`consensus.market.ledger` makes a new one from an old one.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from eth_hash.auto import keccak

from consensus.committee import Committee
from consensus.market import indexes
from consensus.market.day_account import (
    DayAccount,
    check_opening,
    listed_ranks,
    next_reference_price,
    oldest_day,
    opened,
)
from consensus.market.deposits import compute_released
from consensus.market.errors import BatchInvalid
from consensus.market.listing import (
    NO_LISTING,
    Listing,
    genesis_listing,
    plain_listing,
    restored_listing,
    without_lists,
)
from consensus.market.maturing import Audits, audit_roots, plain, restored, without_tries
from consensus.market.penalties import Penalties, Penalty
from consensus.market.speed import SpeedSample
from consensus.market.trie import Trie, numbered_roots
from consensus.membership import Draw, Term
from consensus.params import Terms
from contracts.merkle import CreditTree
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Uint256
from gossip.messages.base import Signed, decode, encode
from gossip.messages.committee import BatchBody, DayOpening
from gossip.messages.market import Rfc
from gossip.messages.records import BeaconCommitment

MAX_LEDGER_BYTES = 1 << 30
"""The largest encoded ledger that is read back."""

NO_SPEED: Trie[Digest, tuple[SpeedSample, ...]] = Trie(bucket=1)
"""No samples yet. A model's are some kilobytes, so each is hashed alone."""

NO_PAGES: Mapping[bytes, bytes] = {}


class SessionUse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What has been settled against one access pass."""

    day: int
    allowance: int
    used: int
    """T; each settlement takes one at least."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of a settlement."""

    ticket_id: Digest
    session_key: Address
    provider: Address
    model_id: Digest
    tokens: int
    """T paid for: the lowest count of user, provider and TokenMax; 0 where nothing is credited."""
    charged: int
    """T off the session's allowance."""
    price_wei: int
    credited_wei: Uint256
    """tokens × price, exactly as bid (S33)."""
    reason: str
    """``credited``, or why nothing is: failed, slow, budget_spent, pair_capped, over_balance, no_transcript,
    nothing_delivered."""
    day: int = 0
    """The ticket's."""
    transcript: Digest = ZERO_DIGEST
    """What both sides committed to (S8); zero where the network asks for no second opinions."""


class Ledger(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The state after a batch."""

    height: int
    slot: int
    day: int
    parent: Digest
    """The batch hash of ``height``; zero at height 0. The one field that the state root leaves out."""
    beacon: Digest
    total_credited: Uint256
    credits: Mapping[Address, Uint256]
    """Cumulative wei by provider."""
    days: Mapping[int, DayAccount]
    sessions: Mapping[int, Mapping[Address, SessionUse]]
    """Day to session key to what was settled against its pass of that day."""
    indexes: Mapping[int, Mapping[bytes, bytes]]
    """Day to session key ‖ page to the RFC indexes settled (:mod:`consensus.market.indexes`): what keeps a ticket from
    being settled again."""
    speed: Mapping[Digest, tuple[SpeedSample, ...]]
    penalties: Mapping[Address, int]
    """Points by provider (S44): the percent of its T of the day that Fails told of, and half of the day before's."""
    penalised: Mapping[bytes, bool]
    """Provider ‖ what tells one user's Fails from another's, for every Fail that has counted today."""
    commitments: Mapping[int, Mapping[Address, Digest]]
    """Day to member to the tip of its hash chain."""
    outcomes: tuple[Outcome, ...]
    """What the last batch settled, in its order."""
    bootstrap_credited: Uint256
    """Of ``total_credited``, what the bootstrap reserve paid (S24), in wei."""
    day_credits: Mapping[Address, Uint256]
    """Wei credited in this day's batches by provider, without the bootstrap: what the top 100 are ranked by (S24)."""
    committees: tuple[Term, ...]
    """The last one decides the next height; before it those whose tickets may still be settled, oldest first."""
    drawn: Draw | None
    """Who takes over next; None where nobody is to change."""
    since: int
    """The height above which the running committee decides."""
    is_rescued: bool
    """Whether the running committee came by a rescue and hasn't decided anything yet."""
    ranks: Mapping[int, Mapping[Address, int]] = {}
    """Day to provider to its coarse rank by MOR at the day's snapshot block; empty without the variant of S44."""
    pairs: Mapping[int, Mapping[bytes, int]] = {}
    """Day to session key ‖ provider to the T credited (S8); empty where the network has no cap."""
    audits: Audits = Audits()
    """Credits that are not due yet, and what was picked for a second opinion (S8)."""
    listing: Listing = NO_LISTING
    """Which models are payable (S8); empty where the network has no list."""

    @property
    def running(self) -> Term:
        """The committee that decides the next height."""
        return self.committees[-1]

    @property
    def committee(self) -> Committee:
        """:attr:`running` with all that follows from it."""
        return self.committees[-1].committee

    def routers(self, day: int) -> Committee:
        """The committee whose members are ``day``'s home routers; the running one for a day not opened yet."""
        account = self.days.get(day)
        epoch = self.running.epoch if account is None else account.epoch
        return next((term for term in self.committees if term.epoch == epoch), self.running).committee

    def is_recent_member(self, address: Address) -> bool:
        """Whether ``address`` decides, routes, has tickets that are not settled, or was drawn."""
        terms = (*self.committees, *([] if self.drawn is None else [self.drawn.term]))
        return any(term.committee.weight(address) for term in terms)

    @property
    def account(self) -> DayAccount:
        """The current day's numbers."""
        return self.days[self.day]

    def is_settled(self, rfc: Rfc) -> bool:
        """Whether a ticket of ``rfc``, or of another with its pass and index, has been settled and is remembered."""
        key = indexes.page_key(rfc.session_key, rfc.index)
        return indexes.holds(page_of(self, rfc.access_pass.payload.day, key), rfc.index)


def page_of(ledger: Ledger, day: int, key: bytes) -> bytes:
    """The settled indexes on the page of ``key``."""
    return ledger.indexes.get(day, NO_PAGES).get(key, indexes.EMPTY)


def genesis_ledger(
    terms: Terms,
    committee: Committee,
    opening: DayOpening,
    reference_price_wei: int,
    commitments: Sequence[Signed[BeaconCommitment]],
    *,
    models: Iterable[Digest] = (),
) -> Ledger:
    """The state at height 0, before any batch; ``models`` are those that are listed from the start.

    Trusts the commitments' members, who are the genesis file's. Raises :class:`BatchInvalid` for an opening that
    makes no AccessRate, :class:`~consensus.market.errors.ListingInvalid` for too many models, and
    :class:`~gossip.errors.SignerMismatch` for a commitment by another key.
    """
    check_opening(opening, opening.day, 0)
    ranks = {opening.day: listed_ranks(opening)} if terms.params.tells_ranks else {}
    if reference_price_wei <= 0:
        raise BatchInvalid("reference_price_wei", reference_price_wei)
    tips: dict[int, dict[Address, Digest]] = {}
    for signed in commitments:
        member = signed.signer(terms.domain)
        tips.setdefault(signed.payload.day, {})[member] = signed.payload.tip
    sorted_tips = {day: dict(sorted(members.items())) for day, members in sorted(tips.items())}
    seed = b"".join(tip for members in sorted_tips.values() for tip in members.values())
    return Ledger(
        height=0,
        slot=opening.day * terms.params.day_slots,
        day=opening.day,
        parent=ZERO_DIGEST,
        beacon=Digest(keccak(terms.domain.separator() + terms.genesis_ms.to_bytes(8, "big") + seed)),
        total_credited=Uint256(0),
        credits=CreditTree.of({}),
        days={opening.day: opened(opening, reference_price_wei, committee.epoch)},
        sessions={},
        indexes={},
        speed=NO_SPEED,
        penalties=Penalties({}, opening.day),
        penalised=Trie(),
        commitments=sorted_tips,
        outcomes=(),
        bootstrap_credited=Uint256(0),
        day_credits=Trie(),
        committees=(Term.of(committee),),
        drawn=None,
        since=0,
        is_rescued=False,
        ranks=ranks,
        listing=genesis_listing(models, opening.day, terms.params),
    )


def rescue(ledger: Ledger, committee: Committee) -> Ledger:
    """``ledger`` with the committee that a rescue in the registry has put in the place of a silent one.

    Whether there was a rescue is the chain's to say. Raises :class:`BatchInvalid` for an epoch that isn't later.
    """
    if committee.epoch <= ledger.running.epoch:
        raise BatchInvalid("rescue_epoch", committee.epoch)
    committees = (*ledger.committees, Term.of(committee))
    return msgspec.structs.replace(ledger, committees=committees, drawn=None, since=ledger.height, is_rescued=True)


def rescued_as_told(ledger: Ledger, body: BatchBody) -> Ledger:
    """The ledger that a batch with ``body`` builds on: ``ledger``, or that after the rescue which the batch tells of.

    Whether there was such a rescue is the chain's to say. Raises as :func:`rescue`.
    """
    told = body.rescue
    return ledger if told is None else rescue(ledger, Term(told.epoch, told.members).committee)


class _Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A ledger on disk. Penalties are as they were written, for their root is over the days that they are of."""

    ledger: Ledger
    penalties: Mapping[Address, Penalty]


def encode_ledger(ledger: Ledger) -> bytes:
    """A snapshot's bytes."""
    copied = msgspec.structs.replace(
        ledger,
        credits=dict(ledger.credits),
        sessions={day: dict(uses) for day, uses in ledger.sessions.items()},
        indexes={day: dict(pages) for day, pages in ledger.indexes.items()},
        speed=dict(ledger.speed),
        penalties={},
        penalised=dict(ledger.penalised),
        day_credits=dict(ledger.day_credits),
        ranks={day: dict(held) for day, held in ledger.ranks.items()},
        pairs={day: dict(tokens) for day, tokens in ledger.pairs.items()},
        audits=plain(ledger.audits),
        listing=plain_listing(ledger.listing),
    )
    return encode(_Snapshot(copied, dict(Penalties.of(ledger.penalties, ledger.day).written)))


def decode_ledger(data: bytes) -> Ledger:
    """A snapshot read back. Raises :class:`~gossip.errors.MessageError` for anything else."""
    snapshot = decode(_Snapshot, data, MAX_LEDGER_BYTES)
    held = snapshot.ledger
    return msgspec.structs.replace(
        held,
        credits=CreditTree.of(held.credits),
        sessions={day: Trie.of(uses) for day, uses in held.sessions.items()},
        indexes={day: Trie.of(pages) for day, pages in held.indexes.items()},
        speed=as_speed(held.speed),
        penalties=Penalties(snapshot.penalties, held.day),
        penalised=Trie.of(held.penalised),
        day_credits=Trie.of(held.day_credits),
        pairs={day: Trie.of(tokens) for day, tokens in held.pairs.items()},
        ranks={day: Trie.of(ranks) for day, ranks in held.ranks.items()},
        audits=restored(held.audits),
        listing=restored_listing(held.listing),
    )


def state_root(ledger: Ledger) -> Digest:
    """keccak over the whole state but ``parent``, which commits to this root.

    What grows enters as roots of its own, so that the cost of a batch does not grow with what there is.
    """
    small = msgspec.structs.replace(
        ledger,
        parent=ZERO_DIGEST,
        credits={},
        sessions={},
        indexes={},
        speed={},
        penalties={},
        penalised={},
        day_credits={},
        ranks={},
        pairs={},
        audits=without_tries(ledger.audits),
        listing=without_lists(ledger.listing),
    )
    roots = [
        CreditTree.of(ledger.credits).root,
        *numbered_roots(ledger.sessions),
        *numbered_roots(ledger.indexes),
        *numbered_roots(ledger.pairs),
        *audit_roots(ledger.audits),
        as_speed(ledger.speed).root,
        Penalties.of(ledger.penalties, ledger.day).root,
        Trie.of(ledger.penalised).root,
        Trie.of(ledger.day_credits).root,
        *numbered_roots(ledger.ranks),
        *numbered_roots(ledger.listing.lists),
    ]
    return Digest(keccak(b"".join(roots) + encode(small)))


def as_speed(samples: Mapping[Digest, tuple[SpeedSample, ...]]) -> Trie[Digest, tuple[SpeedSample, ...]]:
    """``samples`` by model as a trie."""
    return samples if isinstance(samples, Trie) else NO_SPEED.with_items(samples)


def day_accounts(ledger: Ledger, terms: Terms, day: int, opening: DayOpening | None) -> dict[int, DayAccount]:
    """The days' accounts once ``day`` has come: those held, and those that no batch has opened yet.

    Without an opening, on a day that no batch fell into or for a look ahead, supply and snapshot carry over and the
    budget follows from the formula, as it does in the contract. Days so long gone that no ticket of theirs can be
    settled any more are left out. Deposits that have left are paid out of the budget of ``day`` alone, whose batch
    comes; from the budgets of the days that they came from the contract takes nothing any more.
    """
    params, economics = terms.params, terms.economics
    accounts = dict(ledger.days)
    before = ledger.account
    for coming in range(max(ledger.day + 1, oldest_day(day * params.day_slots, params)), day + 1):
        first = oldest_day(coming * params.day_slots, params)
        unpaid = sum(held.budget_left_wei for number, held in accounts.items() if first <= number < coming)
        paid = int(ledger.total_credited) - int(ledger.bootstrap_credited) + unpaid + ledger.audits.immature_wei
        start = opening
        if start is None or coming < day:
            budget = Uint256(economics.budget(coming, paid))
            start = DayOpening(coming, before.snapshot_block, before.supply_wei, budget)
        price, epoch = next_reference_price(before, params), ledger.running.epoch
        released = compute_released(ledger.audits.deposits, start.budget_wei if coming == day else 0)
        height = ledger.height + 1
        before = opened(start, price, epoch, before, height=height, paid_before_wei=paid, released_wei=released)
        accounts[coming] = before
    return accounts


def account_of(ledger: Ledger, terms: Terms, day: int, opening: DayOpening | None = None) -> DayAccount:
    """The numbers that ``day`` runs on: a router needs them before the day's first batch is decided.

    Raises :class:`BatchInvalid` for a day that the ledger has forgotten.
    """
    accounts = day_accounts(ledger, terms, day, opening)
    if day not in accounts:
        raise BatchInvalid("day", day)
    return accounts[day]


def day_ranks(ledger: Ledger, days: Iterable[int], opening: DayOpening | None) -> dict[int, Mapping[Address, int]]:
    """Providers' ranks on each of ``days``: those held, and those of days that no batch had opened yet.

    They are of the day's snapshot block, so they carry over with it.
    """
    ranks = dict(ledger.ranks)
    held = Trie.of(ranks.get(ledger.day, {}))
    for day in sorted(day for day in days if day > ledger.day):
        if opening is not None and day == opening.day:
            is_same = opening.snapshot_block == ledger.account.snapshot_block
            held = (held if is_same else Trie[Address, int]()).with_items(listed_ranks(opening))
        ranks[day] = held
    return ranks
