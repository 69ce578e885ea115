"""Room for peers that are not known to be members, on protocols that members need: bounded, so that no crowd of
strangers keeps a member out.

Who a peer is only shows in its first frame, and until then it holds a stream. A peer that a member's node record names
is never counted; all others share a few places, whatever number of peer ids they made for themselves.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.typed_data import Address
from gossip.errors import StreamBroken
from gossip.messages import Signed
from gossip.messages.committee import MAX_MEMBERS
from gossip.messages.records import NodeRecord
from node.roles.public import PublicState

PLACES = 16
"""Streams of one protocol that strangers may hold at once."""

PER_PEER = 4
"""Streams of one protocol that one peer may hold, a member too: one, and those whose end isn't noticed yet."""


MAX_STREAMS = PER_PEER * 3 * MAX_MEMBERS + PLACES
"""Streams of a protocol to serve at once: the members of three committees that follow one another find room."""


class Strangers:
    """The places of one protocol; ``find`` is the record of a member that this node holds."""

    def __init__(self, public: PublicState, find: Callable[[Address], Signed[NodeRecord] | None]) -> None:
        self._public = public
        self._find = find
        self.held = 0
        """Places taken now."""

    def is_member(self, peer: str) -> bool:
        """Whether a member's node record names ``peer``."""
        records = (self._find(member) for member in self._public.recent_members())
        return any(record is not None and record.payload.peer_id == peer for record in records)

    @contextmanager
    def place(self, peer: str) -> Iterator[None]:
        """Hold a place while ``peer`` may be a stranger. Raises :class:`StreamBroken` where none is left."""
        if self.is_member(peer):
            yield
            return
        if self.held >= PLACES:
            raise StreamBroken(f"{PLACES} strangers hold a stream: no place for {peer}")
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
