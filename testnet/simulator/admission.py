"""Admission with a memory: a frame that n nodes hear is checked once, and so is each settlement in it.

What is remembered depends on the frame and the committee's epoch, never on who heard it, so sharing it hides nothing.
"""

from dataclasses import dataclass

from consensus.committee import Committee
from consensus.errors import ConsensusError
from consensus.market.errors import MarketError
from consensus.member.admission import admit
from consensus.member.events import Input
from contracts.typed_data import Address
from gossip.errors import MessageError
from gossip.messages.base import encode
from gossip.messages.committee import LinkFrame, StatusFrame
from testnet.simulator.setting import Setting

REFUSALS = (MessageError, MarketError, ConsensusError)
"""What a bad message may raise; anything else is a bug."""

_REMEMBERED = 4_096


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a frame is to a core: an input and its record for the log, or why it was refused."""

    frame: LinkFrame
    event: Input | None
    record: bytes
    refusal: str = ""


class Admission:
    """:func:`consensus.member.admission.admit` for all nodes of a run."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._known: dict[tuple[int, int], Admitted] = {}

    def __call__(self, member: Address, frame: LinkFrame, committee: Committee) -> Admitted:
        """What ``frame`` from ``member`` is to somebody for whom ``committee`` decides."""
        if isinstance(frame, StatusFrame):
            return self._admit(member, frame, committee)
        place = id(frame), committee.epoch
        known = self._known.get(place)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[place] = self._admit(member, frame, committee)
        return known

    def _admit(self, member: Address, frame: LinkFrame, committee: Committee) -> Admitted:
        setting = self._setting
        try:
            event = admit(member, frame, setting.terms, committee, setting.verified)
        except REFUSALS as error:
            return Admitted(frame, None, b"", str(error))
        if event is None or isinstance(frame, StatusFrame):
            return Admitted(frame, event, b"")
        return Admitted(frame, event, encode(event))
