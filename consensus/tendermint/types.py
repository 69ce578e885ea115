"""The words of the consensus core: steps, votes and certificates as plain frozen data.

Values are opaque bytes here (outside, the hash of a batch header), nil is None, and a round of -1 means "none", as in
the paper. Nothing is signed: whoever makes one of these has checked its signature.

Source: "The latest gossip on BFT consensus", arXiv 1807.04938; "line" means a line of its algorithm 1.
"""

import enum

import msgspec

from contracts.typed_data import Address

ValueId = bytes
"""What is decided: opaque, compared for equality only."""

NO_ROUND = -1
"""The paper's -1: no round yet."""


class Step(enum.IntEnum):
    """Where a member stands within a round."""

    NONE = 0
    """Nothing began."""
    UNSTARTED = 1
    """A round was left, the next one is about to start."""
    PROPOSE = 2
    PREVOTE = 3
    PRECOMMIT = 4
    COMMIT = 5
    """The height is decided."""


class VoteType(enum.IntEnum):
    """First or second vote of a round."""

    PREVOTE = 0
    PRECOMMIT = 1


class Vote(msgspec.Struct, frozen=True):
    """One member's vote; ``value`` None is nil."""

    kind: VoteType
    height: int
    round: int
    value: ValueId | None
    member: Address


class Certificate(msgspec.Struct, frozen=True):
    """Votes of more than 2/3 of stake for one value, already verified, that count as a unit.

    Of kind PREVOTE it is a polka, of kind PRECOMMIT a commit. Counting its votes one by one under "the first vote
    counts" would lose those whose members voted otherwise before, and could stall a height (the hidden lock).
    """

    kind: VoteType
    height: int
    round: int
    value: ValueId
    members: frozenset[Address]
