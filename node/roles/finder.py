"""Bringing equivocation before the registry: the finder's transaction, or watching for somebody else's.

Routers never send a transaction (S12), so it is providers, and full nodes that opt in, who submit evidence and get the
finder's share. A member reads the chain as well, and only looks whether it has happened.
"""

import math
from dataclasses import dataclass

import trio

from consensus.cases import Case
from consensus.evidence import Equivocation
from contracts.errors import ChainUnavailable, TransactionReverted
from contracts.typed_data import Digest
from node.chain import ChainReader
from node.context import Node
from node.roles.evidence import EvidencePool
from node.store import Fate, FateWord

LOOK_S = 60.0
"""How often a node that only watches asks the registry."""

FIRST_RETRY_S = 1.0
MOST_RETRY_S = 300.0
"""The pause after a failed attempt doubles from one to the other."""

MAX_TRIES = 100
"""Attempts on one offence before it is left to others, or to the next start: about eight hours."""

ALREADY_PUNISHED = "registry: already punished"
NOTHING_TO_SLASH = "registry: nothing to slash"
VERDICT = "registry: "
"""How the registry's own words begin; any other reason (no coin for gas, a wrong nonce) may pass."""


@dataclass(slots=True)
class _Task:
    case: Case
    evidence: Equivocation
    tries: int = 0
    was_lost: bool = False
    """An attempt ended without an answer: it may have been mined."""


class Finder:
    """Sees each equivocation through to what the registry makes of it."""

    def __init__(self, node: Node, pool: EvidencePool, chain: ChainReader, *, submits: bool) -> None:
        self._node = node
        self._pool = pool
        self._chain = chain
        self._submits = submits
        self._tasks: dict[Digest, _Task] = {}
        self._wake = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See to all cases for ever, those of earlier runs first."""
        self._pool.watch(self._note)
        task_status.started()
        pause = FIRST_RETRY_S
        while True:
            wake = self._wake
            answered = await self._turn()
            pause = FIRST_RETRY_S if answered else min(2 * pause, MOST_RETRY_S)
            with trio.move_on_after(self._pause(pause)):
                await wake.wait()
            self._wake = trio.Event()

    def _pause(self, retry_s: float) -> float:
        if not self._tasks:
            return math.inf
        return retry_s if self._submits else max(retry_s, LOOK_S)

    def _note(self, case: Case) -> None:
        if case.equivocation is not None and self._pool.fate(case.offence.id).word is FateWord.OPEN:
            self._tasks[case.offence.id] = _Task(case, case.equivocation)
            self._wake.set()

    async def _turn(self) -> bool:
        """One attempt on every open case; whether all of them got an answer."""
        answered = True
        for offence_id, task in list(self._tasks.items()):
            try:
                fate = await (self._submit(task) if self._submits else self._look(task))
            except (ChainUnavailable, TransactionReverted) as error:
                answered = False
                fate = self._failed(task, error)
            if fate is not None:
                del self._tasks[offence_id]
                await self._pool.settle(task.case, fate)
                self._tell(task, fate)
        return answered

    async def _look(self, task: _Task) -> Fate | None:
        """Watching goes on for as long as the node does: it costs a read a minute."""
        slashed = await self._chain.is_slashed(task.case.offence.offender)
        return Fate(FateWord.PUNISHED, "the registry has slashed the member") if slashed else None

    async def _submit(self, task: _Task) -> Fate:
        """Raises :class:`ChainUnavailable`, and :class:`TransactionReverted` for what may yet succeed."""
        try:
            done = await self._chain.slash(self._node.key, task.case.offence.offender, task.evidence)
        except ChainUnavailable:
            task.was_lost = True
            raise
        except TransactionReverted as error:
            if not error.reason.startswith(VERDICT):
                raise
            return await self._refused(task, error.reason)
        return Fate(FateWord.SLASHED, "", done.tx_hash, done.reward_wei)

    async def _refused(self, task: _Task, reason: str) -> Fate:
        if reason == ALREADY_PUNISHED:
            return Fate(FateWord.PUNISHED, reason + (" (perhaps by this node)" if task.was_lost else ""))
        if reason == NOTHING_TO_SLASH:
            slashed = await self._chain.is_slashed(task.case.offence.offender)
            return Fate(FateWord.PUNISHED if slashed else FateWord.NOTHING_TO_SLASH, reason)
        return Fate(FateWord.REFUSED, reason)

    def _failed(self, task: _Task, error: Exception) -> Fate | None:
        """After the last attempt the case stays open, so that the next start takes it up again."""
        task.tries += 1
        self._node.log.warning(
            "evidence waits for the chain",
            id=task.case.offence.id.hex(),
            tries=task.tries,
            reason=str(error),
        )
        if self._submits and task.tries >= MAX_TRIES:
            return Fate(FateWord.OPEN, f"given up after {MAX_TRIES} attempts: {error}")
        return None

    def _tell(self, task: _Task, fate: Fate) -> None:
        offence = task.case.offence
        say = self._node.log.error if fate.word in (FateWord.OPEN, FateWord.REFUSED) else self._node.log.info
        say(
            "evidence settled",
            id=offence.id.hex(),
            offender=offence.offender.hex(),
            fate=fate.word.value,
            detail=fate.detail,
            reward_wei=fate.reward_wei,
            tx="" if fate.tx_hash is None else fate.tx_hash.hex(),
        )
