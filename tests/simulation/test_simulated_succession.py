"""Committees that follow one another, unequal stakes, misleading proposers, proposals that name their settlements."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from consensus.market.ledger_state import Ledger
from contracts.typed_data import Address, Uint256
from gossip.messages.base import sign
from gossip.messages.committee import CertifiedBatch, HandOver, HandOverFrame
from gossip.messages.session import Settlement
from testnet.simulator.contract import ContractJudge, simulate_and_judge
from testnet.simulator.errors import Violation
from testnet.simulator.faults import Byzantine, FaultPlan, Misdeed, People, Weather, draw_plan
from testnet.simulator.happenings import Arrives
from testnet.simulator.node import SimulatedNode
from testnet.simulator.oracle import Oracle
from testnet.simulator.setting import PARAMS, make_setting
from testnet.simulator.simulation import Result, Simulation, simulate
from testnet.simulator.trace import describe

SLOTS = 16


def run(plan: FaultPlan, members: int = 4, seed: int = 1, slots: int = SLOTS) -> Simulation:
    simulation = Simulation(make_setting(members, people=plan.people), plan, seed, slots)
    result = simulation.run()
    assert result.violation is None, (plan, seed, result.violation)
    return simulation


def of_plan(name: str, seeds: range, members: int = 4) -> list[Result]:
    results = [simulate(name, seed, members, SLOTS) for seed in seeds]
    assert [result.violation for result in results] == [None] * len(results), [
        (result.seed, str(result.violation)) for result in results if result.violation is not None
    ]
    return results


@pytest.mark.parametrize(("members", "seeds"), [(4, range(4)), (7, range(2))])
def test_committees_follow_one_another_under_faults(members: int, seeds: range) -> None:
    results = of_plan("succession", seeds, members)
    assert sum(result.epochs - 1 for result in results) >= len(results), "one hand-over a run and more"
    assert sum(result.asked for result in results) > 0


@pytest.mark.parametrize("members", [4, 7])
def test_a_rescued_committee_settles_what_the_silent_one_left(members: int) -> None:
    for result in of_plan("rescue", range(4), members):
        assert result.epochs == 2
        assert result.plan.loss is not None
        assert result.virtual_ms > result.plan.loss.rescued_ms


def test_a_draw_of_every_day_takes_over_where_nothing_is_wrong() -> None:
    people = People((1_000, 2_000, 1_000, 1_000, 500, 3_000), ((0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (0, 1, 2, 3)))
    simulation = run(FaultPlan("days", people=people), slots=22)
    ledger = simulation.oracle.ledger
    assert ledger.running.epoch == 4
    assert [ledger.committee.weight(key.address) > 0 for key in simulation.setting.keys] == [True] * 4 + [False] * 2
    assert set(simulation.oracle.rounds) == {0}


def test_the_contracts_take_what_committees_decide_and_hand_over() -> None:
    for name, seed in (("succession", 3), ("byzantine", 2), ("rescue", 3)):
        result, taken = simulate_and_judge(name, seed, 4, SLOTS)
        assert result.violation is None
        assert 0 < taken <= result.heights
        if name != "rescue":
            assert taken == result.heights


def test_a_contract_that_refuses_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def forge(simulation: Simulation) -> Result:
        result = honest(simulation)
        batches = simulation.nodes[0].disk.batches
        first = batches[0].certificate
        batches[0] = replace(batches[0], certificate=replace(first, signatures=first.signatures[:2]))
        for node in simulation.nodes[1:]:
            node.disk.batches.clear()
        return result

    honest = Simulation.run
    monkeypatch.setattr(Simulation, "run", forge)
    result, taken = simulate_and_judge("none", 1, 4, 4)
    assert result.violation is not None
    assert (result.violation.rule, taken) == ("contract", 0)


# Unequal stakes.


def test_faulty_members_never_hold_a_third_of_any_committee() -> None:
    unequal = 0
    for seed in range(60):
        for name in ("byzantine", "twins", "succession", "all"):
            plan = draw_plan(name, seed, 7, SLOTS, PARAMS.slot_ms)
            stakes = plan.people.stakes
            unequal += len(set(stakes)) > 1
            for committee in (range(7), *plan.people.candidates):
                assert len(committee) >= 4
                faulty = sum(stakes[node] for node in committee if node in plan.faulty)
                assert 3 * faulty < sum(stakes[node] for node in committee)
    assert unequal > 60


# Proposers that mislead everybody alike.


def test_what_a_proposer_makes_up_gets_nil_and_the_next_one_decides() -> None:
    liar = Byzantine(0, (Misdeed.MISLEAD,), percent=100)
    simulation = run(FaultPlan("lies", heal_ms=SLOTS * 1_000, byzantine=(liar,)), slots=SLOTS + 4)
    liar_address = simulation.setting.keys[0].address
    batches = simulation.nodes[1].disk.batches
    assert all(batch.header.proposer != liar_address for batch in batches)
    assert {batch.certificate.round for batch in batches} == {0, 1}
    assert any(batch.body.opening is not None for batch in batches)


def test_a_batch_that_opens_a_day_of_its_own_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = run(FaultPlan("none"), slots=PARAMS.day_slots + 2)
    batches = simulation.nodes[0].disk.batches
    oracle = Oracle(simulation.setting, frozenset())
    steps = follow(simulation, batches)
    first = next(number for number, (_, batch) in enumerate(steps) if batch.body.opening is not None)
    for ledger, batch in steps[:first]:
        oracle.on_adopted(0, batch, ledger)
    opening = steps[first][1].body.opening
    assert opening is not None
    otherwise = replace(opening, supply_wei=Uint256(opening.supply_wei + 1))
    monkeypatch.setattr(type(simulation.setting), "opening", lambda *_: otherwise)
    with pytest.raises(Violation, match="opening: day 1"):
        oracle.on_adopted(0, steps[first][1], steps[first][0])


def follow(simulation: Simulation, batches: list[CertifiedBatch]) -> list[tuple[Ledger, CertifiedBatch]]:
    following, ledger, found = simulation.setting.following(), simulation.setting.genesis, []
    for batch in batches:
        ledger = following(ledger, batch.header, batch.body)
        found.append((ledger, batch))
    return found


def test_a_report_that_an_honest_router_filed_and_nobody_settled_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(make_setting(4), FaultPlan("none"), 1, 6)
    victim = simulation.setting.workload.of_slot(2)[0].ticket.id(simulation.setting.terms.domain)
    simulation.oracle.on_dropped(victim)
    monkeypatch.setattr(SimulatedNode, "file", unless(victim, simulation))
    result = simulation.run()
    assert result.violation is not None
    assert result.violation.rule == "lost"
    assert victim.hex() in result.violation.detail


def unless(victim: bytes, simulation: Simulation) -> Callable[[SimulatedNode, Settlement], None]:
    """A desk that loses one session."""
    file = SimulatedNode.file

    def filed(node: SimulatedNode, settlement: Settlement) -> None:
        if settlement.ticket.id(simulation.setting.terms.domain) != victim:
            file(node, settlement)

    return filed


# Proposals that name their settlements.


def test_members_ask_for_what_was_lost_and_decide_all_the_same() -> None:
    storm = Weather(1, 200, loss_percent=30)
    simulation = run(FaultPlan("short", heal_ms=10_000, weather=storm, is_short=True))
    assert simulation.asked > 0
    fair = run(FaultPlan("short", is_short=True))
    assert fair.oracle.rounds == [0] * (SLOTS - 1)


def test_settlements_that_a_proposer_names_and_keeps_cost_a_round_and_nothing_else() -> None:
    liar = Byzantine(0, (Misdeed.WITHHOLD,), percent=60)
    simulation = run(FaultPlan("kept", heal_ms=12_000, byzantine=(liar,), is_short=True))
    assert simulation.asked > 0
    proposers: set[Address] = {batch.header.proposer for batch in simulation.nodes[1].disk.batches}
    assert len(proposers) > 1


def test_what_was_earned_under_any_committee_is_paid_on_the_word_of_the_last() -> None:
    plan = draw_plan("succession", 3, 4, 20, PARAMS.slot_ms)
    judge = ContractJudge(plan, 4)
    simulation = Simulation(judge.setting, plan, 3, 20)
    assert simulation.run().violation is None
    furthest = max(simulation.nodes, key=lambda node: len(node.disk.batches))
    batches, credits = furthest.disk.batches, furthest.ledger.credits
    assert any(batch.body.hand_over for batch in batches)
    assert credits
    assert judge.judge(batches, credits) == len(batches)
    richer = {provider: wei + 1 for provider, wei in credits.items()}
    with pytest.raises(Violation, match="claim of 0x"):
        ContractJudge(plan, 4).judge(batches, richer)


def test_days_that_no_batch_fell_into_lose_no_report() -> None:
    """Partitions that outlast days: whoever was credited nothing on them is, once there are batches again."""
    assert of_plan("succession", range(2, 3))[0].epochs > 1


def test_every_frame_of_a_succession_can_be_told() -> None:
    """A trace is wanted where something went wrong: it must not be what goes wrong."""
    simulation = run(draw_plan("succession", 3, 4, SLOTS, PARAMS.slot_ms), seed=3)
    told = {type(happening.frame).__name__ for _, happening in simulation.recent if isinstance(happening, Arrives)}
    assert told
    root = simulation.setting.committee.root
    vote = sign(HandOver(1, 1, root, root), simulation.setting.keys[0], simulation.setting.terms.domain)
    assert describe(Arrives(0, 1, HandOverFrame(vote))) == f"1 -> 0  HandOverFrame of epoch 1 to 0x{root[:4].hex()}"
    assert all(describe(happening) for _, happening in simulation.recent)
