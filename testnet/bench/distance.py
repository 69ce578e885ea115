"""A committee whose messages are long on their way, in the simulator's virtual time: how long a decision takes.

Members are the real cores and every frame is delayed by the same time; what they compute takes no virtual time, so its
cost is measured apart, in CPU time of this process.
"""

import time
from dataclasses import dataclass, field

from consensus.market.settlement import VerifiedSettlements
from consensus.member.admission import admit
from consensus.params import NetworkParams
from contracts.signing import recover
from gossip.messages.base import decode_union, encode
from gossip.messages.committee import MAX_BATCH_BYTES, DecidedFrame, LinkFrame, ProposalFrame, StatusFrame
from testnet.errors import TestnetError
from testnet.simulator.faults import FaultPlan, Weather
from testnet.simulator.happenings import Arrives
from testnet.simulator.setting import DOMAIN, Setting, make_setting
from testnet.simulator.simulation import Simulation

WATCHED = 0
"""The member whose incoming frames are kept."""


@dataclass(frozen=True, slots=True)
class Distant:
    """What a run showed. Times are virtual ms from a proposal being sent to the decision, one for each member that
    decided; ``cpu_ms`` is one member's, for a height: the frames that it hears, decoded and checked one by one, and its
    share of what all cores did."""

    decided_ms: tuple[float, ...]
    heights: int
    frames: int
    cpu_ms: float


def measure_distance(members: int, delay_ms: int, slots: int) -> Distant:
    """Let ``members`` decide a batch in each of ``slots`` slots, every frame being ``delay_ms`` on its way.

    Raises :class:`~testnet.errors.TestnetError` where the simulator's oracle objects.
    """
    setting = make_setting(members, DOMAIN, NetworkParams(min_providers=1, pair_percent=100, audit_slots=0))
    setting.workload.sign(slots)
    heal_ms = (slots + 1) * setting.terms.params.slot_ms  # every message of every slot meets the delay
    plan = FaultPlan("distance", heal_ms, Weather(delay_ms, delay_ms))
    run = Watched(setting, plan, 1, slots)
    began = time.process_time()
    result = run.run()
    shared_s = time.process_time() - began
    if result.violation is not None:
        raise TestnetError(f"the simulated committee failed: {result.violation}")
    own_s = _admission_s(setting, run.heard)
    cpu_ms = (own_s + shared_s / members) * 1_000 / max(1, result.heights)
    return Distant(tuple(run.decided_ms), result.heights, len(run.heard), cpu_ms)


@dataclass
class _Noted:
    """When things happened, in virtual ms."""

    proposed: dict[int, int] = field(default_factory=dict)
    """By height: when its first proposal was sent."""
    heights: dict[int, int] = field(default_factory=dict)
    """By node: where it stood when it was last looked at."""


class Watched(Simulation):
    """A run that notes when batches are proposed and decided, and what one member hears."""

    def __init__(self, setting: Setting, plan: FaultPlan, seed: int, slots: int) -> None:
        self._noted = _Noted()
        self.decided_ms: list[float] = []
        self.heard: list[tuple[int, LinkFrame]] = []
        """Sender and frame."""
        super().__init__(setting, plan, seed, slots)

    def send(self, node: int, frame: LinkFrame, to: bytes | None) -> None:
        """As the simulator does."""
        if isinstance(frame, ProposalFrame):
            self._noted.proposed.setdefault(frame.header.height, self.agenda.now_ms)
        super().send(node, frame, to)

    def step(self) -> None:
        """As the simulator does."""
        super().step()
        now_ms, happening = self.recent[-1]
        if isinstance(happening, Arrives):
            if happening.node == WATCHED and now_ms < self.plan.heal_ms:
                self.heard.append((happening.sender, happening.frame))
            self._look(happening.node, now_ms)

    def _look(self, number: int, now_ms: int) -> None:
        height, known = self.nodes[number].ledger.height, self._noted.heights.get(number, 0)
        if height > known:
            self._noted.heights[number] = height
            self.decided_ms.append(float(now_ms - self._noted.proposed[height]))


def _admission_s(setting: Setting, heard: list[tuple[int, LinkFrame]]) -> float:
    """CPU seconds of a member for what it heard: from bytes to inputs of the core, with nothing remembered before."""
    frames = [(setting.keys[sender].address, encode(frame)) for sender, frame in heard]
    verified = VerifiedSettlements(setting.terms)
    recover.cache_clear()
    began = time.process_time()
    for member, data in frames:
        frame: LinkFrame = decode_union(LinkFrame, data, MAX_BATCH_BYTES)
        if not isinstance(frame, StatusFrame | DecidedFrame):
            admit(member, frame, setting.terms, setting.committee, verified)
    return time.process_time() - began
