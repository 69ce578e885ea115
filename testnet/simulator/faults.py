"""Fault plans: everything that goes wrong in one run, as data that is drawn from a seed before the run begins.

Nodes are numbered: 0 to n - 1 are the first committee in its order, then come those who may be drawn later, then twins.
From ``heal_ms`` on every message arrives, within :data:`FAIR`'s delay, and nobody crashes any more; Byzantine members
and twins go on.
"""

import enum
from collections.abc import Callable
from random import Random

import msgspec

from consensus.member.short import SHORT_FROM
from consensus.membership import LEAST_MEMBERS
from testnet.simulator.errors import PlanUnknown


class Weather(msgspec.Struct, frozen=True):
    """What a message meets on its way: a delay in ms, drawn evenly (so messages overtake each other), or worse."""

    delay_min_ms: int
    delay_max_ms: int
    loss_percent: int = 0
    duplicate_percent: int = 0


FAIR = Weather(1, 15)

DAY_SLOTS = 16
"""Slots of a day where committees stay, so that a run sees several."""

SHORT_DAY_SLOTS = 5
"""Slots of a day where they follow each other."""


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
    """Lies about certificates, polkas, hand-overs and where it stands."""
    CHEAT = "cheat"
    """Proposes what nobody may vote for: an opening that is not the chain's, roots that are not the ledger's."""
    HOARD = "hoard"
    """Names settlements in its proposals and hands none out."""


class Byzantine(msgspec.Struct, frozen=True):
    """Member ``node`` commits ``misdeeds``, each on about ``percent`` of the frames that it sends."""

    node: int
    misdeeds: tuple[Misdeed, ...]
    percent: int = 40


class Absence(msgspec.Struct, frozen=True):
    """``node`` has no power between two times in ms; from 0 on: it has never run before."""

    node: int
    from_ms: int
    until_ms: int


class Relief(msgspec.Struct, frozen=True):
    """From ``at_ms`` on the registry holds a rescue: ``stakes`` in MOR by node are those of its committee."""

    at_ms: int
    stakes: tuple[int, ...]


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
    """How often a node can't read the chain, until ``heal_ms``."""
    stakes: tuple[int, ...] = ()
    """The first committee's, in MOR by node; equal where there are none."""
    newcomers: int = 0
    """Nodes that run, and are no members at first."""
    registry: tuple[tuple[int, ...], ...] = ()
    """Stakes in MOR by node as each day's snapshot finds them, from day 1 on; the last stays. Empty: nobody changes."""
    day_slots: int = DAY_SLOTS
    short_from: int = SHORT_FROM
    """A proposal of so many settlements travels short."""
    absences: tuple[Absence, ...] = ()
    relief: Relief | None = None

    @property
    def faulty(self) -> frozenset[int]:
        """Nodes whose key may sign anything; a twin counts as the node that it has the key of."""
        return frozenset(liar.node for liar in self.byzantine) | frozenset(self.twins)


PLANS = (
    *("none", "crashes", "lossy", "partitions", "byzantine", "twins"),
    *("short", "cheats", "succession", "rescue", "all"),
)

_OPERATIONS_PER_SLOT = 40
"""About so many operations does a node of four make in a slot; only the spread of crashes depends on it."""

_STAKE_MOR = 1_000
"""What each member has where stakes are equal."""


def draw_plan(name: str, seed: int, members: int, slots: int, slot_ms: int) -> FaultPlan:
    """The plan ``name`` of ``seed`` for a run with work in ``slots`` slots. Raises :class:`PlanUnknown`."""
    draw = _DRAWN.get(name)
    if draw is None:
        raise PlanUnknown(name, PLANS)
    chance = Random(f"plan {name} {seed} {members}")  # noqa: S311  # a schedule that must repeat, not a secret
    return draw(_Dice(name, chance, members, slots, slot_ms))


class _Dice:
    """One plan in the making."""

    def __init__(self, name: str, chance: Random, members: int, slots: int, slot_ms: int) -> None:
        self.name, self.chance = name, chance
        self.members, self.slots, self.slot_ms = members, slots, slot_ms
        self.heal_ms = max(1, slots * 3 // 4) * slot_ms
        self.few = chance.sample(range(members), (members - 1) // 3)
        """As many members as may be faulty, where stakes are equal."""

    def plan(self, **faults: object) -> FaultPlan:
        """The plan with what was drawn for it; stakes are equal in every other run."""
        made = FaultPlan(self.name, self.heal_ms)
        made = msgspec.structs.replace(made, **faults)
        if made.stakes or self.chance.random() < 0.5:
            return made
        return msgspec.structs.replace(made, stakes=self.stakes(made.faulty, self.members))

    def stakes(self, faulty: frozenset[int], nodes: int, leavers: int = 0) -> tuple[int, ...]:
        """Unequal stakes that keep less than a third with the faulty; up to ``leavers`` have none."""
        for _ in range(50):
            drawn = [self.chance.choice((1, 10, 100, 500, 1_000)) * self.chance.randint(1, 9) for _ in range(nodes)]
            for node in self.chance.sample(range(nodes), self.chance.randint(0, leavers)):
                drawn[node] = 0
            held = sum(drawn[node] for node in faulty if node < nodes)
            if 3 * held < sum(drawn) and sum(map(bool, drawn)) >= min(LEAST_MEMBERS, self.members):
                return tuple(drawn)
        return (_STAKE_MOR,) * nodes

    def storm(self) -> Weather:
        """Loss, delay and duplicates."""
        slowest = self.chance.choice((50, 200, 800))
        return Weather(1, slowest, self.chance.choice((0, 5, 20, 40)), self.chance.choice((0, 10, 30)))

    def crashes(self, nodes: int) -> tuple[Crash, ...]:
        """Power that fails, of the first ``nodes``."""
        return tuple(
            Crash(
                node=self.chance.randrange(nodes),
                operation=self.chance.randint(1, max(2, self.slots * _OPERATIONS_PER_SLOT * 3 // 4)),
                down_ms=self.chance.randint(1, 4 * self.slot_ms),
            )
            for _ in range(self.chance.randint(1, 2 * nodes))
        )

    def cuts(self, nodes: int) -> tuple[Cut, ...]:
        """Partitions and links that are deaf on one side, of the first ``nodes``."""
        cuts: list[Cut] = []
        for _ in range(self.chance.randint(1, 4) if nodes > 1 else 0):
            begin = self.chance.randrange(self.heal_ms)
            until = min(self.heal_ms, begin + self.chance.randint(1, max(2, self.heal_ms // 2)))
            some = tuple(sorted(self.chance.sample(range(nodes), self.chance.randint(1, nodes - 1))))
            others = tuple(node for node in range(nodes) if node not in some)
            cuts.append(Cut(begin, until, some, others))
            if self.chance.random() < 0.6:
                cuts.append(Cut(begin, until, others, some))
        return tuple(cuts)

    def liars(self, nodes: list[int], misdeeds: tuple[Misdeed, ...] = tuple(Misdeed)) -> tuple[Byzantine, ...]:
        """Each with some of ``misdeeds``."""
        return tuple(
            Byzantine(
                node,
                tuple(sorted(self.chance.sample(misdeeds, self.chance.randint(1, len(misdeeds))))),
                self.chance.choice((10, 40, 90)),
            )
            for node in nodes
        )

    def short(self) -> int:
        """Mostly every proposal is short."""
        return self.chance.choice((1, 1, SHORT_FROM))


def _short(dice: _Dice) -> FaultPlan:
    liars = dice.liars(dice.few, (Misdeed.HOARD, Misdeed.WITHHOLD, Misdeed.EQUIVOCATE, Misdeed.REPLAY))
    return dice.plan(weather=dice.storm(), byzantine=liars, short_from=1)


def _cheats(dice: _Dice) -> FaultPlan:
    liars = [Byzantine(node, (Misdeed.CHEAT,), dice.chance.choice((50, 100))) for node in dice.few]
    return dice.plan(byzantine=tuple(liars), day_slots=SHORT_DAY_SLOTS, short_from=dice.short())


def _succession(dice: _Dice) -> FaultPlan:
    """Members join and leave every day, among them newcomers who have never run before, in all kinds of trouble."""
    members, chance = dice.members, dice.chance
    newcomers = chance.randint(1, max(1, members // 2))
    everybody = members + newcomers
    liars = dice.liars(dice.few[: chance.randint(0, len(dice.few))])
    faulty = frozenset(liar.node for liar in liars)
    days = dice.slots // SHORT_DAY_SLOTS + 1
    late = [Absence(members + one, 0, chance.randrange(dice.heal_ms)) for one in range(newcomers)]
    return dice.plan(
        weather=dice.storm() if chance.random() < 0.7 else FAIR,
        cuts=dice.cuts(everybody) if chance.random() < 0.5 else (),
        crashes=dice.crashes(everybody) if chance.random() < 0.5 else (),
        byzantine=liars,
        chain_outage_percent=chance.choice((0, 20)),
        newcomers=newcomers,
        registry=tuple(dice.stakes(faulty, everybody, leavers=members // 2) for _ in range(days)),
        day_slots=SHORT_DAY_SLOTS,
        short_from=dice.short(),
        absences=tuple(one for one in late if chance.random() < 0.7),
    )


def _rescue(dice: _Dice) -> FaultPlan:
    """A third or more of the members goes; after a long stall others, who have staked more, and newcomers take over."""
    members, chance, slot_ms = dice.members, dice.chance, dice.slot_ms
    newcomers = chance.randint(1, max(1, members // 2))
    lost = chance.sample(range(members), min(members - 1, members // 3 + 1))
    from_ms = chance.randrange(1, dice.heal_ms)
    at_ms = max(dice.heal_ms, from_ms) + 3 * slot_ms
    left = [_STAKE_MOR * (1 if node in lost else chance.randint(4, 9)) for node in range(members + newcomers)]
    return dice.plan(
        weather=dice.storm() if chance.random() < 0.5 else FAIR,
        chain_outage_percent=chance.choice((0, 20)),
        newcomers=newcomers,
        day_slots=SHORT_DAY_SLOTS,
        short_from=dice.short(),
        absences=tuple(Absence(node, from_ms, at_ms + chance.randint(1, 10) * slot_ms) for node in lost),
        relief=Relief(at_ms, tuple(left)) if lost else None,
        stakes=(_STAKE_MOR,) * members,
    )


def _all(dice: _Dice) -> FaultPlan:
    split = dice.chance.randint(0, len(dice.few))
    return dice.plan(
        weather=dice.storm(),
        cuts=dice.cuts(dice.members + len(dice.few) - split),
        crashes=dice.crashes(dice.members),
        byzantine=dice.liars(dice.few[:split]),
        twins=tuple(dice.few[split:]),
        chain_outage_percent=dice.chance.choice((0, 20)),
        short_from=dice.short(),
    )


_DRAWN: dict[str, Callable[[_Dice], FaultPlan]] = {
    "none": lambda dice: FaultPlan(dice.name),
    "crashes": lambda dice: dice.plan(crashes=dice.crashes(dice.members)),
    "lossy": lambda dice: dice.plan(weather=dice.storm(), chain_outage_percent=20),
    "partitions": lambda dice: dice.plan(cuts=dice.cuts(dice.members)),
    "byzantine": lambda dice: dice.plan(byzantine=dice.liars(dice.few)),
    "twins": lambda dice: dice.plan(cuts=dice.cuts(dice.members + len(dice.few)), twins=tuple(dice.few)),
    "short": _short,
    "cheats": _cheats,
    "succession": _succession,
    "rescue": _rescue,
    "all": _all,
}
