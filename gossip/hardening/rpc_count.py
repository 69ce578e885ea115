"""How many entries an RPC has, and how much they hold, counted before it is parsed.

The parser builds an object for each entry, of two bytes too: an RPC of 14 MB with 7 million empty messages took 9.5 s
and 1.4 GB, and so would one message with as many topics, or one PRUNE with as many peers. This walk descends to
whatever may repeat, and stops at the first count above a limit, so it costs at most as many steps as the limits allow.
"""

from collections.abc import Mapping
from typing import NamedTuple

MESSAGES_MAX = 1_000
"""Messages in one RPC; a peer that answers an IWANT sends no more."""
MESSAGE_FIELDS_MAX = 8 * MESSAGES_MAX
"""Fields of all its messages together; a message with one topic has six."""
CONTROLS_MAX = 1_000
"""Control entries in one RPC: IHAVE, IWANT, GRAFT, PRUNE and the like."""
CONTROL_FIELDS_MAX = 5_000
"""What these hold together, message ids excepted: topics, and the peers that a PRUNE recommends, 16 as a rule."""
IDS_MAX = 5_000
"""Message ids in one RPC."""
OTHERS_MAX = 1_100
"""All other fields of one RPC together; its subscriptions are most of them."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10
_TAG_MAX = (1 << 32) - 1


class _Kind(NamedTuple):
    """What a field is counted as, and what it holds, where that may repeat."""

    name: str
    holds: "_Level | None" = None


class _Level(NamedTuple):
    """The fields of one message type; those that aren't named are counted as ``rest``."""

    named: Mapping[int, _Kind]
    rest: _Kind


_CONTROL_FIELD, _ID = _Kind("control fields"), _Kind("message ids")
_CONTROL_ENTRIES = {
    1: _Kind("control entries", _Level({2: _ID}, _CONTROL_FIELD)),  # IHAVE
    2: _Kind("control entries", _Level({1: _ID}, _CONTROL_FIELD)),  # IWANT
    4: _Kind("control entries", _Level({}, _CONTROL_FIELD)),  # PRUNE
    5: _Kind("control entries", _Level({1: _ID}, _CONTROL_FIELD)),  # IDONTWANT
}
_RPC = _Level(
    {
        2: _Kind("messages", _Level({}, _Kind("message fields"))),
        3: _Kind("control entries", _Level(_CONTROL_ENTRIES, _Kind("control entries"))),
    },
    _Kind("fields"),
)
_LIMITS = {
    "messages": MESSAGES_MAX,
    "message fields": MESSAGE_FIELDS_MAX,
    "control entries": CONTROLS_MAX,
    "control fields": CONTROL_FIELDS_MAX,
    "message ids": IDS_MAX,
    "fields": OTHERS_MAX,
}


def check_counts(data: bytes) -> None:
    """Raise ValueError where ``data``, a serialised RPC, has too much of something or is no protobuf."""
    _count(data, 0, len(data), _RPC, dict(_LIMITS))


def _count(data: bytes, at: int, end: int, level: _Level, left: dict[str, int]) -> None:
    """Take the fields from ``at`` to ``end`` off what is ``left``."""
    while at < end:
        field, wire_type, begin, at = _next_field(data, at, end)
        name, holds = level.named.get(field, level.rest)
        left[name] -= 1
        if left[name] < 0:
            raise ValueError(f"an RPC of too many {name}: more than {_LIMITS[name]}")
        if holds is not None and wire_type == _LENGTH:
            _count(data, begin, at, holds, left)


def _next_field(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """A field's number and wire type, where its value begins and where the field after it begins."""
    tag, at = _varint(data, at, end)
    if tag > _TAG_MAX:
        raise ValueError("an RPC with a field number of more than 29 bits")
    wire_type = tag & 7
    if wire_type == _VARINT:
        begin, (_, after) = at, _varint(data, at, end)
    elif wire_type == _LENGTH:
        length, begin = _varint(data, at, end)
        after = begin + length
    elif wire_type in (_FIXED64, _FIXED32):
        begin, after = at, at + (8 if wire_type == _FIXED64 else 4)
    else:
        raise ValueError(f"an RPC with wire type {wire_type}")
    if after > end:
        raise ValueError("an RPC whose field is cut off")
    return tag >> 3, wire_type, begin, after


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends."""
    value = 0
    for shift, index in enumerate(range(at, min(end, at + _VARINT_BYTES_MAX))):
        value |= (data[index] & 0x7F) << 7 * shift
        if data[index] < 0x80:
            return value, index + 1
    raise ValueError("an RPC with a number that doesn't end")
