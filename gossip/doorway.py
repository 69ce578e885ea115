"""Where inbound streams stand until they have shown a right to be served: a pool of its own, apart from the places.

A stream costs its opener nothing. Were places given for opening one, a handful of silent peers would hold them all. So
a stream stands in the doorway first, few of one peer and of one address, until its first frame is there or its handler
has checked that frame. A peer's next streams wait behind its first: an honest peer that opens many at once has said
something on each, and they pass one after another.
"""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import trio

from gossip.errors import NoPlace


class DoorLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the doorway of one protocol bears."""

    streams: int = 64
    """Streams in it at once, of all peers."""
    per_peer: int = 2
    per_address: int = 8
    """Streams of one IPv4 address, or of one IPv6 /64 network, whatever number of peer ids it made."""
    line: int = 1_024
    """Streams that wait to come in, of all peers; nothing of them is read."""
    line_per_peer: int = 128
    first_frame_s: float = 2.0
    """Seconds for a place in the doorway, and then for the first frame."""
    slowest_bytes_per_s: int = 128 << 10
    """A long first frame gets more time, at this rate: a long prompt over a slow line is no silence."""
    silence_points: int = 10
    """For a stream on which the time ran out."""
    leaving_points: int = 1
    """For a stream that its peer closed or reset before its first frame."""


@dataclass(eq=False, slots=True)
class Visit:
    """One stream in the doorway, or in the line before it."""

    peer: str
    network: str
    came_in: trio.Event = field(default_factory=trio.Event)


class Doorway:
    """The doorway of one protocol. It reads no stream: it counts."""

    def __init__(self, limits: DoorLimits) -> None:
        self.limits = limits
        self._inside: set[Visit] = set()
        self._peers: Counter[str] = Counter()
        self._networks: Counter[str] = Counter()
        self._line: dict[Visit, None] = {}
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._inside)

    async def enter(self, peer: str, address: str | None) -> Visit | None:
        """Come in, after a wait where need be; None where no room was found in time. :meth:`leave` must follow."""
        visit = Visit(peer, network_of(address))
        if self._has_room(visit):
            self._take(visit)
            return visit
        if len(self._line) >= self.limits.line or self._waiting[peer] >= self.limits.line_per_peer:
            return None
        self._line[visit] = None
        self._waiting[peer] += 1
        try:
            with trio.move_on_after(self.limits.first_frame_s):
                await visit.came_in.wait()
        except trio.Cancelled:
            self.leave(visit)
            raise
        finally:
            if visit in self._line:
                del self._line[visit]
                _lower(self._waiting, peer)
        return visit if visit in self._inside else None

    def leave(self, visit: Visit) -> None:
        """Make room: for the peer with fewest inside, then for who waits longest. Nothing where ``visit`` has left."""
        if visit not in self._inside:
            return
        self._inside.remove(visit)
        _lower(self._peers, visit.peer)
        _lower(self._networks, visit.network)
        fitting = [waiting for waiting in self._line if self._has_room(waiting)]
        if fitting:
            first = min(fitting, key=lambda waiting: self._peers[waiting.peer])
            del self._line[first]
            _lower(self._waiting, first.peer)
            self._take(first)
            first.came_in.set()

    def _has_room(self, visit: Visit) -> bool:
        return (
            len(self._inside) < self.limits.streams
            and self._peers[visit.peer] < self.limits.per_peer
            and self._networks[visit.network] < self.limits.per_address
        )

    def _take(self, visit: Visit) -> None:
        self._inside.add(visit)
        self._peers[visit.peer] += 1
        self._networks[visit.network] += 1


class Places:
    """Who is served on one protocol: ``most`` streams at once, ``per_peer`` of one peer where that is given."""

    def __init__(self, protocol: str, most: int, per_peer: int | None) -> None:
        self._protocol = protocol
        self._most = most
        self._per_peer = per_peer
        self._held: Counter[str] = Counter()

    def take(self, peer: str) -> None:
        """Raises :class:`~gossip.errors.NoPlace`."""
        if (total := self._held.total()) >= self._most:
            raise NoPlace(f"{total} streams of {self._protocol} are open")
        if self._per_peer is not None and self._held[peer] >= self._per_peer:
            raise NoPlace(f"{self._held[peer]} streams of {self._protocol} are open by you")
        self._held[peer] += 1

    def give_back(self, peer: str) -> None:
        """One that was taken."""
        _lower(self._held, peer)


class Entry:
    """The way of one stream from the doorway, which it has entered, to a place."""

    def __init__(self, places: Places, doorway: Doorway, visit: Visit) -> None:
        self._places = places
        self._doorway = doorway
        self._visit = visit
        self._has_place = False

    @property
    def limits(self) -> DoorLimits:
        """Of the doorway."""
        return self._doorway.limits

    def admit(self) -> None:
        """Take a place, once. Raises :class:`~gossip.errors.NoPlace`."""
        if not self._has_place:
            self._places.take(self._visit.peer)
            self._has_place = True
            self._doorway.leave(self._visit)

    def close(self) -> None:
        """Give back what the stream holds."""
        self._doorway.leave(self._visit)
        if self._has_place:
            self._has_place = False
            self._places.give_back(self._visit.peer)


def network_of(address: str | None) -> str:
    """Whose address it is, as far as one can tell: an IPv4 address, or the /64 that one IPv6 customer gets."""
    if address is None:
        return ""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _lower(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
