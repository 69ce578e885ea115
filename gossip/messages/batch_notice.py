"""Certified batches on their topic: whole where they are small, else as a notice that they were decided."""

import msgspec

from gossip.messages.base import decode, encode
from gossip.messages.committee import BatchHeader, CertifiedBatch, CommitCertificate, SealedBatch

MAX_GOSSIPED_BYTES = (1 << 20) - (64 << 10)
"""A larger batch is not gossiped: with what is around it one RPC has 1 MiB, and no node stands still for that."""

_ARRAY_OF_TWO = b"\x92"
"""How MessagePack begins an array of two."""


class BatchNotice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That a large batch was decided, and by whom; range sync has its body."""

    header: BatchHeader
    certificate: CommitCertificate


def gossiped(batch: CertifiedBatch) -> bytes:
    """``batch`` as it is published."""
    whole = encode(batch)
    return whole if len(whole) <= MAX_GOSSIPED_BYTES else encode(BatchNotice(batch.header, batch.certificate))


def decode_gossiped(data: bytes) -> SealedBatch | BatchNotice:
    """What the batches' topic carries. Raises :class:`~gossip.errors.MessageError`."""
    if data[:1] == _ARRAY_OF_TWO:
        return decode(BatchNotice, data, MAX_GOSSIPED_BYTES)
    return decode(SealedBatch, data, MAX_GOSSIPED_BYTES)
