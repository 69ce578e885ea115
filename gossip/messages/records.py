"""What is gossiped about nodes: who they are, what they offer, and the beacon's commitments and reveals."""

from typing import Annotated, ClassVar

import msgspec

from contracts.typed_data import Address, Digest
from gossip.messages.base import U64, Payload, Text, Unit

MAX_MULTIADDRS = 8
"""Addresses in one record."""


class NodeRecord(Payload, frozen=True):
    """Binds a MOR address to a libp2p host (S9). The highest ``sequence`` of an address wins."""

    SIGNER: ClassVar[str | None] = "address"

    address: Address
    peer_id: Text
    roles: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)]
    """Of ``full``, ``provider``, ``member``."""
    multiaddrs: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_MULTIADDRS)]
    sequence: U64
    expires_ms: U64


class Bid(Payload, frozen=True):
    """A provider's standing offer for one model (S19). The highest ``sequence`` per (provider, model) wins."""

    SIGNER: ClassVar[str | None] = "provider"

    provider: Address
    model_id: Digest
    unit: Unit
    price_wei: U64
    """Wei of MOR per T; paid exactly as bid (S33)."""
    slots: U64
    """Sessions the provider serves at once; 0 withdraws the bid."""
    prompt_max: U64
    """Largest prompt accepted, in T of the model's tokenizer."""
    sequence: U64
    expires_ms: U64
    scores: bool = False
    """Whether its engine gives second opinions on others' answers: a log-probability for each T of a prompt (S8)."""


class ModelProof(Payload, frozen=True):
    """A provider's signature over a model's identity (S42). ``name`` and ``engine`` are for people to read."""

    SIGNER: ClassVar[str | None] = "provider"

    provider: Address
    model_id: Digest
    name: Text
    engine: Text
    expires_ms: U64


class BeaconCommitment(Payload, frozen=True):
    """A member's commitment to its day's secrets: ``tip`` is the last link of a SHA-256 hash chain."""

    SIGNER: ClassVar[str | None] = "member"

    member: Address
    day: U64
    tip: Digest


class SlotReveal(Payload, frozen=True):
    """A member's secret of a slot that has ended; hashing it leads to the day's commitment."""

    SIGNER: ClassVar[str | None] = "member"

    member: Address
    slot: U64
    secret: Digest
