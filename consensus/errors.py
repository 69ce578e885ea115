"""Errors of the consensus side.

::

    ConsensusError
    ├── CertificateInvalid   a commit certificate that proves nothing; carries the fault and the offending value
    ├── EvidenceInvalid      two messages that accuse nobody
    ├── HandOverInvalid      a draw or a hand-over that no committee can have made
    ├── WrongHeight          a height was started out of order (a bug of the caller)
    └── UntimedStep          a step that no timer belongs to (a bug of the caller)

The market's errors are drawn in :mod:`consensus.market.errors`.
"""

import enum


class ConsensusError(Exception):
    """Root of this folder's errors."""


class CertificateFault(enum.StrEnum):
    """What is wrong with a certificate. The words are stable."""

    NIL = "nil"
    """The zero hash: a vote for no batch certifies nothing."""
    BATCH_HASH = "batch_hash"
    """Names another batch than the header that came with it."""
    HEIGHT = "height"
    """Names another height than its header."""
    COMMITTEE_ROOT = "committee_root"
    """Made under another committee."""
    SIGNATURE = "signature"
    """A signature that does not recover: malformed, high s, or for the zero address."""
    UNKNOWN_MEMBER = "unknown_member"
    """Signed by somebody who is no member, or over something else (then a stranger's address recovers)."""
    DUPLICATE_SIGNER = "duplicate_signer"
    UNSORTED = "unsorted"
    """Signers do not ascend by address."""
    NO_QUORUM = "no_quorum"
    """Two thirds of all stake or less."""


class CertificateInvalid(ConsensusError):
    """A certificate proves nothing. ``fault`` says why, ``value`` is the offending hash, address, height or stake."""

    def __init__(self, fault: CertificateFault, value: object) -> None:
        self.fault = fault
        self.value = value
        super().__init__(f"certificate: {fault} ({show(value)})")


class EvidenceInvalid(ConsensusError):
    """Two messages accuse nobody. ``value`` is what they should, or should not, have in common."""

    def __init__(self, reason: str, value: object) -> None:
        self.reason = reason
        self.value = value
        super().__init__(f"evidence: {reason} ({show(value)})")


class HandOverInvalid(ConsensusError):
    """One committee can't relieve another like this. ``value`` is the offending root, address, count or stake."""

    def __init__(self, reason: str, value: object) -> None:
        self.reason = reason
        self.value = value
        super().__init__(f"hand-over: {reason} ({show(value)})")


class WrongHeight(ConsensusError):
    """Height ``height`` was started where only ``lowest`` or a higher one may be."""

    def __init__(self, height: int, lowest: int) -> None:
        self.height = height
        self.lowest = lowest
        super().__init__(f"cannot start height {height}: {lowest} is the lowest that may start")


class UntimedStep(ConsensusError):
    """No timer belongs to ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"no timer belongs to step {step!r}")


def show(value: object) -> str:
    """An offending value for people: bytes in hex."""
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
