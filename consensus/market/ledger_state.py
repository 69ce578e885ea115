"""The ledger: everything that the committee agrees on about the market, as one frozen value.

Mappings are sorted by key when a ledger is made, so that a state has one encoding and one root. Nothing outside
:mod:`consensus.market.ledger` makes a new one from an old one.
"""

from collections.abc import Mapping, Sequence

import msgspec
from eth_hash.auto import keccak

from consensus.committee import Committee
from consensus.market import access
from consensus.market.errors import BatchInvalid
from consensus.market.shards import KeyShards, SlotTickets
from consensus.market.speed import SpeedSample
from consensus.membership import Draw, Term
from consensus.params import NetworkParams, Terms
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Uint256
from gossip.messages.base import Signed, decode, encode
from gossip.messages.committee import DayOpening
from gossip.messages.records import BeaconCommitment

MAX_LEDGER_BYTES = 1 << 30
"""The largest encoded ledger that is read back."""


class DayAccount(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One day's opening numbers, and what has been issued and credited on it."""

    day: int
    snapshot_block: int
    supply_wei: Uint256
    budget_wei: Uint256
    reference_price_wei: int
    """Wei per T."""
    issued_t: Uint256
    """T of allowance on the passes of this day that have been settled against: what the committee has seen used."""
    credited_t: Uint256
    credited_wei: Uint256
    epoch: int
    """Of the committee that was running when the day was opened: the day's routers, whoever takes over meanwhile."""

    @property
    def max_t(self) -> int:
        """T that the day's budget buys (S38)."""
        return access.max_t(self.budget_wei, self.reference_price_wei)

    @property
    def budget_left_wei(self) -> int:
        """Wei that may still be credited on this day (S37)."""
        return self.budget_wei - self.credited_wei

    def ceiling_wei(self, params: NetworkParams) -> int:
        """The highest price per T that is matched on this day."""
        return self.reference_price_wei * params.ceiling_percent // 100


class SessionUse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What has been settled against one access pass. ``indexes`` are its RFCs', ascending."""

    day: int
    allowance: int
    used: int
    indexes: tuple[int, ...]


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
    """``credited``, or why nothing is: failed, slow, budget_spent, nothing_delivered."""


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
    sessions: Mapping[Address, SessionUse]
    settled: Mapping[Digest, int]
    """Ticket id to the ticket's slot, for as long as the ticket could be settled again."""
    speed: Mapping[Digest, tuple[SpeedSample, ...]]
    penalties: Mapping[Address, int]
    """Penalty points by provider (S44); half of them are forgiven every day."""
    penalised: Mapping[Address, tuple[Address, ...]]
    """Provider to the session keys whose Fail has counted today."""
    commitments: Mapping[int, Mapping[Address, Digest]]
    """Day to member to the tip of its hash chain."""
    outcomes: tuple[Outcome, ...]
    """What the last batch settled, in its order."""
    committees: tuple[Term, ...]
    """The last one decides the next height; before it those whose tickets may still be settled, oldest first."""
    drawn: Draw | None
    """Who takes over next; None where nobody is to change."""
    since: int
    """The height above which the running committee decides."""
    is_rescued: bool
    """Whether the running committee came by a rescue and hasn't decided anything yet."""

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

    def is_settled(self, ticket_id: Digest, slot: int) -> bool:
        """Whether the ticket of ``slot`` has been settled: one look-up, where ``settled`` is searched slot by slot."""
        return SlotTickets.of(self.settled).holds(ticket_id, slot)


def genesis_ledger(
    terms: Terms,
    committee: Committee,
    opening: DayOpening,
    reference_price_wei: int,
    commitments: Sequence[Signed[BeaconCommitment]],
) -> Ledger:
    """The state at height 0, before any batch.

    Trusts the commitments' members, who are the genesis file's. Raises :class:`BatchInvalid` for an opening that
    makes no AccessRate and :class:`~gossip.errors.SignerMismatch` for a commitment by another key.
    """
    check_opening(opening, opening.day, 0)
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
        credits={},
        days={opening.day: opened(opening, reference_price_wei, committee.epoch)},
        sessions=KeyShards[SessionUse].of({}),
        settled=SlotTickets.of({}),
        speed={},
        penalties={},
        penalised={},
        commitments=sorted_tips,
        outcomes=(),
        committees=(Term.of(committee),),
        drawn=None,
        since=0,
        is_rescued=False,
    )


def rescue(ledger: Ledger, committee: Committee) -> Ledger:
    """``ledger`` with the committee that a rescue in the registry has put in the place of a silent one.

    Whether there was a rescue is the chain's to say. Raises :class:`BatchInvalid` for an epoch that isn't later.
    """
    if committee.epoch <= ledger.running.epoch:
        raise BatchInvalid("rescue_epoch", committee.epoch)
    committees = (*ledger.committees, Term.of(committee))
    return msgspec.structs.replace(ledger, committees=committees, drawn=None, since=ledger.height, is_rescued=True)


def encode_ledger(ledger: Ledger) -> bytes:
    """A snapshot's bytes."""
    return encode(msgspec.structs.replace(ledger, sessions=dict(ledger.sessions), settled=dict(ledger.settled)))


def decode_ledger(data: bytes) -> Ledger:
    """A snapshot read back. Raises :class:`~gossip.errors.MessageError` for anything else."""
    ledger = decode(Ledger, data, MAX_LEDGER_BYTES)
    return msgspec.structs.replace(
        ledger, sessions=KeyShards.of(ledger.sessions), settled=SlotTickets.of(ledger.settled)
    )


def state_root(ledger: Ledger) -> Digest:
    """keccak over the whole state but ``parent``, which commits to this root.

    Sessions and settled tickets enter as roots of their own, so that the cost of a batch does not grow with the day.
    """
    rest = encode(msgspec.structs.replace(ledger, parent=ZERO_DIGEST, sessions={}, settled={}))
    return Digest(keccak(KeyShards.of(ledger.sessions).root + SlotTickets.of(ledger.settled).root + rest))


def opened(opening: DayOpening, reference_price_wei: int, epoch: int) -> DayAccount:
    """A day's account at its start; ``epoch`` is the running committee's."""
    return DayAccount(
        day=opening.day,
        snapshot_block=opening.snapshot_block,
        supply_wei=opening.supply_wei,
        budget_wei=opening.budget_wei,
        reference_price_wei=reference_price_wei,
        issued_t=Uint256(0),
        credited_t=Uint256(0),
        credited_wei=Uint256(0),
        epoch=epoch,
    )


def check_opening(opening: DayOpening, day: int, last_block: int) -> None:
    """Raise :class:`BatchInvalid` where ``opening`` can't open ``day`` after a snapshot at ``last_block``.

    Whether its numbers are the chain's is for the members to check before they vote.
    """
    if opening.day != day:
        raise BatchInvalid("opening_day", opening.day)
    if opening.supply_wei == 0:
        raise BatchInvalid("opening_supply", opening.supply_wei)
    if opening.snapshot_block < last_block:
        raise BatchInvalid("opening_snapshot_block", opening.snapshot_block)


def next_reference_price(account: DayAccount, params: NetworkParams) -> int:
    """The reference price of the day after ``account``'s, in wei per T.

    The T-weighted mean price credited, moved by at most ``reference_step_percent`` a day; unchanged where nothing
    was credited, and never below 1.
    """
    old = account.reference_price_wei
    if account.credited_t == 0:
        return old
    lowest = max(1, -(-old * (100 - params.reference_step_percent) // 100))
    highest = old * (100 + params.reference_step_percent) // 100
    return min(highest, max(lowest, account.credited_wei // account.credited_t))


def day_accounts(ledger: Ledger, params: NetworkParams, day: int, opening: DayOpening | None) -> dict[int, DayAccount]:
    """The days' accounts once ``day`` has come: those held, and those that no batch has opened yet.

    Without an opening supply and budget carry over; days so long gone that no ticket of theirs can be settled any more
    are left out.
    """
    accounts = dict(ledger.days)
    account = ledger.account
    price = next_reference_price(account, params)
    for coming in range(max(ledger.day + 1, oldest_day(day * params.day_slots, params)), day + 1):
        carried = DayOpening(coming, account.snapshot_block, account.supply_wei, account.budget_wei)
        start = opening if opening is not None and coming == day else carried
        accounts[coming] = opened(start, price, ledger.running.epoch)
    return accounts


def account_of(ledger: Ledger, params: NetworkParams, day: int, opening: DayOpening | None = None) -> DayAccount:
    """The numbers that ``day`` runs on: a router needs them before the day's first batch is decided.

    Raises :class:`BatchInvalid` for a day that the ledger has forgotten.
    """
    accounts = day_accounts(ledger, params, day, opening)
    if day not in accounts:
        raise BatchInvalid("day", day)
    return accounts[day]


def oldest_day(slot: int, params: NetworkParams) -> int:
    """The first day of which a ticket can still be settled in a batch that closes ``slot``."""
    return params.day_of(max(0, slot - params.settle_window_slots))
