"""Many seeds of every plan. A failing seed names the command that runs it again with a trace."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest

from contracts.bindings import certificate
from gossip.messages.committee import CertifiedBatch
from testnet.simulator.__main__ import command_of
from testnet.simulator.faults import PLANS, draw_plan
from testnet.simulator.setting import PARAMS, STAKE_WEI, make_setting
from testnet.simulator.simulation import Result, Simulation, simulate
from tests.contracts.local_chain import World

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


@pytest.mark.parametrize("first", range(0, 40, CHUNK))
@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "none"])
def test_four_members_agree_whatever_happens(plan: str, first: int) -> None:
    for seed in range(first, first + CHUNK):
        check(plan, seed)


@pytest.mark.parametrize("plan", ["byzantine", "twins", "all"])
def test_seven_members_agree_with_two_faulty(plan: str) -> None:
    results = [check(plan, seed, members=7, slots=8) for seed in range(3)]
    assert all(len(result.plan.faulty) == 2 for result in results)


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


def decided(simulation: Simulation) -> list[CertifiedBatch]:
    assert simulation.run().violation is None
    return max((node.disk.batches for node in simulation.nodes), key=len)


def test_the_contract_accepts_what_the_committee_decided() -> None:
    world = World((STAKE_WEI,) * 4, keys=make_setting(4).keys)
    setting = make_setting(4, world.domain)
    assert world.root == setting.committee.root

    plan = draw_plan("all", 3, 4, SLOTS, PARAMS.slot_ms)
    batches = decided(Simulation(setting, plan, 3, SLOTS))
    for batch in batches:
        world.compute("submit", *certificate(batch.header, batch.certificate.round, list(batch.certificate.signatures)))
    assert world.compute("latest_height") == len(batches) > 0
    assert world.compute("credited_total") == batches[-1].header.total_credited > 0
