"""What committee members sign and what they publish: batches, votes, certificates.

``BatchHeader``, ``Proposal``, ``Prevote``, ``Precommit`` and ``HandOver`` are also Vyper's: contracts/compute.vy and
contracts/registry.vy fix their EIP-712 types.
"""

from functools import cached_property, lru_cache
from typing import Annotated, ClassVar

import msgspec
from eth_hash.auto import keccak

from contracts.typed_data import Address, Digest, Signature, Uint256, struct_hash
from gossip.messages.base import U64, Payload, Signed, decode_union, encode
from gossip.messages.listing import ListingFrame, ListingOrders
from gossip.messages.market import PassIssued
from gossip.messages.opinions import Opinion
from gossip.messages.records import BeaconCommitment, NodeRecord
from gossip.messages.session import Settlement

MAX_BATCH_BYTES = 14 << 20
"""The largest proposal or certified batch that is read: 10,000 settlements are 11 MB."""

MAX_TOLD = 64
"""Settlements in one frame at most."""

MAX_OPINIONS = 1_024
"""Second opinions in a batch at most."""

MAX_MEMBERS = 64
"""The largest committee."""

MAX_RANKED = 10_000
"""Providers whose ranks a day's opening tells, at most."""

MAX_RANK = 257
"""The rank of 2^256 wei and less."""


class BatchHeader(Payload, frozen=True, cache_hash=True):
    """The value that the committee agrees on, and the contract's view of a batch (S17)."""

    height: U64
    """1 is the first batch."""
    slot: U64
    """The slot that the batch closes: 12 s periods since genesis."""
    day: U64
    parent: Digest
    """The batch hash of the height below; zero at height 1."""
    body_root: Digest
    credit_root: Digest
    """Merkle root over (provider, cumulative credit in wei), see contracts/merkle.py."""
    total_credited: Uint256
    """Wei credited since genesis, all providers together."""
    bootstrap_credited: Uint256
    """Of total_credited, what the bootstrap reserve paid (S24), in wei."""
    state_root: Digest
    committee_root: Digest
    beacon: Digest
    reveal: Digest
    """The proposer's secret of ``slot``, zero where it has committed to none."""
    proposer: Address


class DrawnMember(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member of a drawn committee and its voting power (stake in wei)."""

    address: Address
    stake: Uint256


DrawnMembers = Annotated[tuple[DrawnMember, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
"""A committee as it is drawn, in ascending order of addresses."""


class ProviderRank(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much MOR a provider held at a snapshot block, as coarsely as a pass tells it of its user: S44's variant."""

    provider: Address
    rank: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANK)]
    """1 below 1 MOR, one more for every doubling; a provider without MOR is not listed."""


class DayOpening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a day starts from; the first batch of a day carries it."""

    day: U64
    snapshot_block: U64
    supply_wei: Uint256
    budget_wei: Uint256
    drawn: DrawnMembers = ()
    """The next committee: who had staked in the registry at the snapshot block. Empty where nobody is to change."""
    ranks: Annotated[tuple[ProviderRank, ...], msgspec.Meta(max_length=MAX_RANKED)] = ()
    """Providers by what they held at the snapshot block, in ascending order of addresses; only in the variant of S44.
    At the block of the day before it, these are added to those of that day."""


class HandOver(Payload, frozen=True):
    """The running committee's word on who comes next; more than 2/3 of its stake opens the next epoch on chain."""

    epoch: U64
    """The outgoing epoch, 1 being the first."""
    day: U64
    """The day that the next committee begins on."""
    committee_root: Digest
    """The outgoing committee's."""
    next_root: Digest
    """The root of the committee of ``epoch`` + 1."""


class HandOverCertificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """More than 2/3 of the outgoing committee's stake in HandOver signatures: what the registry wants to see."""

    hand_over: HandOver
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
    """Sorted by signer address, as the contract wants them."""


class Rescue(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The committee that the registry has put in the place of a silent one."""

    epoch: U64
    members: DrawnMembers


class BatchBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """What a batch settles; its hash is the header's ``body_root``."""

    opening: DayOpening | None
    commitments: Annotated[tuple[Signed[BeaconCommitment], ...], msgspec.Meta(max_length=64)]
    settlements: Annotated[tuple[Settlement, ...], msgspec.Meta(max_length=10_000)]
    hand_over: HandOverCertificate | None = None
    """Who was drawn takes over: the heights above this one are theirs."""
    rescue: Rescue | None = None
    """How the committee that decides this very batch came to be, where none has handed over to it."""
    opinions: Annotated[tuple[Signed[Opinion], ...], msgspec.Meta(max_length=MAX_OPINIONS)] = ()
    """Verdicts of scorers on what was picked (S8)."""
    listings: ListingOrders = ()
    """What the running committee orders of the list of models (S8)."""

    @property
    def root(self) -> Digest:
        """keccak of the canonical encoding."""
        return self._canonical[0]

    @property
    def size(self) -> int:
        """Bytes of the canonical encoding."""
        return self._canonical[1]

    @cached_property
    def _canonical(self) -> tuple[Digest, int]:
        """Root and size, worked out once: a body may be megabytes."""
        encoded = encode(self)
        return Digest(keccak(encoded)), len(encoded)


class Proposal(Payload, frozen=True):
    """A proposer's value for a round; ``valid_round`` is the paper's validRound + 1, so 0 means none."""

    height: U64
    round: U64
    valid_round: U64
    batch_hash: Digest
    proposer: Address

    SIGNER: ClassVar[str | None] = "proposer"


class Prevote(Payload, frozen=True):
    """First-step vote; the zero hash is nil. The signer is looked up in the committee."""

    height: U64
    round: U64
    valid_round: U64
    """The proposal's ``valid_round`` that this vote answers."""
    batch_hash: Digest


class Precommit(Payload, frozen=True):
    """Second-step vote: its signatures are the certificate. The zero hash is nil and refused on chain."""

    height: U64
    round: U64
    batch_hash: Digest
    committee_root: Digest


class CommitCertificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """More than 2/3 of stake in precommits of one round: the Router's instruction to the contract (S12)."""

    height: U64
    round: U64
    batch_hash: Digest
    committee_root: Digest
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
    """Sorted by signer address, as the contract wants them."""


class CertifiedBatch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A decided batch as it is gossiped, stored and synced."""

    MAX_BYTES: ClassVar[int] = MAX_BATCH_BYTES

    header: BatchHeader
    certificate: CommitCertificate
    body: BatchBody

    @property
    def body_root(self) -> Digest:
        """What the header must commit to."""
        return self.body.root


class SealedBatch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A :class:`CertifiedBatch` whose body is left as it came: enough to say whether it was certified."""

    MAX_BYTES: ClassVar[int] = MAX_BATCH_BYTES

    header: BatchHeader
    certificate: CommitCertificate
    body: msgspec.Raw

    @property
    def body_root(self) -> Digest:
        """keccak of the very bytes: the header's root is over the canonical ones, so no others have it."""
        return Digest(keccak(bytes(self.body)))


@lru_cache(maxsize=256)  # every vote, certificate and ledger asks for it
def batch_hash(header: BatchHeader) -> Digest:
    """EIP-712 hashStruct of the header: what is voted on and what the contract recomputes."""
    return struct_hash(header)


# Frames of the committee link: direct persistent streams between members.


class HelloFrame(msgspec.Struct, frozen=True, array_like=True, tag=29, forbid_unknown_fields=True):
    """First frame of a link: who dials. Its peer id must be the stream's, its address a member's."""

    record: Signed[NodeRecord]


class ProposalFrame(msgspec.Struct, frozen=True, array_like=True, tag=30, forbid_unknown_fields=True):
    """A proposal with the batch it stands for."""

    proposal: Signed[Proposal]
    header: BatchHeader
    body: BatchBody


class PrevoteFrame(msgspec.Struct, frozen=True, array_like=True, tag=31, forbid_unknown_fields=True):
    """A prevote."""

    vote: Signed[Prevote]


class PrecommitFrame(msgspec.Struct, frozen=True, array_like=True, tag=32, forbid_unknown_fields=True):
    """A precommit."""

    vote: Signed[Precommit]


class PolkaFrame(msgspec.Struct, frozen=True, array_like=True, tag=38, forbid_unknown_fields=True):
    """Prevotes of more than 2/3 of stake for one batch in one round; they count as a unit."""

    votes: Annotated[tuple[Signed[Prevote], ...], msgspec.Meta(min_length=1, max_length=64)]


class DecidedFrame(msgspec.Struct, frozen=True, array_like=True, tag=33, forbid_unknown_fields=True):
    """A decision, for a member that missed it; the certificate counts as a unit."""

    batch: CertifiedBatch


class SettlementFrame(msgspec.Struct, frozen=True, array_like=True, tag=34, forbid_unknown_fields=True):
    """A finished session for the next batch."""

    settlement: Settlement


class SettlementsFrame(msgspec.Struct, frozen=True, array_like=True, tag=42, forbid_unknown_fields=True):
    """Finished sessions for the next batch, or such as somebody lacks of a proposed one."""

    settlements: Annotated[tuple[Settlement, ...], msgspec.Meta(min_length=1, max_length=MAX_TOLD)]


class ShortProposalFrame(msgspec.Struct, frozen=True, array_like=True, tag=40, forbid_unknown_fields=True):
    """A proposal whose settlements, which members mostly hold, are only named: each by the hash of its encoding."""

    proposal: Signed[Proposal]
    header: BatchHeader
    opening: DayOpening | None
    commitments: Annotated[tuple[Signed[BeaconCommitment], ...], msgspec.Meta(max_length=64)]
    settlements: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=10_000)]
    hand_over: HandOverCertificate | None = None
    rescue: Rescue | None = None
    opinions: Annotated[tuple[Signed[Opinion], ...], msgspec.Meta(max_length=MAX_OPINIONS)] = ()
    listings: ListingOrders = ()


class WantFrame(msgspec.Struct, frozen=True, array_like=True, tag=41, forbid_unknown_fields=True):
    """Which settlements of a proposed batch a member lacks, by their place in it."""

    batch_hash: Digest
    places: Annotated[tuple[U64, ...], msgspec.Meta(min_length=1, max_length=10_000)]


class PassFrame(msgspec.Struct, frozen=True, array_like=True, tag=35, forbid_unknown_fields=True):
    """An issued pass; the committee keeps it to itself."""

    issued: Signed[PassIssued]


class UsageFrame(msgspec.Struct, frozen=True, array_like=True, tag=43, forbid_unknown_fields=True):
    """To who stands next in a user's ranking: what is reserved and spent of a pass, so that its rest is not lost with
    its router (S36)."""

    session_key: Address
    day: U64
    used: U64


class CaughtUpFrame(msgspec.Struct, frozen=True, array_like=True, tag=44, forbid_unknown_fields=True):
    """After the passes that ended some of the reader's own while it was away: there are no more that this member
    knows of."""


RouterFrame = PassFrame | UsageFrame | CaughtUpFrame
"""What routers tell one another."""


class CommitmentFrame(msgspec.Struct, frozen=True, array_like=True, tag=37, forbid_unknown_fields=True):
    """A member's beacon commitment for a day to come, for the next batch."""

    commitment: Signed[BeaconCommitment]


class OpinionFrame(msgspec.Struct, frozen=True, array_like=True, tag=49, forbid_unknown_fields=True):
    """A scorer's verdict, for the next batch."""

    opinion: Signed[Opinion]


class HandOverFrame(msgspec.Struct, frozen=True, array_like=True, tag=39, forbid_unknown_fields=True):
    """A member's signature under the hand-over to the committee that was drawn."""

    vote: Signed[HandOver]


class StatusFrame(msgspec.Struct, frozen=True, array_like=True, tag=36, forbid_unknown_fields=True):
    """Where a member stands, said every second: who is behind gets what it misses."""

    height: U64
    round: U64


LinkFrame = (
    HelloFrame
    | ProposalFrame
    | PrevoteFrame
    | PrecommitFrame
    | PolkaFrame
    | DecidedFrame
    | SettlementFrame
    | SettlementsFrame
    | ShortProposalFrame
    | WantFrame
    | PassFrame
    | UsageFrame
    | CaughtUpFrame
    | CommitmentFrame
    | HandOverFrame
    | OpinionFrame
    | ListingFrame
    | StatusFrame
)


def decode_link_frame(data: bytes) -> LinkFrame:
    """One frame of the committee link. Raises :class:`~gossip.errors.MessageError`."""
    frame: LinkFrame = decode_union(LinkFrame, data, MAX_BATCH_BYTES)
    return frame
