"""What can be on the agenda of a run."""

from dataclasses import dataclass

from consensus.member.events import Input
from gossip.messages.committee import LinkFrame


@dataclass(frozen=True, slots=True)
class Arrives:
    """A frame of node ``sender`` reaches ``node``."""

    node: int
    sender: int
    frame: LinkFrame


@dataclass(frozen=True, slots=True)
class Answers:
    """A timer, or an answer of the chain, for life number ``life`` of ``node``: a crash ends a life."""

    node: int
    life: int
    event: Input


@dataclass(frozen=True, slots=True)
class SlotBegins:
    """By ``node``'s clock."""

    node: int
    slot: int


@dataclass(frozen=True, slots=True)
class StatusDue:
    """``node`` tells the others where it stands."""

    node: int


@dataclass(frozen=True, slots=True)
class SessionsEnd:
    """The sessions of ``slot`` are filed with their desk."""

    slot: int


@dataclass(frozen=True, slots=True)
class Restarts:
    """``node`` has power again."""

    node: int


@dataclass(frozen=True, slots=True)
class IsLost:
    """``node`` is gone for good."""

    node: int


@dataclass(frozen=True, slots=True)
class LearnsOfRescue:
    """``node`` reads in the registry who has been put in the place of a silent committee."""

    node: int


@dataclass(frozen=True, slots=True)
class OperatorSpeaks:
    """Of ``node``, about model number ``model``."""

    node: int
    model: int
    is_listed: bool


Happening = (
    OperatorSpeaks | IsLost | LearnsOfRescue | Arrives | Answers | SlotBegins | StatusDue | SessionsEnd | Restarts
)
"""Everything that happens in a run, happens as one of these."""
