"""The library, put together: one host with its gossip, spoken to in strings and bytes.

No fault of its own to fix; it is where the guarded parts meet, and where libp2p's types end.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import multiaddr  # type: ignore[import-untyped]  # it ships no types
import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from multiaddr.utils import get_thin_waist_addresses  # type: ignore[import-untyped]  # as above

from gossip.errors import AddressInUse, PeerUnreachable
from gossip.hardening.host import LIBRARY_ERRORS, GuardedHost, StreamPipe
from gossip.hardening.inbox import Subscription
from gossip.hardening.pubsub import GuardedPubsub
from gossip.hardening.router import GuardedRouter
from gossip.hardening.supervisor import Supervisor
from gossip.hardening.swarm import GuardedSwarm
from gossip.hardening.yamux import SessionLimits, YamuxSession
from gossip.patience import within
from gossip.validation import GossipMessage, Verdict

SEED_BYTES = 32
_CLOSE_DEADLINE = 5.0
"""Seconds in which a host must have closed."""


class EngineLimits(msgspec.Struct, frozen=True):
    """What the engine bears; see :class:`gossip.network.NetworkConfig`."""

    max_connections: int
    heartbeat: float
    outbox_messages: int
    outbox_bytes: int
    session: SessionLimits


class Engine:
    """A host. ``refuses`` says whether a peer is banned, ``on_fault`` hears who broke a rule, ``count`` counts."""

    def __init__(
        self,
        node_seed: bytes,
        limits: EngineLimits,
        nursery: trio.Nursery,
        *,
        refuses: Callable[[str], bool],
        on_fault: Callable[[str, str], None],
        count: Callable[[str, int], None],
    ) -> None:
        def blame(peer_id: ID, reason: str) -> None:
            on_fault(peer_id.to_base58(), reason)

        self.owner = Supervisor(nursery, "network")
        self.swarm = GuardedSwarm(
            create_new_key_pair(node_seed),
            self.owner,
            max_connections=limits.max_connections,
            limits=limits.session,
            refuses=lambda peer_id: refuses(peer_id.to_base58()),
            on_violation=blame,
        )
        self.host = GuardedHost(self.swarm)
        self.router = GuardedRouter(limits.heartbeat)
        self.pubsub = GuardedPubsub(
            self.host,
            self.router,
            self.owner,
            outbox_frames=limits.outbox_messages,
            outbox_bytes=limits.outbox_bytes,
            on_fault=blame,
            count=count,
        )
        self.owner.adopt(self.router)
        self.peer_id = self.host.get_id().to_base58()

    # Life

    async def start(self, listen: Sequence[str]) -> tuple[str, ...]:
        """Listen on multiaddrs; where it can be dialled, with real ports. Raises :class:`AddressInUse`.

        An address that stands for all interfaces is told as those of each of them.
        """
        for service in (self.swarm, self.pubsub, self.router):
            self.owner.run_task(service.run)
        await self.pubsub.wait_until_ready()
        await self.swarm.listen(*map(_listen_address, listen))
        found = [address for listener in self.swarm.listeners.values() for address in listener.get_addrs()]
        return tuple(dict.fromkeys(told for address in found for told in _dialled_as(address)))

    async def close(self) -> None:
        """Close every connection and socket, whatever happens around us."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_DEADLINE):
            for listener in list(self.swarm.listeners.values()):
                await listener.close()
            async with trio.open_nursery() as nursery:
                for connections in list(self.swarm.connections.values()):
                    for connection in connections:
                        nursery.start_soon(connection.close)
            await self.host.close()
        await self.owner.stop()

    # Peers

    async def connect(self, peer_id: str, multiaddrs: Sequence[str], timeout: float) -> None:
        """Connect to ``peer_id`` at one of ``multiaddrs``. Raises :class:`PeerUnreachable`."""
        addresses = [parse_address(address) for address in multiaddrs]
        with unreachable(peer_id, timeout):
            await within(timeout, self.swarm.dial_any, parse_peer(peer_id), addresses)

    async def disconnect(self, peer_id: str) -> None:
        """Close the peer's connections."""
        for connection in list(self.swarm.connections.get(parse_peer(peer_id), ())):
            await connection.close()

    def peers(self) -> tuple[str, ...]:
        """Whom we have a working connection to."""
        return tuple(peer_id.to_base58() for peer_id in self.swarm.connections if self.swarm.live_connection(peer_id))

    def is_connected(self, peer_id: str) -> bool:
        """Whether there is a working connection to ``peer_id``."""
        return self.swarm.live_connection(parse_peer(peer_id)) is not None

    async def ping(self, peer_id: str, timeout: float) -> float:
        """A round trip in ms. Raises :class:`PeerUnreachable`."""
        with unreachable(peer_id, timeout):
            return await within(timeout, self.host.ping, parse_peer(peer_id))

    # Gossip

    def publish(self, topic: str, data: bytes) -> int:
        """Sign and send to others; for how many peers it was queued."""
        return self.pubsub.send_message(topic, data)

    def subscribers(self, topic: str) -> tuple[str, ...]:
        """Peers that said that they are in ``topic``."""
        return tuple(peer_id.to_base58() for peer_id in self.pubsub.peer_topics.get(topic, ()))

    async def subscribe(
        self,
        topic: str,
        validate: Callable[[bytes, str], Verdict],
        max_bytes: int,
        deliver: trio.MemorySendChannel[GossipMessage],
    ) -> None:
        """Join a topic."""
        await self.pubsub.open_subscription(topic, Subscription(validate, max_bytes, deliver))

    async def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        await self.pubsub.close_subscription(topic)

    async def wait_for_mesh(self, topic: str, peers: int) -> None:
        """Until the topic's mesh is so large."""
        await self.router.wait_for_peers(topic, peers)

    def mesh_size(self, topic: str) -> int:
        """Peers in the topic's mesh."""
        return len(self.router.mesh.get(topic, ()))

    # Streams

    def serve(self, protocol: str, accept: Callable[[StreamPipe, str, str | None], Awaitable[None]]) -> None:
        """Call ``accept(pipe, peer id, IP address)`` for each inbound stream of ``protocol``."""

        async def handle(stream: INetStream) -> None:
            session = stream.muxed_conn
            remote = session.get_remote_address() if isinstance(session, YamuxSession) else None
            await accept(StreamPipe(stream), session.peer_id.to_base58(), remote[0] if remote else None)

        self.host.set_stream_handler(TProtocol(protocol), handle)

    async def open_stream(self, peer_id: str, protocol: str) -> StreamPipe:
        """An outbound stream. Raises :class:`PeerUnreachable`, trio.TooSlowError."""
        try:
            return StreamPipe(await self.host.new_stream(parse_peer(peer_id), [TProtocol(protocol)]))
        except LIBRARY_ERRORS as error:
            raise PeerUnreachable(peer_id, f"{protocol}: {error}") from error

    # Counts

    def connection_count(self) -> int:
        """Connections, working or ending."""
        return sum(map(len, self.swarm.connections.values()))

    def stream_count(self) -> int:
        """Streams in either direction."""
        connections = [one for some in self.swarm.connections.values() for one in some]
        return sum(getattr(one.muxed_conn, "stream_count", 0) for one in connections)

    def failures(self) -> dict[str, int]:
        """What went wrong inside, by reason."""
        return {
            "outbox_full": self.pubsub.outbox_drops,
            "handshake_failed": self.swarm.failed_handshakes,
            "task_failed": self.owner.failures,
            "stream_failed": self.host.handler_failures,
        }


def peer_of(multiaddrs: Sequence[str]) -> str:
    """The one peer id that ``multiaddrs`` end in. Raises :class:`PeerUnreachable`."""
    names: set[str] = set()
    for address in multiaddrs:
        try:
            names.add(str(parse_address(address).value_for_protocol("p2p")))
        except multiaddr.exceptions.Error as error:
            raise PeerUnreachable(address, "it does not end in /p2p/<peer id>") from error
    if len(names) != 1:
        raise PeerUnreachable(", ".join(multiaddrs) or "(nobody)", f"{len(names)} peers are named, not one")
    return parse_peer(names.pop()).to_base58()


def parse_peer(peer_id: str) -> ID:
    """Raises :class:`PeerUnreachable` for what is no peer id."""
    try:
        return ID.from_base58(peer_id)
    except ValueError as error:
        raise PeerUnreachable(peer_id, "not a peer id") from error


def parse_address(address: str) -> multiaddr.Multiaddr:
    """Raises :class:`PeerUnreachable` for what is no multiaddr."""
    try:
        return multiaddr.Multiaddr(address)
    except (ValueError, multiaddr.exceptions.Error) as error:
        raise PeerUnreachable(address, f"not a multiaddr: {error}") from error


def _dialled_as(address: multiaddr.Multiaddr) -> tuple[str, ...]:
    """``address``, or where it stands for all interfaces those of each; loopback's where there is no other."""
    told = tuple(str(each) for each in get_thin_waist_addresses(address))
    return told or (str(address).replace("/ip4/0.0.0.0/", "/ip4/127.0.0.1/").replace("/ip6/::/", "/ip6/::1/"),)


def _listen_address(address: str) -> multiaddr.Multiaddr:
    try:
        return parse_address(address)
    except PeerUnreachable as error:
        raise AddressInUse(address, "not a multiaddr") from error


@contextmanager
def unreachable(peer_id: str, timeout: float) -> Iterator[None]:
    """Turn the library's errors, and a deadline's, into :class:`PeerUnreachable`."""
    try:
        yield
    except trio.TooSlowError:
        raise PeerUnreachable(peer_id, f"no answer within {timeout} s") from None
    except LIBRARY_ERRORS as error:
        raise PeerUnreachable(peer_id, str(error)) from error
