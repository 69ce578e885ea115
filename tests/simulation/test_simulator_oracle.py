"""The oracle must be able to fail: each of its rules, against a planted fault."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace

from consensus.market.ledger_state import Ledger
from consensus.tendermint.evidence import DoublePrevote
from contracts.signing import Key
from contracts.typed_data import Digest, Uint256, digest
from gossip.messages.base import sign
from gossip.messages.committee import (
    BatchBody,
    CertifiedBatch,
    CommitCertificate,
    HandOver,
    Precommit,
    Prevote,
    batch_hash,
)
from testnet.simulator.disk import Guard, Place
from testnet.simulator.errors import Violation
from testnet.simulator.faults import FaultPlan, draw_plan
from testnet.simulator.network import Links
from testnet.simulator.node import SimulatedNode
from testnet.simulator.oracle import Oracle, check_conservation
from testnet.simulator.setting import Setting, make_setting
from testnet.simulator.simulation import Result, Simulation

SETTING = make_setting(4)
TERMS = SETTING.terms
OTHER = Digest(b"\x66" * 32)


def run_of(plan: FaultPlan, seed: int = 1, slots: int = 8) -> Simulation:
    return Simulation(SETTING, plan, seed, slots)


def good_run() -> tuple[list[CertifiedBatch], list[Ledger]]:
    """Decided batches, and the ledgers from genesis on."""
    simulation = run_of(FaultPlan("none"))
    assert simulation.run().violation is None
    ledgers, batches = [SETTING.genesis], simulation.nodes[0].disk.batches
    for batch in batches:
        ledgers.append(SETTING.following()(ledgers[-1], batch.header, batch.body))
    return batches, ledgers


def fresh(faulty: frozenset[bytes] = frozenset()) -> Oracle:
    return Oracle(SETTING, faulty)  # type: ignore[arg-type]  # addresses are bytes


def violated(rule: str, action: Callable[[], object]) -> None:
    with pytest.raises(Violation) as caught:
        action()
    assert caught.value.rule == rule


def certified(setting: Setting, batch: CertifiedBatch, keys: tuple[Key, ...], round_: int = 0) -> CertifiedBatch:
    """``batch`` under a new certificate by ``keys``."""
    value, root = batch_hash(batch.header), setting.committee.root
    precommit = Precommit(batch.header.height, round_, value, root)
    signatures = tuple(key.sign(precommit, setting.terms.domain) for key in keys)
    return replace(batch, certificate=CommitCertificate(batch.header.height, round_, value, root, signatures))


def test_a_good_run_is_no_violation() -> None:
    batches, ledgers = good_run()
    oracle = fresh()
    for node in range(4):
        for batch, ledger in zip(batches, ledgers[1:], strict=True):
            oracle.on_adopted(node, batch, ledger)
    assert oracle.height == len(batches)


def test_a_double_sign_is_seen_and_a_repetition_is_not() -> None:
    oracle, signer = fresh(), SETTING.keys[0].address

    def say(vote: Prevote | Precommit) -> None:
        oracle.on_signed(signer, vote, digest(SETTING.terms.domain, vote))

    say(Prevote(1, 0, 0, OTHER))
    say(Prevote(1, 0, 0, OTHER))
    say(Prevote(1, 1, 0, Digest(bytes(32))))
    say(Precommit(1, 0, Digest(bytes(32)), OTHER))
    violated("double_sign", lambda: say(Prevote(1, 0, 0, Digest(bytes(32)))))


def test_two_hand_overs_of_one_epoch_are_seen() -> None:
    oracle, signer, root = fresh(), SETTING.keys[0].address, SETTING.committee.root

    def say(hand_over: HandOver) -> None:
        oracle.on_signed(signer, hand_over, digest(SETTING.terms.domain, hand_over))

    say(HandOver(1, 1, root, OTHER))
    say(HandOver(1, 1, root, OTHER))
    say(HandOver(2, 2, OTHER, root))
    violated("double_sign", lambda: say(HandOver(1, 1, root, root)))


def test_a_fork_is_seen() -> None:
    batches, ledgers = good_run()
    oracle = fresh()
    oracle.on_adopted(0, batches[0], ledgers[1])
    first = batches[0]
    fork = certified(SETTING, replace(first, header=replace(first.header, beacon=OTHER)), SETTING.keys)
    violated("agreement", lambda: oracle.on_adopted(1, fork, ledgers[1]))


def test_a_wrong_root_is_seen() -> None:
    batches, ledgers = good_run()
    oracle, right = fresh(), ledgers[1]
    oracle.on_adopted(0, batches[0], right)
    provider = SETTING.keys[3].address
    wrong = replace(right, credits={**right.credits, provider: Uint256(1)})
    violated("root", lambda: oracle.on_adopted(1, batches[0], wrong))
    violated("root", lambda: oracle.on_adopted(2, batches[0], replace(right, parent=OTHER)))
    oracle.on_adopted(3, batches[0], ledgers[1])


def test_a_decided_batch_that_does_not_follow_is_seen() -> None:
    batches, ledgers = good_run()
    first = batches[0]
    richer = replace(first.header, total_credited=Uint256(first.header.total_credited + 1))
    planted = certified(SETTING, replace(first, header=richer), SETTING.keys)
    violated("validity", lambda: fresh().on_adopted(0, planted, ledgers[1]))


def test_a_gap_is_seen() -> None:
    batches, ledgers = good_run()
    violated("gap", lambda: fresh().on_adopted(0, batches[2], ledgers[3]))


@pytest.mark.parametrize(
    "keys",
    [SETTING.keys[:2], (SETTING.keys[0],) * 4, SETTING.keys[::-1], ()],
    ids=["too few", "one four times", "unsorted", "none"],
)
def test_a_bad_certificate_is_seen(keys: tuple[Key, ...]) -> None:
    batches, _ = good_run()
    oracle = fresh()
    oracle.on_certified(0, certified(SETTING, batches[0], SETTING.keys))
    oracle.on_certified(1, certified(SETTING, batches[0], SETTING.keys[1:]))
    violated("certificate", lambda: oracle.on_certified(2, certified(SETTING, batches[0], keys)))


def test_a_certificate_of_another_header_is_seen() -> None:
    batches, _ = good_run()
    oracle = fresh()
    oracle.on_certified(0, batches[0])
    swapped = replace(batches[0], header=replace(batches[0].header, beacon=OTHER))
    violated("certificate", lambda: oracle.on_certified(0, swapped))


def test_credits_from_nowhere_are_seen() -> None:
    _, ledgers = good_run()
    before, after = next((old, new) for old, new in pairwise(ledgers) if new.total_credited > old.total_credited)
    check_conservation(before, after, TERMS)
    provider = next(iter(after.credits))
    more = {**after.credits, provider: Uint256(after.credits[provider] + 1)}
    violated("conservation", lambda: check_conservation(before, replace(after, credits=more), TERMS))
    violated("conservation", lambda: check_conservation(before, replace(after, total_credited=Uint256(1)), TERMS))
    violated("conservation", lambda: check_conservation(before, replace(after, outcomes=()), TERMS))
    overpaid = tuple(replace(outcome, credited_wei=Uint256(outcome.credited_wei + 1)) for outcome in after.outcomes)
    violated("conservation", lambda: check_conservation(before, replace(after, outcomes=overpaid), TERMS))
    spent = {day: replace(account, budget_wei=Uint256(0)) for day, account in after.days.items()}
    violated("conservation", lambda: check_conservation(before, replace(after, days=spent), TERMS))


def test_an_accused_innocent_is_seen() -> None:
    domain, culprit = SETTING.terms.domain, SETTING.keys[1]
    votes = [sign(Prevote(1, 0, 0, value), culprit, domain) for value in (OTHER, Digest(bytes(32)))]
    evidence = DoublePrevote(*sorted(votes, key=lambda vote: vote.id(domain)))
    oracle = fresh(frozenset({culprit.address}))
    oracle.on_accused(0, evidence)
    assert oracle.accused == {culprit.address}
    violated("innocent", lambda: fresh().on_accused(0, evidence))
    violated("evidence", lambda: oracle.on_accused(0, DoublePrevote(votes[0], votes[0])))


# Whole runs with a planted fault.


def outcome_of(simulation: Simulation) -> Result:
    result = simulation.run()
    assert result.violation is not None, "the planted fault was not seen"
    assert result.trace
    return result


def test_a_network_that_never_heals_does_not_terminate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Links, "delays_ms", lambda *_: ())
    result = outcome_of(run_of(FaultPlan("none"), slots=3))
    assert result.violation is not None
    assert result.violation.rule == "termination"
    assert result.heights == 0


def test_twins_that_are_taken_for_one_honest_member_are_found_out() -> None:
    """The same runs that pass with the twin known as faulty fail where it is held to be honest."""
    for seed in range(20):
        simulation = run_of(draw_plan("twins", seed, 4, 8, TERMS.params.slot_ms), seed)
        simulation.oracle.faulty = frozenset()
        for node in simulation.nodes:
            node._oracle = simulation.oracle
        result = simulation.run()
        if result.violation is not None:
            assert result.violation.rule in {"double_sign", "innocent"}
            return
    pytest.fail("two machines with one key never disagreed")


def test_a_guard_that_forgets_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts without a guard and without a log: sooner or later a member says something else than before."""

    def forgets(guard: Guard, place: Place, digest: Digest) -> bool:
        return True

    def restarts_empty(node: SimulatedNode, slot: int) -> None:
        node.disk.log.clear()
        honest_restart(node, slot)

    honest_restart = SimulatedNode.restart
    monkeypatch.setattr(Guard, "allows", forgets)
    monkeypatch.setattr(SimulatedNode, "restart", restarts_empty)
    found = set()
    for seed in range(40):
        result = run_of(draw_plan("crashes", seed, 4, 8, TERMS.params.slot_ms), seed).run()
        if result.violation is not None:
            found.add(result.violation.rule)
    assert found & {"double_sign", "innocent"}


def test_a_core_that_raises_is_a_violation_with_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = run_of(FaultPlan("none"))

    def breaks(event: object) -> list[object]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(simulation.nodes[2].core, "handle", breaks)
    result = outcome_of(simulation)
    assert result.violation is not None
    assert result.violation.rule == "exception"
    assert isinstance(result.violation.__cause__, ZeroDivisionError)


def test_a_body_of_another_batch_is_refused_at_the_door() -> None:
    batches, _ = good_run()
    node = run_of(FaultPlan("none")).nodes[0]
    assert "body_root" in node.hear_decision(replace(batches[0], body=BatchBody(None, (), ())))
    assert node.ledger.height == 0
