"""The contracts by name: MOR, the registry, the Compute Contract and the emission source on one chain.

Each call takes and gives plain values; ``block`` pins a view to a block, None is the newest. Raises what
:class:`~contracts.client.ChainClient` raises.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from eth_hash.auto import keccak

from contracts.budget import Economics, Schedule
from contracts.client import ChainClient, Receipt
from contracts.errors import EvidenceMismatch, SignatureInvalid, TransactionReverted
from contracts.payout import PayoutOrder
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest

_SLASHED = keccak(b"Slashed(address,address,uint8,uint64,uint64,uint256,uint256)")
_CLAIMED = keccak(b"Claimed(address,uint64,address,uint256)")
_KINDS = {"Proposal": 1, "Prevote": 2, "Precommit": 3}

RESCUE_DELAY_S = 259_200
"""Three days without a batch or a hand-over: then a rescue may be announced."""

RESCUE_NOTICE_S = 86_400
"""A day for the committee to show that it is alive."""


GOVERNANCE_DELAY_S = 1_209_600
"""Two weeks between the announcement of another emission source and the change."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A claim that was paid: ``amount`` wei of MOR, and the transaction that did it."""

    amount: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Mor:
    """The MOR token."""

    client: ChainClient
    address: Address

    @classmethod
    def deploy(cls, client: ChainClient, key: Key) -> "Mor":
        """A MOR of a test network, minted by ``key`` alone."""
        return cls(client, client.deploy(key, "mor"))

    def balance_of(self, owner: Address, block: int | None = None) -> int:
        """Wei that ``owner`` holds."""
        return int(self.client.call("mor", self.address, "balanceOf", owner, block=block))

    def total_supply(self, block: int | None = None) -> int:
        """Wei in existence."""
        return int(self.client.call("mor", self.address, "totalSupply", block=block))

    def mint(self, key: Key, to: Address, amount: int) -> Receipt:
        """Create ``amount`` wei; only the deployer may."""
        return self.client.transact(key, "mor", self.address, "mint", to, amount)

    def transfer(self, key: Key, to: Address, amount: int) -> Receipt:
        """Move ``amount`` wei of ``key``'s."""
        return self.client.transact(key, "mor", self.address, "transfer", to, amount)

    def approve(self, key: Key, spender: Address, amount: int) -> Receipt:
        """Let ``spender`` move ``amount`` wei of ``key``'s."""
        return self.client.transact(key, "mor", self.address, "approve", spender, amount)


class SignedMessage(Protocol):
    """A signed proposal, prevote or precommit."""

    @property
    def payload(self) -> msgspec.Struct:
        """What was signed."""

    @property
    def signature(self) -> bytes:
        """The 65 bytes."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The staking registry."""

    client: ChainClient
    address: Address

    @classmethod
    def deploy(
        cls,
        client: ChainClient,
        key: Key,
        mor: Address,
        unbonding_s: int,
        *,
        slash_percent: int = 100,
        finder_percent: int = 5,
        rescue_delay_s: int = RESCUE_DELAY_S,
        rescue_notice_s: int = RESCUE_NOTICE_S,
    ) -> "Registry":
        """A registry whose first epoch ``key`` opens; unstaked MOR waits ``unbonding_s`` seconds.

        An equivocator loses ``slash_percent`` of its stake, of which the finder gets ``finder_percent``.
        """
        terms = (unbonding_s, slash_percent, finder_percent, rescue_delay_s, rescue_notice_s)
        return cls(client, client.deploy(key, "registry", mor, *terms))

    def bind(self, key: Key, compute: Address) -> Receipt:
        """Name the Compute Contract, under whose domain members sign; only the deployer may, once, before epoch 1."""
        return self.client.transact(key, "registry", self.address, "bind", compute)

    def stake(self, key: Key, amount: int) -> Receipt:
        """Bond ``amount`` wei, which the registry must be allowed to move."""
        return self.client.transact(key, "registry", self.address, "stake", amount)

    def unstake(self, key: Key, amount: int) -> Receipt:
        """Begin to take ``amount`` wei out."""
        return self.client.transact(key, "registry", self.address, "unstake", amount)

    def withdraw(self, key: Key) -> Receipt:
        """Take out what was unstaked, once the wait is over."""
        return self.client.transact(key, "registry", self.address, "withdraw")

    def compute(self, block: int | None = None) -> Address:
        """The Compute Contract that the registry is bound to; the zero address before that."""
        return _address(self.client.call("registry", self.address, "compute", block=block))

    def open_epoch(self, key: Key) -> Receipt:
        """Freeze the staked set into epoch 1; only the deployer may, once."""
        return self.client.transact(key, "registry", self.address, "open_epoch")

    def hand_over(
        self,
        key: Key,
        day: int,
        members: Sequence[tuple[Address, int]],
        signatures: Sequence[bytes],
    ) -> Receipt:
        """Open the next epoch with ``members`` and their stakes in wei, sorted by address.

        ``signatures`` are the running committee's, over a HandOver of this epoch and ``day``, sorted by signer.
        """
        addresses, stakes = tuple(member for member, _ in members), tuple(stake for _, stake in members)
        arguments = (day, addresses, stakes, tuple(map(compact_signature, signatures)))
        return self.client.transact(key, "registry", self.address, "hand_over", *arguments)

    def slash(self, key: Key, member: Address, first: SignedMessage, second: SignedMessage) -> Receipt:
        """Have ``member`` punished for signing both messages; ``key`` gets the finder's reward.

        Raises :class:`EvidenceMismatch` where they are not of one kind, height, round and committee.
        """
        return self.client.transact(key, "registry", self.address, "slash", *evidence(member, first, second))

    def reward_of(self, receipt: Receipt) -> int:
        """Wei that a mined :meth:`slash` paid to its finder."""
        for log in receipt.logs:
            if log.address == self.address and log.topics[0] == _SLASHED:
                return int.from_bytes(log.data[-32:], "big")
        raise TransactionReverted("registry.slash", f"transaction 0x{receipt.tx_hash.hex()} slashed nobody")

    def announce_rescue(self, key: Key) -> Receipt:
        """Say that the committee is lost; anybody may, after the rescue delay without a batch or a hand-over."""
        return self.client.transact(key, "registry", self.address, "announce_rescue")

    def rescue(self, key: Key) -> Receipt:
        """Open an epoch of all candidates; anybody may, when the notice is over and nothing has happened since."""
        return self.client.transact(key, "registry", self.address, "rescue")

    def is_slashed(self, member: Address, block: int | None = None) -> bool:
        """Whether ``member`` was ever slashed; then it can't stake again."""
        return bool(self.client.call("registry", self.address, "is_slashed", member, block=block))

    def forfeited_total(self, block: int | None = None) -> int:
        """Wei lost by slashing that no finder got; it stays in the registry for good."""
        return int(self.client.call("registry", self.address, "forfeited_total", block=block))

    def unbonding(self, member: Address, block: int | None = None) -> int:
        """Wei that ``member`` has unstaked and not yet withdrawn; it can still be slashed."""
        amount, _ready_s = self.client.call("registry", self.address, "unbonding", member, block=block)
        return int(amount)

    def unbonding_s(self) -> int:
        """Seconds that unstaked MOR waits."""
        return int(self.client.call("registry", self.address, "UNBONDING_S"))

    def rescue_notice_s(self) -> int:
        """Seconds between announcing a rescue and carrying it out."""
        return int(self.client.call("registry", self.address, "RESCUE_NOTICE_S"))

    def latest_day(self, block: int | None = None) -> int:
        """The day that the newest hand-over named; 0 before the first."""
        return int(self.client.call("registry", self.address, "latest_day", block=block))

    def announced_s(self, block: int | None = None) -> int:
        """When the newest rescue was announced, in Unix seconds; 0 for never."""
        return int(self.client.call("registry", self.address, "announced_s", block=block))

    def progress_s(self, block: int | None = None) -> int:
        """When the newest batch was accepted or epoch opened, in Unix seconds; older than that, no rescue counts."""
        return int(self.client.call("registry", self.address, "progress_s", block=block))

    def candidates(self, block: int | None = None) -> list[tuple[Address, int]]:
        """Everybody with bonded stake in wei, sorted: whom the next draw, or a rescue, makes the committee."""
        return _stakes(self.client.call("registry", self.address, "candidates", block=block))

    def is_rescue(self, epoch: int, block: int | None = None) -> bool:
        """Whether ``epoch`` was opened by a rescue."""
        return bool(self.client.call("registry", self.address, "is_rescue", epoch, block=block))

    def stake_of(self, member: Address, block: int | None = None) -> int:
        """Wei that ``member`` has bonded."""
        return int(self.client.call("registry", self.address, "stake_of", member, block=block))

    def epoch(self, block: int | None = None) -> int:
        """The newest epoch; 0 before the first."""
        return int(self.client.call("registry", self.address, "epoch", block=block))

    def committee_root(self, block: int | None = None) -> Digest:
        """The newest epoch's committee root; zero before the first."""
        return Digest(self.client.call("registry", self.address, "committee_root", block=block))

    def committee(self, epoch: int, block: int | None = None) -> list[tuple[Address, int]]:
        """Members of ``epoch`` and what they weigh in wei, sorted by address; empty where it isn't open."""
        return _stakes(self.client.call("registry", self.address, "committee", epoch, block=block))


def _address(answer: str) -> Address:
    return Address(bytes.fromhex(answer[2:]))


def _stakes(answer: tuple[Sequence[str], Sequence[int]]) -> list[tuple[Address, int]]:
    members, stakes = answer
    return [(Address(bytes.fromhex(member[2:])), int(stake)) for member, stake in zip(members, stakes, strict=True)]


@dataclass(frozen=True, slots=True)
class Compute:
    """The Compute Contract."""

    client: ChainClient
    address: Address

    @classmethod
    def deploy(
        cls,
        client: ChainClient,
        key: Key,
        mor: Address,
        registry: Address,
        economics: Economics,
        *,
        governor: Address = ZERO_ADDRESS,
        governance_delay_s: int = GOVERNANCE_DELAY_S,
    ) -> "Compute":
        """A Compute Contract that pays in ``mor`` on the word of ``registry``'s committee, within ``economics``.

        ``governor`` may change the emission source after ``governance_delay_s``; by default nobody may.
        """
        arguments = compute_arguments(mor, registry, economics, governor, governance_delay_s)
        return cls(client, client.deploy(key, "compute", *arguments))

    def source(self, block: int | None = None) -> Address:
        """Where emissions are fetched; the zero address where they come by transfer alone."""
        return _address(self.client.call("compute", self.address, "source", block=block))

    def bind_source(self, key: Key, source: Address) -> Receipt:
        """Name the emission source; only the deployer may, once, before the first batch."""
        return self.client.transact(key, "compute", self.address, "bind_source", source)

    def pull(self, key: Key) -> Receipt:
        """Fetch the emission that is due; anybody may, and nobody has to."""
        return self.client.transact(key, "compute", self.address, "pull")

    def submit(self, key: Key, header: msgspec.Struct, round_: int, signatures: Sequence[bytes]) -> Receipt:
        """Hand in a certified batch. ``header`` is a BatchHeader, ``signatures`` are sorted by signer."""
        return self.client.transact(key, "compute", self.address, "submit", *certificate(header, round_, signatures))

    def claim(self, key: Key, provider: Address, cumulative: int, height: int, proof: Sequence[Digest]) -> Payment:
        """Have ``provider`` paid up to ``cumulative`` wei as of the accepted batch ``height``."""
        arguments = (provider, cumulative, height, tuple(proof))
        return self._payment(self.client.transact(key, "compute", self.address, "claim", *arguments))

    def claim_with_certificate(
        self,
        key: Key,
        header: msgspec.Struct,
        round_: int,
        signatures: Sequence[bytes],
        *,
        provider: Address,
        cumulative: int,
        proof: Sequence[Digest],
    ) -> Payment:
        """:meth:`submit` and :meth:`claim` in one; where the height was submitted already, only the claim."""
        arguments = (*certificate(header, round_, signatures), provider, cumulative, tuple(proof))
        return self._payment(self.client.transact(key, "compute", self.address, "claim_with_certificate", *arguments))

    def claim_many(self, key: Key, height: int, credits: Sequence[tuple[Address, int, Sequence[Digest]]]) -> Payment:
        """:meth:`claim` for many: provider, cumulative wei and proof of each. Who has been paid is passed over."""
        many = tuple((provider, cumulative, tuple(proof)) for provider, cumulative, proof in credits)
        return self._payment(self.client.transact(key, "compute", self.address, "claim_many", height, many))

    def set_receiver(self, key: Key, receiver: Address) -> Receipt:
        """Have ``key``'s payments sent to ``receiver``; the zero address for itself."""
        return self.client.transact(key, "compute", self.address, "set_receiver", receiver)

    def set_receiver_by_order(self, key: Key, order: PayoutOrder, signature: bytes) -> Receipt:
        """Hand in a provider's signed order; ``key`` is anybody's."""
        arguments = (order.provider, order.receiver, order.deadline, compact_signature(signature))
        return self.client.transact(key, "compute", self.address, "set_receiver_by_order", *arguments)

    def receiver_of(self, provider: Address, block: int | None = None) -> Address:
        """Where ``provider``'s payments go."""
        return Address(
            bytes.fromhex(self.client.call("compute", self.address, "receiver_of", provider, block=block)[2:])
        )

    def nonce_of(self, provider: Address, block: int | None = None) -> int:
        """The nonce that ``provider``'s next payout order must carry."""
        return int(self.client.call("compute", self.address, "nonce_of", provider, block=block))

    def budget_left(self, day: int, block: int | None = None) -> int:
        """Wei that batches of ``day`` may still credit to bids, by what has been submitted."""
        return int(self.client.call("compute", self.address, "budget_left", day, block=block))

    def pool(self, block: int | None = None) -> int:
        """Wei in the unused compute pool when the chain's day began (S23)."""
        return int(self.client.call("compute", self.address, "pool", block=block))

    def reserve(self, block: int | None = None) -> int:
        """Wei left in the bootstrap reserve when the chain's day began (S24)."""
        return int(self.client.call("compute", self.address, "reserve", block=block))

    def claimable(
        self, provider: Address, cumulative: int, height: int, proof: Sequence[Digest], block: int | None = None
    ) -> int:
        """Wei that :meth:`claim` would pay; 0 where it would be refused."""
        arguments = (provider, cumulative, height, tuple(proof))
        return int(self.client.call("compute", self.address, "claimable", *arguments, block=block))

    def paid(self, provider: Address, block: int | None = None) -> int:
        """Wei paid to ``provider`` since genesis."""
        return int(self.client.call("compute", self.address, "paid", provider, block=block))

    def paid_total(self, block: int | None = None) -> int:
        """Wei paid to all providers since genesis."""
        return int(self.client.call("compute", self.address, "paid_total", block=block))

    def credited_total(self, block: int | None = None) -> int:
        """Wei that the newest accepted batch credits."""
        return int(self.client.call("compute", self.address, "credited_total", block=block))

    def latest_height(self, block: int | None = None) -> int:
        """The height of the newest accepted batch; 0 before the first."""
        return int(self.client.call("compute", self.address, "latest_height", block=block))

    def credit_root(self, height: int, block: int | None = None) -> Digest:
        """The credit root of an accepted height; the zero digest where it was never submitted."""
        return Digest(self.client.call("compute", self.address, "credit_root", height, block=block))

    def _payment(self, receipt: Receipt) -> Payment:
        claimed = [log for log in receipt.logs if log.address == self.address and log.topics[0] == _CLAIMED]
        if claimed:
            return Payment(sum(int.from_bytes(log.data[32:], "big") for log in claimed), receipt)
        raise TransactionReverted("compute.claim", f"transaction 0x{receipt.tx_hash.hex()} paid nothing")


@dataclass(frozen=True, slots=True)
class EmissionSource:
    """A test network's emission source."""

    client: ChainClient
    address: Address

    @classmethod
    def deploy(
        cls, client: ChainClient, key: Key, mor: Address, beneficiary: Address, schedule: Schedule
    ) -> "EmissionSource":
        """A source that pays ``beneficiary`` by ``schedule`` what it holds of ``mor``."""
        fields = msgspec.structs.astuple(schedule)
        return cls(client, client.deploy(key, "emission_source", mor, beneficiary, fields))

    def due(self, block: int | None = None) -> int:
        """Wei that have been released and not fetched."""
        return int(self.client.call("emission_source", self.address, "due", block=block))


def compute_arguments(
    mor: Address, registry: Address, economics: Economics, governor: Address, delay_s: int
) -> tuple[object, ...]:
    """What the Compute Contract's constructor takes."""
    terms = (
        economics.genesis_s,
        economics.slot_ms,
        economics.day_slots,
        int(economics.policy),
        economics.endowment_wei,
        economics.late_days,
    )
    return mor, registry, msgspec.structs.astuple(economics.schedule), terms, (governor, delay_s)


def certificate(
    header: msgspec.Struct, round_: int, signatures: Sequence[bytes]
) -> tuple[tuple[object, ...], int, tuple[tuple[bytes, bytes], ...]]:
    """Header, round and signatures as the contract takes them: a BatchHeader's fields in order, EIP-2098 pairs."""
    return msgspec.structs.astuple(header), round_, tuple(map(compact_signature, signatures))


def evidence(member: Address, first: SignedMessage, second: SignedMessage) -> tuple[object, ...]:
    """``member`` and two messages of it as the registry takes them, what they have in common once.

    Raises :class:`EvidenceMismatch` where they don't have it in common, or are nothing that members are slashed for.
    """
    kinds = type(first.payload).__name__, type(second.payload).__name__
    if kinds[0] != kinds[1] or kinds[0] not in _KINDS:
        raise EvidenceMismatch("kinds", kinds)
    place: list[object] = []
    for name in ("height", "round", "committee_root"):
        values = getattr(first.payload, name, ZERO_DIGEST), getattr(second.payload, name, ZERO_DIGEST)
        if values[0] != values[1]:
            raise EvidenceMismatch(f"{name}s", values)
        place.append(values[0])
    return (member, _KINDS[kinds[0]], *place, _statement(first), _statement(second))


def _statement(message: SignedMessage) -> tuple[object, ...]:
    said: Any = message.payload
    return said.batch_hash, getattr(said, "valid_round", 0), compact_signature(message.signature)


def compact_signature(signature: bytes) -> tuple[bytes, bytes]:
    """r and, in one word, s with v on top (EIP-2098). Raises :class:`SignatureInvalid` where that has no room."""
    if len(signature) != 65 or signature[64] not in (27, 28) or signature[32] & 0x80:
        raise SignatureInvalid(f"0x{signature.hex()} is no 65-byte signature with v of 27 or 28 and a low s")
    return signature[:32], bytes([signature[32] | (signature[64] - 27) << 7]) + signature[33:64]
