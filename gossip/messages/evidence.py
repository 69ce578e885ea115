"""Evidence: two messages under one key that no honest holder of the key signs both.

Each kind is self-proving: its two halves carry their signatures, and nothing but the network's domain is needed to
check them (:func:`consensus.evidence.examine` does). ``first`` is the half with the lower id, so that two messages make
one piece of evidence, whoever saw which of them first.
"""

import msgspec

from gossip.messages.base import Signed, decode_union
from gossip.messages.committee import Precommit, Prevote, Proposal
from gossip.messages.market import AccessPass, Rfc

MAX_EVIDENCE_BYTES = 2_048
"""The largest evidence that is parsed; two RFCs, the largest halves, take about half of it."""


class DoubleProposal(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """Two proposals of one member for one round."""

    first: Signed[Proposal]
    second: Signed[Proposal]


class DoublePrevote(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """Two prevotes of one member in one round."""

    first: Signed[Prevote]
    second: Signed[Prevote]


class DoublePrecommit(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """Two precommits of one member in one round, under one committee root."""

    first: Signed[Precommit]
    second: Signed[Precommit]


class DoublePass(msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True):
    """Two passes of one router for one session key and day, with different terms (S36)."""

    first: Signed[AccessPass]
    second: Signed[AccessPass]


class DoubleIndex(msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True):
    """Two RFCs of one session key under one pass with one index: its allowance spent twice (S22, S36)."""

    first: Signed[Rfc]
    second: Signed[Rfc]


Equivocation = DoubleProposal | DoublePrevote | DoublePrecommit
"""What a committee member is slashed for; the tags are the kinds of ``contracts/registry.vy``."""

Evidence = Equivocation | DoublePass | DoubleIndex


def decode_evidence(data: bytes) -> Evidence:
    """One piece of evidence, unchecked. Raises :class:`~gossip.errors.MessageError`."""
    evidence: Evidence = decode_union(Evidence, data, MAX_EVIDENCE_BYTES)
    return evidence
