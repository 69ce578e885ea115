"""GossipSub 1.1: the mesh.

Faults of the stock router: an exception in the heartbeat, or in the answer to a peer's control message, ends the
process; a peer whose last words are read after it has gone stays in the mesh; GRAFT and IHAVE for topics that nobody
knows fill its tables; one peer's GRAFT is repeated to every later peer of the same heartbeat; it drops honest relays'
messages as spam at ten a second; every RPC carries a signed record of the sender (a signature check for each copy);
each message is queued a second time for every connected peer whose subscription isn't known; a message published while
the mesh is still empty goes to nobody. Scores are ours (:mod:`gossip.scores`), so its scorer is taken out. May go when
those are fixed upstream.
Specification: https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md.
"""

import logging
import time
from collections.abc import Iterable, Mapping

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import default_msg_id_fn
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from gossip.hardening.outbox import Outbox, frame
from gossip.hardening.recent import OwnMessages
from gossip.hardening.rpc_count import IDS_MAX

_log = logging.getLogger(__name__)

MESHSUB = TProtocol("/meshsub/1.1.0")
"""The only version offered: 1.2 adds an IDONTWANT per message and peer, which costs more than it saves here."""

_DEGREE, _DEGREE_LOW, _DEGREE_HIGH = 6, 4, 12
_BACKOFF_MAX = 3600
"""Seconds that a peer may ask to be left alone."""
_IWANTS_PER_SECOND = 50.0
"""Of one peer: a beat may bring an IHAVE for each of some twenty topics."""


class GuardedRouter(GossipSub):
    """The stock router with those faults overridden."""

    def __init__(self, heartbeat: float) -> None:
        super().__init__(
            protocols=[MESHSUB],
            degree=_DEGREE,
            degree_low=_DEGREE_LOW,
            degree_high=_DEGREE_HIGH,
            do_px=False,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        self.scorer = None
        self.max_iwant_requests_per_second = _IWANTS_PER_SECOND
        self._beat = heartbeat
        self._mesh_changed = trio.Event()
        self._own = OwnMessages()

    # The mesh

    async def heartbeat(self) -> None:
        """Repair the mesh and tell others what we have, once a beat."""
        while True:
            await trio.sleep(self._beat)
            try:
                await self.beat()
            except Exception as error:  # noqa: BLE001  # the supervisor of the mesh: one bad beat must not be the last
                _log.warning("a heartbeat failed: %r", error, exc_info=error)

    async def beat(self) -> None:
        """One heartbeat."""
        self._forget_departed()
        grafts, prunes = self.mesh_heartbeat()
        self.fanout_heartbeat()
        await self._emit_control_msgs(grafts, prunes, self.gossip_heartbeat())
        self.mcache.shift()
        self._periodic_security_cleanup()
        self._mesh_did_change()

    def _forget_departed(self) -> None:
        """What a peer had sent just before it went may have put it back."""
        if isinstance(self.pubsub, Pubsub):
            for peers in self.mesh.values():
                peers.intersection_update(self.pubsub.peers)
            known = {peer_id for peers in self.pubsub.peer_topics.values() for peer_id in peers}
            for peer_id in known - self.pubsub.peers.keys():
                if not self.pubsub._peer_is_connected(peer_id):
                    self.pubsub._forget_all_subscriptions(peer_id)

    async def wait_for_peers(self, topic: str, count: int) -> None:
        """Until the mesh of ``topic`` has ``count`` peers."""
        while len(self.mesh.get(topic, ())) < count:
            await self._mesh_changed.wait()

    def _notify_mesh_peer_added(self, peer_id: ID, topic: str) -> None:
        super()._notify_mesh_peer_added(peer_id, topic)
        self._mesh_did_change()

    def _mesh_did_change(self) -> None:
        self._mesh_changed.set()
        self._mesh_changed = trio.Event()

    # Sending

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Forward a valid message."""
        self.spread(msg_forwarder, pubsub_msg)

    def spread(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> int:
        """Queue a valid message, serialised once, for whom it concerns; for how many peers."""
        self.mcache.put(pubsub_msg)
        if pubsub_msg.topicIDs[0] not in self.mesh:
            self.time_since_last_publish[pubsub_msg.topicIDs[0]] = int(time.time())  # keeps the fanout alive
        origin = ID(pubsub_msg.from_id)
        if msg_forwarder == origin:
            self._own.add(pubsub_msg)
        data = frame(rpc_pb2.RPC(publish=[pubsub_msg]))
        queued = 0
        for peer_id in self._receivers(pubsub_msg.topicIDs[0], msg_forwarder, origin):
            outbox = self._outbox(peer_id)
            if outbox is not None:
                queued += outbox.push_frame(data)
        return queued

    def _receivers(self, topic: str, forwarder: ID, origin: ID) -> Iterable[ID]:
        """The mesh; for our own messages filled up with others while it is thin."""
        chosen = set(self._get_peers_to_send([topic], forwarder, origin))
        if forwarder == origin and len(chosen) < self.degree_low and self.pubsub is not None:
            known = self.pubsub.peer_topics.get(topic, set()) - chosen - {origin}
            chosen.update(self.select_from_minus(self.degree - len(chosen), known, ()))
        return chosen

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        """Queue an RPC."""
        outbox = self._outbox(peer_id)
        if outbox is not None:
            outbox.push(rpc, priority)

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """Queue a control message, without the sender's record."""
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        for peer_id in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            control = rpc_pb2.ControlMessage()
            for topic in peers_to_graft.get(peer_id, ()):
                control.graft.add(topicID=topic)
            for topic in peers_to_prune.get(peer_id, ()):
                control.prune.add(topicID=topic, backoff=self.prune_back_off)
            room = IDS_MAX  # for all topics together: the peer refuses more
            for topic, ids in peers_to_gossip.get(peer_id, {}).items():
                told = ids[-room:] if room else []
                room -= len(told)
                if told:
                    control.ihave.add(topicID=topic, messageIDs=told)
            await self.emit_control_message(control, peer_id)

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """Give a new subscriber what the message cache still has, and what we said ourselves lately."""
        outbox = self._outbox(peer_id)
        if outbox is None:
            return
        recent = {message_id: self.mcache.get(message_id) for message_id in self.mcache.window(topic)}
        recent |= {default_msg_id_fn(message): message for message in self._own.of(topic)}
        for message in recent.values():
            if message is not None and ID(message.from_id) != peer_id:
                outbox.push(rpc_pb2.RPC(publish=[message]))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """Nothing is queued elsewhere than in the outbox."""

    def _outbox(self, peer_id: ID) -> Outbox | None:
        queues: Mapping[ID, object] = {} if self.pubsub is None else self.pubsub.peer_queues
        queue = queues.get(peer_id)
        return queue if isinstance(queue, Outbox) else None

    # Receiving

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """A peer's control messages, about topics that we are in."""
        control = rpc.control
        for ihave in control.ihave:
            if ihave.topicID in self.mesh:
                await self.handle_ihave(ihave, sender_peer_id)
        for iwant in control.iwant:
            await self.handle_iwant(iwant, sender_peer_id)
        for graft in control.graft:
            if graft.topicID in self.mesh:
                await self.handle_graft(graft, sender_peer_id)
        for prune in control.prune:
            if prune.topicID in self.mesh:
                await self.handle_prune(self._tamed(prune), sender_peer_id)

    @staticmethod
    def _tamed(prune: rpc_pb2.ControlPrune) -> rpc_pb2.ControlPrune:
        """Without the peers that it recommends, and with a backoff that ends."""
        return rpc_pb2.ControlPrune(topicID=prune.topicID, backoff=min(prune.backoff, _BACKOFF_MAX))

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for what a peer has and we don't."""
        if self.pubsub is None or not self._check_ihave_rate_limit(sender_peer_id, ihave_msg.topicID):
            return
        wanted = [message_id for message_id in ihave_msg.messageIDs if not self.pubsub.seen_messages.has(message_id)]
        if wanted:
            control = rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=wanted)])
            await self.emit_control_message(control, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send what a peer asks for and we still have."""
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        for message_id in set(iwant_msg.messageIDs):
            message = self.mcache.get(message_id)
            if message is not None:
                self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))
