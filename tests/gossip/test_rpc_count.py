"""An RPC's entries are counted before the parser makes an object of each."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from gossip.hardening.router import GuardedRouter
from gossip.hardening.rpc_count import (
    CONTROL_FIELDS_MAX,
    CONTROLS_MAX,
    IDS_MAX,
    MESSAGE_FIELDS_MAX,
    MESSAGES_MAX,
    OTHERS_MAX,
    check_counts,
)

EMPTY_MESSAGE = b"\x12\x00"


def rpc_with(**counts: int) -> rpc_pb2.RPC:
    """An RPC of so many entries of each kind."""
    rpc = rpc_pb2.RPC()
    for kind, count in counts.items():
        for _ in range(count):
            match kind:
                case "messages":
                    rpc.publish.add(topicIDs=["t"], data=b"x")
                case "subscriptions":
                    rpc.subscriptions.add(topicid="t", subscribe=True)
                case "grafts":
                    rpc.control.graft.add(topicID="t")
                case _:
                    rpc.control.ihave.add(topicID="t", messageIDs=[b"1", b"2"])
    return rpc


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("messages", MESSAGES_MAX),
        ("grafts", CONTROLS_MAX - 1),
        ("ihaves", CONTROLS_MAX - 1),
        ("subscriptions", OTHERS_MAX),
    ],
)
def test_a_count_is_bounded(kind: str, most: int) -> None:
    check_counts(rpc_with(**{kind: most}).SerializeToString())
    with pytest.raises(ValueError, match="an RPC of too many"):
        check_counts(rpc_with(**{kind: most + 1}).SerializeToString())


def test_control_entries_count_over_all_control_fields() -> None:
    half = rpc_with(grafts=CONTROLS_MAX // 2 + 1).SerializeToString()
    check_counts(half)
    with pytest.raises(ValueError, match="control entries"):
        check_counts(half + half)


def test_what_is_sent_is_counted_and_passes() -> None:
    check_counts(b"")
    check_counts(rpc_with(messages=3, subscriptions=2, grafts=4, ihaves=5).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x05ab",
        b"\x12",
        b"\xff" * 11,
        b"\x0b",
        b"\x1a\x02\x0a\x05",
        b"\x09abc",
        b"\x0dab",
        b"\x92\x80\x80\x80\x10\x00",
    ],
    ids=repr,
)
def test_what_is_cut_off_or_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="an RPC"):
        check_counts(data)


def nested(kind: str, count: int) -> bytes:
    """An RPC of one entry that holds ``count`` of something."""
    rpc, control = rpc_pb2.RPC(), rpc_pb2.ControlMessage()
    match kind:
        case "topics":
            rpc.publish.add(topicIDs=[""] * count)
        case "peers":
            rpc.control.prune.add().peers.extend([rpc_pb2.PeerInfo()] * count)
        case "ihave":
            rpc.control.ihave.add(messageIDs=[b""] * count)
        case "iwant":
            rpc.control.iwant.add(messageIDs=[b""] * count)
        case "idontwant":
            control.idontwant.add(messageIDs=[b""] * count)
            rpc.control.CopyFrom(control)
    return rpc.SerializeToString()


NESTED = {
    "topics": MESSAGE_FIELDS_MAX,
    "peers": CONTROL_FIELDS_MAX,
    "ihave": IDS_MAX,
    "iwant": IDS_MAX,
    "idontwant": IDS_MAX,
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_one_entry_holds_is_bounded(kind: str) -> None:
    check_counts(nested(kind, NESTED[kind]))
    with pytest.raises(ValueError, match="an RPC of too many"):
        check_counts(nested(kind, NESTED[kind] + 1))


@pytest.mark.parametrize("kind", NESTED)
def test_what_all_entries_hold_is_bounded_together(kind: str) -> None:
    some = nested(kind, NESTED[kind] // 2 + 1)
    check_counts(some)
    with pytest.raises(ValueError, match="an RPC of too many"):
        check_counts(some + some)


def test_a_full_rpc_of_an_honest_peer_passes() -> None:
    """As many messages, each with every field, and as many ids and pruned topics as a peer ever sends at once."""
    rpc = rpc_pb2.RPC()
    for _ in range(MESSAGES_MAX):
        rpc.publish.add(from_id=b"f", data=b"d", seqno=b"s", topicIDs=["t"], signature=b"s", key=b"k")
    for _ in range(5):
        rpc.control.ihave.add(topicID="t", messageIDs=[b"id"] * (IDS_MAX // 5))
    for _ in range(100):
        rpc.control.graft.add(topicID="t")
        rpc.control.prune.add(topicID="t", backoff=60, peers=[rpc_pb2.PeerInfo(peerID=b"p")] * 16)
    check_counts(rpc.SerializeToString())


class Overheard(GuardedRouter):
    """A router whose RPCs the test reads."""

    def __init__(self) -> None:
        super().__init__(heartbeat=1.0)
        self.told: list[rpc_pb2.RPC] = []

    def send_rpc(self, _: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:  # noqa: ARG002  # the router's signature
        self.told.append(rpc)


async def test_ids_of_several_busy_topics_are_together_no_more_than_a_peer_reads() -> None:
    router = Overheard()
    busy = {f"t{number}": [bytes([number]) * 8] * (IDS_MAX // 2 + 1) for number in range(3)}
    await router._emit_control_msgs({}, {}, {ID(b"peer"): busy})
    (rpc,) = router.told
    check_counts(rpc.SerializeToString())
    assert sum(len(ihave.messageIDs) for ihave in rpc.control.ihave) == IDS_MAX


def test_what_a_later_version_adds_is_not_looked_into() -> None:
    check_counts(b"\x1a\x05\x7a\x03\xff\xff\xff" + b"\x7a\x03\xff\xff\xff")


def test_millions_of_empty_messages_end_the_walk_early() -> None:
    """The walk looks at no more bytes than the limit's entries have: what comes after them is not even protobuf."""
    with pytest.raises(ValueError, match="too many messages"):
        check_counts(EMPTY_MESSAGE * (MESSAGES_MAX + 1) + b"\xff" * 20)


@given(st.binary(max_size=400))
def test_any_bytes_are_counted_or_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_counts(data)
