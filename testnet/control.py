"""What the launcher reads from running nodes: ready files and control endpoints on loopback.

The structs say what the launcher needs of each answer; further fields are ignored, and amounts may be numbers or
decimal text.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import trio

from testnet.errors import NodeUnreadable, StepOverdue
from testnet.processes import Process

T = TypeVar("T")

REQUEST_S = 5.0
"""The deadline of one request to a control endpoint."""
POLL_S = 0.2


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """``ready.json``: a node writes it once it is up."""

    pid: int
    peer_id: str
    address: str
    multiaddrs: tuple[str, ...]
    control_url: str
    gateway_url: str | None = None


class CandidateView(msgspec.Struct, frozen=True):
    """A bid that took part in a draw."""

    provider: str
    price_wei: int
    bid_id: str = ""


class MatchView(msgspec.Struct, frozen=True, kw_only=True):
    """How a match came about."""

    slot: int
    attempt: int
    beacon: str
    draw: str
    candidates: tuple[CandidateView, ...]
    winner: str
    """The winning bid's id."""
    unlive: tuple[str, ...] = ()
    """Bids whose providers failed the liveness check before it (S28)."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A user's session, from RFC to report; what is not known yet is None."""

    rfc_id: str
    ticket_id: str
    model: str = ""
    provider: str
    price_wei: int
    tokens: int | None = None
    prompt_tokens: int | None = None
    first_ms: int | None = None
    last_ms: int | None = None
    finish: str | None = None
    passed: bool | None = None
    match: MatchView | None = None
    match_ms: float | None = None
    """From the request to the match."""
    stream_open_ms: float | None = None
    """From the request to the open stream."""


class TicketView(msgspec.Struct, frozen=True, kw_only=True):
    """What the committee made of a ticket."""

    height: int
    credited_wei: int
    reason: str | None = None


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A certified batch."""

    height: int
    slot: int
    day: int
    batch_hash: str
    round: int
    signers: tuple[str, ...]
    members: tuple[str, ...]
    settlements: int
    total_credited: int


class ClaimView(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's claim on the chain."""

    height: int
    cumulative_wei: int
    amount_wei: int = 0
    tx_hash: str | None = None
    gas: int | None = None
    status: str = ""


class ControlClient:
    """One node's control endpoint."""

    def __init__(self, url: str, token: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"}
        self._transport = transport

    async def get(self, path: str, kind: type[T]) -> T | None:
        """The answer to ``path`` as a ``kind``; None for 404 and for a node that does not answer now.

        Raises :class:`NodeUnreadable` for any other answer.
        """
        url = self.url + path
        try:
            async with httpx.AsyncClient(transport=self._transport, trust_env=False, timeout=REQUEST_S) as client:
                response = await client.get(url, headers=self._headers)
        except httpx.TransportError:
            return None
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise NodeUnreadable(url, f"answered {response.status_code}: {response.text[:200]}")
        try:
            return msgspec.json.decode(response.content, type=kind, strict=False)
        except msgspec.MsgspecError as error:
            raise NodeUnreadable(url, f"{error}: {response.text[:200]}") from error


async def poll(what: str, fetch: Callable[[], Awaitable[T | None]], seconds: float) -> T:
    """Call ``fetch`` until it gives something. Raises :class:`StepOverdue` naming ``what`` after ``seconds``."""
    with trio.move_on_after(seconds):
        while True:
            if (found := await fetch()) is not None:
                return found
            await trio.sleep(POLL_S)
    raise StepOverdue(what, seconds)


async def wait_ready(process: Process, data_dir: Path, seconds: float) -> Ready:
    """Wait for a node's ready file.

    Raises :class:`ProcessDied` as soon as the process has ended, :class:`StepOverdue` after ``seconds``.
    """
    path = data_dir / "ready.json"

    async def look() -> Ready | None:
        process.check()
        ready = read_ready(path)
        # another pid is what an earlier run left
        return ready if ready is not None and ready.pid == process.pid else None

    return await poll(f"{process.name} becoming ready (its log is {process.log})", look, seconds)


def read_ready(path: Path) -> Ready | None:
    """A ready file, None while it isn't there whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def connect(data_dir: Path, ready: Ready) -> ControlClient:
    """The control endpoint of a node that is ready, with the token from its folder."""
    path = data_dir / "control.token"
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NodeUnreadable(str(path), f"no control token: {error}") from error
    return ControlClient(ready.control_url, token)
