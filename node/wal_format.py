"""The bytes of an input log: a heading, then frames that prove what they are and where they stand.

Pure. A frame names the offset up to which the file was on the disk when it was written. A bad frame is a *torn tail*
where no later frame vouches for it: a crash cut it short and nothing was built on it. Where one does, the disk has
lost what it promised to keep. (Damage to the very last group of frames looks like a torn tail and is taken for one.)

Heading: magic (8), height (8), nonce (16), checksum (16).
Frame: mark (4), length (4), synced (8), checksum of these (8), checksum of all (16), data. Integers are big-endian.
Checksums are BLAKE2b, keyed by the nonce and bound to the offset: bytes that a peer chose can't pass for a frame.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from node.errors import WalCorrupt

MAGIC = b"YSTWAL\x00\x01"
NONCE_BYTES = 16
_HEADING = struct.Struct(">8sQ16s")
HEADING_BYTES = _HEADING.size + 16

_MARK = b"\xf5WAL"
_FRAME = struct.Struct(">4sIQ")
FRAME_BYTES = _FRAME.size + 8 + 16
"""What a frame adds to its data."""


@dataclass(frozen=True, slots=True)
class Heading:
    """Which height the log is of, and what its checksums are keyed by."""

    height: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class TornTail:
    """What a crash had not finished writing: ``dropped`` bytes from ``offset`` on."""

    offset: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A log as it was read. ``end`` is the offset where the next frame goes."""

    heading: Heading
    entries: tuple[bytes, ...]
    end: int
    torn: TornTail | None


def encode_heading(heading: Heading) -> bytes:
    """The first bytes of a log."""
    raw = _HEADING.pack(MAGIC, heading.height, heading.nonce)
    return raw + hashlib.blake2b(raw, digest_size=16).digest()


def encode_frames(heading: Heading, offset: int, entries: Iterable[bytes]) -> bytes:
    """One group of frames, to be written at ``offset``, up to which everything is on the disk."""
    parts: list[bytes] = []
    position = offset
    for data in entries:
        raw = _FRAME.pack(_MARK, len(data), offset)
        parts += [raw, _check(heading, position, 8, raw), _check(heading, position, 16, raw, data), data]
        position += FRAME_BYTES + len(data)
    return b"".join(parts)


def decode(path: Path, data: bytes) -> Contents:
    """What a log holds; ``path`` is only named in errors. Raises :class:`~node.errors.WalCorrupt`."""
    heading = _decode_heading(path, data)
    entries: list[bytes] = []
    position = HEADING_BYTES
    while position < len(data):
        frame = _frame_at(heading, data, position)
        if frame is None:
            later = _find_voucher(heading, data, position)
            if later is not None:
                raise WalCorrupt(path, position, heading.height, f"the frame at {later} was written after it was safe")
            return Contents(heading, tuple(entries), position, TornTail(position, len(data) - position))
        entries.append(frame.data)
        position += FRAME_BYTES + len(frame.data)
    return Contents(heading, tuple(entries), position, None)


@dataclass(frozen=True, slots=True)
class _Frame:
    synced: int
    data: bytes


def _decode_heading(path: Path, data: bytes) -> Heading:
    if len(data) < HEADING_BYTES:
        raise WalCorrupt(path, 0, None, "the heading is cut short")
    magic, height, nonce = _HEADING.unpack_from(data)
    heading = Heading(height, nonce)
    if magic != MAGIC or data[:HEADING_BYTES] != encode_heading(heading):
        raise WalCorrupt(path, 0, None, "there is no heading")
    return heading


def _frame_at(heading: Heading, data: bytes, position: int) -> _Frame | None:
    """The frame at ``position``; None where there is no whole one."""
    start = position + FRAME_BYTES
    if start > len(data):
        return None
    raw = data[position : position + _FRAME.size]
    mark, length, synced = _FRAME.unpack(raw)
    checks = data[position + _FRAME.size : start]
    if mark != _MARK or checks[:8] != _check(heading, position, 8, raw) or start + length > len(data):
        return None
    content = data[start : start + length]
    return _Frame(synced, content) if checks[8:] == _check(heading, position, 16, raw, content) else None


def _find_voucher(heading: Heading, data: bytes, position: int) -> int | None:
    """Where a frame stands that was written when ``position`` was on the disk already."""
    candidate = data.find(_MARK, position + 1)
    while candidate >= 0:
        frame = _frame_at(heading, data, candidate)
        if frame is not None and frame.synced > position:
            return candidate
        candidate = data.find(_MARK, candidate + 1)
    return None


def _check(heading: Heading, position: int, size: int, *parts: bytes) -> bytes:
    state = hashlib.blake2b(position.to_bytes(8, "big"), digest_size=size, key=heading.nonce)
    for part in parts:
        state.update(part)
    return state.digest()
