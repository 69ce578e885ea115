"""A whole committee on this machine, one process a member: how long real members take from a proposal to its decision.

Each process runs what ``yellowstone run`` runs for a member, less the chain and the control API: libp2p host, committee
link, signing guard, input log and store are the real ones. Sessions are signed beforehand and filed with all members in
turn while a slot goes by, as their desks would.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from consensus.params import NetworkParams
from gossip.messages.base import encode
from node.context import now_ms
from testnet.bench.chain import LogBuilder
from testnet.bench.committee_member import Done, Orders, Ready, Start, run_member
from testnet.errors import TestnetError
from testnet.progress import Progress

PATIENCE_S = 180.0
"""How long the slowest process may take for any one step, beside the slots that it is to work through."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CommitteeRun:
    """What a run showed.

    ``decided_ms`` is from a proposal being handed to the link, at its proposer, to a member having stored the decided
    batch, one for each member and height; ``within_ms`` the same from the end of the batch's slot.
    """

    decided_ms: tuple[float, ...]
    within_ms: tuple[float, ...]
    heights: int
    settlements: int
    rounds: int
    """Decided heights that took more than one round."""
    cpu_s: float
    """All members together, while sessions were filed and decided."""
    stall_ms: float
    """The longest time for which any member's event loop took no turn."""


def measure_committee(
    members: int, slots: int, reports: int, params: NetworkParams, progress: Progress
) -> CommitteeRun:
    """Run ``members`` processes through ``slots`` slots with ``reports`` sessions each.

    Raises :class:`~testnet.errors.TestnetError` where a process fails or takes too long.
    """
    builder = LogBuilder(params, members)
    with progress.step(f"signing {slots * reports} sessions"):
        sessions = [[encode(builder.settlement(1)) for _ in range(reports)] for _ in range(slots)]
    with tempfile.TemporaryDirectory(prefix="committee-") as folder, _processes(members) as ends:
        with progress.step(f"starting {members} members"):
            network = replace(builder.network, genesis_ms=now_ms() - params.slot_ms)
            for number, end in enumerate(ends):
                end.send(Start(network, Path(folder, str(number)), builder.members[number].reveal()))
            records = tuple(_receive(end, Ready).record for end in ends)
            for number, end in enumerate(ends):
                share = tuple(tuple(slot[number::members]) for slot in sessions)
                end.send(Orders(records, share, slots * reports))
            for end in ends:
                _receive(end, Ready)
        with progress.step(f"deciding {slots} batches of {reports} sessions"):
            first = (now_ms() - network.genesis_ms) // params.slot_ms + 2
            for end in ends:
                end.send(first)
            patience_s = PATIENCE_S + (slots + 2) * params.slot_ms / 1_000
            done = [_receive(end, Done, patience_s) for end in ends]
    return _summary(done, first, network.genesis_ms, params)


def _summary(done: list[Done], first: int, genesis_ms: int, params: NetworkParams) -> CommitteeRun:
    proposed: dict[int, float] = {}
    for member in done:
        for height, at_ms in member.proposed.items():
            proposed[height] = min(at_ms, proposed.get(height, at_ms))
    seen = [(height, *told) for member in done for height, told in member.decided.items() if told[1] >= first]
    batches = {height: (round_, count) for height, _, _, round_, count in seen}
    if not batches:
        raise TestnetError("the committee decided nothing")
    return CommitteeRun(
        decided_ms=tuple(at_ms - proposed[height] for height, at_ms, *_ in seen),
        within_ms=tuple(at_ms - (genesis_ms + (slot + 1) * params.slot_ms) for _, at_ms, slot, *_ in seen),
        heights=len(batches),
        settlements=sum(count for _, count in batches.values()),
        rounds=sum(round_ > 0 for round_, _ in batches.values()),
        cpu_s=sum(member.cpu_s for member in done),
        stall_ms=max(member.stall_ms for member in done),
    )


@contextmanager
def _processes(count: int) -> Iterator[list[Connection]]:
    """So many member processes, each at the other end of a pipe; ended on leaving."""
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    started: list[BaseProcess] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_member, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            ends.append(ours)
            started.append(process)
        yield ends
    finally:
        for end in ends:
            end.close()
        for one in started:
            one.terminate()
            one.join()


def _receive(end: Connection, kind: type[T], patience_s: float = PATIENCE_S) -> T:
    """The next thing that a member process says."""
    try:
        if not end.poll(patience_s):
            raise TestnetError(f"a member said nothing for {patience_s:.0f} s")
        told = end.recv()
    except (EOFError, OSError) as error:
        raise TestnetError("a member process ended early") from error
    if not isinstance(told, kind):
        raise TestnetError(f"a member failed: {told}")
    return told
