"""A router asks a provider to show that it has a model, and the answer (S42), over a direct stream.

Only committee members may ask. The blocks that are asked for follow from the signed fields; see
:mod:`inference.possession`.
"""

from typing import Annotated, ClassVar

import msgspec

from contracts.typed_data import Address, Digest
from gossip.messages.base import U64, Payload, Signed, decode

MAX_ANSWER_BYTES = 192 << 10
"""The largest answer that is read: a manifest, and a few blocks with their paths."""


class ModelChallenge(Payload, frozen=True):
    """Show that you have this model now."""

    SIGNER: ClassVar[str | None] = "router"
    MAX_BYTES: ClassVar[int] = 512

    router: Address
    provider: Address
    model_id: Digest
    slot: U64
    """The slot in which the router asks."""
    beacon: Digest
    """The beacon of the router's ledger in that slot."""
    sent_ms: U64


class ModelAnswer(Payload, frozen=True):
    """The provider's signature over what it showed: with the blocks, evidence that both sides can read."""

    SIGNER: ClassVar[str | None] = "provider"

    challenge_id: Digest
    provider: Address
    model_id: Digest
    blocks: Digest
    """SHA-256 over the blocks' leaf hashes, in the order asked for."""


class BlockProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One block of a model file and its Merkle path, from the bottom up."""

    data: Annotated[bytes, msgspec.Meta(max_length=16 << 10)]
    path: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=48)]


class ChallengeAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Provider to router: the signed answer, the model's manifest as canonical JSON, and the blocks."""

    answer: Signed[ModelAnswer]
    manifest: Annotated[bytes, msgspec.Meta(max_length=64 << 10)]
    blocks: Annotated[tuple[BlockProof, ...], msgspec.Meta(max_length=16)]


def decode_challenge(data: bytes) -> Signed[ModelChallenge]:
    """What a router asks. Raises :class:`~gossip.errors.MessageError`."""
    return decode(Signed[ModelChallenge], data)


def decode_challenge_answer(data: bytes) -> ChallengeAnswer:
    """What a provider answers. Raises :class:`~gossip.errors.MessageError`."""
    return decode(ChallengeAnswer, data, MAX_ANSWER_BYTES)
