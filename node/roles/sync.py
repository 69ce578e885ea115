"""Range sync: a node that missed gossip gets certified batches and the live book from its peers."""

import random
from contextlib import aclosing
from itertools import chain
from typing import Any

import trio

from consensus.errors import ConsensusError
from consensus.market.errors import MarketError
from gossip.doorway import DoorLimits
from gossip.errors import GossipError, MessageError, TransportError
from gossip.messages import encode
from gossip.messages.base import decode
from gossip.messages.batch_notice import MAX_GOSSIPED_BYTES, BatchNotice, decode_gossiped
from gossip.messages.committee import MAX_BATCH_BYTES, CertifiedBatch
from gossip.messages.sync import (
    MAX_SYNC_BATCHES,
    BidItem,
    BookRequest,
    EvidenceItem,
    ProofItem,
    RecordItem,
    RevealItem,
    SyncRequest,
    decode_book_item,
    decode_sync_ask,
)
from gossip.network import Verdict
from gossip.streams import FrameStream
from gossip.topics import SYNC
from node.context import Node, now_ms
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.public import PublicState

RECONCILE_S = 20.0
"""How often a node compares itself with one random peer; gossip is a hint, this is the truth."""

STREAMS, PER_PEER = 16, 4
"""Streams answered at once, in all and of one peer: one that reads slowly holds its own."""

MAX_BOOK_ITEMS = 100_000
"""Items of one book answer that are read."""


class Sync:
    """Answers range requests and keeps this node from falling behind."""

    def __init__(self, node: Node, public: PublicState, feed: Feed, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._feed = feed
        self._evidence = evidence
        self._behind = trio.Event()
        self._noticed = 0
        """The highest height that was said to be decided in a batch too large to gossip."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, follow the batches topic, and reconcile for ever."""
        self._node.network.serve(SYNC, self._serve, max_concurrent=STREAMS, max_per_peer=PER_PEER, door=DoorLimits())
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow)
            nursery.start_soon(self._reconcile)
            task_status.started()

    async def _follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt what is gossiped; a gap, and a batch of which there is only a notice, is filled by asking."""
        topic = self._node.topics.batches
        messages = await self._node.network.subscribe(topic, self._judge, max_bytes=MAX_GOSSIPED_BYTES)
        task_status.started()
        async for message in messages:
            heard = decode_gossiped(message.data)
            height = heard.header.height
            self._public.hear(height)
            if height <= self._public.ledger.height:
                continue
            if isinstance(heard, BatchNotice):
                self._noticed = max(self._noticed, height)
                self.hurry()
            else:
                await self._take(height, message.data)

    def _judge(self, data: bytes, _: str) -> Verdict:
        try:
            batch = decode_gossiped(data)  # settlements are decoded by whoever needs them
            if self._public.is_beyond(batch):
                self.hurry()
                return Verdict.IGNORE
            self._public.check_certificate(batch)
        except (MessageError, ConsensusError, MarketError) as error:
            self._node.log.warning("bad batch in gossip", reason=str(error))
            return Verdict.REJECT
        return Verdict.ACCEPT

    async def _take(self, height: int, data: bytes) -> None:
        try:
            adopted = await self._public.adopt(decode(CertifiedBatch, data))
        except (MessageError, ConsensusError, MarketError) as error:
            self._node.log.error("certified batch does not apply", height=height, reason=str(error))
            return
        if not adopted and height > self._public.ledger.height + 1:
            self.hurry()

    def hurry(self) -> None:
        """Reconcile now rather than at the next turn."""
        self._behind.set()

    async def _reconcile(self) -> None:
        while True:
            behind = self._behind = trio.Event()
            peers, is_awaited = self._askable()
            if peers:
                await self._reconcile_with(random.choice(peers))  # noqa: S311  # which peer to ask is no secret
            with trio.move_on_after(RECONCILE_S if peers and not is_awaited else 0.5):
                await behind.wait()

    def _askable(self) -> tuple[list[str], bool]:
        """Peers to ask, and whether a batch that was noticed is still to come: then members are asked, who have it."""
        connected = list(self._node.network.peers())
        if self._noticed <= self._public.ledger.height:
            return connected, False
        records = [self._public.book.record(member, now_ms()) for member in self._public.recent_members()]
        members = {record.payload.peer_id for record in records if record is not None}
        return [peer for peer in connected if peer in members] or connected, True

    async def _reconcile_with(self, peer: str) -> None:
        try:
            while await self.pull_batches(peer) == MAX_SYNC_BATCHES:
                self._node.log.info("catching up", height=self._public.ledger.height)
            await self.pull_book(peer)
        except MessageError as error:
            self._node.network.penalise(peer, 10, f"bad sync answer: {error}")
        except GossipError as error:
            self._node.log.debug("sync failed", peer=peer, reason=str(error))

    async def pull_batches(self, peer: str) -> int:
        """Fetch and adopt the batches that ``peer`` has beyond ours; how many. Raises :class:`GossipError`."""
        adopted = 0
        stream = await self._node.network.open_stream(peer, SYNC, timeout=5)
        try:
            await stream.send(encode(SyncRequest(self._public.ledger.height + 1, MAX_SYNC_BATCHES)))
            while (data := await stream.receive(limit=MAX_BATCH_BYTES, timeout=10)) is not None:
                try:
                    adopted += await self._public.adopt(decode(CertifiedBatch, data))
                except (ConsensusError, MarketError) as error:
                    self._node.network.penalise(peer, 50, str(error))
                    raise TransportError(f"peer {peer} sent a batch that does not apply: {error}") from error
        finally:
            await stream.aclose()
        return adopted

    async def pull_book(self, peer: str) -> None:
        """Fetch the live book of ``peer``. Raises :class:`GossipError`."""
        stream = await self._node.network.open_stream(peer, SYNC, timeout=5)
        try:
            await stream.send(encode(BookRequest()))
            for _ in range(MAX_BOOK_ITEMS):
                data = await stream.receive(limit=4_096, timeout=10)
                if data is None:
                    return
                self._take_item(peer, data)
        finally:
            await stream.aclose()

    def _take_item(self, peer: str, data: bytes) -> None:
        item = decode_book_item(data)
        keeper: Feed | EvidencePool = self._evidence if isinstance(item, EvidenceItem) else self._feed
        message: Any = item.message
        verdict = keeper.judge(message)
        if verdict is Verdict.REJECT:
            self._node.network.penalise(peer, 10, "forged item in a book answer")
        if verdict is Verdict.ACCEPT:
            keeper.take(message)

    async def _serve(self, stream: FrameStream) -> None:
        data = await stream.receive(limit=64, timeout=5)
        match decode_sync_ask(data or b""):
            case SyncRequest(from_height, limit):
                async with aclosing(self._node.store.batches(from_height, limit)) as batches:
                    async for batch in batches:
                        await stream.send(encode(batch))
            case BookRequest():
                live = self._public.book.all_live(now_ms())
                reveals = list(self._public.reveals.values())[-256:]
                items: chain[Any] = chain(
                    map(RecordItem, live.records),
                    map(ProofItem, live.proofs),
                    map(BidItem, live.bids),
                    map(RevealItem, reveals),
                    map(EvidenceItem, self._evidence.offered()),
                )
                for item in list(items):
                    await stream.send(encode(item))
        await stream.end()
