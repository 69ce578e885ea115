"""Guard and log together, through restarts and crashes that hypothesis thinks of.

Two promises: no two messages are ever signed for one place, and every input that was flushed is replayed in order.
"""

import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.messages.committee import Precommit, Prevote, Proposal
from node.errors import SigningRefused
from node.signing_guard import SigningGuard, open_guard
from node.signing_history import NOWHERE, Place
from node.wal import Wal, open_wal
from tests.node.builders import DOMAIN

T = TypeVar("T")
KEY = Key(b"\x81" * 32)


class Life:
    """A member from start to stop, on a trio run of its own."""

    def __init__(self, folder: Path) -> None:
        self.guard: SigningGuard
        self.wal: Wal
        self._folder = folder
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        assert self._started.wait(30)
        if self._failure is not None:
            raise self._failure

    def do(self, call: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(call, trio_token=self._token)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _live(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._failure = error
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with AsyncExitStack() as stack:
            self.guard = await stack.enter_async_context(open_guard(self._folder / "signing.sqlite", KEY, DOMAIN))
            self.wal = await stack.enter_async_context(open_wal(self._folder / "inputs.wal"))
            self._started.set()
            await self._stop.wait()


class CrashingMember(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "0"
        self.lives = 0
        self.signed: dict[Place, bytes] = {}
        self.watermark = NOWHERE
        self.height = 0
        self.flushed: list[bytes] = []
        self.pending: list[bytes] = []
        self.life = Life(self.folder)

    def teardown(self) -> None:
        self.life.stop()
        shutil.rmtree(self.root)

    @rule(
        kind=st.sampled_from([Proposal, Prevote, Precommit]),
        height=st.integers(1, 4),
        round_=st.integers(0, 2),
        value=st.sampled_from([Digest(bytes([number]) * 32) for number in range(3)]),
    )
    def sign(self, kind: type, height: int, round_: int, value: Digest) -> None:
        payload: Proposal | Prevote | Precommit
        if kind is Proposal:
            payload = Proposal(height, round_, 0, value, KEY.address)
        elif kind is Prevote:
            payload = Prevote(height, round_, 0, value)
        else:
            payload = Precommit(height, round_, value, value)
        place = Place.of(payload)
        may = place > self.watermark or self.signed.get(place) == value
        try:
            signed = self.life.do(lambda: self.life.guard.sign(payload))
        except SigningRefused:
            assert not may, f"{place} should have been signed"
        else:
            assert may, f"{place} should not have been signed"
            assert signed.signer(DOMAIN) == KEY.address
            assert self.signed.setdefault(place, value) == value
            self.watermark = max(self.watermark, place)

    @rule(height=st.integers(1, 4))
    def skip(self, height: int) -> None:
        self.life.do(lambda: self.life.guard.skip_through(height))
        self.watermark = max(self.watermark, Place.end_of(height))

    @rule(data=st.binary(max_size=60))
    def append(self, data: bytes) -> None:
        self.life.wal.append(data)
        self.pending.append(data)

    @rule()
    def flush(self) -> None:
        self.life.do(self.life.wal.flush)
        self.flushed += self.pending
        self.pending = []

    @rule(by=st.integers(1, 3))
    def begin_height(self, by: int) -> None:
        self.height += by
        self.life.do(lambda: self.life.wal.reset(self.height))
        self.flushed, self.pending = [], []

    @rule()
    def restart(self) -> None:
        self.life.stop()
        self.pending = []
        self._start(0)

    @rule()
    def crash(self) -> None:
        """The next life finds what is on the disk while this one still runs."""
        image = self._image()
        self.life.stop()
        self.folder, self.pending = image, []
        self._start(0)

    @rule(cut=st.integers(0, 200))
    def crash_while_flushing(self, cut: int) -> None:
        """As much of the last group as the disk had taken: the file is cut anywhere behind what was acknowledged."""
        before = (self.folder / "inputs.wal").stat().st_size
        self.life.do(self.life.wal.flush)
        image = self._image()
        self.life.stop()
        log = image / "inputs.wal"
        log.write_bytes(log.read_bytes()[: before + cut])
        self.folder = image
        self._start(len(self.pending))

    def _image(self) -> Path:
        self.lives += 1
        image = self.root / str(self.lives)
        shutil.copytree(self.folder, image)
        return image

    def _start(self, unacknowledged: int) -> None:
        """Check what the log replays: all that was flushed, and at most ``unacknowledged`` pending entries more."""
        self.life = Life(self.folder)
        found = list(self.life.wal.replay())
        assert self.life.wal.height == self.height
        assert found[: len(self.flushed)] == self.flushed
        more = found[len(self.flushed) :]
        assert more == self.pending[: len(more)]
        assert len(more) <= unacknowledged
        self.flushed, self.pending = found, []

    @invariant()
    def the_watermark_is_kept(self) -> None:
        assert self.life.do(self.life.guard.watermark) == self.watermark


CrashingMember.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestCrashingMember = CrashingMember.TestCase
