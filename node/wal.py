"""A member's input log: what its core was fed at the height in progress, on the disk before anything follows from it.

After a crash the core is fed the same again and ends up where it was, locked on what it was locked on. The log is of
bytes (:mod:`node.member_log` knows inputs) and of one height: :meth:`Wal.reset` begins the next and drops the last.

A member whose log was lost while its signing guard is at the height in progress must not vote there again: the guard
keeps it from contradicting itself, not from forgetting what it is locked on.
"""

import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from node.errors import WalError, WalFull, WalInUse
from node.files import sync_folder
from node.wal_format import (
    FRAME_BYTES,
    HEADING_BYTES,
    NONCE_BYTES,
    Contents,
    Heading,
    TornTail,
    decode,
    encode_frames,
    encode_heading,
)

MAX_ENTRY_BYTES = 16 << 20
"""The largest entry: a proposal with its batch, twice over."""

MAX_WAL_BYTES = 768 << 20
"""The largest log of one height, unless told otherwise."""

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class _File:
    """The open files: the log and its lock. All calls block, and raise OSError where the disk fails."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._handle: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _lock(path)
        try:
            self.contents = self._open(max_bytes)
        except BaseException:
            self.close()
            raise
        self.heading = self.contents.heading
        self.end = self.contents.end

    def write(self, entries: list[bytes]) -> None:
        """Put one group of frames on the disk."""
        block = memoryview(encode_frames(self.heading, self.end, entries))
        handle = self._open_handle()
        written = 0
        while written < len(block):
            written += os.pwrite(handle, block[written:], self.end + written)
        _sync_data(handle)
        self.end += len(block)

    def start(self, height: int) -> None:
        """Replace the log by an empty one of ``height``: after a crash there is the one or the other."""
        heading = Heading(height, secrets.token_bytes(NONCE_BYTES))
        fresh = self._path.with_name(self._path.name + ".new")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.pwrite(handle, encode_heading(heading), 0)
            os.fsync(handle)
            fresh.replace(self._path)
            sync_folder(self._path.parent)
        except BaseException:
            os.close(handle)
            raise
        if self._handle is not None:
            os.close(self._handle)
        self._handle, self.heading, self.end = handle, heading, HEADING_BYTES

    def close(self) -> None:
        """Release log and lock; idempotent."""
        for handle in (self._handle, self._lock):
            if handle is not None:
                os.close(handle)
        self._handle = self._lock = None

    def _open(self, max_bytes: int) -> Contents:
        """Read what there is, cut off a torn tail, and make sure that what was read stays read."""
        if not self._path.exists():
            self.start(0)
        else:
            self._handle = os.open(self._path, os.O_RDWR)
        handle = self._open_handle()
        size = os.fstat(handle).st_size
        if size > max_bytes:
            raise WalFull(self._path, "the log", size, max_bytes)
        contents = decode(self._path, _read(handle, size))
        if contents.torn is not None:
            os.ftruncate(handle, contents.end)
        os.fsync(handle)
        return contents

    def _open_handle(self) -> int:
        if self._handle is None:
            raise WalError(self._path, "is closed")
        return self._handle


class Wal:
    """The log of one height; made by :func:`open_wal`.

    After a failed write everything raises :class:`~node.errors.WalError`: what is on the disk is then in doubt until
    it is read again.
    """

    def __init__(self, path: Path, file: _File, max_bytes: int) -> None:
        self.path = path
        self.torn: TornTail | None = file.contents.torn
        """What a crash had left unfinished when the log was opened."""
        self._file = file
        self._max_bytes = max_bytes
        self._replayed = file.contents.entries
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._appended = 0
        self._flushed = 0
        self._failure: str | None = None
        self._turn = trio.Lock()

    @property
    def height(self) -> int:
        """The height that the log is of; 0 for a new one."""
        return self._file.heading.height

    @property
    def size(self) -> int:
        """Bytes of the log, those that are not yet written included."""
        return self._file.end + self._pending_bytes

    @property
    def room(self) -> int:
        """Bytes that may still be appended."""
        return self._max_bytes - self.size

    def append(self, data: bytes) -> None:
        """Add an entry; it is on the disk after the next :meth:`flush`, and nothing may follow from it before.

        Raises :class:`~node.errors.WalFull` where it or the log would grow too large.
        """
        self._check_usable()
        if len(data) > MAX_ENTRY_BYTES:
            raise WalFull(self.path, "the entry", len(data), MAX_ENTRY_BYTES)
        if self.size + FRAME_BYTES + len(data) > self._max_bytes:
            raise WalFull(self.path, "the log", self.size + FRAME_BYTES + len(data), self._max_bytes)
        self._pending.append(data)
        self._pending_bytes += FRAME_BYTES + len(data)
        self._appended += 1

    async def flush(self) -> None:
        """Return when all that was appended before is on the disk; callers at the same time share one write.

        Cancelled or not, entries keep their order and none is lost.
        """
        wanted = self._appended
        async with self._turn:
            self._check_usable()
            if self._flushed < wanted:
                entries, self._pending, upto = self._pending, [], self._appended
                await self._run(lambda: self._file.write(entries))
                self._flushed = upto
                self._pending_bytes -= sum(FRAME_BYTES + len(data) for data in entries)

    def replay(self) -> Iterator[bytes]:
        """The entries that were in the log when it was opened, in order; none after a :meth:`reset`."""
        yield from self._replayed

    async def reset(self, height: int) -> None:
        """Begin the log of ``height``, empty; the old one, and what was not flushed, is gone.

        Raises ValueError unless ``height`` is above the present one.
        """
        async with self._turn:
            self._check_usable()
            if height <= self.height:
                raise ValueError(f"the log is of height {self.height} already, not {height}")
            self._pending, self._pending_bytes, self._flushed, self._replayed = [], 0, self._appended, ()
            await self._run(lambda: self._file.start(height))

    async def aclose(self) -> None:
        """Close behind a write in progress, even when cancelled; what was not flushed is dropped."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                self._failure = "is closed"
                await trio.to_thread.run_sync(self._file.close)

    async def _run(self, work: Callable[[], None]) -> None:
        """Run ``work`` to its end in a thread; a failure is final."""
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(work)
            except OSError as error:
                self._failure = f"cannot be written: {error.strerror}"
                raise WalError(self.path, self._failure) from error

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise WalError(self.path, self._failure)


@asynccontextmanager
async def open_wal(path: Path, *, max_bytes: int = MAX_WAL_BYTES) -> AsyncIterator[Wal]:
    """Open or create the log at ``path`` and close it on leaving. A torn tail is cut off; see :attr:`Wal.torn`.

    Raises :class:`~node.errors.WalInUse`, :class:`~node.errors.WalCorrupt`, :class:`~node.errors.WalFull` (the file is
    larger than ``max_bytes``), or :class:`~node.errors.WalError` where the disk fails.
    """
    try:
        file = await trio.to_thread.run_sync(_File, path, max_bytes)
    except OSError as error:
        raise WalError(path, f"cannot be opened: {error.strerror}") from error
    wal = Wal(path, file, max_bytes)
    try:
        yield wal
    finally:
        await wal.aclose()


def _lock(path: Path) -> int:
    """A lock beside ``path``, whose file is replaced; the system lets go of it with the process."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise WalInUse(path) from error
    return handle


def _read(handle: int, size: int) -> bytes:
    data = bytearray()
    while chunk := os.pread(handle, size - len(data), len(data)):
        data += chunk
    return bytes(data)
