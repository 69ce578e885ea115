"""Range sync: how a node that missed gossip gets certified batches and the live book from a peer."""

from typing import Annotated

import msgspec

from gossip.messages.base import U64, Signed, decode_union
from gossip.messages.evidence import Evidence
from gossip.messages.records import Bid, ModelProof, NodeRecord, SlotReveal

MAX_SYNC_BATCHES = 256
"""Certified batches in one answer at most."""


class SyncRequest(msgspec.Struct, frozen=True, array_like=True, tag=40, forbid_unknown_fields=True):
    """Ask any node for certified batches from ``from_height`` on, at most ``limit`` of them."""

    from_height: U64
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_SYNC_BATCHES)]


class BookRequest(msgspec.Struct, frozen=True, array_like=True, tag=41, forbid_unknown_fields=True):
    """Ask any node for the live node records, bids, model proofs, reveals and evidence that it holds."""


class RecordItem(msgspec.Struct, frozen=True, array_like=True, tag=42, forbid_unknown_fields=True):
    """One node record of the answer."""

    message: Signed[NodeRecord]


class BidItem(msgspec.Struct, frozen=True, array_like=True, tag=43, forbid_unknown_fields=True):
    """One bid of the answer."""

    message: Signed[Bid]


class ProofItem(msgspec.Struct, frozen=True, array_like=True, tag=44, forbid_unknown_fields=True):
    """One model proof of the answer."""

    message: Signed[ModelProof]


class RevealItem(msgspec.Struct, frozen=True, array_like=True, tag=45, forbid_unknown_fields=True):
    """One slot secret of the answer."""

    message: Signed[SlotReveal]


class EvidenceItem(msgspec.Struct, frozen=True, array_like=True, tag=46, forbid_unknown_fields=True):
    """One proven offence of the answer."""

    message: Evidence


SyncAsk = SyncRequest | BookRequest
BookItem = RecordItem | BidItem | ProofItem | RevealItem | EvidenceItem


def decode_sync_ask(data: bytes) -> SyncAsk:
    """The first frame of a sync stream. Raises :class:`~gossip.errors.MessageError`."""
    ask: SyncAsk = decode_union(SyncAsk, data, 64)
    return ask


def decode_book_item(data: bytes) -> BookItem:
    """One item of a book answer. Raises :class:`~gossip.errors.MessageError`."""
    item: BookItem = decode_union(BookItem, data, 4_096)
    return item
