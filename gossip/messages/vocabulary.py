"""A user asks a provider, over a direct stream, for what a model's tokenizer is read from: to count T itself (S30).

Not signed: every block is checked against the model's manifest, and the manifest against the model's id.
"""

from typing import Annotated

import msgspec

from contracts.typed_data import Digest
from gossip.messages.base import U64, decode
from gossip.messages.challenge import BlockProof

BLOCKS_MAX = 16
"""Blocks of one answer."""

MAX_ANSWER_BYTES = 512 << 10
"""The largest answer that is read."""

MAX_ASK_BYTES = 128


class BlocksAsk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """For the model's blocks from ``first`` on, as its manifest counts them; a ``count`` of 0 is for the manifest."""

    model_id: Digest
    first: U64
    count: Annotated[int, msgspec.Meta(ge=0, le=BLOCKS_MAX)]


class BlocksAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest's canonical JSON, or blocks with their paths."""

    manifest: Annotated[bytes, msgspec.Meta(max_length=64 << 10)] = b""
    blocks: Annotated[tuple[BlockProof, ...], msgspec.Meta(max_length=BLOCKS_MAX)] = ()


def decode_blocks_ask(data: bytes) -> BlocksAsk:
    """What a user asks. Raises :class:`~gossip.errors.MessageError`."""
    return decode(BlocksAsk, data, MAX_ASK_BYTES)


def decode_blocks_answer(data: bytes) -> BlocksAnswer:
    """What a provider answers. Raises :class:`~gossip.errors.MessageError`."""
    return decode(BlocksAnswer, data, MAX_ANSWER_BYTES)
