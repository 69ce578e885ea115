"""Gossip in: node records, bids, model proofs and slot secrets, checked and put into the book."""

from typing import TypeVar

import trio

from consensus.market.errors import MarketError
from consensus.market.throttle import Throttle
from gossip.errors import MessageError, MessageExpired
from gossip.messages import Payload, Signed, check_expiry, decode
from gossip.messages.records import Bid, ModelProof, NodeRecord, SlotReveal
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles.bidders import Bidders
from node.roles.public import PublicState

P = TypeVar("P", bound=Payload)

MAX_LIFETIME_MS = 86_400_000
"""Nothing may claim to live longer than a day from now."""


PRUNE_EVERY_S = 30.0
"""How often what has expired is forgotten."""

SAID_PER_S, SAID_AT_ONCE = 4, 256
"""Messages of one kind by one signer that are passed on: a provider renews a bid a model, 64 at most, once a minute."""

MAX_ITEM_BYTES = 4_224
"""The largest of these messages."""


class Feed:
    """Subscribes to what is public and keeps :class:`PublicState` up to date."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self.bidders: Bidders | None = None if node.chain is None else Bidders(node, public, node.chain)
        """Who among bidders holds MOR; None without a chain to ask."""
        self.refused = 0
        """Well-signed messages that the book's rules refused."""
        self.throttled = 0
        """Well-signed messages that were not passed on, since their signer says too much."""
        self._throttle = Throttle()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe and consume for ever."""
        topics = self._node.topics
        async with trio.open_nursery() as nursery:
            await nursery.start(self._consume, topics.records, Signed[NodeRecord])
            await nursery.start(self._consume, topics.bids, Signed[Bid])
            await nursery.start(self._consume, topics.proofs, Signed[ModelProof])
            await nursery.start(self._consume, topics.reveals, Signed[SlotReveal])
            nursery.start_soon(self._prune)
            if self.bidders is not None:
                nursery.start_soon(self.bidders.run)
            task_status.started()

    async def _prune(self) -> None:
        """What has expired counts no more from that moment; here it is forgotten."""
        while True:
            await trio.sleep(PRUNE_EVERY_S)
            if forgotten := self._public.book.prune(now_ms()):
                self._node.log.info("expired bids, records and proofs are forgotten", count=forgotten)

    async def _consume(
        self, topic: str, kind: type[Signed[P]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        def judge(data: bytes, _: str) -> Verdict:
            try:
                signed = decode(kind, data)
                verdict = self.judge(signed)
                return Verdict.IGNORE if verdict is Verdict.ACCEPT and not self._passes(signed) else verdict
            except MessageError as error:
                self._node.log.info("bad gossip", topic=topic, reason=str(error))
                return Verdict.REJECT

        messages = await self._node.network.subscribe(topic, judge, max_bytes=MAX_ITEM_BYTES)
        task_status.started()
        async for message in messages:
            self.take(decode(kind, message.data))

    def judge(self, message: Signed[P]) -> Verdict:
        """Whether to pass a message on. Whoever forwards what is forged is at fault.

        Being late or early is no fault: clocks differ, and what one honest node accepts no other may reject.
        """
        what = type(message.payload).__name__
        expires_ms = getattr(message.payload, "expires_ms", None)
        try:
            if expires_ms is not None:
                check_expiry(what, expires_ms, now_ms())
                if expires_ms > now_ms() + MAX_LIFETIME_MS:
                    return Verdict.IGNORE
            message.signer(self._node.terms.domain)
        except MessageExpired:
            return Verdict.IGNORE
        except MessageError as error:
            self._node.log.info("bad gossip", kind=what, reason=str(error))
            return Verdict.REJECT
        if isinstance(message.payload, SlotReveal) and not self._public.ledger.is_recent_member(message.payload.member):
            return Verdict.IGNORE  # this node may be the one that is behind
        return Verdict.ACCEPT

    def _passes(self, message: Signed[P]) -> bool:
        """Whether a message that holds is passed on too: its signer keeps to a pace, and one that offers holds MOR."""
        payload = message.payload
        if not self._has_room(message):
            return False
        return (
            self.bidders is None or not isinstance(payload, Bid | ModelProof) or self.bidders.passes(payload.provider)
        )

    def _has_room(self, message: Signed[P]) -> bool:
        """Whether the signer keeps to a pace that no honest node exceeds: more is nobody's fault who forwards it, and
        comes with the next comparison of books, where it still counts."""
        payload = message.payload
        signer = getattr(payload, payload.SIGNER or "", b"")
        wait_ms = self._throttle.take((type(payload), signer), SAID_PER_S, SAID_AT_ONCE, now_ms())
        if wait_ms:
            self.throttled += 1
        return not wait_ms

    def take(self, message: Signed[P]) -> None:
        """Put a message that was judged into the public state; the book's refusals are counted, not raised."""
        try:
            self._public.add(message)
        except MarketError as error:
            self.refused += 1
            self._node.log.debug("refused", kind=type(message.payload).__name__, reason=str(error))
