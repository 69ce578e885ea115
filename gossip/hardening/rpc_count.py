"""How many entries an RPC has, counted before it is parsed.

The parser builds an object for each entry, of two bytes too: an RPC of 14 MB with 7 million empty messages took 9.5 s
and 1.4 GB. This walk stops at the first entry above a limit, so it costs at most as many steps as the limits allow.
"""

MESSAGES_MAX = 1_000
"""Messages in one RPC; a peer that answers an IWANT sends no more."""
CONTROLS_MAX = 1_000
"""Control entries in one RPC: IHAVE, IWANT, GRAFT, PRUNE and the like."""
OTHERS_MAX = 1_100
"""All other fields of one RPC together; its subscriptions are most of them."""

_PUBLISH, _CONTROL = 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10


def check_counts(data: bytes) -> None:
    """Raise ValueError where ``data``, a serialised RPC, has too many entries or is no protobuf."""
    left = {_PUBLISH: MESSAGES_MAX, _CONTROL: CONTROLS_MAX, 0: OTHERS_MAX}
    at = 0
    while at < len(data):
        field, begin, at = _next_field(data, at, len(data))
        kind = field if field in left else 0
        left[kind] -= 1
        inner = begin
        while field == _CONTROL and inner < at and left[kind] >= 0:
            _, _, inner = _next_field(data, inner, at)
            left[kind] -= 1
        if left[kind] < 0:
            what = {_PUBLISH: "messages", _CONTROL: "control entries"}.get(kind, "fields")
            raise ValueError(f"an RPC of too many {what}")


def _next_field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """A field's number, where its value begins and where the field after it begins."""
    tag, at = _varint(data, at, end)
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
    return tag >> 3, begin, after


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends."""
    value = 0
    for shift, index in enumerate(range(at, min(end, at + _VARINT_BYTES_MAX))):
        value |= (data[index] & 0x7F) << 7 * shift
        if data[index] < 0x80:
            return value, index + 1
    raise ValueError("an RPC with a number that doesn't end")
