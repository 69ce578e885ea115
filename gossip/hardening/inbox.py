"""The messages that peers send: judged, delivered to their topic's reader, and said to be worth passing on or not.

Faults of the stock class: a key that isn't one, or an exception in a validator, ends the process; a verdict is yes or
no, so that dropping a message always blames who passed it on; a task per message loses their order; a thread per
instance sweeps the list of seen messages. May go when the stock class survives tests/gossip/test_hostile_peers.py.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.crypto.keys import PublicKey
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID
from libp2p.pubsub.mcache import default_msg_id_fn
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

from gossip.validation import GossipMessage, Verdict

_log = logging.getLogger(__name__)

_KEYS_CACHED = 4096
_SEEN_LIMIT = 200_000
_SEEN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic's reader."""

    validate: Callable[[bytes, str], Verdict]
    max_bytes: int
    deliver: trio.MemorySendChannel[GossipMessage]


class SeenMessages:
    """Ids of the last messages; forgets without a thread."""

    def __init__(self) -> None:
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def has(self, message_id: bytes) -> bool:
        """Whether it was seen lately."""
        return message_id in self._expiry

    def add(self, message_id: bytes) -> bool:
        """Remember it; False if it was known."""
        now = time.monotonic()
        while self._expiry and (len(self._expiry) > _SEEN_LIMIT or next(iter(self._expiry.values())) < now):
            self._expiry.popitem(last=False)
        if message_id in self._expiry:
            return False
        self._expiry[message_id] = now + _SEEN_SECONDS
        return True


class Inbox:
    """The topics that this node is in, and what came on them."""

    def __init__(self, me: str, *, on_fault: Callable[[ID, str], None], count: Callable[[str, int], None]) -> None:
        self.seen = SeenMessages()
        self.subscriptions: dict[str, Subscription] = {}
        """By topic."""
        self._me = me
        self._on_fault = on_fault
        self._count = count
        self._keys: OrderedDict[bytes, PublicKey] = OrderedDict()

    def take(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Judge a message and deliver it; whether it is to be passed on."""
        self._count("messages_in", 1)
        if len(message.topicIDs) != 1:
            self._reject(forwarder, "malformed_message", f"a message with {len(message.topicIDs)} topics")
            return False
        subscription, message_id = self.subscriptions.get(message.topicIDs[0]), default_msg_id_fn(message)
        if subscription is None:
            self._count("not_subscribed", 1)
            return False
        if self.seen.has(message_id):
            self._count("duplicate", 1)
            return False
        if (fault := self._find_fault(message, subscription)) is not None:
            self._reject(forwarder, *fault)
            return False
        self.seen.add(message_id)
        return self._is_delivered(subscription, forwarder, message)

    def _is_delivered(self, subscription: Subscription, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Whether a message whose author is known is worth delivering, which is done then."""
        origin = ID(message.from_id).to_base58()
        if origin == self._me:
            self._count("own_message", 1)
            return False
        verdict = self._judge(subscription, message.data, origin)
        if verdict is Verdict.REJECT:
            self._reject(forwarder, "rejected", f"rejected on {message.topicIDs[0]}")
        elif verdict is Verdict.IGNORE:
            self._count("ignored", 1)
        else:
            self._deliver(subscription, GossipMessage(message.data, origin, forwarder.to_base58()))
        return verdict is Verdict.ACCEPT

    def _find_fault(self, message: rpc_pb2.Message, subscription: Subscription) -> tuple[str, str] | None:
        if len(message.data) > subscription.max_bytes:
            return "too_large", f"{len(message.data)} bytes on {message.topicIDs[0]}"
        if not self._is_signed(message):
            return "bad_signature", "a message that its author didn't sign"
        return None

    def _reject(self, forwarder: ID, counter: str, reason: str) -> None:
        self._count(counter, 1)
        self._on_fault(forwarder, reason)

    def _judge(self, subscription: Subscription, data: bytes, origin: str) -> Verdict:
        try:
            return subscription.validate(data, origin)
        except Exception as error:  # noqa: BLE001  # the supervisor of validators: their bug is not the peer's fault
            self._count("validator_failed", 1)
            _log.error("a validator failed: %r", error, exc_info=error)
            return Verdict.IGNORE

    def _deliver(self, subscription: Subscription, message: GossipMessage) -> None:
        try:
            subscription.deliver.send_nowait(message)
        except trio.WouldBlock:
            self._count("queue_full", 1)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._count("no_reader", 1)
        else:
            self._count("delivered", 1)

    def _is_signed(self, message: rpc_pb2.Message) -> bool:
        try:
            key = self._author_key(message)
            return bool(message.signature) and key.verify(signed_bytes(message), message.signature)
        except Exception as error:  # noqa: BLE001  # garbage keys raise whatever their libraries raise
            _log.debug("a signature that cannot be checked: %r", error)
            return False

    def _author_key(self, message: rpc_pb2.Message) -> PublicKey:
        key = self._keys.get(message.from_id)
        if key is None:
            author = ID(message.from_id)
            key = author.extract_public_key() or deserialize_public_key(message.key)
            if ID.from_pubkey(key) != author:
                raise ValueError("signed with a key that isn't its author's")
            self._keys[message.from_id] = key
            if len(self._keys) > _KEYS_CACHED:
                self._keys.popitem(last=False)
        return key


def signed_bytes(message: rpc_pb2.Message) -> bytes:
    """What a message's author signs."""
    unsigned = rpc_pb2.Message(
        data=message.data, topicIDs=message.topicIDs, from_id=message.from_id, seqno=message.seqno
    )
    return PUBSUB_SIGNING_PREFIX.encode() + unsigned.SerializeToString()
