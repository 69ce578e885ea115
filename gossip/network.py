"""One node's network: gossip, direct streams and who is connected. The only thing that the rest of a node sees of it.

``open_network`` starts a host and stops it again; everything in between is a method of :class:`Network`. The library
below it is :mod:`gossip.hardening`'s affair.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from gossip.doorway import DoorLimits, Doorway, Entry, Places
from gossip.errors import MessageError, NoPlace, PeerUnreachable, StreamTimeout, TransportError
from gossip.hardening.engine import SEED_BYTES, Engine, EngineLimits, peer_of
from gossip.hardening.yamux import SessionLimits
from gossip.patience import within
from gossip.scores import PeerScores
from gossip.streams import FrameStream, Opening, Pipe
from gossip.validation import GossipMessage, Verdict

__all__ = ["GossipMessage", "Network", "NetworkConfig", "NetworkStatistics", "Verdict", "open_network"]

_log = logging.getLogger(__name__)

_FAULT_POINTS = 10
"""For a message or frame that no honest node sends."""
_HANDLER_POINTS = 2
"""For a stream whose handler failed: perhaps our bug, but a peer that finds it shouldn't repeat it for ever."""


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a host listens and what it bears. Times are seconds."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddrs; port 0 takes a free one."""
    announce: tuple[str, ...] = ()
    """Multiaddrs, without ``/p2p/``, to tell others instead: behind a NAT, or when listening on 0.0.0.0."""
    max_connections: int = 256
    heartbeat: float = 1.0
    """Between repairs of the gossip mesh."""
    subscription_queue: int = 4096
    """Messages that wait for a topic's reader; more are dropped and counted."""
    outbox_messages: int = 4096
    """Messages that wait for one peer; more are dropped and counted."""
    outbox_bytes: int = 32 << 20
    streams_per_peer: int = 256
    """Streams that one connection may have open, in each direction."""
    write_stall: float = 10.0
    """A connection that takes no byte for so long is closed."""
    ping_interval: float = 5.0
    ping_deadline: float = 10.0
    """A peer that doesn't answer a ping for so long is gone."""
    ban_points: int = 100
    """A peer with so many points is disconnected and refused."""
    ban: float = 300.0
    """For so long."""
    score_half_life: float = 120.0


class NetworkStatistics(msgspec.Struct, frozen=True):
    """Counts since the start, and what there is now."""

    peers: int
    connections: int
    streams: int
    """Streams open now, in either direction."""
    inbound_slots: int
    """Inbound connections, those shaking hands included."""
    messages_in: int
    messages_out: int
    delivered: int
    bytes_in: int
    """Gossip bytes read; ``bytes_out`` those written."""
    bytes_out: int
    drops: dict[str, int]
    """Messages that were dropped, and tasks and handlers that failed, by reason."""


class Network:
    """A running host; see :func:`open_network`."""

    def __init__(self, config: NetworkConfig, node_seed: bytes, nursery: trio.Nursery) -> None:
        self._config = config
        self._counters: dict[str, int] = {}
        self._scores = PeerScores(config.ban_points, config.score_half_life, config.ban)
        self._engine = Engine(
            node_seed, _limits(config), nursery, refuses=self._refuses, on_fault=self._on_fault, count=self._count
        )
        self.peer_id: str = self._engine.peer_id
        """This host's id, in base58: derived from the node key."""
        self.multiaddrs: tuple[str, ...] = ()
        """Where it listens, real ports and ``/p2p/`` included."""

    # Life, for open_network

    async def start(self) -> None:
        """Listen. Raises :class:`~gossip.errors.AddressInUse`."""
        found = await self._engine.start(self._config.listen)
        self.multiaddrs = tuple(f"{address}/p2p/{self.peer_id}" for address in self._config.announce or found)

    async def close(self) -> None:
        """Close every connection and socket, whatever happens around us."""
        await self._engine.close()

    # Peers

    async def connect(self, multiaddrs: Sequence[str], *, timeout: float) -> str:
        """Connect to one peer, at the first of its ``multiaddrs`` that answers; its peer id.

        Each ends in ``/p2p/<peer id>``, the same one. Nothing happens if it is connected already. Raises
        :class:`~gossip.errors.PeerUnreachable`.
        """
        peer_id = peer_of(multiaddrs)
        if peer_id == self.peer_id:
            raise PeerUnreachable(peer_id, "that is this node")
        if self._refuses(peer_id):
            raise PeerUnreachable(peer_id, "it is banned")
        await self._engine.connect(peer_id, multiaddrs, timeout)
        return peer_id

    async def disconnect(self, peer_id: str) -> None:
        """Close every connection to ``peer_id``."""
        await self._engine.disconnect(peer_id)

    def peers(self) -> tuple[str, ...]:
        """Whom we are connected to."""
        return self._engine.peers()

    def is_connected(self, peer_id: str) -> bool:
        """Whether there is a working connection to ``peer_id``."""
        return self._engine.is_connected(peer_id)

    async def ping(self, peer_id: str, *, timeout: float) -> float:
        """The round trip to a connected peer in ms. Raises :class:`~gossip.errors.PeerUnreachable`."""
        return await self._engine.ping(peer_id, timeout)

    def penalise(self, peer_id: str, points: int, reason: str) -> None:
        """Score a peer that misbehaved; at :attr:`NetworkConfig.ban_points` it is disconnected and refused a while."""
        self._count("penalties", 1)
        _log.info("%s gets %d points: %s", peer_id, points, reason)
        if self._scores.penalise(peer_id, points, trio.current_time()):
            self._count("bans", 1)
            _log.warning("%s is banned for %g s: %s", peer_id, self._config.ban, reason)
            self._engine.owner.run_task(self.disconnect, peer_id)

    # Gossip

    async def publish(self, topic: str, data: bytes) -> int:
        """Gossip ``data``; it isn't delivered to this node's own subscription.

        Returns for how many peers it was queued. Where that is none, nobody is known to be subscribed: it is counted
        as ``published_to_nobody``, and those that turn out to be within half a minute get it then.
        """
        return self._engine.publish(topic, data)

    def subscribers(self, topic: str) -> tuple[str, ...]:
        """Connected peers that said that they are in ``topic``."""
        return self._engine.subscribers(topic)

    async def subscribe(
        self, topic: str, validate: Callable[[bytes, str], Verdict], *, max_bytes: int
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Join ``topic``; accepted messages arrive on the channel returned.

        ``validate(data, origin's peer id)`` judges each message of at most ``max_bytes`` once, before it is delivered
        or passed on; it must be quick. The channel is bounded: what doesn't fit is dropped and counted.
        """
        send, receive = trio.open_memory_channel[GossipMessage](self._config.subscription_queue)
        await self._engine.subscribe(topic, validate, max_bytes, send)
        return receive

    async def unsubscribe(self, topic: str) -> None:
        """Leave ``topic``."""
        await self._engine.unsubscribe(topic)

    async def wait_for_mesh(self, topic: str, peers: int, *, timeout: float) -> None:
        """Until ``peers`` peers exchange messages of ``topic`` with us. Raises PeerUnreachable."""
        try:
            with trio.fail_after(timeout):
                await self._engine.wait_for_mesh(topic, peers)
        except trio.TooSlowError:
            there = self._engine.mesh_size(topic)
            raise PeerUnreachable(f"({peers} on {topic})", f"{there} after {timeout} s") from None

    # Streams

    def serve(
        self,
        protocol: str,
        handler: Callable[[FrameStream], Awaitable[None]],
        *,
        max_concurrent: int = 128,
        max_per_peer: int | None = None,
        door: DoorLimits | None = None,
        admits_itself: bool = False,
    ) -> None:
        """Answer streams of ``protocol``; at most ``max_concurrent`` at once, the next are told ``busy``.

        One peer may hold ``max_per_peer`` of them, where that is given. With a ``door`` a stream counts there until its
        first frame has come, or, where the handler ``admits_itself``, until that calls :meth:`FrameStream.admit`; a
        peer that says nothing in time is scored. Without one, a stream takes its place when it is opened.

        An exception in ``handler`` fails its stream alone, with ``bad_message`` and a score where a message was at
        fault, else with ``internal_error``. The stream is closed when ``handler`` returns.
        """
        places = Places(protocol, max_concurrent, max_per_peer)
        doorway = None if door is None else Doorway(door)

        async def accept(pipe: Pipe, peer_id: str, address: str | None) -> None:
            if doorway is None:
                await self._accept(places, protocol, handler, FrameStream(pipe, peer_id))
                return
            visit = await doorway.enter(peer_id, address)
            if visit is None:
                await self._turn_away(FrameStream(pipe, peer_id), f"too many streams of {protocol} wait to be heard")
                return
            entry = Entry(places, doorway, visit)
            stream = FrameStream(pipe, peer_id, entry, admits_itself=admits_itself)
            try:
                await self._run_handler(protocol, handler, stream)
                self._score_opening(protocol, stream, doorway.limits)
            finally:
                entry.close()
                stream.close_nowait()

        self._engine.serve(protocol, accept)

    async def _accept(
        self, places: Places, protocol: str, handler: Callable[[FrameStream], Awaitable[None]], stream: FrameStream
    ) -> None:
        try:
            places.take(stream.remote_peer)
        except NoPlace as error:
            await self._turn_away(stream, str(error))
            return
        try:
            await self._run_handler(protocol, handler, stream)
        finally:
            places.give_back(stream.remote_peer)
            stream.close_nowait()

    async def _turn_away(self, stream: FrameStream, why: str) -> None:
        self._count("busy", 1)
        await stream.fail("busy", why)
        stream.close_nowait()

    def _score_opening(self, protocol: str, stream: FrameStream, limits: DoorLimits) -> None:
        match stream.opening:
            case Opening.LATE:
                self._count("silent_stream", 1)
                self.penalise(stream.remote_peer, limits.silence_points, f"{protocol}: a stream without a first frame")
            case Opening.MISSED:
                self.penalise(stream.remote_peer, limits.leaving_points, f"{protocol}: left before its first frame")

    async def open_stream(self, peer_id: str, protocol: str, *, timeout: float) -> FrameStream:
        """A new stream to a connected peer. Raises PeerUnreachable, StreamTimeout."""
        try:
            return FrameStream(await within(timeout, self._engine.open_stream, peer_id, protocol), peer_id)
        except trio.TooSlowError:
            raise StreamTimeout(f"{peer_id} opened no {protocol} within {timeout} s") from None

    async def _run_handler(
        self, protocol: str, handler: Callable[[FrameStream], Awaitable[None]], stream: FrameStream
    ) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001  # the supervisor of handlers: a stream's failure is that stream's
            faults = list(_leaves(error))
            bad = next((fault for fault in faults if isinstance(fault, MessageError)), None)
            if bad is not None:
                self._count("bad_message", 1)
                self.penalise(stream.remote_peer, _FAULT_POINTS, f"{protocol}: {bad}")
                await stream.fail("bad_message", str(bad))
            elif any(isinstance(fault, NoPlace) for fault in faults):
                await self._turn_away(stream, "; ".join(map(str, faults)))
            elif all(isinstance(fault, TransportError) for fault in faults):
                self._count("broken_stream", 1)
                _log.debug("%s of %s: %r", protocol, stream.remote_peer, error)
            else:
                self._count("handler_failed", 1)
                self.penalise(stream.remote_peer, _HANDLER_POINTS, f"{protocol}: the handler failed")
                _log.error("%s of %s failed: %r", protocol, stream.remote_peer, error, exc_info=error)
                await stream.fail("internal_error", "")

    # Bookkeeping

    def statistics(self) -> NetworkStatistics:
        """What happened so far."""
        counters = dict(self._counters)
        for reason, count in self._engine.failures().items():
            counters[reason] = counters.get(reason, 0) + count
        return NetworkStatistics(
            peers=len(self.peers()),
            connections=self._engine.connection_count(),
            streams=self._engine.stream_count(),
            inbound_slots=self._engine.swarm.inbound_slots_used,
            messages_in=counters.pop("messages_in", 0),
            messages_out=counters.pop("messages_out", 0),
            delivered=counters.pop("delivered", 0),
            bytes_in=counters.pop("bytes_in", 0),
            bytes_out=counters.pop("bytes_out", 0),
            drops={reason: count for reason, count in sorted(counters.items()) if count},
        )

    def _count(self, what: str, amount: int) -> None:
        self._counters[what] = self._counters.get(what, 0) + amount

    def _on_fault(self, peer_id: str, reason: str) -> None:
        self.penalise(peer_id, _FAULT_POINTS, reason)

    def _refuses(self, peer_id: str) -> bool:
        return self._scores.is_banned(peer_id, trio.current_time())


def _limits(config: NetworkConfig) -> EngineLimits:
    session = SessionLimits(
        write=config.write_stall,
        ping_interval=config.ping_interval,
        ping=config.ping_deadline,
        streams_in=config.streams_per_peer,
        streams_out=config.streams_per_peer,
    )
    return EngineLimits(
        max_connections=config.max_connections,
        heartbeat=config.heartbeat,
        outbox_messages=config.outbox_messages,
        outbox_bytes=config.outbox_bytes,
        session=session,
    )


@asynccontextmanager
async def open_network(config: NetworkConfig, node_seed: bytes) -> AsyncIterator[Network]:
    """A running host whose id is derived from ``node_seed`` (32 bytes); leaving closes all of it.

    Raises :class:`~gossip.errors.AddressInUse` where it cannot listen.
    """
    if len(node_seed) != SEED_BYTES:
        raise ValueError(f"a node seed has {SEED_BYTES} bytes, not {len(node_seed)}")
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            network = Network(config, node_seed, nursery)
            try:
                await network.start()
                yield network
            except BaseException as error:
                failure = error
                raise
            finally:
                await network.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raised = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
        if failure is None or raised != [failure]:
            raise
        raise failure from None  # what the caller raised, as it was


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
