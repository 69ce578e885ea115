"""Fault plans: everything that goes wrong in one run, as data that is drawn from a seed before the run begins.

Nodes are numbered: 0 to n - 1 are the members in the committee's order, higher numbers are twins. From ``heal_ms`` on
every message arrives, within :data:`FAIR`'s delay, and nobody crashes any more; Byzantine members and twins go on.
"""

import enum
from random import Random

import msgspec

from testnet.simulator.errors import PlanUnknown


class Weather(msgspec.Struct, frozen=True):
    """What a message meets on its way: a delay in ms, drawn evenly (so messages overtake each other), or worse."""

    delay_min_ms: int
    delay_max_ms: int
    loss_percent: int = 0
    duplicate_percent: int = 0


FAIR = Weather(1, 15)


class Cut(msgspec.Struct, frozen=True):
    """Nothing gets from ``senders`` to ``receivers`` between two times in ms. A partition is a cut each way."""

    from_ms: int
    until_ms: int
    senders: tuple[int, ...]
    receivers: tuple[int, ...]


class Crash(msgspec.Struct, frozen=True):
    """``node`` loses its power at its operation number ``operation``, counted over restarts, for ``down_ms``.

    An operation is a write to the disk, a flush, a signature or a frame that is sent. What was written and not yet
    flushed survives in part: a torn write.
    """

    node: int
    operation: int
    down_ms: int


class Misdeed(enum.StrEnum):
    """What a Byzantine member does to what it should send."""

    EQUIVOCATE = "equivocate"
    """Tells different members different things, each properly signed."""
    MUTATE = "mutate"
    """Changes bytes."""
    WITHHOLD = "withhold"
    """Tells some members and not others."""
    REPLAY = "replay"
    """Says again what it, or somebody else, said before."""
    FORGE = "forge"
    """Lies about certificates, polkas and where it stands."""


class Byzantine(msgspec.Struct, frozen=True):
    """Member ``node`` commits ``misdeeds``, each on about ``percent`` of the frames that it sends."""

    node: int
    misdeeds: tuple[Misdeed, ...]
    percent: int = 40


class FaultPlan(msgspec.Struct, frozen=True):
    """All faults of one run."""

    name: str
    heal_ms: int = 0
    weather: Weather = FAIR
    """Until ``heal_ms``."""
    cuts: tuple[Cut, ...] = ()
    crashes: tuple[Crash, ...] = ()
    byzantine: tuple[Byzantine, ...] = ()
    twins: tuple[int, ...] = ()
    """Members whose key is on two machines, each with a guard of its own. Their second nodes are n, n + 1, …"""
    chain_outage_percent: int = 0
    """How often a node's question to the chain stays without an answer, until ``heal_ms``."""

    @property
    def faulty(self) -> frozenset[int]:
        """Nodes below n whose key may sign anything."""
        return frozenset(liar.node for liar in self.byzantine) | frozenset(self.twins)


PLANS = ("none", "crashes", "lossy", "partitions", "byzantine", "twins", "all")

_OPERATIONS_PER_SLOT = 40
"""About so many operations does a node of four make in a slot; only the spread of crashes depends on it."""


def draw_plan(name: str, seed: int, members: int, slots: int, slot_ms: int) -> FaultPlan:
    """The plan ``name`` of ``seed`` for a run with work in ``slots`` slots. Raises :class:`PlanUnknown`."""
    chance = Random(f"plan {name} {seed} {members}")  # noqa: S311  # a schedule that must repeat, not a secret
    heal_ms = max(1, slots * 3 // 4) * slot_ms
    few = (members - 1) // 3
    match name:
        case "none":
            return FaultPlan(name)
        case "crashes":
            return FaultPlan(name, heal_ms, crashes=_crashes(chance, members, slots, slot_ms))
        case "lossy":
            return FaultPlan(name, heal_ms, weather=_storm(chance), chain_outage_percent=20)
        case "partitions":
            return FaultPlan(name, heal_ms, cuts=_cuts(chance, members, heal_ms))
        case "byzantine":
            liars = chance.sample(range(members), few)
            return FaultPlan(name, heal_ms, byzantine=tuple(_liar(chance, node) for node in liars))
        case "twins":
            cuts = _cuts(chance, members + few, heal_ms)
            return FaultPlan(name, heal_ms, cuts=cuts, twins=tuple(chance.sample(range(members), few)))
        case "all":
            return _everything(chance, members, slots, slot_ms)
        case _:
            raise PlanUnknown(name, PLANS)


def _everything(chance: Random, members: int, slots: int, slot_ms: int) -> FaultPlan:
    heal_ms = max(1, slots * 3 // 4) * slot_ms
    faulty = chance.sample(range(members), (members - 1) // 3)
    split = chance.randint(0, len(faulty))
    return FaultPlan(
        "all",
        heal_ms,
        weather=_storm(chance),
        cuts=_cuts(chance, members + len(faulty) - split, heal_ms),
        crashes=_crashes(chance, members, slots, slot_ms),
        byzantine=tuple(_liar(chance, node) for node in faulty[:split]),
        twins=tuple(faulty[split:]),
        chain_outage_percent=chance.choice((0, 20)),
    )


def _storm(chance: Random) -> Weather:
    slowest = chance.choice((50, 200, 800))
    return Weather(1, slowest, chance.choice((0, 5, 20, 40)), chance.choice((0, 10, 30)))


def _crashes(chance: Random, members: int, slots: int, slot_ms: int) -> tuple[Crash, ...]:
    return tuple(
        Crash(
            node=chance.randrange(members),
            operation=chance.randint(1, max(2, slots * _OPERATIONS_PER_SLOT * 3 // 4)),
            down_ms=chance.randint(1, 4 * slot_ms),
        )
        for _ in range(chance.randint(1, 2 * members))
    )


def _cuts(chance: Random, nodes: int, heal_ms: int) -> tuple[Cut, ...]:
    cuts: list[Cut] = []
    for _ in range(chance.randint(1, 4) if nodes > 1 else 0):
        begin = chance.randrange(heal_ms)
        until = min(heal_ms, begin + chance.randint(1, max(2, heal_ms // 2)))
        some = tuple(sorted(chance.sample(range(nodes), chance.randint(1, nodes - 1))))
        others = tuple(node for node in range(nodes) if node not in some)
        cuts.append(Cut(begin, until, some, others))
        if chance.random() < 0.6:
            cuts.append(Cut(begin, until, others, some))
    return tuple(cuts)


def _liar(chance: Random, node: int) -> Byzantine:
    misdeeds = chance.sample(list(Misdeed), chance.randint(1, len(Misdeed)))
    return Byzantine(node, tuple(sorted(misdeeds)), chance.choice((10, 40, 90)))
