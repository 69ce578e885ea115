"""A network of namespaces under fire: slow and lossy wires, kills of every role, a partition, and three who cheat.

In the end every honest query was answered or refused with a reason, every session is credited to the wei, and the
report names the lying router, the cheating provider and the spamming user.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from consensus.market.access import home_routers
from testnet.ask import ask
from testnet.chaos import ChaosFailed
from testnet.control import SessionView, TicketView, poll
from testnet.errors import AnswerRefused
from testnet.evidence import gateway, wait_for_bids
from testnet.files import MODEL_NAME, open_folder
from testnet.keys import Identity
from testnet.netns import Namespaces, open_namespaces
from testnet.network import Network, RunningNode, running
from testnet.plan import USER_WEI, Lie, NodePlan, Plan, TestnetOptions, compute_plan
from testnet.progress import Progress

SPAMMER = "spammer"
CHEAT = "provider-1"
"""The cheapest, so that it is drawn."""

PAUSE_S = (3.0, 8.0)
PARTITION_S = 25.0
SETTLE_S = 180.0
COLLECT_S = 90.0
EXPLAIN_S = 40.0
SPAM_AT_ONCE = 8


class Standing(msgspec.Struct, frozen=True):
    """What is looked at of a node's status."""

    height: int
    total_credited_wei: int


class Told(msgspec.Struct, frozen=True):
    """What is looked at of an explanation."""

    router: str = ""
    revealed: bool = False
    hidden: tuple[str, ...] = ()
    explanation: tuple[str, ...] = ()


class Case(msgspec.Struct, frozen=True):
    """What is looked at of evidence."""

    kind: str
    offender: str


class Session(SessionView, frozen=True, kw_only=True):
    """A session of any end."""

    state: str = ""
    interrupted: str | None = None


@dataclass(slots=True)
class Report:
    """What the run came to."""

    asked: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    spam: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    sessions: dict[str, Session] = field(default_factory=dict)
    """By ticket: the honest user's and the spammer's."""
    continued: int = 0
    """Answers that more than one provider gave."""
    credited_wei: int = 0
    slow: int = 0
    explained: int = 0
    lying_routers: Counter[str] = field(default_factory=Counter)
    cheating_providers: Counter[str] = field(default_factory=Counter)
    spamming_keys: set[str] = field(default_factory=set)
    heights: int = 0

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.asked} honest queries: {self.answered} answered ({self.continued} by more than one provider), "
            f"{sum(self.refused.values())} refused with a reason: {dict(self.refused)}",
            f"spam: {dict(self.spam)}",
            f"kills by role: {dict(self.kills)}; {self.heights} batches",
            f"{len(self.sessions)} sessions settled: {self.credited_wei} wei credited in all, the sum of what they owe "
            f"({self.slow} too slow to be credited)",
            f"{self.explained} matches derived again by a node that took no part",
            f"named as lying in draws: {dict(self.lying_routers)}",
            f"named as cheating in receipts: {dict(self.cheating_providers)}",
            f"named as using an index twice: {sorted(self.spamming_keys)}",
        ]


def trial_plan(options: TestnetOptions) -> Plan:
    """The plan with one more user, who spams."""
    plan = compute_plan(msgspec.structs.replace(options, engine="synthetic"))
    spammer = NodePlan(SPAMMER, "user", balance_wei=USER_WEI // 100)
    return msgspec.structs.replace(plan, nodes=(*plan.nodes, spammer))


def choose_liars(identities: Sequence[Identity]) -> Mapping[str, Lie]:
    """The honest user's home router lies in the draw: its matches are the ones that are looked at."""
    user = next(one for one in identities if one.node.kind == "user" and one.name != SPAMMER)
    members = {one.key.address: one.name for one in identities if one.node.kind == "member"}
    home = home_routers(user.key.address, 0, members)[0]
    return {members[home]: "draw", CHEAT: "count", SPAMMER: "index"}


async def run_trials(
    options: TestnetOptions, seconds: float, seed: int, progress: Progress, *, delay_ms: int, loss_percent: float
) -> Report:
    """The whole run. Raises :class:`~testnet.chaos.ChaosFailed`, NamespacesImpossible, or a start-up's own error."""
    plan = trial_plan(options)
    names = [node.name for node in plan.started]
    with open_folder(options.directory) as folder:
        wire = open_namespaces(names, delay_ms=delay_ms, loss_percent=loss_percent, seed=seed, log=folder / "relay.log")
        async with wire as places, _running(plan, folder, progress, places) as network:
            await wait_for_bids(network, progress)
            network.vigil.is_lenient = True
            trials = Trials(network, places, random.Random(seed), progress)  # noqa: S311  # a seeded choice of victims
            try:
                await trials.run(seconds)
            except ChaosFailed as failed:
                raise ChaosFailed("\n".join([str(failed), *trials.report.lines()])) from failed
            return trials.report


def _running(plan: Plan, folder: Path, progress: Progress, places: Namespaces) -> AbstractAsyncContextManager[Network]:
    return running(plan, folder, progress, trio.Event(), places=places, lies=choose_liars)


class Trials:
    """One network under fire."""

    def __init__(self, network: Network, places: Namespaces, rng: random.Random, progress: Progress) -> None:
        self.report = Report()
        self._network = network
        self._places = places
        self._rng = rng
        self._progress = progress
        self._nodes = {node.name: node for node in network.nodes}
        self._user = network.user.name
        self._asking = trio.Lock()
        """Held while a query is under way: the user's own node is killed between two."""
        self._explain_in, self._explain_out = trio.open_memory_channel[str](10_000)

    async def run(self, seconds: float) -> None:
        """Fire, then count."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for_ever)
            nursery.start_soon(self._spam_for_ever)
            nursery.start_soon(self._explain_for_ever)
            with self._progress.step(f"Kills of every role and one partition for {seconds:g} s") as step:
                await self._fire(seconds)
                step.detail = f"{sum(self.report.kills.values())} kills, {self.report.answered} answers"
            async with self._asking:
                nursery.cancel_scope.cancel()
        with self._progress.step("Every session is settled to the wei") as step:
            await self._collect(SPAMMER)
            await self._collect(self._user)
            await self._settle()
            step.detail = f"{len(self.report.sessions)} sessions, {self.report.credited_wei} wei"
        with self._progress.step("Every cheat is named") as step:
            await self._name_cheats()
            step.detail = "a router, a provider and a user"

    # Load.

    async def _ask_for_ever(self) -> None:
        while True:
            async with self._asking:
                await self._ask()
            await trio.sleep(0.3)

    async def _ask(self) -> None:
        report = self.report
        report.asked += 1
        try:
            answer = await ask(
                self._gateway(self._user), MODEL_NAME, f"query {report.asked}", max_tokens=16, on_text=lambda _: None
            )
        except AnswerRefused as error:
            if error.status == 0:
                raise ChaosFailed(f"query {report.asked} was neither answered nor refused: {error}") from error
            report.refused[f"{error.status} {str(error)[:120]}" if error.status == 200 else str(error.status)] += 1
        else:
            report.answered += 1
            words = answer.text.split()
            if words != [f"t{number}" for number in range(len(words))]:
                raise ChaosFailed(f"query {report.asked} was answered with {answer.text!r}")
            self._explain_in.send_nowait(answer.rfc_id)
        await self._collect(self._user)

    async def _spam_for_ever(self) -> None:
        """As many at once as the gateway takes, each with a second RFC for its index."""
        async with trio.open_nursery() as nursery:
            for _ in range(SPAM_AT_ONCE):
                nursery.start_soon(self._spam)

    async def _spam(self) -> None:
        while True:
            try:
                await ask(self._gateway(SPAMMER), MODEL_NAME, "spam", max_tokens=4, on_text=lambda _: None)
                self.report.spam["answered"] += 1
            except AnswerRefused as error:
                self.report.spam[str(error.status)] += 1
            await trio.sleep(0.5)

    async def _collect(self, name: str) -> None:
        """The sessions that a user's node remembers, once none is open any more: it forgets them when it is killed."""

        async def look() -> tuple[Session, ...] | None:
            found = await self._nodes[name].control.get("/sessions", tuple[Session, ...])
            return None if found is None or any(session.state == "open" for session in found) else found

        for session in await poll(f"the end of {name}'s sessions", look, COLLECT_S):
            self.report.sessions[session.ticket_id] = session

    def _gateway(self, name: str) -> str:
        return self._nodes[name].ready.gateway_url or gateway(self._network)

    # Fire.

    async def _fire(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        partition_at = time.monotonic() + seconds / 2
        is_cut = False
        while time.monotonic() < end:
            if not is_cut and time.monotonic() > partition_at:
                is_cut = True
                await self._partition()
            kind = self._rng.choice(("member", "member", "provider", "full", "user"))
            victim = self._rng.choice(sorted(n.name for n in self._nodes.values() if n.identity.node.kind == kind))
            if victim == SPAMMER:
                continue
            if victim == self._user:
                async with self._asking:
                    await self._kill(victim)
            else:
                await self._kill(victim)
            await trio.sleep(self._rng.uniform(*PAUSE_S))

    async def _kill(self, name: str) -> None:
        node = self._nodes[name]
        self.report.kills[node.identity.node.kind] += 1
        node.process.kill_now()
        await node.process.ended.wait()
        await trio.sleep(self._rng.uniform(*PAUSE_S))
        self._nodes[name] = await self._network.restart(node)

    async def _partition(self) -> None:
        """One member and one provider on the other side: the rest goes on without them."""
        away = [
            self._rng.choice(sorted(n.name for n in self._nodes.values() if n.identity.node.kind == kind))
            for kind in ("member", "provider")
        ]
        self._progress.note(f"cut off for {PARTITION_S:g} s: {', '.join(away)}")
        await self._places.cut(*away)
        await trio.sleep(PARTITION_S)
        await self._places.cut()

    # Count.

    async def _settle(self) -> None:
        report, sessions = self.report, self.report.sessions
        for ticket_id, session in sessions.items():

            async def look(ticket_id: str = ticket_id) -> TicketView | None:
                return await self._full.control.get(f"/tickets/{ticket_id}", TicketView)

            if (session.tokens or 0) == 0 and session.passed is not False:
                continue  # a ticket that was not used may never be settled
            ticket = await poll(f"ticket {ticket_id} being settled", look, SETTLE_S)
            owed = (
                0 if session.passed is False or ticket.reason == "slow" else (session.tokens or 0) * session.price_wei
            )
            if ticket.credited_wei != owed:
                credited = f"{ticket.credited_wei} wei ({ticket.reason})"
                raise ChaosFailed(f"ticket {ticket_id} is credited {credited}, owed are {owed}")
            report.credited_wei += ticket.credited_wei
            report.slow += ticket.reason == "slow"
            if session.interrupted == "protocol_error" and ticket.reason == "failed":
                report.cheating_providers[self._name_of(session.provider)] += 1
        standing = await self._full.control.get("/status", Standing)
        if standing is None or standing.total_credited_wei != report.credited_wei:
            total = None if standing is None else standing.total_credited_wei
            raise ChaosFailed(f"{total} wei were credited in all, the receipts come to {report.credited_wei}")
        report.heights = standing.height
        report.continued = sum(bool(session.interrupted) and bool(session.tokens) for session in sessions.values())

    async def _explain_for_ever(self) -> None:
        async with trio.open_nursery() as nursery:
            async for rfc_id in self._explain_out:
                nursery.start_soon(self._explain, rfc_id)

    async def _explain(self, rfc_id: str) -> None:
        """Derive a match again at a node that took no part, once the router's secret is out; a router that was killed
        meanwhile has forgotten it."""
        with trio.move_on_after(EXPLAIN_S):
            while True:
                await trio.sleep(3)
                told = await self._full.control.get(f"/explain/rfc/{rfc_id}", Told)
                if told is not None and told.revealed:
                    break
            self.report.explained += 1
            if told.hidden or any("does NOT hold" in line for line in told.explanation):
                self.report.lying_routers[self._name_of(told.router)] += 1

    async def _name_cheats(self) -> None:
        for case in await self._full.control.get("/evidence", tuple[Case, ...]) or ():
            if case.kind == "rfc_index":
                self.report.spamming_keys.add(case.offender)
        log = self._nodes[SPAMMER].process.log.read_text(errors="replace")
        strangers = [key for key in self.report.spamming_keys if key.removeprefix("0x") not in log]
        lies = self._network.genesis.lies
        wrong: list[Any] = [
            *(name for name in self.report.lying_routers if lies.get(name) != "draw"),
            *(name for name in self.report.cheating_providers if lies.get(name) != "count"),
            *strangers,
        ]
        if wrong:
            raise ChaosFailed(f"named, and honest: {wrong}")
        if not (self.report.lying_routers and self.report.cheating_providers and self.report.spamming_keys):
            raise ChaosFailed("not every cheat was named: " + "; ".join(self.report.lines()[-3:]))

    @property
    def _full(self) -> RunningNode:
        return next(node for node in self._nodes.values() if node.identity.node.kind == "full")

    def _name_of(self, address: str) -> str:
        return next((n.name for n in self._nodes.values() if n.identity.address == address.lower()), address)
