from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from contracts.typed_data import Digest
from gossip.messages.committee import DecidedFrame, LinkFrame, PolkaFrame, PrecommitFrame, PrevoteFrame, ProposalFrame
from testnet.errors import OptionInvalid
from testnet.simulator import __main__ as command
from testnet.simulator.admission import Admission
from testnet.simulator.byzantine import Liar
from testnet.simulator.clock import Agenda
from testnet.simulator.disk import Guard, Log
from testnet.simulator.errors import PlanUnknown, PowerLost, Unreadable, Violation
from testnet.simulator.faults import FAIR, PLANS, Byzantine, Crash, Cut, FaultPlan, Misdeed, Weather, draw_plan
from testnet.simulator.happenings import Arrives
from testnet.simulator.network import Links
from testnet.simulator.setting import PARAMS, make_setting
from testnet.simulator.simulation import Result, Simulation

A, B = Digest(b"\x0a" * 32), Digest(b"\x0b" * 32)


# the clock


def test_the_agenda_goes_by_time_and_then_by_order() -> None:
    agenda: Agenda[str] = Agenda()
    for delay, event in ((5, "c"), (0, "a"), (5, "d"), (-3, "b")):
        agenda.put(delay, event)
    assert [agenda.take() for _ in range(4)] == ["a", "b", "c", "d"]
    assert agenda.now_ms == 5
    assert len(agenda) == 0
    agenda.put(2, "e")
    agenda.take()
    assert agenda.now_ms == 7


# the network


def fates(plan: FaultPlan, sender: int, receiver: int, now_ms: int) -> list[tuple[int, ...]]:
    links = Links(plan, Random(1))
    return [links.delays_ms(sender, receiver, now_ms) for _ in range(300)]


def test_a_fair_network_delivers_everything_once() -> None:
    seen = fates(FaultPlan("none"), 0, 1, 0)
    assert all(len(copies) == 1 for copies in seen)
    assert {copies[0] for copies in seen} == set(range(FAIR.delay_min_ms, FAIR.delay_max_ms + 1))


def test_weather_loses_repeats_and_delays_until_it_heals() -> None:
    plan = FaultPlan("lossy", heal_ms=1_000, weather=Weather(10, 90, loss_percent=30, duplicate_percent=30))
    counts = Counter(len(copies) for copies in fates(plan, 0, 1, 999))
    assert set(counts) == {0, 1, 2}
    assert all(len(copies) == 1 and copies[0] <= FAIR.delay_max_ms for copies in fates(plan, 0, 1, 1_000))


def test_a_cut_is_for_its_time_and_its_direction() -> None:
    plan = FaultPlan("cut", heal_ms=1_000, cuts=(Cut(100, 200, (0, 2), (1,)),))
    assert set(fates(plan, 0, 1, 100)) == {()}
    assert () not in fates(plan, 0, 1, 99)
    assert () not in fates(plan, 0, 1, 200)
    assert () not in fates(plan, 1, 0, 150)
    assert () not in fates(plan, 2, 0, 150)


# plans


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_drawn_from_its_seed(name: str) -> None:
    drawn = [draw_plan(name, seed, 7, 20, PARAMS.slot_ms) for seed in range(50)]
    assert drawn == [draw_plan(name, seed, 7, 20, PARAMS.slot_ms) for seed in range(50)]
    assert len(set(drawn)) > (1 if name != "none" else 0)
    for plan in drawn:
        assert 3 * len(plan.faulty) < 7
        assert all(cut.until_ms <= plan.heal_ms for cut in plan.cuts)
        assert all(set(cut.senders).isdisjoint(cut.receivers) for cut in plan.cuts)


def test_an_unknown_plan_is_named() -> None:
    with pytest.raises(PlanUnknown, match="'storm' is no fault plan; there are none, crashes"):
        draw_plan("storm", 1, 4, 20, 1_000)


# the disk


@given(st.lists(st.binary(max_size=20), max_size=6), st.lists(st.binary(max_size=20), max_size=6), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_a_torn_log_holds_what_was_flushed_and_whole_records_after_it(
    flushed: list[bytes], written: list[bytes], seed: int
) -> None:
    log = Log(lambda: None)
    for record in flushed:
        log.append(record)
    log.flush()
    for record in written:
        log.append(record)
    log.lose_power(Random(seed))
    found = log.read()
    assert found[: len(flushed)] == flushed
    assert found == (flushed + written)[: len(found)]
    log.append(b"after")
    log.flush()
    assert log.read() == [*found, b"after"]


def test_a_log_that_is_broken_before_its_end_is_not_read() -> None:
    log = Log(lambda: None)
    for record in (b"one", b"two"):
        log.append(record)
    log.flush()
    log._flushed[8] ^= 1
    with pytest.raises(Unreadable) as caught:
        log.read()
    assert caught.value.offset == 0


def test_a_cleared_log_is_empty() -> None:
    log = Log(lambda: None)
    log.append(b"one")
    log.flush()
    log.append(b"two")
    log.clear()
    assert log.read() == []


def test_the_guard_repeats_itself_and_says_nothing_else() -> None:
    guard = Guard(lambda: None)
    assert guard.allows((1, 0, 1), A)
    assert guard.allows((1, 0, 1), A)
    assert not guard.allows((1, 0, 1), B)
    assert not guard.allows((1, 0, 0), A)
    assert guard.allows((1, 0, 2), B)
    assert guard.allows((1, 1, 0), A)
    assert not guard.allows((1, 0, 2), B)
    assert guard.allows((2, 0, 0), B)


@pytest.mark.parametrize(("crash_at", "may_change"), [(1, True), (2, False)])
def test_a_crash_before_the_guards_write_forgets_and_one_after_it_does_not(crash_at: int, may_change: bool) -> None:
    operations = 0

    def operate() -> None:
        nonlocal operations
        operations += 1
        if operations == crash_at:
            raise PowerLost(0, operations)

    guard = Guard(operate)
    with pytest.raises(PowerLost):
        guard.allows((1, 0, 1), A)
    assert guard.allows((1, 0, 1), B) is may_change


# nodes


def simulation_of(plan: FaultPlan, slots: int = 4) -> Simulation:
    return Simulation(make_setting(4), plan, 4, slots)


def test_a_restarted_node_stands_where_it_stood() -> None:
    simulation = simulation_of(FaultPlan("none"))
    assert simulation.run().violation is None
    node = simulation.nodes[2]
    before, height = node.ledger, node.core.height.number
    node.crash(Random(1))
    assert not node.is_up
    node.restart(slot=4)
    assert node.is_up
    assert node.ledger == before
    assert node.core.height.number == height


def test_a_node_survives_a_crash_at_every_operation_of_its_first_heights() -> None:
    """Crash at operation 1, 3, 5, …, one run for each: inputs, flushes, the guard's writes, frames that leave."""
    restarts = 0
    for operation in range(1, 120, 2):
        plan = FaultPlan("crashes", heal_ms=4_000, crashes=(Crash(1, operation, down_ms=300),))
        result = Simulation(make_setting(4), plan, operation, 3).run()
        assert result.violation is None, (operation, result.violation)
        restarts += result.restarts
    assert restarts > 50, "most runs get as far as that operation"


# liars


def liar_of(misdeed: Misdeed) -> tuple[Liar, Simulation]:
    simulation = simulation_of(FaultPlan("none"), slots=6)
    assert simulation.run().violation is None
    plan = Byzantine(0, (misdeed,), percent=100)
    return Liar(plan, simulation.nodes[0], simulation.setting, Random(3)), simulation


def said(simulation: Simulation) -> list[LinkFrame]:
    """What was under way at the end of a run."""
    found: dict[bytes, LinkFrame] = {}
    for _, happening in simulation.recent:
        if isinstance(happening, Arrives) and isinstance(
            happening.frame, ProposalFrame | PrevoteFrame | PrecommitFrame
        ):
            found.setdefault(repr(happening.frame).encode(), happening.frame)
    return list(found.values())


def test_what_is_withheld_is_not_sent() -> None:
    liar, simulation = liar_of(Misdeed.WITHHOLD)
    assert all(tuple(liar.frames(frame)) == () for frame in said(simulation))


def test_an_equivocator_signs_other_things_that_admission_takes() -> None:
    liar, simulation = liar_of(Misdeed.EQUIVOCATE)
    admission = Admission(simulation.setting)
    changed = 0
    for frame in said(simulation):
        for other in liar.frames(frame):
            if other != frame and not isinstance(other, ProposalFrame):
                changed += 1
                assert admission(simulation.nodes[0].key.address, other, simulation.setting.committee).refusal == ""
    assert changed > 0


def test_a_changed_byte_is_refused_or_changes_who_speaks() -> None:
    liar, simulation = liar_of(Misdeed.MUTATE)
    admission = Admission(simulation.setting)
    sent = [other for _ in range(20) for frame in said(simulation) for other in liar.frames(frame)]
    refused = [
        other
        for other in sent
        if admission(simulation.nodes[0].key.address, other, simulation.setting.committee).refusal
    ]
    assert sent
    assert len(refused) > len(sent) // 2


def test_replay_says_again_what_was_said() -> None:
    liar, simulation = liar_of(Misdeed.REPLAY)
    frames = said(simulation)
    for frame in frames:
        told = list(liar.frames(frame))
        assert told[0] == frame
        assert all(other in frames for other in told)


def test_no_forged_certificate_or_polka_is_taken() -> None:
    liar, simulation = liar_of(Misdeed.FORGE)
    admission = Admission(simulation.setting)
    victim, forged = simulation.nodes[1], Counter[str]()
    height = victim.ledger.height
    for _ in range(60):
        for frame in said(simulation):
            for other in list(liar.frames(frame))[1:]:
                forged[type(other).__name__] += 1
                if isinstance(other, DecidedFrame):
                    victim.hear_decision(other.batch)
                if isinstance(other, PolkaFrame) and len({vote.signature for vote in other.votes}) < 3:
                    assert admission(simulation.nodes[0].key.address, other, simulation.setting.committee).refusal
    assert victim.ledger.height == height
    assert set(forged) >= {"DecidedFrame", "PolkaFrame", "StatusFrame", "PrevoteFrame", "PrecommitFrame"}


# the command


def test_seeds_are_one_number_or_a_range() -> None:
    assert command.seeds_of("7") == range(7, 8)
    assert command.seeds_of("1..3") == range(1, 4)


@pytest.mark.parametrize("text", ["", "x", "3..1", "1-3", "-1", "1..", "1.5"])
def test_other_seeds_are_refused_by_name(text: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        command.seeds_of(text)
    assert caught.value.value == text


def test_the_command_prints_a_row_for_each_plan() -> None:
    done = CliRunner().invoke(command.app, ["--seeds", "1..2", "--faults", "each", "--slots", "3"])
    assert done.exit_code == 0, done.output
    assert "per s" in done.output
    assert all(plan in done.output for plan in PLANS)


@pytest.mark.parametrize("arguments", [["--faults", "storm"], ["--seeds", "3..1"]])
def test_the_command_refuses_what_makes_no_run(arguments: list[str]) -> None:
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 2
    assert arguments[1] in done.output


def test_a_failing_seed_prints_its_trace_and_the_command_that_runs_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, seed: int, members: int, slots: int) -> Result:
        simulation = simulation_of(FaultPlan(name))
        monkeypatch.setattr(simulation.oracle, "on_certified", planted)
        return simulation.run()

    def planted(node: int, batch: object) -> None:
        raise Violation("planted", f"at node {node}")

    monkeypatch.setattr(command, "simulate", fails)
    done = CliRunner().invoke(command.app, ["--seeds", "4", "--faults", "lossy", "--members", "4", "--slots", "9"])
    assert done.exit_code == 1
    assert "PrecommitFrame 1/0 0x" in done.output
    assert "planted: at node" in done.output
    assert "again: python -m testnet.simulator --seeds 4 --members 4 --faults lossy --slots 9" in done.output
