"""Fault plans: everything that goes wrong in one run, as data that is drawn from a seed before the run begins.

Nodes are numbered: 0 to n - 1 are the first committee in its order, then come twins, then those who wait to be drawn.
From ``heal_ms`` on every message arrives, within :data:`FAIR`'s delay, and nobody crashes any more; Byzantine members
and twins go on.
"""

import enum
from collections.abc import Sequence
from random import Random

import msgspec

from testnet.simulator.errors import PlanUnknown
from testnet.simulator.listing import Operator, draw_operators


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
    MISLEAD = "mislead"
    """Proposes to everybody alike what is wrong: roots, sums, or a day opening that is not the chain's."""


class Byzantine(msgspec.Struct, frozen=True):
    """Member ``node`` commits ``misdeeds``, each on about ``percent`` of the frames that it sends."""

    node: int
    misdeeds: tuple[Misdeed, ...]
    percent: int = 40


class People(msgspec.Struct, frozen=True):
    """Who has staked, and who stands in the registry when a day is opened. Keys are numbered: members, then spares."""

    stakes: tuple[int, ...] = ()
    """Whole MOR by key number; empty: all members the same, and nobody waits."""
    candidates: tuple[tuple[int, ...], ...] = ()
    """Key numbers by day, from day 1 on, the last for all days to come; empty: nobody is ever drawn."""

    def standing(self, day: int) -> tuple[int, ...]:
        """The key numbers of who stands when ``day`` is opened."""
        return self.candidates[min(day, len(self.candidates)) - 1] if self.candidates and day > 0 else ()


class Loss(msgspec.Struct, frozen=True):
    """``nodes`` are gone for good at ``lost_ms``; at ``rescued_ms`` the registry puts ``members`` (keys) in charge."""

    nodes: tuple[int, ...]
    lost_ms: int
    rescued_ms: int
    members: tuple[int, ...]


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
    people: People = People()
    loss: Loss | None = None
    is_short: bool = False
    """Whether every proposal names its settlements, so that members have to ask for those that they lack."""

    operators: tuple[Operator, ...] = ()
    """What operators say of the list of models, and when."""

    @property
    def gone(self) -> frozenset[int]:
        """Nodes that are lost for good, sooner or later."""
        return frozenset(() if self.loss is None else self.loss.nodes)

    @property
    def faulty(self) -> frozenset[int]:
        """Nodes below n whose key may sign anything."""
        return frozenset(liar.node for liar in self.byzantine) | frozenset(self.twins)


PLANS = ("none", "crashes", "lossy", "partitions", "byzantine", "twins", "succession", "rescue", "all")

_OPERATIONS_PER_SLOT = 40
"""About so many operations does a node of four make in a slot; only the spread of crashes depends on it."""

_STAKE_MOR = 1_000


def draw_plan(name: str, seed: int, members: int, slots: int, slot_ms: int) -> FaultPlan:
    """The plan ``name`` of ``seed`` for a run with work in ``slots`` slots. Raises :class:`PlanUnknown`."""
    chance = Random(f"plan {name} {seed} {members}")  # noqa: S311  # a schedule that must repeat, not a secret
    heal_ms = max(1, slots * 3 // 4) * slot_ms
    match name:
        case "none":
            return FaultPlan(name)
        case "crashes":
            return FaultPlan(name, heal_ms, crashes=_crashes(chance, members, slots, slot_ms))
        case "lossy":
            storm = _storm(chance)
            return FaultPlan(name, heal_ms, weather=storm, chain_outage_percent=20, is_short=chance.random() < 0.5)
        case "partitions":
            return FaultPlan(name, heal_ms, cuts=_cuts(chance, members, heal_ms))
        case "byzantine":
            people = _people(chance, members, 0)
            liars = tuple(_liar(chance, node) for node in _some_faulty(chance, members, people))
            return FaultPlan(name, heal_ms, byzantine=liars, people=people, is_short=chance.random() < 0.5)
        case "twins":
            people = _people(chance, members, 0)
            twins = _some_faulty(chance, members, people)
            return FaultPlan(
                name, heal_ms, cuts=_cuts(chance, members + len(twins), heal_ms), twins=twins, people=people
            )
        case "succession":
            return _everything(name, chance, members, slots, slot_ms, spares=chance.randint(1, 3))
        case "rescue":
            return _rescue(chance, members, slots, slot_ms)
        case "all":
            return _everything(name, chance, members, slots, slot_ms, spares=0)
        case _:
            raise PlanUnknown(name, PLANS)


def _everything(name: str, chance: Random, members: int, slots: int, slot_ms: int, *, spares: int) -> FaultPlan:
    heal_ms = max(1, slots * 3 // 4) * slot_ms
    people = _people(chance, members, spares)
    faulty = _some_faulty(chance, members, people)
    split = chance.randint(0, len(faulty))
    return FaultPlan(
        name,
        heal_ms,
        weather=_storm(chance),
        cuts=_cuts(chance, members + len(faulty) - split + spares, heal_ms),
        crashes=_crashes(chance, members, slots, slot_ms),
        byzantine=tuple(_liar(chance, node) for node in faulty[:split]),
        twins=tuple(faulty[split:]),
        chain_outage_percent=chance.choice((0, 20)),
        people=people,
        is_short=chance.random() < 0.5,
        operators=draw_operators(chance, members + spares, slots),
    )


def _rescue(chance: Random, members: int, slots: int, slot_ms: int) -> FaultPlan:
    """A third or more of the stake is lost in fair weather, so that what it decided is known; then comes the rescue."""
    spares = chance.randint(1, 3)
    lost = tuple(sorted(chance.sample(range(members), members // 3 + 1 if members > 1 else 0)))
    lost_ms = chance.randint(slot_ms, max(slot_ms, slots * slot_ms // 2))
    rescued_ms = lost_ms + chance.randint(3, 8) * slot_ms
    staying = tuple(node for node in range(members + spares) if node not in lost)
    people = People(_stakes(chance, members, spares))
    return FaultPlan("rescue", rescued_ms, people=people, loss=Loss(lost, lost_ms, rescued_ms, staying))


def _people(chance: Random, members: int, spares: int) -> People:
    """Stakes, and for each day who stands: most of the members and some who wait, never fewer than four."""
    stakes = _stakes(chance, members, spares)
    if spares == 0:
        return People(stakes)
    days = []
    for _ in range(4):
        leaving = chance.sample(range(members), chance.randint(0, max(0, min(members // 4 + 1, members + spares - 4))))
        joining = chance.sample(range(members, members + spares), chance.randint(1, spares))
        standing = [node for node in range(members) if node not in leaving] + joining
        days.append(tuple(sorted(standing)) if len(standing) >= min(4, members) else tuple(range(members + spares)))
    return People(stakes, tuple(days))


def _stakes(chance: Random, members: int, spares: int) -> tuple[int, ...]:
    """All alike, rising by number, or one with most of a third."""
    count = members + spares
    match chance.randrange(3):
        case 0:
            return (_STAKE_MOR,) * count
        case 1:
            return tuple(_STAKE_MOR + 250 * (number % 4) for number in range(count))
        case _:
            large = chance.randrange(members)
            most = max(_STAKE_MOR, _STAKE_MOR * (members - 1) * 49 // 100)
            return tuple(most if number == large else _STAKE_MOR for number in range(count))


def _some_faulty(chance: Random, members: int, people: People) -> tuple[int, ...]:
    """As many members as may be faulty: less than a third of the stake of every committee that there may be."""
    committees = [tuple(range(members)), *people.candidates]
    faulty: list[int] = []
    for node in chance.sample(range(members), members):
        if all(_is_tolerable([*faulty, node], committee, people.stakes) for committee in committees):
            faulty.append(node)
    return tuple(faulty[: max(1, (members - 1) // 3)])


def _is_tolerable(faulty: Sequence[int], committee: Sequence[int], stakes: Sequence[int]) -> bool:
    return 3 * sum(stakes[node] for node in faulty if node in committee) < sum(stakes[node] for node in committee)


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
