"""The input log in the words of a consensus core: inputs in, the same inputs out after a crash."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from gossip.errors import MessageError
from gossip.messages.base import decode_union, encode
from node.errors import WalUnreadable
from node.wal import MAX_ENTRY_BYTES, Wal

E = TypeVar("E", bound=msgspec.Struct)


class MemberLog(Generic[E]):
    """Inputs of one union of tagged structs, kept in ``wal``."""

    def __init__(self, wal: Wal, kind: Any) -> None:
        """``kind`` is the union that ``E`` stands for: a union has no static type of its own."""
        self._wal = wal
        self._kind = kind

    @property
    def height(self) -> int:
        """The height that the log is of; 0 for a new one."""
        return self._wal.height

    @property
    def room(self) -> int:
        """Bytes that the log still holds."""
        return self._wal.room

    def append(self, entry: E) -> None:
        """Add an input, to be flushed before any effect of it. Raises :class:`~node.errors.WalError`."""
        self._wal.append(encode(entry))

    async def flush(self) -> None:
        """Return when all inputs appended before are on the disk. Raises :class:`~node.errors.WalError`."""
        await self._wal.flush()

    def replay(self) -> Iterator[E]:
        """The inputs of an earlier run, in order. Raises :class:`~node.errors.WalUnreadable`."""
        for number, data in enumerate(self._wal.replay()):
            try:
                entry: E = decode_union(self._kind, data, MAX_ENTRY_BYTES)
            except MessageError as error:
                raise WalUnreadable(self._wal.path, number, str(error)) from error
            yield entry

    async def reset(self, height: int) -> None:
        """Begin the log of ``height``; see :meth:`node.wal.Wal.reset`."""
        await self._wal.reset(height)
