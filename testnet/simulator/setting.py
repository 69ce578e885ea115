"""What all runs of one committee size share: keys, terms, the genesis ledger, and a pool of signed settlements.

Keys are derived from names, so that runs repeat; they are for simulations, never for money.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256

from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market.beacon import chain_tip, day_seed, slot_secret
from consensus.market.ledger_state import Ledger, genesis_ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.member.following import Following
from consensus.membership import Term, draw
from consensus.params import NetworkParams, Terms
from contracts.emission import daily_budget
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.messages.base import Signed, sign
from gossip.messages.committee import DayOpening, DrawnMember
from gossip.messages.records import BeaconCommitment
from testnet.simulator.faults import People
from testnet.simulator.workload import MODEL, PRICE_WEI, Workload

WEI = 10**18
STAKE_WEI = 1_000 * WEI
SUPPLY_WEI = 10_000_000 * WEI
GENESIS_MS = 1_700_000_000_000
DOMAIN = Domain(77_101, Address(b"\x77" * 20))

PARAMS = NetworkParams(
    slot_ms=1_000,
    day_slots=16,
    settle_window_slots=200,
    report_deadline_slots=3,
    min_providers=1,
    pair_percent=100,
    audit_slots=0,
    speed_samples_min=4,
    endowment_mor=10_000_000,  # days that no batch fell into have a budget of their own by the formula
    propose_ms=300,
    prevote_ms=100,
    precommit_ms=100,
    round_step_ms=50,
)
"""The defaults with time ten times as fast, and days so short that a run sees several."""

DRAWING_DAY_SLOTS = 5
"""A day where committees follow one another: a run sees several draws."""


NOBODY_ELSE = People()
"""Equal stakes, nobody waits, and nobody is ever drawn."""


@cache
def named_key(name: str) -> Key:
    """The key that goes by ``name``."""
    return Key(sha256(b"simulated key " + name.encode()).digest())


class SimulatedSecrets:
    """A member's slot secrets: what :class:`consensus.member.secrets.Secrets` asks for."""

    def __init__(self, key: Key, terms: Terms) -> None:
        self._key = key
        self._terms = terms
        self._material = sha256(b"simulated secrets" + key.reveal()).digest()
        self.of_slot = lru_cache(maxsize=1_024)(self._of_slot)
        self.commitment = lru_cache(maxsize=1_024)(self._commitment)

    def _of_slot(self, slot: int) -> Digest:
        day_slots = self._terms.params.day_slots
        return slot_secret(day_seed(self._material, slot // day_slots), slot % day_slots, day_slots)

    def _commitment(self, day: int) -> Signed[BeaconCommitment]:
        tip = chain_tip(day_seed(self._material, day), self._terms.params.day_slots)
        return sign(BeaconCommitment(self._key.address, day, tip), self._key, self._terms.domain)


@dataclass(frozen=True, slots=True)
class Setting:
    """A committee before its first batch, and those who wait to be drawn."""

    terms: Terms
    keys: tuple[Key, ...]
    """In the committee's order, node i signs with key i; then of those who wait."""
    people: People
    committee: Committee
    secrets: tuple[SimulatedSecrets, ...]
    genesis: Ledger
    workload: Workload
    verified: VerifiedSettlements
    """A memory of checked settlements that all runs share: what it remembers depends on the settlement alone."""

    def index(self, address: Address) -> int:
        """The number of the key of ``address``. Raises StopIteration for a stranger."""
        return next(number for number, key in enumerate(self.keys) if key.address == address)

    @property
    def members(self) -> int:
        """How many decide first."""
        return len(self.committee.members)

    @property
    def spares(self) -> range:
        """The keys of those who wait."""
        return range(self.members, len(self.keys))

    def following(self) -> Following:
        """A fresh memory of what batches do to ledgers, with the shared one of checked settlements."""
        following = Following(self.terms)
        following.verified = self.verified
        return following

    def opening(self, day: int, ledger: Ledger) -> DayOpening:
        """What the simulated chain says of ``day`` after ``ledger``; nobody is drawn while somebody waits to."""
        standing = self.people.standing(day)
        drawn: tuple[DrawnMember, ...] = ()
        if standing and ledger.drawn is None:
            stakes = self.people.stakes
            drawn = draw([(self.keys[number].address, stakes[number] * WEI) for number in standing], ledger.running)
        return DayOpening(day, 100 + day, Uint256(SUPPLY_WEI + day * WEI), daily_budget(day), drawn)

    def term(self, epoch: int, keys: tuple[int, ...]) -> Term:
        """The committee of these keys, as the registry has it after a rescue."""
        stakes = self.people.stakes
        members = [Member(self.keys[number].address, stakes[number] * WEI) for number in keys]
        return Term.of(Committee.of(epoch, members))


@lru_cache(maxsize=64)
def make_setting(
    members: int, domain: Domain = DOMAIN, params: NetworkParams = PARAMS, people: People = NOBODY_ELSE
) -> Setting:
    """The setting of a committee of ``members``, under ``domain``, with those who have staked besides."""
    if people.candidates:
        params = replace(params, day_slots=DRAWING_DAY_SLOTS)
    stakes = people.stakes or (STAKE_WEI // WEI,) * members
    shared = _shared(members, len(stakes) - members, Terms(domain, GENESIS_MS, params))
    staked = zip(shared.keys[:members], stakes, strict=False)
    committee = Committee.of(1, [Member(key.address, stake * WEI) for key, stake in staked])
    opening = DayOpening(0, 100, Uint256(SUPPLY_WEI), daily_budget(0))
    commitments = [own.commitment(day) for day in (0, 1) for own in shared.secrets[:members]]
    return Setting(
        terms=shared.terms,
        keys=shared.keys,
        people=People(stakes, people.candidates),
        committee=committee,
        secrets=shared.secrets,
        genesis=genesis_ledger(shared.terms, committee, opening, PRICE_WEI, commitments, models=(MODEL,)),
        workload=shared.workload,
        verified=shared.verified,
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is dear to make and does not depend on stakes."""

    terms: Terms
    keys: tuple[Key, ...]
    secrets: tuple[SimulatedSecrets, ...]
    workload: Workload
    verified: VerifiedSettlements


@lru_cache(maxsize=16)
def _shared(members: int, spares: int, terms: Terms) -> _Shared:
    first = sorted((named_key(f"member {number}") for number in range(members)), key=lambda key: key.address)
    keys = (*first, *(named_key(f"spare {number}") for number in range(spares)))
    secrets = tuple(SimulatedSecrets(key, terms) for key in keys)
    return _Shared(terms, keys, secrets, Workload(terms, keys, named_key), VerifiedSettlements(terms))
