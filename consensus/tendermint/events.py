"""What goes into the consensus core and what comes out: inputs and effects, as data.

Inputs are msgspec structs with tags, so that a shell can write them to its log before it runs any effect, and replay
them after a crash. The shell signs what :class:`Propose` and :class:`CastVote` ask for, sends it, **and feeds it back**
as :class:`ProposalIn` or :class:`VoteIn`: a member's own messages count when they are signed, not before.
"""

import msgspec

from consensus.committee import Committee
from consensus.tendermint.types import Certificate, Step, ValueId, Vote
from contracts.typed_data import Address

# Inputs


class Start(msgspec.Struct, frozen=True, tag=True):
    """Begin ``height`` with ``committee`` at ``round``: above 0 only where an earlier committee got stuck there."""

    height: int
    committee: Committee
    round: int = 0


class ProposalIn(msgspec.Struct, frozen=True, tag=True):
    """A proposal arrived; ``valid_round`` is -1 for none. ``is_valid`` is the paper's valid(v): the ledger agrees."""

    height: int
    round: int
    value: ValueId
    valid_round: int
    proposer: Address
    is_valid: bool


class VoteIn(msgspec.Struct, frozen=True, tag=True):
    """A vote arrived."""

    vote: Vote


class CertificateIn(msgspec.Struct, frozen=True, tag=True):
    """A verified certificate arrived."""

    certificate: Certificate


class TimeoutElapsed(msgspec.Struct, frozen=True, tag=True):
    """A timer that :class:`ScheduleTimeout` asked for ran out."""

    step: Step
    height: int
    round: int


class ValueReady(msgspec.Struct, frozen=True, tag=True):
    """The answer to :class:`GetValue`."""

    height: int
    round: int
    value: ValueId


Input = Start | ProposalIn | VoteIn | CertificateIn | TimeoutElapsed | ValueReady


# Effects


class Propose(msgspec.Struct, frozen=True, tag=True):
    """Sign and send a proposal (line 19)."""

    height: int
    round: int
    value: ValueId
    valid_round: int


class CastVote(msgspec.Struct, frozen=True, tag=True):
    """Sign and send a vote. ``valid_round`` is that of the proposal which a prevote follows, -1 for none or nil."""

    vote: Vote
    valid_round: int


class GetValue(msgspec.Struct, frozen=True, tag=True):
    """Make a value to propose (line 18) and answer with :class:`ValueReady`, or let the timer run out."""

    height: int
    round: int


class ScheduleTimeout(msgspec.Struct, frozen=True, tag=True):
    """Start a timer; see :func:`consensus.tendermint.timeouts.duration_ms`."""

    step: Step
    height: int
    round: int


class Decided(msgspec.Struct, frozen=True, tag=True):
    """``value`` is final (line 51). ``members`` precommitted it in ``round``: more than 2/3 of stake."""

    height: int
    round: int
    value: ValueId
    members: frozenset[Address]


class EquivocationFound(msgspec.Struct, frozen=True, tag=True):
    """Two different messages of one member for one place: a double vote or a double proposal."""

    first: Vote | ProposalIn
    second: Vote | ProposalIn


Effect = Propose | CastVote | GetValue | ScheduleTimeout | Decided | EquivocationFound
