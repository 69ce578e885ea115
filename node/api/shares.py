"""Who may ask the gateway, and how much each key has used of its share: looked at before any RFC is sent.

Use is set aside at TokenMax before a request and settled at what was delivered; both are on the disk, so that a restart
gives nobody a second share. A crash within an answer costs the key all that was set aside.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from node.api.api_keys import ApiKey, hash_key, read_keys
from node.api.backend import Allowance, BackendError, RateLimit
from node.errors import NodeError

HELD_S = 20.0
"""How long a request waits for what others of its key hold and may not use: as long as an RFC waits for a match."""

_KEY = "gateway_usage"
_BEARER = "bearer "
_HELD = "key_allowance_held"
_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


class Values(Protocol):
    """Where use is kept: the node's store."""

    async def get_value(self, key: str) -> bytes | None:
        """What was put."""

    async def put_value(self, key: str, value: bytes) -> None:
        """Keep durably."""


class _Usage(msgspec.Struct):
    """T set aside or used on ``day``, by a key's hash."""

    day: int = -1
    tokens: dict[str, int] = {}


class Reservation:
    """T set aside for one request; set :attr:`spent` before it is left."""

    def __init__(self, limit: RateLimit | None) -> None:
        self.limit = limit
        """What the key has left, these T set aside; None for a key without a share."""
        self.spent = 0
        """T that were delivered."""


class Gate:
    """Checks keys and keeps their use."""

    def __init__(self, path: Path, values: Values, allowance: Callable[[], Awaitable[Allowance]]) -> None:
        self._path = path
        self._values = values
        self._allowance = allowance
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] | None = None
        self._usage: _Usage | None = None
        self._lock = trio.Lock()
        self._held: Counter[str] = Counter()
        """T of today's use that are set aside for requests of this run which have not ended, by a key's hash."""
        self._freed = trio.Event()

    def admit(self, authorization: str | None) -> ApiKey | None:
        """The key of a request, None where none is wanted. Raises :class:`BackendError` (401, 503)."""
        keys = self._read()
        if keys is None:
            return None
        given = authorization or ""
        token = given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else ""
        found = keys.get(hash_key(token))
        if found is None:
            message = "Incorrect API key provided" if token else "This gateway wants 'Authorization: Bearer <key>'"
            raise BackendError(401, "invalid_api_key", message, kind="invalid_request_error")
        return found

    @asynccontextmanager
    async def reserve(self, key: ApiKey | None, tokens: int) -> AsyncIterator[Reservation]:
        """Set ``tokens`` T of the key's share aside. Raises :class:`BackendError` (429, 503).

        What other requests of the key hold is waited for, up to :data:`HELD_S`: what they don't use comes back.
        """
        if key is None or (key.percent is None and key.tokens is None):
            yield Reservation(None)
            return
        limit, day = await self._set_aside(key, tokens)
        reservation = Reservation(limit)
        try:
            yield reservation
        finally:
            with trio.CancelScope(shield=True):
                async with self._lock:
                    await self._settle(key, tokens, min(tokens, reservation.spent), day)

    async def _set_aside(self, key: ApiKey, tokens: int) -> tuple[RateLimit, int]:
        """What is left with ``tokens`` T set aside, and on which day."""
        ends = trio.current_time() + HELD_S
        while True:
            allowance = await self._allowance()
            most = key.limit(allowance.limit_tokens)
            if most is None:
                text = "this key has a percentage of an allowance that isn't known: the node reads no balance"
                raise BackendError(503, "allowance_unknown", f"{text} from a chain", retry_after=10)
            async with self._lock:
                usage = await self._today(allowance.day)
                left = max(0, most - usage.tokens.get(key.sha256, 0))
                if tokens <= left:
                    await self._hold(key, tokens, usage)
                    return RateLimit(most, left - tokens, allowance.reset_s), allowance.day
                held, freed = self._held[key.sha256], self._freed
            refusal = _refusal(tokens, held, RateLimit(most, left, allowance.reset_s))
            if refusal.code != _HELD or trio.current_time() >= ends:
                raise refusal
            with trio.move_on_at(ends):
                await freed.wait()

    def _read(self) -> dict[str, ApiKey] | None:
        """The keys, read again where the file has changed."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            self._stamp, self._keys = None, None
            return None
        if stamp != self._stamp:
            try:
                keys = read_keys(self._path)
            except (NodeError, OSError) as error:
                _log.error("API keys cannot be read", reason=str(error))
                text = "the gateway's file of API keys cannot be read; its log says why"
                raise BackendError(503, "keys_unreadable", text) from error
            self._keys = None if keys is None else {key.sha256: key for key in keys}
            self._stamp = stamp
        return self._keys

    async def _today(self, day: int) -> _Usage:
        if self._usage is None:
            stored = await self._values.get_value(_KEY)
            self._usage = _Usage() if stored is None else msgspec.json.decode(stored, type=_Usage)
        if self._usage.day != day:
            self._usage = _Usage(day, {})  # unused access does not accrue (S40)
            self._held.clear()
        return self._usage

    async def _hold(self, key: ApiKey, tokens: int, usage: _Usage) -> None:
        with trio.CancelScope(shield=True):  # a client that leaves within the write gets back what was set aside
            await self._add(key, tokens, usage)
        self._held[key.sha256] += tokens

    async def _settle(self, key: ApiKey, tokens: int, used: int, day: int) -> None:
        usage = self._usage
        if usage is None or usage.day != day:
            return  # the day has ended meanwhile
        self._held[key.sha256] -= tokens
        await self._add(key, used - tokens, usage)
        self._freed.set()
        self._freed = trio.Event()

    async def _add(self, key: ApiKey, tokens: int, usage: _Usage) -> None:
        usage.tokens[key.sha256] = max(0, usage.tokens.get(key.sha256, 0) + tokens)
        await self._values.put_value(_KEY, msgspec.json.encode(usage))


def _refusal(tokens: int, held: int, limit: RateLimit) -> BackendError:
    """Why ``tokens`` T are not to be had of a key's share, of which other requests hold ``held``."""
    text = f"{limit.remaining_tokens} of this key's {limit.limit_tokens} T are left today, {tokens} were asked for"
    if tokens > limit.remaining_tokens + held or not held:
        kind, retry = "insufficient_quota", limit.reset_s
        return BackendError(429, "key_allowance_used", text, kind=kind, retry_after=retry, limit=limit)
    text += f", {held} are held for answers that have not ended"
    return BackendError(429, _HELD, text, kind="tokens", retry_after=1, limit=limit)
