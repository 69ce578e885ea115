"""Connections: who may have one, for how long, and how they are made.

Faults of the stock swarm: an inbound connection keeps its slot until the swarm ends, so that after about 250 of them
the node is deaf; it offers plaintext (here Noise alone) and mplex (here yamux alone); its auto-connector dials every
known peer; a peer that failed once is not dialled again for a minute; a dial takes 250 ms at least; a stream's end is
told to every observer in a task of its own. May go piece by piece: each method overrides exactly one of those.
"""

import logging
from collections.abc import Callable, Sequence

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from gossip.errors import AddressInUse
from gossip.hardening.supervisor import Supervisor
from gossip.hardening.tcp import Tcp
from gossip.hardening.yamux import PROTOCOL as YAMUX
from gossip.hardening.yamux import SessionLimits, YamuxSession

_log = logging.getLogger(__name__)

_NOTIFY_DEADLINE = 5.0
"""Seconds that observers of a connection's end may take."""
_PER_PEER = 3


class Upgrader(TransportUpgrader):
    """Raw connection to encrypted, multiplexed one: Noise and our yamux, nothing else."""

    def __init__(self, keys: KeyPair, limits: SessionLimits, on_violation: Callable[[ID, str], None]) -> None:
        noise = NoiseTransport(keys, noise_privkey=create_x25519_key_pair().private_key)
        super().__init__({NOISE: noise}, {TProtocol(YAMUX): Yamux})
        self._limits = limits
        self._on_violation = on_violation

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiate the muxer as ever, but run ours: the stock negotiation ignores what is registered for yamux."""
        await self.muxer_multistream.select_transport(conn)
        return YamuxSession(conn, peer_id, self._limits, self._on_violation)


class NoAutoConnector(AutoConnector):
    """Whom to connect to is the application's decision."""

    async def maybe_connect(self) -> None:
        """Nobody."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Nothing."""


class GuardedSwarm(Swarm):
    """The stock swarm with those faults overridden."""

    def __init__(
        self,
        keys: KeyPair,
        owner: Supervisor,
        *,
        max_connections: int,
        limits: SessionLimits,
        refuses: Callable[[ID], bool],
        on_violation: Callable[[ID, str], None],
    ) -> None:
        peer_id = ID.from_pubkey(keys.public_key)
        store = PeerStore()
        store.add_key_pair(peer_id, keys)
        super().__init__(
            peer_id,
            store,
            Upgrader(keys, limits, on_violation),
            transports=[Tcp(owner)],
            retry_config=RetryConfig(max_retries=0),
            connection_config=ConnectionConfig(
                max_connections=max_connections,
                min_connections=0,
                low_watermark=0,
                high_watermark=max_connections,
                max_connections_per_peer=_PER_PEER,
            ),
        )
        self.auto_connector = NoAutoConnector(self)
        self._refuses = refuses
        self.failed_handshakes = 0
        """Inbound connections that never came about."""
        owner.adopt(self)

    @property
    def inbound_slots_used(self) -> int:
        """Inbound connections, those that are still shaking hands included."""
        return int(self._inbound_limiter.borrowed_tokens)

    async def listen(self, *multiaddrs: Multiaddr) -> bool:
        """Listen on all of ``multiaddrs``. Raises :class:`~gossip.errors.AddressInUse` at the first that fails."""
        await self.event_background_nursery_created.wait()
        for address in multiaddrs:

            async def handle(stream: ReadWriteCloser, address: Multiaddr = address) -> None:
                await self._handle_inbound_connection(stream, address)

            listener = self.transport_manager.add_listen_addr(address, handle)
            if listener is None:
                raise AddressInUse(str(address), "only TCP is served")
            await listener.listen(address)
            self.listeners[str(address)] = listener
        return True

    async def _do_handle_inbound_connection(
        self,
        read_write_closer: ReadWriteCloser,
        maddr: Multiaddr,
        failure_event: object,  # noqa: ARG002  # the library's signature
    ) -> None:
        """Hold the slot for as long as the connection lives, no longer."""
        raw = RawConnection(read_write_closer, False)
        try:
            session = await self.upgrade_inbound_raw_conn(raw, maddr)
        except Exception as error:  # noqa: BLE001  # the supervisor of handshakes: garbage raises whatever it meets
            self.failed_handshakes += 1
            _log.debug("inbound connection failed: %r", error)
            return
        if isinstance(session, YamuxSession):
            await session.event_closed.wait()

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Refuse banned peers, whoever dialled."""
        if self._refuses(muxed_conn.peer_id):
            await muxed_conn.close()
            raise SwarmException(f"{muxed_conn.peer_id} is banned")
        return await super().add_conn(muxed_conn, direction)

    async def dial_any(self, peer_id: ID, addresses: Sequence[Multiaddr]) -> INetConn:
        """A connection to ``peer_id``: the one that there is, or to the first address that answers."""
        while peer_id in self._ongoing_dials:
            await self._ongoing_dials[peer_id].wait()
        if (live := self.live_connection(peer_id)) is not None:
            return live
        done = self._ongoing_dials[peer_id] = trio.Event()
        try:
            return await self._dial_in_turn(peer_id, addresses)
        finally:
            del self._ongoing_dials[peer_id]
            done.set()

    async def _dial_in_turn(self, peer_id: ID, addresses: Sequence[Multiaddr]) -> INetConn:
        failure: Exception = SwarmException(f"no known addresses of {peer_id}")
        reasons: list[str] = []
        for address in addresses:
            try:
                return await self.dial_addr(address, peer_id)
            except Exception as error:  # noqa: BLE001  # the supervisor of handshakes, as above
                failure = error
                # the library says that it failed, and keeps why as the cause
                reasons.append(f"{address}: {error.__cause__ or error}")
        raise SwarmException("; ".join(reasons) or str(failure)) from failure

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """What the library calls when it wants a stream to a peer that isn't connected."""
        return [await self.dial_any(peer_id, self.peerstore.addrs(peer_id))]

    def live_connection(self, peer_id: ID) -> SwarmConn | None:
        """The peer's oldest connection that still works."""
        for connection in self.connections.get(peer_id, ()):
            if isinstance(connection, SwarmConn) and not connection.is_closed and not connection.muxed_conn.is_closed:
                return connection
        return None

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Nobody observes streams."""

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """Nobody observes streams."""
        stream._resource_released = True  # type: ignore[attr-defined]  # the library's guard against doing it twice

    async def notify_disconnected(self, conn: INetConn) -> None:
        """Tell observers, but never wait for ever for one that has gone."""
        with trio.move_on_after(_NOTIFY_DEADLINE):
            await self._notify("disconnected", conn)

    def _schedule_auto_connect(self) -> None:
        return None
