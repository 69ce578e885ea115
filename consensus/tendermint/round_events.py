"""What the round state machine is told, once it has been recognised, and what it answers."""

import msgspec

from consensus.tendermint.events import GetValue, Propose, ScheduleTimeout
from consensus.tendermint.types import Step, ValueId, Vote

# Events


class NewRound(msgspec.Struct, frozen=True):
    """StartRound(round), line 11."""

    round: int
    is_proposer: bool


class ProposeValue(msgspec.Struct, frozen=True):
    """getValue() returned (line 18)."""

    value: ValueId


class FreshProposal(msgspec.Struct, frozen=True):
    """This round's proposal, without a valid round (line 22)."""

    value: ValueId
    is_valid: bool


class ProposalWithEarlierPolka(msgspec.Struct, frozen=True):
    """This round's proposal and the polka of the valid round that it names (line 28)."""

    value: ValueId
    valid_round: int
    is_valid: bool


class PolkaAny(msgspec.Struct, frozen=True):
    """Prevotes of more than 2/3 of stake in this round, for whatever (line 34)."""


class ProposalWithPolka(msgspec.Struct, frozen=True):
    """This round's valid proposal and its polka (line 36)."""

    value: ValueId


class PolkaNil(msgspec.Struct, frozen=True):
    """More than 2/3 of stake prevoted nil in this round (line 44)."""


class PrecommitAny(msgspec.Struct, frozen=True):
    """Precommits of more than 2/3 of stake in this round, for whatever (line 47)."""


class ProposalWithCommit(msgspec.Struct, frozen=True):
    """Some round's valid proposal and its precommits by more than 2/3 of stake (line 49)."""

    round: int
    value: ValueId


class RoundSkip(msgspec.Struct, frozen=True):
    """More than 1/3 of stake is in a later round (line 55)."""

    round: int


class Timeout(msgspec.Struct, frozen=True):
    """A timer ran out (lines 57, 61, 65)."""

    step: Step
    height: int
    round: int


RoundInput = (
    NewRound
    | ProposeValue
    | FreshProposal
    | ProposalWithEarlierPolka
    | PolkaAny
    | ProposalWithPolka
    | PolkaNil
    | PrecommitAny
    | ProposalWithCommit
    | RoundSkip
    | Timeout
)


# Outputs


class Commit(msgspec.Struct, frozen=True):
    """Decide ``value``, whose precommits are of ``round``."""

    round: int
    value: ValueId


class SkipRound(msgspec.Struct, frozen=True):
    """Start ``round`` next."""

    round: int


class Rejected(msgspec.Struct, frozen=True):
    """The event does not apply; the state is unchanged."""

    reason: str


RoundOutput = Vote | Propose | GetValue | ScheduleTimeout | Commit | SkipRound | Rejected
