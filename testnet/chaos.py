"""Kill and restart committee members at random while queries flow, and see that nothing is lost.

Up to the faults that the committee tolerates it must go on certifying; with one more down it must stop; when one
returns it must resume. In the end every finished session is settled to the wei, and nobody has signed twice.
"""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import trio

from testnet.ask import ask
from testnet.control import SessionView, TicketView, poll
from testnet.errors import AnswerRefused, TestnetError
from testnet.evidence import find_session, gateway, wait_for_bids
from testnet.files import MODEL_NAME, open_folder
from testnet.network import Network, RunningNode, running
from testnet.plan import Plan, TestnetOptions, compute_plan
from testnet.progress import Progress

PAUSE_S = (2.0, 6.0)
"""How long members stay up and down, at random."""

QUIET_S = 20.0
"""How long a committee without its quorum is watched."""

SETTLE_S = 90.0


class Height(msgspec.Struct, frozen=True):
    """The part of a node's status that is watched."""

    height: int


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    answered: list[SessionView] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    credited_wei: int = 0
    slow: int = 0
    """Sessions that failed the speed test (S31): an engine that answers at once makes the mean hard to meet."""
    longest_still_s: float = 0.0
    """The longest time without a new batch while a quorum was up."""


class ChaosFailed(TestnetError):
    """Something did not hold: the message says what."""


async def run_chaos(options: TestnetOptions, seconds: float, seed: int, progress: Progress) -> Tally:
    """The whole run; raises :class:`ChaosFailed`, or a start-up's own error."""
    plan = compute_plan(msgspec.structs.replace(options, engine="synthetic"))
    with open_folder(options.directory) as folder:
        async with running(plan, folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            network.vigil.is_lenient = True
            chaos = Chaos(network, plan, random.Random(seed), progress)  # noqa: S311  # a seeded choice of victims
            await chaos.run(seconds)
            return chaos.tally


class Chaos:
    """One network under fire."""

    def __init__(self, network: Network, plan: Plan, rng: random.Random, progress: Progress) -> None:
        self.tally = Tally()
        self._network = network
        self._rng = rng
        self._progress = progress
        self._members = {node.name: node for node in network.of_kind("member")}
        self._faults = plan.faults_tolerated

    async def run(self, seconds: float) -> None:
        """Fire for ``seconds``, then take the quorum away, give it back, and count."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_ever)
            with self._progress.step(f"Up to {self._faults} members killed and restarted for {seconds:g} s") as step:
                await self._fire(seconds)
                step.detail = f"{self.tally.kills} kills, {len(self.tally.answered)} answers"
            with self._progress.step("No quorum, no batch") as step:
                await self._without_quorum()
                step.detail = "resumed when one returned"
            nursery.cancel_scope.cancel()
        with self._progress.step("Every finished session is settled") as step:
            await self._settle()
            step.detail = f"{len(self.tally.answered)} sessions, {self.tally.credited_wei} wei"
        self._look_for_double_signs()

    async def _ask_for_ever(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                answer = await ask(
                    gateway(self._network), MODEL_NAME, f"query {number}", max_tokens=16, on_text=lambda _: None
                )
                self.tally.answered.append(await find_session(self._network, answer.rfc_id))
            except AnswerRefused as error:
                key = str(error.status)
                self.tally.refused[key] = self.tally.refused.get(key, 0) + 1
            await trio.sleep(0.3)

    async def _fire(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        height, since = await self._height(), time.monotonic()
        while time.monotonic() < end:
            victims = self._rng.sample(sorted(self._members), self._rng.randint(1, self._faults))
            await self._kill(victims)
            await trio.sleep(self._rng.uniform(*PAUSE_S))
            await self._restart(victims)
            await trio.sleep(self._rng.uniform(*PAUSE_S))
            now = await self._height()
            if now > height:
                height, since = now, time.monotonic()
            self.tally.longest_still_s = max(self.tally.longest_still_s, time.monotonic() - since)
            if time.monotonic() - since > SETTLE_S:
                raise ChaosFailed(f"no batch for {SETTLE_S:g} s with a quorum up, at height {height}")

    async def _without_quorum(self) -> None:
        victims = self._rng.sample(sorted(self._members), self._faults + 1)
        await self._kill(victims)
        await trio.sleep(2)
        before = await self._height()
        await trio.sleep(QUIET_S)
        if await self._height() != before:
            raise ChaosFailed(f"a batch was certified with {len(victims)} of {len(self._members)} members down")
        await self._restart(victims[:1])

        async def look() -> bool | None:
            return True if await self._height() > before else None

        await poll("a batch after one member's return", look, SETTLE_S)
        await self._restart(victims[1:])

    async def _kill(self, names: Iterable[str]) -> None:
        for name in names:
            self._members[name].process.kill_now()
            self.tally.kills += 1
        for name in names:
            await self._members[name].process.ended.wait()

    async def _restart(self, names: Iterable[str]) -> None:
        for name in names:
            self._members[name] = await self._network.restart(self._members[name])

    async def _height(self) -> int:
        status = await self._full.control.get("/status", Height)
        return status.height if status is not None else 0

    @property
    def _full(self) -> RunningNode:
        return self._network.full

    async def _settle(self) -> None:
        for session in self.tally.answered:

            async def look(ticket_id: str = session.ticket_id) -> TicketView | None:
                return await self._full.control.get(f"/tickets/{ticket_id}", TicketView)

            ticket = await poll(f"ticket {session.ticket_id} being settled", look, SETTLE_S)
            owed = 0 if ticket.reason == "slow" else (session.tokens or 0) * session.price_wei
            if ticket.credited_wei != owed:
                credited = f"{ticket.credited_wei} wei ({ticket.reason})"
                raise ChaosFailed(f"ticket {session.ticket_id} is credited {credited}, owed are {owed}")
            self.tally.credited_wei += ticket.credited_wei
            self.tally.slow += ticket.reason == "slow"

    def _look_for_double_signs(self) -> None:
        for node in self._members.values():
            if '"event": "equivocation"' in node.process.log.read_text(errors="replace"):
                raise ChaosFailed(f"{node.name} saw a member sign twice: {node.process.log}")
