"""Never sign two messages for one place: the sole user of a member's key for consensus messages.

A place is (height, round, step). What is signed for it is on the disk before the signature leaves; a member that was
restarted, moved or confused signs the same bytes again, and nothing else at or below the highest place it has signed.
The guard knows nothing of what a member is locked on: that is in the input log (:mod:`node.wal`).

Source: DESIGN.md, "Crash safety is two mechanisms"; the answers are those of EIP-3076's signers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import trio

from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain, digest
from gossip.messages.base import Signed
from gossip.messages.committee import Precommit, Prevote, Proposal
from node.context import now_ms
from node.errors import GuardInUse, GuardMoved, HistoryInvalid, SigningRefused
from node.files import write_atomic
from node.signing_file import SigningFile
from node.signing_history import History, Place, SignedRecord, decode_history, encode_history

C = TypeVar("C", bound=Proposal | Prevote | Precommit)
R = TypeVar("R")

KEEP_HEIGHTS = 7_200
"""How many heights below the watermark stay in the history: a day at one batch a slot."""

MAX_HISTORY_BYTES = 256 << 20
"""The largest history file that is read."""


@dataclass(frozen=True, slots=True)
class Safe:
    """Nothing was signed for ``place`` or later."""

    place: Place


@dataclass(frozen=True, slots=True)
class SameData:
    """The very same message was signed for ``place`` before."""

    place: Place


@dataclass(frozen=True, slots=True)
class NotSafe:
    """Signing could contradict what was signed. ``held`` is the digest signed for ``place``, None where unknown."""

    reason: str
    place: Place
    held: Digest | None


Outcome = Safe | SameData | NotSafe


def assess(place: Place, wanted: Digest, watermark: Place, held: Digest | None) -> Outcome:
    """Whether ``wanted`` may be signed for ``place`` where ``held`` is what was signed there. Pure."""
    if held == wanted:
        return SameData(place)
    if held is not None:
        return NotSafe("another message was signed for this place", place, held)
    if place <= watermark:
        return NotSafe(f"not above the watermark ({watermark})", place, None)
    return Safe(place)


class SigningGuard:
    """The guard of one key on one network; made by :func:`open_guard`.

    Every method raises :class:`~node.errors.StoreError` where the database fails, and from then on: a guard that could
    not write signs nothing more.
    """

    def __init__(self, file: SigningFile, key: Key, domain: Domain) -> None:
        self._file = file
        self._key = key
        self._domain = domain
        self._limiter = trio.CapacityLimiter(1)
        self._top = file.get_watermark()

    @property
    def top(self) -> Place:
        """The watermark, without a look at the disk: no signature leaves before it counts here."""
        return self._top

    @property
    def path(self) -> Path:
        """The database file."""
        return self._file.path

    @property
    def address(self) -> Address:
        """Whose messages this signs."""
        return self._key.address

    async def sign(self, payload: C, why: str = "") -> Signed[C]:
        """``payload``, signed; ``why`` is kept with it for whoever reads the history.

        Raises :class:`~node.errors.SigningRefused` where that could contradict what was signed before.
        """
        wanted = digest(self._domain, payload)
        place = Place.of(payload)
        if isinstance(payload, Proposal) and payload.proposer != self._key.address:
            raise SigningRefused(place, f"it names 0x{payload.proposer.hex()} as proposer", wanted, None)
        record = await self._call(lambda: self._sign(place, wanted, why))
        return Signed(payload, record.signature)

    async def watermark(self) -> Place:
        """The highest place that was signed or given up."""
        return await self._call(self._file.get_watermark)

    async def skip_through(self, height: int) -> None:
        """Sign nothing more at ``height`` or below, save what was signed there already; never lowers the watermark."""
        await self._call(lambda: self._raise_watermark(Place.end_of(height)))

    async def history(self, limit: int) -> tuple[SignedRecord, ...]:
        """The last ``limit`` signatures, in order of their places."""
        return await self._call(lambda: self._file.get_records(limit))

    async def export_history(self, path: Path) -> None:
        """Sign nothing more, until a history is imported; then write all that was signed to ``path``, whole or not at
        all. OSError where that fails, and then it can be exported once more.

        The tombstone is on the disk first: whoever starts a member elsewhere with the file finds nobody signing here.
        """
        await self._call(lambda: self._export(path))

    async def import_history(self, path: Path) -> None:
        """Take over what was signed elsewhere, and sign again where the history had been exported. The watermark only
        rises; a file that cannot be right changes nothing.

        Raises :class:`~node.errors.HistoryInvalid` for a file that is damaged, of another key or network, or at odds
        with what was signed here, and OSError where it can't be read.
        """
        await self._call(lambda: self._merge(path, read_history(path, self._key.address, self._domain)))

    async def _call(self, function: Callable[[], R]) -> R:
        """Run ``function`` behind all earlier ones; once begun it is finished, even when the caller is cancelled."""
        return await trio.to_thread.run_sync(function, limiter=self._limiter)

    async def check_here(self) -> None:
        """Raise :class:`~node.errors.GuardMoved` where the history was exported and not taken over since."""
        moved_ms = await self._call(self._file.get_moved_ms)
        if moved_ms is not None:
            raise GuardMoved(self.path, moved_ms)

    def _sign(self, place: Place, wanted: Digest, why: str) -> SignedRecord:
        with self._file.transaction():
            if self._file.get_moved_ms() is not None:
                raise SigningRefused(place, "its history was exported: another machine signs now", wanted, None)
            known = self._file.find(place)
            outcome = assess(place, wanted, self._file.get_watermark(), None if known is None else known.digest)
            if isinstance(outcome, NotSafe):
                raise SigningRefused(place, outcome.reason, wanted, outcome.held)
            record = SignedRecord(place, wanted, self._key.sign_digest(wanted), now_ms(), why)
            if isinstance(outcome, Safe):
                self._file.put(record)
                self._file.put_watermark(place)
                self._file.forget_below(place.height - KEEP_HEIGHTS)
        self._top = max(place, self._top)
        return record

    def _raise_watermark(self, place: Place) -> None:
        with self._file.transaction():
            self._file.put_watermark(max(place, self._file.get_watermark()))
        self._top = max(place, self._top)

    def _export(self, path: Path) -> None:
        with self._file.transaction():
            self._file.put_moved_ms(now_ms())
        write_atomic(path, encode_history(self._file.get_history()))

    def _merge(self, path: Path, history: History) -> None:
        with self._file.transaction():
            for record in history.records:
                known = self._file.find(record.place)
                if known is None:
                    self._file.put(record)
                elif known.digest != record.digest:
                    reason = f"{record.place}: 0x{known.digest.hex()} was signed here, 0x{record.digest.hex()} there"
                    raise HistoryInvalid(path, 0, reason)
            self._file.put_watermark(max(history.watermark, self._file.get_watermark()))
            self._file.put_moved_ms(None)
        self._top = max(history.watermark, self._top)

    async def aclose(self) -> None:
        """Close behind whatever is still queued, even when cancelled."""
        with trio.CancelScope(shield=True):
            await self._call(self._file.close)


def read_history(path: Path, address: Address, domain: Domain) -> History:
    """The history file at ``path`` (blocking), which must be ``address``'s on the network of ``domain``.

    Raises :class:`~node.errors.HistoryInvalid`, and OSError where it can't be read.
    """
    size = path.stat().st_size
    if size > MAX_HISTORY_BYTES:
        raise HistoryInvalid(path, 0, f"is {size} bytes long, the limit is {MAX_HISTORY_BYTES}")
    history = decode_history(path, path.read_bytes())
    if history.address != address:
        raise HistoryInvalid(path, 1, f"is of key 0x{history.address.hex()}, not 0x{address.hex()}")
    if history.domain != domain:
        raise HistoryInvalid(path, 1, f"is of another network: {history.domain}, not {domain}")
    return history


_open_keys: set[tuple[Address, Digest]] = set()
"""Keys and networks with a guard in this process."""

_open_keys_lock = Lock()


@asynccontextmanager
async def open_guard(
    path: Path,
    key: Key,
    domain: Domain,
    *,
    restore: Path | None = None,
    skip_through: int | None = None,
    is_leaving: bool = False,
) -> AsyncIterator[SigningGuard]:
    """The guard of ``key`` on the network of ``domain``, with its database at ``path``; closed on leaving.

    ``restore`` (an exported history) or ``skip_through`` (a height, see :meth:`SigningGuard.skip_through`) say what was
    signed; only with one of them is a guard made anew where one is known to have been. A guard whose history was
    exported opens only with ``restore``, or where it ``is_leaving``: to be exported once more.

    Raises :class:`~node.errors.GuardInUse`, :class:`~node.errors.GuardCorrupt`, :class:`~node.errors.GuardMissing`,
    :class:`~node.errors.GuardMoved`, :class:`~node.errors.GuardMismatch`, :class:`~node.errors.StoreTooNew`,
    :class:`~node.errors.StoreUnwritable`, and what :meth:`SigningGuard.import_history` raises.
    """
    name = key.address, domain.separator()
    with _open_keys_lock:
        if name in _open_keys:
            raise GuardInUse(path, f"this process has a guard of 0x{key.address.hex()} already")
        _open_keys.add(name)
    try:
        floor = None if skip_through is None else Place.end_of(skip_through)
        if restore is not None:
            history = await trio.to_thread.run_sync(read_history, restore, key.address, domain)
            floor = history.watermark if floor is None else max(floor, history.watermark)
        guard = SigningGuard(await trio.to_thread.run_sync(SigningFile, path, key.address, domain, floor), key, domain)
        try:
            if restore is not None:
                await guard.import_history(restore)
            if skip_through is not None:
                await guard.skip_through(skip_through)
            if not is_leaving:
                await guard.check_here()
            yield guard
        finally:
            await guard.aclose()
    finally:
        _open_keys.discard(name)
