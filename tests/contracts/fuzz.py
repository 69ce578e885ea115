"""Random operations on the Compute Contract and on what must agree with it: the ledger, or the budget gate's twin.

``python -m tests.contracts.fuzz --operations 100000`` runs many against :mod:`consensus.market`: sessions, batches
(some never submitted), forged batches that the whole committee has signed, and claims. ``--against twin`` runs them
against :class:`contracts.budget.BudgetGate` and plain dicts: batches of any day, late and over budget, donations and
changes of receiver, which no honest ledger would make. The seed is printed and can be given again.
"""

import argparse
import random
import sys
import time
from collections import Counter

from contracts.budget import BudgetPolicy
from tests.contracts.ledger_side import LedgerSide
from tests.contracts.local_chain import MOR
from tests.contracts.twin import DAY_SLOTS, PROVIDERS, SLOT_S, Side

LEDGER_RUN = 1_000
"""Operations on one ledger before the next begins."""

RUN = 250
"""Operations on one chain before the next begins."""


def operate(side: Side, chance: random.Random) -> str:
    """One operation; its name."""
    provider, today = chance.choice(PROVIDERS), side.today
    heights = sorted(side.history)
    match chance.choices(
        ("time", "credit", "claim", "many", "pull", "donate", "roll", "redirect"), (4, 10, 5, 1, 1, 1, 1, 1)
    )[0]:
        case "time":
            days = chance.choice((0, 0, 1, 1, 2, 5, 40))
            side.pass_time(days * DAY_SLOTS * SLOT_S + chance.randrange(DAY_SLOTS * SLOT_S))
            return "time"
        case "credit":
            day = max(0, today + chance.choice((0, 0, 0, 0, -1, -3, 1)))
            room = max(0, side.room(day))
            market = chance.choice((0, room // 3, room // 3, room, room + 1, room + 2**60, chance.randrange(2**70)))
            left = max(0, side.gate.economics.bootstrap_ceiling(day) - side.gate.bootstrap)
            bootstrap = chance.choice((0, 0, 0, left // 2, left, left + 1))
            accepted = side.credit(provider, market, bootstrap, day, chance.choice((1, 1, 3)))
            return "credit" if accepted else "refused"
        case "claim" if heights:
            side.claim(provider, chance.choice(heights[-3:]))
            return "claim"
        case "many" if heights:
            side.claim_many(chance.choice(heights[-2:]))
            return "many"
        case "pull":
            side.pull()
            return "pull"
        case "donate":
            side.donate(chance.randrange(1, 50 * MOR))
            return "donate"
        case "roll":
            side.roll(max(0, today + chance.choice((-3, -2, -2, -1, 0, 1))))
            return "roll"
        case "redirect":
            side.redirect(provider, chance.choice(PROVIDERS))
            return "redirect"
    return "none"


def fuzz_ledger(operations: int, seed: int) -> dict[str, int]:
    """Do so many operations on ledger and contract; how often each kind was done. Raises as :func:`fuzz`."""
    done: Counter[str] = Counter()
    chance = random.Random(seed)
    while done.total() < operations:
        side = LedgerSide(chance)
        stop = min(operations, done.total() + LEDGER_RUN)
        try:
            while done.total() < stop:
                if chance.random() < 0.7:
                    sessions = chance.choice((0, 1, 3, 10, 25))
                    settled, is_submitted = side.batch(chance.choice((1, 1, 1, 2, 3, 9, 25)), sessions)
                    done["batch submitted" if is_submitted else "batch kept back"] += 1
                    done.update({"session settled": settled, "session rejected": sessions - settled})
                else:
                    done["claim" if side.claim() else "nothing to claim"] += 1
            side.settle_up()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, operation {done.total()}: {error}") from error
        done.update({"deposits held": int(side.most_at_stake > 0), "deposits paid back": int(side.released_wei > 0)})
        done.update({f"refused: {reason}": count for reason, count in side.forgeries.items()})
    return dict(done)


def fuzz(operations: int, seed: int) -> dict[str, int]:
    """Do so many operations; how often each kind was done. Raises AssertionError where contract and twin differ."""
    done: dict[str, int] = {}
    chance = random.Random(seed)
    side = None
    for number in range(operations):
        if side is None or number % RUN == 0:
            endowment = chance.choice((0, 1_000, 20_000)) * MOR
            side = Side(chance.choice(list(BudgetPolicy)), endowment)
        try:
            name = operate(side, chance)
            if number % 10 == 0:
                side.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, operation {number}: {error}") from error
        done[name] = done.get(name, 0) + 1
    return done


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.contracts.fuzz", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--against", choices=("ledger", "twin"), default="ledger")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    started, worked = time.monotonic(), time.process_time()
    done = (fuzz if options.against == "twin" else fuzz_ledger)(options.operations, options.seed)
    wall, cpu = time.monotonic() - started, time.process_time() - worked
    count = sum(done.values())
    print(f"{count} operations agreed in {wall:.0f} s ({cpu:.0f} s of CPU, {count / cpu:.0f} a second): {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
