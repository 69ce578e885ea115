"""Pubsub: peers that come and go, what they subscribe to, reading their RPCs and writing to them.

Faults of the stock class: a frame that isn't protobuf ends the process; queues hold 32 messages and drop the rest
silently; message numbers start at the second of the start, so that a restarted node's first messages look old; a
peer's subscriptions are forgotten when the stream *to* it ends, though it told them on the stream *from* it and won't
repeat them: after two hosts dialled each other and one of the connections closed, one of them never sends to the other
again. May go when the stock class survives tests/gossip/test_hostile_peers.py and tests/gossip/test_subscriptions.py.
"""

import logging
import time
from collections.abc import Callable, Collection

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from gossip.hardening.host import LIBRARY_ERRORS, GuardedHost, muxed_of
from gossip.hardening.inbox import Inbox, Subscription, signed_bytes
from gossip.hardening.negotiation import NegotiationFailed
from gossip.hardening.outbox import Outbox, frame
from gossip.hardening.router import GuardedRouter
from gossip.hardening.rpc_count import check_counts
from gossip.hardening.supervisor import Supervisor
from gossip.hardening.yamux_stream import YamuxStream
from gossip.patience import until_stuck

_log = logging.getLogger(__name__)

_RPC_BYTES_MIN = 1 << 20
"""An RPC of this size is always read, whatever the topics allow: it may hold many messages."""
_RPC_OVERHEAD = 65_536
_TOPIC_NAME_LIMIT = 256
_SUBSCRIPTIONS_PER_RPC = 1000
_MESSAGES_PER_TURN = 32
_WRITE_DEADLINE = 30.0
"""A peer that reads nothing for so many seconds is dropped from pubsub."""


class GuardedPubsub(Pubsub):
    """The stock class with those faults overridden."""

    def __init__(
        self,
        host: GuardedHost,
        router: GuardedRouter,
        owner: Supervisor,
        *,
        outbox_frames: int,
        outbox_bytes: int,
        on_fault: Callable[[ID, str], None],
        count: Callable[[str, int], None],
    ) -> None:
        super().__init__(host, router)
        self.seen_messages.stop()  # its thread
        self._inbox = Inbox(host.get_id().to_base58(), on_fault=on_fault, count=count)
        self.seen_messages = self._inbox.seen  # type: ignore[assignment]  # the two methods that are used
        self.counter = time.time_ns()
        owner.adopt(self)
        self._mesh = router
        self._outbox_limits = outbox_frames, outbox_bytes
        self._on_fault = on_fault
        self._count = count
        self._speaking: dict[ID, INetStream] = {}
        """The stream on which a peer last said what it is subscribed to."""

    async def run(self) -> None:
        """Look after peers that come and go."""
        self.manager.run_daemon_task(self.handle_peer_queue)
        self.manager.run_daemon_task(self.handle_dead_peer_queue)
        await self.manager.wait_finished()

    # Our side

    async def open_subscription(self, topic: str, subscription: Subscription) -> None:
        """Join ``topic``."""
        self._inbox.subscriptions[topic] = subscription
        self.max_inbound_rpc_size = max(
            _RPC_BYTES_MIN, *(each.max_bytes + _RPC_OVERHEAD for each in self._inbox.subscriptions.values())
        )
        await self.subscribe(topic)

    async def close_subscription(self, topic: str) -> None:
        """Leave ``topic``."""
        if self._inbox.subscriptions.pop(topic, None) is not None:
            await self.unsubscribe(topic)

    def send_message(self, topic: str, data: bytes) -> int:
        """Sign and publish; our own subscription doesn't get it back. For how many peers it was queued."""
        message = rpc_pb2.Message(data=data, topicIDs=[topic], from_id=self.my_id.to_bytes(), seqno=self._next_seqno())
        message.signature = self.host.get_private_key().sign(signed_bytes(message))
        message.key = self.host.get_public_key().serialize()
        self._mark_msg_seen(message)
        self._count("messages_out", 1)
        queued = self._mesh.spread(self.my_id, message)
        if not queued:
            self._count("published_to_nobody", 1)
        return queued

    def get_hello_packet(self) -> rpc_pb2.RPC:
        """Our subscriptions, without a signed record."""
        return rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in self.topic_ids]
        )

    def _build_announce_rpc(self, topic_id: str, subscribe: bool) -> tuple[rpc_pb2.RPC, rpc_pb2.RPC.SubOpts]:
        change = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic_id)
        return rpc_pb2.RPC(subscriptions=[change]), change

    # Peers

    async def _handle_new_peer(self, peer_id: ID) -> None:
        if peer_id in self.peers:
            return
        try:
            stream = await self.host.new_stream(peer_id, self.protocols)
        except NegotiationFailed:
            return  # it speaks no gossip
        except (trio.TooSlowError, *LIBRARY_ERRORS) as error:
            raise SwarmException(f"no pubsub stream to {peer_id}") from error  # the stock caller tries again
        if peer_id in self.peers:
            muxed_of(stream).abort()  # another task was faster
            return
        outbox = Outbox(*self._outbox_limits, max_message_size=1 << 30)
        outbox.push_frame(frame(self.get_hello_packet()), priority=True)
        self.router.add_peer(peer_id, stream.get_protocol())
        self.peers[peer_id] = stream
        self.peer_queues[peer_id] = outbox  # type: ignore[assignment]  # the methods that are used
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, outbox)
        await self._send_recent_messages_to_new_peer(peer_id)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue | Outbox) -> None:
        """Write to one peer for as long as it reads."""
        wire = muxed_of(stream)
        writing: list[bytes] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_reset, wire, nursery.cancel_scope)
                nursery.start_soon(self._until_unread, peer_id, writing, nursery.cancel_scope)
                if isinstance(queue, Outbox):
                    await self._write_frames(peer_id, wire, queue, writing)
                nursery.cancel_scope.cancel()
        finally:
            if isinstance(queue, Outbox):
                self._count("outbox_full", queue.dropped)
            wire.abort()
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)

    async def _write_frames(self, peer_id: ID, wire: YamuxStream, queue: Outbox, writing: list[bytes]) -> None:
        """``writing`` holds the frames that are being written."""
        try:
            while (data := await queue.pop()) is not None:
                writing.append(data)
                await wire.write(data)
                writing.clear()
                self._count("bytes_out", len(data))
        except LIBRARY_ERRORS as error:
            _log.debug("pubsub stream to %s: %r", peer_id, error)

    async def _until_unread(self, peer_id: ID, writing: list[bytes], scope: trio.CancelScope) -> None:
        await until_stuck(lambda: writing[0] if writing else None, _WRITE_DEADLINE)
        self._on_fault(peer_id, "reads no gossip")
        scope.cancel()

    async def handle_dead_peer_queue(self) -> None:
        """A connection ended: forget its peer, or find it again on another connection."""
        async with self.dead_peer_receive_channel:
            self.event_handle_dead_peer_queue_started.set()
            async for peer_id in self.dead_peer_receive_channel:
                stream = self.peers.get(peer_id)
                if stream is None or muxed_of(stream).muxed_conn.is_closed:
                    self._handle_dead_peer(peer_id)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """The stream to a peer ended; on the next one it gets what it may have missed."""
        self._replayed_recent_topics.pop(peer_id, None)
        super()._handle_dead_peer(peer_id)

    def _forget_all_subscriptions(self, peer_id: ID) -> None:
        """Unless the stream that told them is still there."""
        if peer_id not in self._speaking:
            super()._forget_all_subscriptions(peer_id)

    def _begin_speaking(self, peer_id: ID, stream: INetStream, hello: rpc_pb2.RPC) -> None:
        """The first frame of a stream holds all the peer's subscriptions: what an older stream told is void.

        Unless it holds none: some implementations say them once, and move on to another stream without a word.
        """
        if hello.subscriptions:
            super()._forget_all_subscriptions(peer_id)
        self._speaking[peer_id] = stream

    def _end_speaking(self, peer_id: ID, stream: INetStream) -> None:
        if self._speaking.get(peer_id) is stream:
            del self._speaking[peer_id]
            super()._forget_all_subscriptions(peer_id)

    def _enqueue_or_retry_announce(
        self, peer_id: ID, queue: RpcQueue, rpc_msg: rpc_pb2.RPC, announce: rpc_pb2.RPC.SubOpts | None
    ) -> None:
        """Before the GRAFT that follows, and before messages: those are what an announcement is about."""
        if not queue.push(rpc_msg, priority=True) and announce is not None:
            self._schedule_announce_retry(peer_id, announce)

    @property
    def outbox_drops(self) -> int:
        """Frames dropped so far on streams that are still open."""
        queues: Collection[object] = self.peer_queues.values()
        return sum(queue.dropped for queue in queues if isinstance(queue, Outbox))

    # What peers send

    async def stream_handler(self, stream: INetStream) -> None:
        """Read one peer's RPCs until its stream ends or makes no sense."""
        peer_id = stream.muxed_conn.peer_id
        try:
            await self.continuously_read_stream(stream)
        except (DecodeError, ValueError) as error:
            self._count("malformed_rpc", 1)
            self._on_fault(peer_id, f"malformed RPC: {error}")
        finally:
            self._end_speaking(peer_id, stream)
            await stream.reset()

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Raises DecodeError or ValueError for bytes that are no RPCs."""
        peer_id = stream.muxed_conn.peer_id
        wire = muxed_of(stream)
        buffer = bytearray()
        spoke = False
        while True:
            buffer += await wire.read()
            start = 0
            while (found := _find_frame(buffer, start, self.max_inbound_rpc_size)) is not None:
                begin, start = found
                encoded = bytes(buffer[begin:start])
                check_counts(encoded)
                rpc = rpc_pb2.RPC.FromString(encoded)
                if not spoke:
                    self._begin_speaking(peer_id, stream, rpc)
                    spoke = True
                await self._on_rpc(peer_id, rpc)
                self._count("bytes_in", start - begin)
                await trio.lowlevel.checkpoint()
            del buffer[:start]

    async def _on_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        if len(rpc.subscriptions) > _SUBSCRIPTIONS_PER_RPC:
            raise ValueError(f"{len(rpc.subscriptions)} subscriptions")
        for change in rpc.subscriptions:
            if not isinstance(change.topicid, str):  # the parser hands over what isn't UTF-8 as bytes
                raise ValueError("a topic name that isn't text")
            if len(change.topicid) > _TOPIC_NAME_LIMIT:
                raise ValueError(f"a topic name of {len(change.topicid)} characters")
            self.handle_subscription(peer_id, change)
        for number, message in enumerate(rpc.publish, 1):
            if self._inbox.take(peer_id, message):
                self._mesh.spread(peer_id, message)
            if number % _MESSAGES_PER_TURN == 0:
                await trio.lowlevel.checkpoint()  # so many signatures are some milliseconds, in which nobody else runs
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer_id)


async def _until_reset(wire: YamuxStream, writing: trio.CancelScope) -> None:
    """Notice that a peer has let go of the stream that we write to, though there may be nothing to write."""
    try:
        await wire.read()  # nobody answers on it: an end, or what is said all the same, means nothing
    except MuxedStreamEOF:
        return
    except LIBRARY_ERRORS:
        writing.cancel()


def _find_frame(buffer: bytearray, start: int, limit: int) -> tuple[int, int] | None:
    """Where the next varint-prefixed frame begins and ends; None while it isn't whole. ValueError above ``limit``."""
    length = 0
    for index in range(start, min(len(buffer), start + 10)):
        length |= (buffer[index] & 0x7F) << 7 * (index - start)
        if buffer[index] < 0x80:
            if length > limit:
                raise ValueError(f"an RPC of {length} bytes, at most {limit} are read")
            end = index + 1 + length
            return (index + 1, end) if end <= len(buffer) else None
    if len(buffer) - start >= 10:
        raise ValueError("an RPC length that doesn't end")
    return None
