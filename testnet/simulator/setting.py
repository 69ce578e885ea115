"""What all runs of one committee size share: keys, terms, the genesis ledger, and a pool of signed settlements.

Keys are derived from names, so that runs repeat; they are for simulations, never for money.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256

from consensus.committee import Committee, Member
from consensus.market.beacon import chain_tip, day_seed, slot_secret
from consensus.market.ledger_state import Ledger, genesis_ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.member.following import Following
from consensus.params import NetworkParams, Terms
from contracts.emission import daily_budget
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.messages.base import Signed, sign
from gossip.messages.committee import DayOpening
from gossip.messages.records import BeaconCommitment
from testnet.simulator.workload import PRICE_WEI, Workload

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
    propose_ms=300,
    prevote_ms=100,
    precommit_ms=100,
    round_step_ms=50,
)
"""The defaults with time ten times as fast, and days so short that a run sees several."""


@cache
def named_key(name: str) -> Key:
    """The key that goes by ``name``."""
    return Key(sha256(b"simulated key " + name.encode()).digest())


class SimulatedSecrets:
    """A member's slot secrets: what :class:`consensus.member.core.Secrets` asks for."""

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
    """A committee before its first batch."""

    terms: Terms
    keys: tuple[Key, ...]
    """In the committee's order: node i signs with key i."""
    committee: Committee
    secrets: tuple[SimulatedSecrets, ...]
    genesis: Ledger
    workload: Workload
    verified: VerifiedSettlements
    """A memory of checked settlements that all runs share: what it remembers depends on the settlement alone."""

    def index(self, address: Address) -> int:
        """The number of the member with ``address``. Raises StopIteration for a stranger."""
        return next(number for number, key in enumerate(self.keys) if key.address == address)

    def following(self) -> Following:
        """A fresh memory of what batches do to ledgers, with the shared one of checked settlements."""
        following = Following(self.terms)
        following.verified = self.verified
        return following

    def opening(self, day: int) -> DayOpening:
        """What the simulated chain says of ``day``."""
        return DayOpening(day, 100 + day, Uint256(SUPPLY_WEI + day * WEI), daily_budget(day))


@lru_cache(maxsize=8)
def make_setting(members: int, domain: Domain = DOMAIN, params: NetworkParams = PARAMS) -> Setting:
    """The setting of a committee of ``members`` with equal stakes, under ``domain``."""
    terms = Terms(domain, GENESIS_MS, params)
    by_address: Mapping[Address, Key] = {
        key.address: key for key in (named_key(f"member {number}") for number in range(members))
    }
    committee = Committee.of(1, [Member(address, STAKE_WEI) for address in by_address])
    keys = tuple(by_address[member.address] for member in committee.members)
    secrets = tuple(SimulatedSecrets(key, terms) for key in keys)
    opening = DayOpening(0, 100, Uint256(SUPPLY_WEI), daily_budget(0))
    commitments = [own.commitment(day) for day in (0, 1) for own in secrets]
    return Setting(
        terms=terms,
        keys=keys,
        committee=committee,
        secrets=secrets,
        genesis=genesis_ledger(terms, committee, opening, PRICE_WEI, commitments),
        workload=Workload(terms, keys, named_key),
        verified=VerifiedSettlements(terms),
    )
