"""An RPC's entries are counted before the parser makes an object of each."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2

from gossip.hardening.rpc_count import CONTROLS_MAX, MESSAGES_MAX, OTHERS_MAX, check_counts

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
    "data", [b"\x12\x05ab", b"\x12", b"\xff" * 11, b"\x0b", b"\x1a\x02\x0a\x05", b"\x09abc", b"\x0dab"], ids=repr
)
def test_what_is_cut_off_or_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="an RPC"):
        check_counts(data)


def test_millions_of_empty_messages_end_the_walk_early() -> None:
    """The walk looks at no more bytes than the limit's entries have: what comes after them is not even protobuf."""
    with pytest.raises(ValueError, match="too many messages"):
        check_counts(EMPTY_MESSAGE * (MESSAGES_MAX + 1) + b"\xff" * 20)


@given(st.binary(max_size=400))
def test_any_bytes_are_counted_or_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_counts(data)
