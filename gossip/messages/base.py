"""What every message shares: its struct options, its signature, and the only codec.

A payload is a frozen struct. It travels inside :class:`Signed`, an EIP-712 signature over the payload under the
network's :class:`~contracts.typed_data.Domain` (S9). Encoding is msgspec MessagePack, arrays rather than maps. An id
is the payload's EIP-712 digest, so that no re-encoding can give one message two ids.
"""

import enum
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

import msgspec

from contracts.errors import SignatureInvalid
from contracts.signing import Key, recover
from contracts.typed_data import Address, Digest, Domain, Signature, Uint256, digest
from gossip.errors import MalformedMessage, MessageExpired, MessageTooLarge, SignerMismatch

Text = Annotated[str, msgspec.Meta(max_length=256)]
"""A short string: a name, a peer id, a reason."""

U64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A non-negative integer; the wire and EIP-712 type is uint64, the top bit is never used."""


class Unit(enum.IntEnum):
    """What one T is (S15). Only text tokens are served today; the others are refused by name (S16)."""

    TEXT_TOKEN = 0
    AUDIO_SAMPLE = 1
    VIDEO_FRAME = 2


class Payload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A struct that is signed. ``SIGNER`` names the field that holds the address it must be signed by.

    What never changes holds no cycles: out of the collector's sight, a batch of 10,000 sessions costs it a tenth.
    """

    SIGNER: ClassVar[str | None] = None
    """None where the signer isn't part of the payload (votes: the committee is looked up instead)."""

    MAX_BYTES: ClassVar[int] = 4096
    """The largest encoding that is parsed."""


P = TypeVar("P", bound=Payload)
S = TypeVar("S")


class Signed(msgspec.Struct, Generic[P], frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A payload and its 65-byte signature."""

    payload: P
    signature: Signature

    def id(self, domain: Domain) -> Digest:
        """The payload's EIP-712 digest: the message's identity everywhere."""
        return digest(domain, self.payload)

    def signer(self, domain: Domain) -> Address:
        """Who signed. Raises :class:`SignerMismatch` where nobody did, or somebody else than the payload names."""
        return self.signer_of(self.id(domain))

    def signer_of(self, value: Digest) -> Address:
        """As :meth:`signer`, for who has the message's id ``value`` already."""
        what = type(self.payload).__name__
        try:
            recovered = recover(value, self.signature)
        except SignatureInvalid as error:
            raise SignerMismatch(what, error) from error
        field = self.payload.SIGNER
        if field is not None and (expected := getattr(self.payload, field)) != recovered:
            raise SignerMismatch(what, SignatureInvalid("signed by another key", expected, recovered))
        return recovered


def sign(payload: P, key: Key, domain: Domain) -> Signed[P]:
    """``payload`` with ``key``'s signature under ``domain``."""
    return Signed(payload, key.sign(payload, domain))


def check_expiry(what: str, expires_ms: int, now_ms: int) -> None:
    """Raise :class:`MessageExpired` where ``expires_ms`` has passed (both Unix ms)."""
    if expires_ms <= now_ms:
        raise MessageExpired(what, expires_ms, now_ms)


def encode(message: msgspec.Struct) -> bytes:
    """The canonical bytes of a message."""
    return _ENCODER.encode(message)


def decode(kind: type[S], data: bytes, limit: int | None = None) -> S:
    """Bytes to ``kind`` (a struct or a ``Signed[...]``).

    ``limit`` in bytes defaults to the payload's own. Raises :class:`MessageTooLarge` before parsing, and
    :class:`MalformedMessage` for anything that isn't exactly a ``kind``.
    """
    message: S = decode_union(kind, data, _limit(kind) if limit is None else limit)
    return message


def decode_union(kind: Any, data: bytes, limit: int) -> Any:
    """As :func:`decode`, for a union of tagged structs, which has no static type of its own."""
    if len(data) > limit:
        raise MessageTooLarge(_name(kind), len(data), limit)
    try:
        return _decoder(kind).decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(_name(kind), str(error)) from error


def _to_wire(value: Any) -> bytes:
    if isinstance(value, Uint256):
        return int(value).to_bytes(32, "big")
    raise NotImplementedError(type(value))


def _from_wire(kind: type, value: Any) -> Uint256:
    if kind is not Uint256:
        raise NotImplementedError(kind)
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError("a uint256 is 32 bytes")
    return Uint256(int.from_bytes(value, "big"))


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_wire)


_DECODERS: "dict[Any, msgspec.msgpack.Decoder[Any]]" = {}


def _decoder(kind: Any) -> "msgspec.msgpack.Decoder[Any]":
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.msgpack.Decoder(kind, dec_hook=_from_wire)
    return _DECODERS[kind]


def _name(kind: Any) -> str:
    return "/".join(_name(argument) for argument in get_args(kind)) or getattr(kind, "__name__", str(kind))


def _limit(kind: Any) -> int:
    arguments = get_args(kind)
    if arguments:
        return max(map(_limit, arguments)) + 128
    return int(getattr(kind, "MAX_BYTES", Payload.MAX_BYTES))
