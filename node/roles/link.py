"""The committee link: one direct stream to every other member, so that a slow or silent member slows nobody.

Each member dials each other member and only writes on the stream it dialled; what it reads comes on the streams that
others dialled. A link authenticates by its first frame: a member's node record whose peer id is the stream's.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from contracts.typed_data import Address
from gossip.errors import GossipError, MalformedMessage, MessageError, StreamBroken, TransportError
from gossip.messages import Signed, encode
from gossip.messages.committee import MAX_BATCH_BYTES, HelloFrame, LinkFrame, PassFrame, decode_link_frame
from gossip.messages.records import NodeRecord
from gossip.streams import FrameStream
from gossip.topics import COMMITTEE
from node.context import Node
from node.roles.public import PublicState
from node.roles.strangers import MAX_STREAMS, PER_PEER, Strangers

QUEUE_FRAMES = 4_096
"""Frames waiting for one member; past that the newest is dropped, rebroadcast and pull make up for it.

While a member is away only passes wait for it: all else is said again to a member that comes back.
"""

IDLE_S = 10.0
"""A link that says nothing for so long is dead: every member says its status each second."""

HELLO_S = 3.0
HELLO_BYTES = 8_192
"""What a peer that isn't known to be a member yet has for its first frame."""

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)

FrameHandler = Callable[[Address, LinkFrame], Awaitable[None]]


class CommitteeLink:
    """Sends frames to members and hands theirs to ``on_frame``."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        own_record: Callable[[], Signed[NodeRecord]],
        find_record: Callable[[Address], Signed[NodeRecord] | None],
        on_frame: FrameHandler,
    ) -> None:
        self._node = node
        self._public = public
        self._own_record = own_record
        self._find_record = find_record
        self._on_frame = on_frame
        self._out: dict[Address, trio.MemorySendChannel[bytes]] = {}
        self._scopes: dict[Address, trio.CancelScope] = {}
        self._dialled: dict[Address, tuple[str, trio.CancelScope]] = {}
        """The peer at the other end of each open outgoing stream, and what ends it."""
        self._tasks: trio.Nursery | None = None
        self.dropped = 0
        """Frames that found a full queue."""
        self._strangers = Strangers(public, find_record)
        self.linked: set[Address] = set()
        """Members that this node has an open outgoing stream to."""
        self.on_linked: list[Callable[[Address], None]] = []
        """Called with each member that this node has just linked to."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve incoming links and keep one outgoing link to each other member, for ever."""
        self._node.network.serve(COMMITTEE, self._serve, max_concurrent=MAX_STREAMS, max_per_peer=PER_PEER)
        async with trio.open_nursery() as self._tasks:
            self.follow_members()
            self._public.on_batch.append(lambda _: self.follow_members())
            task_status.started()
            await trio.sleep_forever()

    def follow_members(self) -> None:
        """Link to whoever has become a member, leave whoever has no part in anything any more."""
        if self._tasks is None:
            return
        members = set(self._public.recent_members())
        wanted = members - {self._node.address} if self._node.address in members else set()
        for member in sorted(wanted - self._out.keys()):
            send, receive = trio.open_memory_channel[bytes](QUEUE_FRAMES)
            self._out[member] = send
            self._scopes[member] = trio.CancelScope()
            self._tasks.start_soon(self._keep_linked, member, receive, self._scopes[member])
        for member in self._out.keys() - wanted:
            self._scopes.pop(member).cancel()
            self._out.pop(member).close()

    def broadcast(self, frame: msgspec.Struct) -> None:
        """Queue ``frame`` for every other member; never waits. One that is away gets nothing but passes."""
        data = encode(frame)
        for member, channel in self._out.items():
            if member in self.linked or isinstance(frame, PassFrame):
                self._put(channel, data)

    def send(self, member: Address, frame: msgspec.Struct) -> None:
        """Queue ``frame`` for one member, where it is linked; never waits."""
        if member in self.linked:
            self._put(self._out[member], encode(frame))

    def penalise(self, member: Address, points: int, reason: str) -> None:
        """Score the peer that a member's frames came from."""
        record = self._find_record(member)
        if record is not None:
            self._node.network.penalise(record.payload.peer_id, points, reason)

    def _put(self, channel: trio.MemorySendChannel[bytes], data: bytes) -> None:
        try:
            channel.send_nowait(data)
        except trio.WouldBlock:
            self.dropped += 1

    async def _keep_linked(
        self, member: Address, frames: trio.MemoryReceiveChannel[bytes], scope: trio.CancelScope
    ) -> None:
        """Dial, write frames until the stream breaks, back off, dial again."""
        with scope:
            await self._link_again_and_again(member, frames)

    async def _link_again_and_again(self, member: Address, frames: trio.MemoryReceiveChannel[bytes]) -> None:
        failures = 0
        while True:
            dialled = trio.current_time()
            try:
                await self._link(member, frames)
            except GossipError as error:
                self._node.log.debug("committee link down", member=member.hex(), reason=str(error))
            if trio.current_time() > dialled + IDLE_S:
                failures = 0
            await trio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def _link(self, member: Address, frames: trio.MemoryReceiveChannel[bytes]) -> None:
        """One link from its dial to its end, which raises :class:`GossipError`."""
        stream = await self._dial(member)
        ends: list[GossipError] = []
        self.linked.add(member)
        for callback in self.on_linked:
            callback(member)
        try:
            async with trio.open_nursery() as nursery:
                self._dialled[member] = stream.remote_peer, nursery.cancel_scope
                hear = partial(stream.receive, limit=0, timeout=math.inf)
                nursery.start_soon(self._until_end, hear, nursery, ends)
                nursery.start_soon(self._until_end, partial(self._write, stream, frames), nursery, ends)
        finally:
            self._dialled.pop(member, None)
            self.linked.discard(member)
            await stream.aclose()
        raise ends[0] if ends else StreamBroken("the member speaks from another machine")

    async def _until_end(
        self, part: Callable[[], Awaitable[object]], nursery: trio.Nursery, ends: list[GossipError]
    ) -> None:
        """Run one half of a link. The other side sends nothing on it: what is read is why it ends."""
        try:
            await part()
            ends.append(StreamBroken("the member ended the link"))
        except GossipError as error:
            ends.append(error)
        nursery.cancel_scope.cancel()

    async def _write(self, stream: FrameStream, frames: trio.MemoryReceiveChannel[bytes]) -> None:
        async for data in frames:
            await stream.send(data)

    async def _dial(self, member: Address) -> FrameStream:
        record = self._find_record(member)
        if record is None:
            raise TransportError(f"no node record of member 0x{member.hex()} yet")
        peer = record.payload.peer_id
        if not self._node.network.is_connected(peer):
            await self._node.network.connect(record.payload.multiaddrs, timeout=5)
        stream = await self._node.network.open_stream(peer, COMMITTEE, timeout=5)
        try:
            await stream.send(encode(HelloFrame(self._own_record())))
        except TransportError:
            await stream.aclose()
            raise
        return stream

    async def _serve(self, stream: FrameStream) -> None:
        with self._strangers.place(stream.remote_peer):
            hello = await stream.receive(limit=HELLO_BYTES, timeout=HELLO_S)
        member = self._authenticate(stream.remote_peer, hello)
        receive = partial(stream.receive, limit=MAX_BATCH_BYTES, timeout=IDLE_S)
        if member not in self._public.recent_members():
            # no fault of its own: it may have heard before this node that it was drawn
            await stream.fail("not_a_member", f"0x{member.hex()} is not a member")
            return
        while (data := await receive()) is not None:
            self._follow_peer(member, stream.remote_peer)
            try:
                await self._on_frame(member, decode_link_frame(data))
            except MessageError as error:
                self._node.log.warning("bad frame on committee link", member=member.hex(), reason=str(error))
                self._node.network.penalise(stream.remote_peer, 10, str(error))

    def _follow_peer(self, member: Address, peer: str) -> None:
        """End the stream to another machine than ``peer``, which speaks for ``member`` and which its record names: the
        next one goes there. Where a member runs on two, the newcomer must hear what the other has signed."""
        record, dialled = self._find_record(member), self._dialled.get(member)
        if record is not None and dialled is not None and dialled[0] != peer == record.payload.peer_id:
            dialled[1].cancel()

    def _authenticate(self, peer: str, data: bytes | None) -> Address:
        """The address that dialled, which may be no member's. Raises :class:`GossipError` for a forged hello."""
        frame = decode_link_frame(data or b"")
        if not isinstance(frame, HelloFrame):
            raise MalformedMessage("HelloFrame", type(frame).__name__)
        address = frame.record.signer(self._node.terms.domain)
        if frame.record.payload.peer_id != peer:
            raise MalformedMessage("HelloFrame", f"names peer {frame.record.payload.peer_id}, dialled by {peer}")
        return address
