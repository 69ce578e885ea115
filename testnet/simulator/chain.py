"""The simulated chain: what a day opens with, who has staked by then, and a rescue."""

from random import Random

from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market.ledger_state import Ledger
from consensus.membership import Term, draw
from contracts.emission import daily_budget
from contracts.typed_data import Address, Uint256
from gossip.messages.committee import DayOpening
from testnet.simulator.faults import FaultPlan
from testnet.simulator.setting import SUPPLY_WEI, WEI, Setting

SNAPSHOTS = 3
"""Blocks that nodes may take a day's snapshot at: two proposers make two openings, both fair."""


class Chain:
    """What the nodes read. ``plan`` says who has staked when."""

    def __init__(self, setting: Setting, plan: FaultPlan) -> None:
        self._setting = setting
        self._plan = plan

    def is_out(self, now_ms: int, chance: Random) -> bool:
        """Whether a node can't read it just now."""
        return now_ms < self._plan.heal_ms and chance.randrange(100) < self._plan.chain_outage_percent

    def make(self, day: int, ledger: Ledger, chance: Random) -> DayOpening:
        """The opening that a node on ``ledger`` would propose."""
        return replace(
            self._at(day, chance.randrange(SNAPSHOTS)),
            drawn=draw(self.staked(day), ledger.running) if self._draws(ledger) else (),
        )

    def carried_over(self, day: int, ledger: Ledger) -> DayOpening:
        """What a node proposes that can't read the chain."""
        previous = ledger.account
        return DayOpening(day, previous.snapshot_block, previous.supply_wei, daily_budget(day))

    def is_fair(self, opening: DayOpening, ledger: Ledger, *, is_out: bool = False) -> bool:
        """Whether a node on ``ledger`` finds ``opening`` on the chain; without the chain only what is carried over."""
        if opening == self.carried_over(opening.day, ledger):
            return True
        if is_out or opening.day <= ledger.day:
            return False
        drawn = draw(self.staked(opening.day), ledger.running) if self._draws(ledger) else ()
        return any(opening == replace(self._at(opening.day, number), drawn=drawn) for number in range(SNAPSHOTS))

    def staked(self, day: int) -> list[tuple[Address, int]]:
        """Who had staked how many wei at the snapshot of ``day``; nobody has where the plan lets nobody change."""
        registry = self._plan.registry
        return [] if not registry else self._wei(registry[min(day, len(registry)) - 1])

    def rescue(self, now_ms: int) -> Term | None:
        """The rescue in the registry, which nothing else comes before; None before there is one."""
        relief = self._plan.relief
        return None if relief is None or now_ms < relief.at_ms else self.rescue_ever()

    def rescue_ever(self) -> Term | None:
        """The rescue that will be in the registry at some time."""
        relief = self._plan.relief
        if relief is None:
            return None
        epoch = self._setting.committee.epoch + 1
        return Term.of(Committee.of(epoch, [Member(*one) for one in self._wei(relief.stakes) if one[1]]))

    def _draws(self, ledger: Ledger) -> bool:
        return bool(self._plan.registry) and ledger.drawn is None

    def _at(self, day: int, number: int) -> DayOpening:
        block = 100 + SNAPSHOTS * day + number
        return DayOpening(day, block, Uint256(SUPPLY_WEI + block * WEI), daily_budget(day))

    def _wei(self, stakes: tuple[int, ...]) -> list[tuple[Address, int]]:
        return [(key.address, mor * WEI) for key, mor in zip(self._setting.keys, stakes, strict=True)]
