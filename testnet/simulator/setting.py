"""What all runs of one committee size share: keys, terms, the genesis ledger, and a pool of signed settlements.

Keys are derived from names, so that runs repeat; they are for simulations, never for money.
"""

from dataclasses import dataclass, replace
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
from testnet.simulator.faults import DAY_SLOTS
from testnet.simulator.workload import PRICE_WEI, Workload

WEI = 10**18
STAKE_WEI = 1_000 * WEI
SUPPLY_WEI = 10_000_000 * WEI
GENESIS_MS = 1_700_000_000_000
CONTRACT = Address(bytes.fromhex("3d056cdb3fba7fc38aec372470ab63de616c4100"))
"""Where the contracts of a run lie in an EVM of their own: see :mod:`testnet.simulator.contract`."""

DOMAIN = Domain(77_101, CONTRACT)

PARAMS = NetworkParams(
    slot_ms=1_000,
    day_slots=DAY_SLOTS,
    settle_window_slots=200,
    report_deadline_slots=3,
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
    """In the committee's order, then those of nodes that may be drawn later: node i signs with key i."""
    committee: Committee
    """The first."""
    secrets: tuple[SimulatedSecrets, ...]
    genesis: Ledger
    workload: Workload
    verified: VerifiedSettlements
    """A memory of checked settlements that all runs share: what it remembers depends on the settlement alone."""

    def following(self) -> Following:
        """A fresh memory of what batches do to ledgers, with the shared one of checked settlements."""
        following = Following(self.terms)
        following.verified = self.verified
        return following

    def staked(self, stakes: tuple[int, ...]) -> "Setting":
        """The same with other stakes in the first committee, in MOR by node."""
        own = zip(self.committee.members, stakes, strict=True)
        committee = Committee.of(1, [Member(member.address, stake * WEI) for member, stake in own])
        return replace(self, committee=committee, genesis=_genesis(self.terms, committee, self.secrets))


@lru_cache(maxsize=32)
def make_setting(members: int, domain: Domain = DOMAIN, params: NetworkParams = PARAMS, newcomers: int = 0) -> Setting:
    """The setting of a committee of ``members`` with equal stakes, and of ``newcomers`` beside it, under ``domain``."""
    terms = Terms(domain, GENESIS_MS, params)
    first = sorted((named_key(f"member {number}") for number in range(members)), key=lambda key: key.address)
    keys = (*first, *(named_key(f"newcomer {number}") for number in range(newcomers)))
    committee = Committee.of(1, [Member(key.address, STAKE_WEI) for key in first])
    secrets = tuple(SimulatedSecrets(key, terms) for key in keys)
    return Setting(
        terms=terms,
        keys=keys,
        committee=committee,
        secrets=secrets,
        genesis=_genesis(terms, committee, secrets),
        workload=Workload(terms, keys, named_key),
        verified=VerifiedSettlements(terms),
    )


def _genesis(terms: Terms, committee: Committee, secrets: tuple[SimulatedSecrets, ...]) -> Ledger:
    """The ledger before the first batch: the first members have committed to the secrets of two days."""
    opening = DayOpening(0, 100, Uint256(SUPPLY_WEI), daily_budget(0))
    commitments = [own.commitment(day) for day in (0, 1) for own in secrets[: len(committee.members)]]
    return genesis_ledger(terms, committee, opening, PRICE_WEI, commitments)
