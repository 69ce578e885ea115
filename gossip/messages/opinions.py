"""Second opinions (S8): a transcript that was picked is opened to a drawn provider, whose verdict goes into a batch.

The transcript travels on a direct stream between whoever took part in the session and the scorer; the verdict, which
says nothing of what was asked or answered, goes to a router.
"""

from typing import Annotated, ClassVar

import msgspec

from contracts.typed_data import Address, Digest
from gossip.messages.base import U64, Payload, Signed, decode_union
from gossip.messages.session import MAX_QUERY_BYTES

MAX_TRANSCRIPT_T = 65_536
"""T of a transcript at most."""

MAX_OPEN_BYTES = MAX_QUERY_BYTES + 5 * MAX_TRANSCRIPT_T + 256


UNREAD_GAP = 2**32 - 1
"""In the place of both gaps: the scorer could not read the transcript. No gap is so large."""


class Opinion(Payload, frozen=True):
    """A drawn provider's verdict on the first ``tokens`` T of a picked transcript, by teacher forcing; or its word that
    its engine went through them and named no probabilities."""

    SIGNER: ClassVar[str | None] = "scorer"

    ticket_id: Digest
    transcript: Digest
    """What the receipt, or the last voucher, commits to: an opinion on any other is none."""
    scorer: Address
    tokens: U64
    mean_gap: U64
    """How much less likely the T were than the scorer's own best ones, in thousandths of a nat."""
    max_gap: U64
    passed: bool

    @property
    def is_unread(self) -> bool:
        """Whether the scorer says that it could not read the transcript: neither Pass nor Fail."""
        return not self.passed and self.mean_gap == self.max_gap == UNREAD_GAP


class OpenTranscript(msgspec.Struct, frozen=True, array_like=True, tag=50, forbid_unknown_fields=True):
    """To a drawn scorer: the query's body and the token ids that a picked receipt commits to."""

    ticket_id: Digest
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_QUERY_BYTES)]
    token_ids: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=MAX_TRANSCRIPT_T)]


class Opined(msgspec.Struct, frozen=True, array_like=True, tag=51, forbid_unknown_fields=True):
    """The scorer's answer: its verdict, which it files itself, since it is paid for it."""

    opinion: Signed[Opinion]


def decode_open(data: bytes) -> OpenTranscript:
    """What a scorer is told. Raises :class:`~gossip.errors.MessageError`."""
    opened: OpenTranscript = decode_union(OpenTranscript, data, MAX_OPEN_BYTES)
    return opened


def decode_opined(data: bytes) -> Opined:
    """What a scorer answers. Raises :class:`~gossip.errors.MessageError`."""
    opined: Opined = decode_union(Opined, data, 1_024)
    return opined
