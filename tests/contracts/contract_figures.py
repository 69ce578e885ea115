"""Writes contract_figures.json: what the deployed bytecode answers, for Python's rules to replay.

``python -m tests.contracts.contract_figures`` writes it anew, ``--check`` only compares. Amounts are decimal text,
times are seconds since the network's genesis. The other direction is economics.json here and in tests/consensus/market.
"""

import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from contracts.bindings import certificate
from contracts.budget import BudgetPolicy, Economics, Schedule
from contracts.emission import COMPUTE_DECREASE_WEI, COMPUTE_INITIAL_WEI
from contracts.typed_data import Uint256
from testnet.evm import Refused
from tests.contracts.local_chain import MOR, World

Json = dict[str, Any]

PATH = Path(__file__).parent / "contract_figures.json"
DAY_SLOTS = 6
SLOT_S = 10
BATCHES = 30
SEED = 20240101
FUNDS = 2_000_000 * MOR
"""More than all budgets together, so that nothing but the formula refuses."""
NETWORKS = (
    ("emission, an endowment", BudgetPolicy.EMISSION, 20_000, 1),
    ("emission, nothing to begin with", BudgetPolicy.EMISSION, 0, 2),
    ("1 % of the pool, sessions paid late", BudgetPolicy.POOL_PERCENT, 100_000, 3),
)
"""Name, policy, endowment in MOR, days that a session may be paid late."""


def economics_of(policy: BudgetPolicy, endowment_mor: int, late_days: int) -> Economics:
    """A network of short days, whose emission and clock begin at 0."""
    return Economics(
        Schedule(COMPUTE_INITIAL_WEI, COMPUTE_DECREASE_WEI, 0, DAY_SLOTS * SLOT_S),
        genesis_s=0,
        slot_ms=SLOT_S * 1_000,
        day_slots=DAY_SLOTS,
        policy=policy,
        endowment_wei=endowment_mor * MOR,
        late_days=late_days,
    )


@cache
def make_figures() -> Json:
    """All of them, by an in-process EVM."""
    rng = random.Random(SEED)  # the same figures in every run
    networks = []
    for name, policy, endowment_mor, late_days in NETWORKS:
        world = World([1], economics=economics_of(policy, endowment_mor, late_days), past_s=0, funds=FUNDS)
        told = {"name": name, "policy": int(policy), "endowment_mor": endowment_mor, "late_days": late_days}
        networks.append(told | {"days": _days(world), "batches": _batches(world, rng)})
    return {"networks": networks, "access": _access(world, rng)}


def _days(world: World) -> list[list[str]]:
    """Day, market credit before, and the views emission_of and budget."""
    found = []
    for day in (0, 1, 2, 30, 364, 365, 366, 5_832, 5_833):
        for credited in (0, world.economics.income(day) // 3, world.economics.income(day) + MOR):
            arguments = day, credited
            figures = world.compute("emission_of", day), world.compute("budget", *arguments)
            found.append([str(figure) for figure in (*arguments, *figures)])
    return found


def _access(world: World, rng: random.Random) -> list[list[str]]:
    """Budget, reference price, supply, balance in wei, and the views max_t, access_rate and user_max."""
    found = []
    for _ in range(25):
        budget, price = rng.randrange(4_000 * MOR), 10 ** rng.randrange(18) + rng.randrange(9)
        supply = rng.randrange(1, 42_000_000 * MOR)
        balance = rng.choice((0, 1, supply, rng.randrange(supply)))
        max_t = world.compute("max_t", budget, price)
        views = world.compute("access_rate", max_t, supply), world.compute("user_max", max_t, supply, balance)
        found.append([str(figure) for figure in (budget, price, supply, balance, max_t, *views)])
    return found


def _batches(world: World, rng: random.Random) -> list[Json]:
    """Batches as they come, honest and not, with the contract's verdict and its views afterwards."""
    compute, day, height = world.compute, 0, 0
    total = bootstrap = 0
    found = []
    for _ in range(BATCHES):
        day += rng.choice((0, 0, 1, 1, 1, 2, 4))
        start_s = world.economics.day_start_s(day)
        world.chain.pass_time(max(0, start_s + rng.randrange(DAY_SLOTS * SLOT_S) - world.chain.now_s))
        of = max(0, day - rng.choice((0, 0, 0, 0, 1, -3)))
        market = compute("budget_left", of) * rng.randrange(4) // 3 + rng.choice((0, 0, 0, 1))
        ceiling = world.economics.bootstrap_ceiling(of) - bootstrap
        extra = rng.choice((0, 0, max(0, ceiling), max(0, ceiling) + 1))
        tried = max(0, total + market + extra - rng.choice((0, 0, 0, 0, 2 * market + extra + 1))), bootstrap + extra
        reason = _submit(world, height + 1, of, tried)
        if reason is None:
            height, (total, bootstrap) = height + 1, tried
        views = ("today", "credited_total", "bootstrap_credited", "pool", "reserve")
        found.append(
            {"now_s": world.chain.now_s - world.economics.genesis_s, "day": of, "total": str(tried[0])}
            | {"bootstrap": str(tried[1]), "refused": reason, "budget_left": str(compute("budget_left", day))}
            | {"asked_day": day}
            | {view: str(compute(view)) for view in views}
        )
    return found


def _submit(world: World, height: int, day: int, tried: tuple[int, int]) -> str | None:
    header = world.header(
        height, {}, day * DAY_SLOTS, total_credited=Uint256(tried[0]), bootstrap_credited=Uint256(tried[1])
    )
    try:
        world.compute("submit", *certificate(header, 0, world.sign(header)))
    except Refused as refusal:
        return refusal.reason
    return None


def main(arguments: list[str]) -> int:
    """Write the file, or say with ``--check`` whether it is what the contract answers."""
    text = json.dumps(make_figures(), indent=1) + "\n"
    if arguments == ["--check"]:
        return 0 if PATH.exists() and PATH.read_text(encoding="utf-8") == text else 1
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
