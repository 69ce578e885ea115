"""multistream-select 1.0 on a fresh stream: which protocol it will speak.

Faults: the stock client takes two round trips and reads byte by byte through four layers (4–5 ms a stream, here one
round trip); the stock server lets an exception out of a name that isn't text. May go when it negotiates in one.
Specification: https://github.com/multiformats/multistream-select.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from libp2p.io.exceptions import IOException

_HELLO = "/multistream/1.0.0"
_UNKNOWN = "na"
_NAME_LIMIT = 255
"""Bytes of a protocol's name, newline included, that are read."""
_ATTEMPTS = 8
"""Names that a peer may propose."""


class Wire(Protocol):
    """A byte stream."""

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes."""

    async def write(self, data: bytes) -> None:
        """All of it."""


class NegotiationFailed(IOException):
    """The two sides found no protocol."""


async def propose(wire: Wire, protocols: Sequence[str]) -> str:
    """Ask for one of ``protocols``, the best first. Raises :class:`NegotiationFailed`."""
    await wire.write(_line(_HELLO) + _line(protocols[0]))
    if (hello := await _read_line(wire)) != _HELLO:
        raise NegotiationFailed(f"the peer speaks {hello!r}")
    for index, protocol in enumerate(protocols):
        if index:
            await wire.write(_line(protocol))
        if (answer := await _read_line(wire)) == protocol:
            return protocol
        if answer != _UNKNOWN:
            raise NegotiationFailed(f"answered {answer!r} to {protocol!r}")
    raise NegotiationFailed(f"the peer does not speak {', '.join(protocols)}")


async def accept(wire: Wire, known: Collection[str]) -> str:
    """What the peer asks for and we know. Raises :class:`NegotiationFailed`."""
    if (hello := await _read_line(wire)) != _HELLO:
        raise NegotiationFailed(f"the peer speaks {hello!r}")
    await wire.write(_line(_HELLO))
    for _ in range(_ATTEMPTS):
        wanted = await _read_line(wire)
        if wanted in known:
            await wire.write(_line(wanted))
            return wanted
        await wire.write(_line(_UNKNOWN))
    raise NegotiationFailed(f"none of {_ATTEMPTS} protocols is spoken here")


def _line(name: str) -> bytes:
    text = name.encode() + b"\n"
    return bytes([len(text)]) + text if len(text) < 0x80 else bytes([len(text) & 0x7F | 0x80, len(text) >> 7]) + text


async def _read_line(wire: Wire) -> str:
    size = (await _exactly(wire, 1))[0]
    if size >= 0x80:
        high = (await _exactly(wire, 1))[0]
        size = size & 0x7F | high << 7
        if high >= 0x80 or size > _NAME_LIMIT:
            raise NegotiationFailed("a protocol name is too long")
    text = await _exactly(wire, size)
    if not text.endswith(b"\n"):
        raise NegotiationFailed("a protocol name does not end")
    try:
        return text[:-1].decode()
    except UnicodeDecodeError as error:
        raise NegotiationFailed("a protocol name is not text") from error


async def _exactly(wire: Wire, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = await wire.read(size - len(data))
        if not chunk:
            raise NegotiationFailed("the stream ended")
        data += chunk
    return data
