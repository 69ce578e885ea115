"""Write economics.json: budgets by Python's formula, and S39, for the contract's tests to replay.

``python -m tests.contracts.economics_vectors``
"""

import json
from pathlib import Path
from typing import Any

from contracts.budget import BudgetPolicy, Economics, Schedule
from contracts.emission import COMPUTE_DECREASE_WEI, COMPUTE_INITIAL_WEI, PAYOUT_START_S

DAY = 86_400
S39 = {
    "supply_mor": 10_000_000,
    "budget_mor": 3_000,
    "dollars_per_mor": "20",
    "dollars_per_1000_t": "0.002",
    "wei_per_t": 10**11,
    "max_t": 30_000_000_000,
    "access_rate": 3_000,
    "user_max": [[5, 15_000], [500, 1_500_000]],
}
NETWORKS = (
    ("from the first midnight", 0, DAY // 2, 0),
    ("a day after the start", 0, DAY, 0),
    ("a share of the pool, two years on", 1, 730 * DAY, 0),
    ("with an endowment", 0, 0, 100_000 * 10**18),
)


def days(economics: Economics) -> list[list[Any]]:
    """Day, market credit before, emission, budget, bootstrap ceiling: nine tenths of each budget are spent."""
    found: list[list[Any]] = []
    credited = 0
    for day in (*range(5), 364, 365, 366, 5_832, 5_833, 5_900):
        budget = economics.budget(day, credited)
        row = (credited, economics.emission(day), budget, economics.bootstrap_ceiling(day))
        found.append([day, *map(str, row)])
        credited += budget * 9 // 10
    return found


def main() -> None:
    """Write the file."""
    networks = []
    schedule = Schedule(COMPUTE_INITIAL_WEI, COMPUTE_DECREASE_WEI, PAYOUT_START_S, DAY)
    for name, policy, after_s, endowment in NETWORKS:
        economics = Economics(
            schedule, PAYOUT_START_S + after_s, 12_000, 7_200, BudgetPolicy(policy), endowment_wei=endowment
        )
        networks.append(
            {
                "name": name,
                "policy": policy,
                "genesis_after_s": after_s,
                "endowment_wei": str(endowment),
                "days": days(economics),
            }
        )
    path = Path(__file__).parent / "economics.json"
    path.write_text(json.dumps({"s39": S39, "networks": networks}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
