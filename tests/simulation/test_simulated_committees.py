"""Many seeds of every plan. A failing seed names the command that runs it again with a trace."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from contracts.typed_data import Uint256
from testnet.simulator.__main__ import command_of
from testnet.simulator.contract import Contracts
from testnet.simulator.errors import Violation
from testnet.simulator.faults import PLANS, draw_plan
from testnet.simulator.setting import PARAMS
from testnet.simulator.simulation import Result, Simulation, setting_of, simulate

SLOTS = 10
CHUNK = 10
"""Seeds in one test."""


@cache
def check(plan: str, seed: int, members: int = 4, slots: int = SLOTS) -> Result:
    result = simulate(plan, seed, members, slots)
    if result.violation is not None:
        last = "\n".join(result.trace[-40:])
        pytest.fail(f"{last}\n{result.violation}\nagain: {command_of(plan, seed, members, slots)}")
    return result


@pytest.mark.parametrize("first", range(0, 30, CHUNK))
@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "none"])
def test_four_members_agree_whatever_happens(plan: str, first: int) -> None:
    for seed in range(first, first + CHUNK):
        check(plan, seed)


@pytest.mark.parametrize("plan", ["byzantine", "twins", "all"])
def test_seven_members_agree_with_two_faulty(plan: str) -> None:
    results = [check(plan, seed, members=7, slots=8) for seed in range(3)]
    assert all(len(result.plan.faulty) == 2 for result in results)


@pytest.mark.parametrize("plan", ["short", "cheats", "succession", "rescue"])
@pytest.mark.parametrize("members", [7, 10])
def test_larger_committees_agree_while_they_change(plan: str, members: int) -> None:
    check(plan, members, members=members, slots=12)


def test_three_members_need_each_other_after_every_crash() -> None:
    """No quorum without all three: one that came back unable to say what it had signed would end it all."""
    results = [check("crashes", seed, members=3) for seed in range(12)]
    assert sum(result.restarts for result in results) > 12


@pytest.mark.parametrize("plan", PLANS)
def test_one_member_decides_alone(plan: str) -> None:
    assert check(plan, 1, members=1).heights > 0


def test_without_faults_every_slot_is_decided_in_round_0() -> None:
    result = check("none", 1, slots=2 * PARAMS.day_slots + 3)
    assert result.rounds == (0,) * (2 * PARAMS.day_slots + 2)
    assert result.refused == result.restarts == result.accused == 0


def test_the_plans_bring_the_trouble_that_they_are_named_after() -> None:
    def total(plan: str, of: Callable[[Result], int]) -> int:
        return sum(of(check(plan, seed)) for seed in range(6))

    assert total("crashes", lambda result: result.restarts) > 6
    assert total("lossy", lambda result: sum(result.rounds)) > 0
    assert total("partitions", lambda result: sum(result.rounds)) > 0
    assert total("byzantine", lambda result: result.refused) > 0
    assert total("byzantine", lambda result: result.accused) > 0
    assert total("twins", lambda result: result.accused) > 0
    assert total("short", lambda result: sum(result.rounds)) > 0
    assert total("cheats", lambda result: sum(result.rounds)) > 0
    assert total("succession", lambda result: result.epochs) > 3
    assert total("rescue", lambda result: result.epochs) == 6
    assert total("byzantine", lambda result: bool(result.plan.stakes)) in range(1, 6)


@pytest.mark.parametrize("plan", ["none", "all"])
def test_one_seed_is_one_run(plan: str) -> None:
    first, again, other = (simulate(plan, seed, 4, SLOTS) for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


def test_one_seed_is_one_run_in_another_process_too() -> None:
    code = "from testnet.simulator.simulation import simulate; print(simulate('all', 7, 4, 10).digest)"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == check("all", 7).digest


@pytest.mark.parametrize("plan", PLANS)
def test_the_contracts_accept_what_the_committee_decided_and_pay_for_it(plan: str) -> None:
    for seed in (1, 2):
        result = simulate(plan, seed, 4, 14, with_contract=True)
        assert result.violation is None, (result.violation, command_of(plan, seed, 4, 14))
        assert result.heights > 0


def test_the_contracts_can_refuse() -> None:
    """What no quorum has signed, and credits that are no leaves of the tree."""
    plan = draw_plan("succession", 1, 4, 14, PARAMS.slot_ms)
    setting = setting_of(plan, 4)
    simulation = Simulation(setting, plan, 1, 14)
    assert simulation.run().violation is None
    batches, credits = simulation.oracle.decided, simulation.oracle.ledger.credits
    Contracts(setting).check(batches, credits)
    cut = replace(batches[1].certificate, signatures=batches[1].certificate.signatures[:1])
    with pytest.raises(Violation, match=r"compute\.submit was refused: .*quorum"):
        Contracts(setting).check([batches[0], replace(batches[1], certificate=cut)], credits)
    unrelieved = [replace(batch, body=replace(batch.body, hand_over=None)) for batch in batches]
    with pytest.raises(Violation, match="unknown committee"):
        Contracts(setting).check(unrelieved, credits)
    richer = {provider: Uint256(wei + 1) for provider, wei in credits.items()}
    with pytest.raises(Violation, match=r"compute\.claim was refused"):
        Contracts(setting).check(batches, richer)
