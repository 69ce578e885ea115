"""EIP-712 digests of msgspec structs, without a second schema.

A struct's EIP-712 type is read off its annotations once; a digest then costs a few keccaks. Field names become
camelCase, as contracts write them. This module hashes; :mod:`contracts.signing` signs.

Source: EIP-712 (https://eips.ethereum.org/EIPS/eip-712); eth_account is the reference in the tests.
"""

import enum
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Annotated, Any, NewType, get_args, get_origin, get_type_hints

import msgspec
from eth_hash.auto import keccak

from contracts.errors import TypedDataInvalid

Address = NewType("Address", Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)])
"""A 20-byte Ethereum address; hex only at the edges."""

Digest = NewType("Digest", Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)])
"""A 32-byte hash."""

Signature = NewType("Signature", Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)])
"""r ‖ s ‖ v with v in {27, 28} and low s (EIP-2)."""

NESTED_REMEMBERED = 4_096
"""Nested structs of a kind whose hash is remembered: one pass is part of many RFCs, one bid of many tickets."""

ZERO_ADDRESS = Address(bytes(20))
ZERO_DIGEST = Digest(bytes(32))


class Uint256(int):
    """An unsigned 256-bit integer: the type of every amount of wei that may outgrow 64 bits."""


class Domain(msgspec.Struct, frozen=True):
    """What a signature is bound to: one chain and one Compute Contract (EIP-712 domain)."""

    chain_id: int
    contract: Address

    def separator(self) -> Digest:
        """The EIP-712 domain separator of ("Yellowstone", "1", chain id, contract)."""
        return _separator(self.chain_id, self.contract)


_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


@cache
def _separator(chain_id: int, contract: bytes) -> Digest:
    return Digest(
        keccak(
            keccak(_DOMAIN_TYPE)
            + keccak(b"Yellowstone")
            + keccak(b"1")
            + chain_id.to_bytes(32, "big")
            + contract.rjust(32, b"\0")
        )
    )


def digest(domain: Domain, struct: msgspec.Struct) -> Digest:
    """The 32 bytes that are signed for ``struct`` under ``domain``."""
    return Digest(keccak(b"\x19\x01" + domain.separator() + struct_hash(struct)))


def struct_hash(struct: msgspec.Struct) -> Digest:
    """EIP-712 ``hashStruct``. Raises :class:`TypedDataInvalid` where the class has no EIP-712 form."""
    schema = _schema(type(struct))
    words = [encode(getattr(struct, name)) for name, encode in schema.encoders]
    return Digest(keccak(schema.type_hash + b"".join(words)))


def encode_type(cls: type[msgspec.Struct]) -> str:
    """EIP-712 ``encodeType``: the struct's own type, then those it refers to, sorted by name."""
    found: dict[str, str] = {}
    _collect(cls, found)
    own = found.pop(_type_name(cls))
    return own + "".join(found[name] for name in sorted(found))


class _Schema:
    """A class's type hash and one 32-byte encoder for each field."""

    __slots__ = ("encoders", "type_hash")

    def __init__(self, cls: type[msgspec.Struct]) -> None:
        self.type_hash = keccak(encode_type(cls).encode())
        self.encoders = [(name, _encoder(hint)) for name, hint in _fields(cls)]


@cache
def _schema(cls: type[msgspec.Struct]) -> _Schema:
    return _Schema(cls)


def _fields(cls: Any) -> list[tuple[str, Any]]:
    """A class's (or parametrised generic's) field names and types, in wire order."""
    arguments = get_args(cls)
    origin = get_origin(cls) or cls
    hints = get_type_hints(origin, include_extras=True)
    bound = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
    return [(field.name, bound.get(hints[field.name], hints[field.name])) for field in msgspec.structs.fields(origin)]


def _type_name(cls: Any) -> str:
    """``Bid`` for Bid, ``SignedBid`` for Signed[Bid]."""
    origin = get_origin(cls) or cls
    return str(origin.__name__) + "".join(_type_name(argument) for argument in get_args(cls))


def _strip(hint: Any) -> Any:
    """Drop Annotated and NewType, which carry no EIP-712 meaning of their own, but keep length limits."""
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    return hint


def _solidity_type(hint: Any) -> str:
    hint = _strip(hint)
    base, size = hint, None
    if get_origin(hint) is Annotated:
        base, *metas = get_args(hint)
        size = next((m.max_length for m in metas if isinstance(m, msgspec.Meta) and m.min_length == m.max_length), None)
    if base is bytes:
        return {20: "address", 32: "bytes32"}.get(size or 0, "bytes")
    if base is bool:
        return "bool"
    if isinstance(base, type) and issubclass(base, Uint256):
        return "uint256"
    if isinstance(base, type) and issubclass(base, enum.IntEnum):
        return "uint8"
    if base is int:
        return "uint64"
    if base is str:
        return "string"
    if get_origin(base) is tuple:
        return _solidity_type(get_args(base)[0]) + "[]"
    if _is_struct(base):
        return _type_name(base)
    raise TypedDataInvalid(str(hint), "has no EIP-712 type")


def _is_struct(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _collect(cls: Any, found: dict[str, str]) -> None:
    name = _type_name(cls)
    if name in found:
        return
    fields = _fields(cls)
    found[name] = f"{name}({','.join(f'{_solidity_type(hint)} {_camel(field)}' for field, hint in fields)})"
    for _, hint in fields:
        inner = _strip(hint)
        if get_origin(inner) is tuple:
            inner = _strip(get_args(inner)[0])
        if _is_struct(inner):
            _collect(inner, found)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _encoder(hint: Any) -> Callable[[Any], bytes]:
    kind = _solidity_type(hint)
    match kind:
        case "address":
            return lambda value: value.rjust(32, b"\0")
        case "bytes32":
            return bytes
        case "bytes":
            return keccak
        case "string":
            return lambda value: keccak(value.encode())
        case "bool" | "uint8" | "uint64" | "uint256":
            return _word
        case _ if kind.endswith("[]"):
            inner = _encoder(get_args(_strip_annotated(hint))[0])
            return lambda values: keccak(b"".join(map(inner, values)))
        case _:
            return _struct_encoder(_strip_annotated(hint))


def _strip_annotated(hint: Any) -> Any:
    hint = _strip(hint)
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _struct_encoder(cls: Any) -> Callable[[Any], bytes]:
    """A nested struct's hash; a parametrised generic keeps the parameters that its instances do not know."""
    type_hash = keccak(encode_type(cls).encode())
    encoders = [(name, _encoder(hint)) for name, hint in _fields(cls)]

    @lru_cache(maxsize=NESTED_REMEMBERED)
    def encoder(value: Any) -> bytes:
        return keccak(type_hash + b"".join([encode(getattr(value, name)) for name, encode in encoders]))

    return encoder
