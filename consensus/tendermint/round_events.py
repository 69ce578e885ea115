"""What the round state machine is told, once it has been recognised, and what it answers."""

from dataclasses import dataclass

from consensus.tendermint.events import GetValue, Propose, ScheduleTimeout
from consensus.tendermint.types import Step, ValueId, Vote

# Events


@dataclass(frozen=True, slots=True)
class NewRound:
    """StartRound(round), line 11."""

    round: int
    is_proposer: bool


@dataclass(frozen=True, slots=True)
class ProposeValue:
    """getValue() returned (line 18)."""

    value: ValueId


@dataclass(frozen=True, slots=True)
class FreshProposal:
    """This round's proposal, without a valid round (line 22)."""

    value: ValueId
    is_valid: bool


@dataclass(frozen=True, slots=True)
class ProposalWithEarlierPolka:
    """This round's proposal and the polka of the valid round that it names (line 28)."""

    value: ValueId
    valid_round: int
    is_valid: bool


@dataclass(frozen=True, slots=True)
class PolkaAny:
    """Prevotes of more than 2/3 of stake in this round, for whatever (line 34)."""


@dataclass(frozen=True, slots=True)
class ProposalWithPolka:
    """This round's valid proposal and its polka (line 36)."""

    value: ValueId


@dataclass(frozen=True, slots=True)
class PolkaNil:
    """More than 2/3 of stake prevoted nil in this round (line 44)."""


@dataclass(frozen=True, slots=True)
class PrecommitAny:
    """Precommits of more than 2/3 of stake in this round, for whatever (line 47)."""


@dataclass(frozen=True, slots=True)
class ProposalWithCommit:
    """Some round's valid proposal and its precommits by more than 2/3 of stake (line 49)."""

    round: int
    value: ValueId


@dataclass(frozen=True, slots=True)
class RoundSkip:
    """More than 1/3 of stake is in a later round (line 55)."""

    round: int


@dataclass(frozen=True, slots=True)
class Timeout:
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


@dataclass(frozen=True, slots=True)
class Commit:
    """Decide ``value``, whose precommits are of ``round``."""

    round: int
    value: ValueId


@dataclass(frozen=True, slots=True)
class SkipRound:
    """Start ``round`` next."""

    round: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The event does not apply; the state is unchanged."""

    reason: str


RoundOutput = Vote | Propose | GetValue | ScheduleTimeout | Commit | SkipRound | Rejected
