"""Gossip in: node records, bids, model proofs and slot secrets, checked and put into the book."""

from typing import TypeVar

import trio

from consensus.market.errors import MarketError
from gossip.errors import MessageError, MessageExpired
from gossip.messages import Payload, Signed, check_expiry, decode
from gossip.messages.records import Bid, ModelProof, NodeRecord, SlotReveal
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles.public import PublicState

P = TypeVar("P", bound=Payload)

MAX_LIFETIME_MS = 86_400_000
"""Nothing may claim to live longer than a day from now."""


MAX_ITEM_BYTES = 4_224
"""The largest of these messages."""


class Feed:
    """Subscribes to what is public and keeps :class:`PublicState` up to date."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self.refused = 0
        """Well-signed messages that the book's rules refused."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe and consume for ever."""
        topics = self._node.topics
        async with trio.open_nursery() as nursery:
            await nursery.start(self._consume, topics.records, Signed[NodeRecord])
            await nursery.start(self._consume, topics.bids, Signed[Bid])
            await nursery.start(self._consume, topics.proofs, Signed[ModelProof])
            await nursery.start(self._consume, topics.reveals, Signed[SlotReveal])
            task_status.started()

    async def _consume(
        self, topic: str, kind: type[Signed[P]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        def judge(data: bytes, _: str) -> Verdict:
            try:
                return self.judge(decode(kind, data))
            except MessageError as error:
                self._node.log.info("bad gossip", topic=topic, reason=str(error))
                return Verdict.REJECT

        messages = await self._node.network.subscribe(topic, judge, max_bytes=MAX_ITEM_BYTES)
        task_status.started()
        async for message in messages:
            self.take(decode(kind, message.data))

    def judge(self, message: Signed[P]) -> Verdict:
        """Whether to pass a message on. Whoever forwards what is forged is at fault; being late is not."""
        what = type(message.payload).__name__
        expires_ms = getattr(message.payload, "expires_ms", None)
        try:
            if expires_ms is not None:
                check_expiry(what, expires_ms, now_ms())
            message.signer(self._node.terms.domain)
        except MessageExpired:
            return Verdict.IGNORE
        except MessageError as error:
            self._node.log.info("bad gossip", kind=what, reason=str(error))
            return Verdict.REJECT
        if expires_ms is not None and expires_ms > now_ms() + MAX_LIFETIME_MS:
            return Verdict.REJECT
        if isinstance(message.payload, SlotReveal) and not self._public.ledger.is_recent_member(message.payload.member):
            return Verdict.IGNORE  # this node may be the one that is behind
        return Verdict.ACCEPT

    def take(self, message: Signed[P]) -> None:
        """Put a message that was judged into the public state; the book's refusals are counted, not raised."""
        try:
            self._public.add(message)
        except MarketError as error:
            self.refused += 1
            self._node.log.debug("refused", kind=type(message.payload).__name__, reason=str(error))
