"""Demand as it is gossiped: RFCs that some home router has let into its queue (S22).

A router is asked directly, and tells the others; what comes by gossip shows what is in demand, and exposes a session
key that uses one index twice, or a router that gave one session key two passes. Members share the topics out, so that
none hears more than it must where the committee is large. Nobody else needs them: who wants them all the same follows
the models in its book, and may miss a new model's first RFCs.
"""

from collections import OrderedDict
from typing import Any

import trio

from consensus.market.access import followed_shards
from consensus.market.throttle import Throttle, rfc_rate
from contracts.typed_data import Digest
from gossip.errors import MalformedMessage, MessageError, MessageExpired, MessageTooEarly
from gossip.messages import Signed, check_expiry, decode
from gossip.messages.market import Rfc
from gossip.network import Verdict
from node.context import Node, now_ms
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState

MAX_RFC_BYTES = 4_224

MAX_WAIT_MS = 600_000
"""An RFC may wait at most so long."""

LOOK_EVERY_S = 1.0

HEARD = 1_000
"""RFCs remembered for those who ask; the oldest go first."""
FOLLOWERS = 8
"""Members that follow each topic: a mesh's worth and two, so that it stands while a few are away."""


class Demand:
    """Subscribes to RFCs: a member to its share of the shards, who opted in to those of the models in the book."""

    def __init__(self, node: Node, public: PublicState, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._evidence = evidence
        self._throttle = Throttle()
        self.throttled = 0
        """RFCs that were not passed on, since their session key sends too many."""
        self._reading: dict[str, trio.CancelScope] = {}
        self._heard: OrderedDict[Digest, tuple[Rfc, int]] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe and consume for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                wanted = self._wanted()
                for topic in sorted(self.followed - wanted):
                    self._reading.pop(topic).cancel()
                    await self._node.network.unsubscribe(topic)
                for topic in sorted(wanted - self.followed):
                    self._reading[topic] = await nursery.start(self._consume, topic)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(LOOK_EVERY_S)

    @property
    def followed(self) -> set[str]:
        """The topics that this node follows now."""
        return set(self._reading)

    def _wanted(self) -> set[str]:
        """A member's share of all topics, every one of them in a small committee; and those of the models in the book
        for who opted in."""
        topics, members = self._node.topics.rfc_shards(), self._public.recent_members()
        wanted = set[str]()
        if self._node.config.follow_rfcs:
            wanted |= {self._node.topics.rfc(listing.model_id) for listing in self._public.book.models(now_ms())}
        if "member" in self._node.config.roles and self._node.address in members:
            shards = followed_shards(self._node.address, members, len(topics), FOLLOWERS)
            wanted |= {topics[shard] for shard in shards}
        return wanted

    async def _consume(
        self, topic: str, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        def judge(data: bytes, _: str) -> Verdict:
            try:
                rfc = decode(Signed[Rfc], data)
                self.check(rfc)
            except (MessageExpired, MessageTooEarly):
                return Verdict.IGNORE
            except MessageError as error:
                self._node.log.info("bad gossip", topic=topic, reason=str(error))
                return Verdict.REJECT
            passes = self.stands(rfc.payload) and self.has_room(rfc.payload)
            return Verdict.ACCEPT if passes else Verdict.IGNORE

        messages = await self._node.network.subscribe(topic, judge, max_bytes=MAX_RFC_BYTES)
        with trio.CancelScope() as scope:
            task_status.started(scope)
            async for message in messages:
                self.take(decode(Signed[Rfc], message.data))

    def check(self, rfc: Signed[Rfc]) -> None:
        """Raise :class:`MessageError` for what this node does not pass on.

        :class:`MessageExpired` and :class:`MessageTooEarly` depend on its clock and on how far it has followed: who
        sent such an RFC may be right.
        """
        domain, asked = self._node.terms.domain, rfc.payload
        check_expiry("Rfc", asked.deadline_ms, now_ms())
        if asked.deadline_ms > now_ms() + MAX_WAIT_MS:
            raise MessageTooEarly("Rfc", f"its deadline is more than {MAX_WAIT_MS} ms ahead")
        if asked.access_pass.payload.session_key != asked.session_key:
            raise MalformedMessage("Rfc", "its pass is another session key's")
        rfc.signer(domain)
        issuer = asked.access_pass.signer(domain)
        if not self._public.is_router(issuer, asked.access_pass.payload.day):
            raise MessageTooEarly("Rfc", f"the pass is by 0x{issuer.hex()}, who is not a router of its day")

    def stands(self, asked: Rfc) -> bool:
        """Whether its pass is worth anything as far as this node knows, which may be ahead of who passed it on: an
        index used twice ends a pass, and providers serve no ticket of a router that gave one session key two."""
        day, issuer = asked.access_pass.payload.day, asked.access_pass.payload.issuer
        return not (self._evidence.has_abused(asked.session_key, day) or self._evidence.has_issued_twice(issuer, day))

    def has_room(self, asked: Rfc) -> bool:
        """Whether the session key keeps to what its pass's priority allows: more is not passed on, and no fault of
        who forwards it."""
        per_s, burst = rfc_rate(asked.access_pass.payload.priority)
        wait_ms = self._throttle.take(asked.session_key, per_s, burst, now_ms())
        if wait_ms:
            self.throttled += 1
        return not wait_ms

    def take(self, rfc: Signed[Rfc]) -> None:
        """Remember an RFC that was checked."""
        self._evidence.note_rfc(rfc)
        self._heard[rfc.id(self._node.terms.domain)] = rfc.payload, now_ms()
        while len(self._heard) > HEARD:
            self._heard.popitem(last=False)

    def heard(self) -> list[dict[str, Any]]:
        """The last RFCs, oldest first."""
        return [
            {
                "rfc_id": rfc_id,
                "model_id": asked.model_id,
                "token_max": asked.token_max,
                "prompt_bound": asked.prompt_bound,
                "router": asked.access_pass.payload.issuer,
                "heard_ms": at_ms,
            }
            for rfc_id, (asked, at_ms) in self._heard.items()
        ]
