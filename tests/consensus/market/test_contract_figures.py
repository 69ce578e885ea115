"""What the deployed contract answered (tests/contracts/contract_figures.json), replayed by Python's rules."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consensus.market import access
from consensus.market.budget import compute_budget
from consensus.params import NetworkParams, Terms
from contracts.budget import BudgetGate
from contracts.typed_data import Address, Domain

Json = dict[str, Any]

FIGURES: Json = json.loads((Path(__file__).parents[2] / "contracts" / "contract_figures.json").read_text("utf-8"))
SLOT_MS = 10_000
DAY_SLOTS = 6


def terms_of(network: Json) -> Terms:
    params = NetworkParams(
        slot_ms=SLOT_MS,
        day_slots=DAY_SLOTS,
        settle_window_slots=network["late_days"] * DAY_SLOTS,
        budget_policy="pool" if network["policy"] else "emission",
        endowment_mor=network["endowment_mor"],
        audit_slots=0,
    )
    return Terms(Domain(1, Address(bytes(20))), 0, params)


def disagreements(figures: Json) -> Iterator[str]:
    """Every figure of the contract's that Python's rules don't give."""
    for budget, price, supply, balance, max_t, rate, most in (map(int, row) for row in figures["access"]):
        views = access.max_t(budget, price), access.access_rate(max_t, supply), access.user_max(max_t, supply, balance)
        if views != (max_t, rate, most):
            yield f"access to {budget} wei: {views}"
    for network in figures["networks"]:
        terms = terms_of(network)
        for day, credited, emission, budget in (map(int, row) for row in network["days"]):
            if (terms.economics.emission(day), compute_budget(day, credited, terms)) != (emission, budget):
                yield f"{network['name']}: day {day} after {credited} wei"
        yield from _batches(network, terms)


def _batches(network: Json, terms: Terms) -> Iterator[str]:
    economics = terms.economics
    gate = BudgetGate(economics)
    for number, row in enumerate(network["batches"]):
        day, total, bootstrap = row["day"], int(row["total"]), int(row["bootstrap"])
        refused = "compute: day not reached" if economics.day_start_s(day) > row["now_s"] else None
        refused = refused or gate.objection(day, total, bootstrap)
        today = row["now_s"] // economics.day_s
        left = economics.roll(gate.rolled, gate.limit, row["asked_day"] + 1) - gate.market
        pool, reserve = economics.unused(today, gate.market), economics.bootstrap_ceiling(today) - gate.bootstrap
        mine = (refused, left, today, gate.credited, gate.bootstrap, pool, reserve)
        names = ("budget_left", "today", "credited_total", "bootstrap_credited", "pool", "reserve")
        theirs = (row["refused"], *(int(row[name]) for name in names))
        if mine != theirs:
            yield f"{network['name']}: batch {number}: {mine} instead of {theirs}"


def test_s23_s24_s37_s38_python_gives_the_contracts_figures() -> None:
    assert list(disagreements(FIGURES)) == []


def test_the_figures_hold_what_matters() -> None:
    """Acceptance, and each refusal that days, budget and reserve know."""
    refused = {row["refused"] for network in FIGURES["networks"] for row in network["batches"]}
    assert refused == {None} | {
        f"compute: {word}" for word in ("falling total", "day not reached", "over reserve", "over budget")
    }


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("days", (3, 3)),
        ("days", (2, 2)),
        ("batches", (5, "pool")),
        ("batches", (5, "budget_left")),
        ("batches", (9, "reserve")),
        ("batches", (9, "credited_total")),
    ],
)
def test_a_wrong_figure_would_be_noticed(section: str, place: tuple[int, Any]) -> None:
    wrong = copy.deepcopy(FIGURES)
    row, column = place
    held = wrong["networks"][0][section][row]
    held[column] = str(int(held[column]) + 1)
    assert len(list(disagreements(wrong))) == 1


def test_a_wrong_verdict_or_access_would_be_noticed() -> None:
    wrong = copy.deepcopy(FIGURES)
    batches = [row for network in wrong["networks"] for row in network["batches"]]
    next(row for row in batches if row["refused"] == "compute: over budget")["refused"] = None
    wrong["access"][0][5] = str(int(wrong["access"][0][5]) + 1)
    assert len(list(disagreements(wrong))) == 2
