"""What one faulty member, or one dishonest user, can do to everybody else with well-formed and well-signed messages."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from consensus.market.batch import body_root
from consensus.member import height as height_module
from contracts.typed_data import ZERO_DIGEST, Digest, Uint256
from gossip.messages.base import sign
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    LinkFrame,
    Prevote,
    PrevoteFrame,
    Proposal,
    ProposalFrame,
    batch_hash,
)
from gossip.messages.session import Settlement
from testnet.simulator import simulation as simulation_module
from testnet.simulator.faults import Byzantine, FaultPlan, Misdeed
from testnet.simulator.happenings import Arrives
from testnet.simulator.setting import Setting, make_setting
from testnet.simulator.simulation import Result, Simulation
from testnet.simulator.workload import Workload

SETTING = make_setting(4)
LIAR = SETTING.keys[0]
DOMAIN = SETTING.terms.domain


def run_against(frames: Sequence[LinkFrame], at_ms: int = 100) -> Result:
    """A run in which node 0 sends ``frames`` to all others, and is otherwise honest."""
    plan = FaultPlan("flood", heal_ms=2_000, byzantine=(Byzantine(0, (Misdeed.WITHHOLD,), percent=0),))
    simulation = Simulation(SETTING, plan, 1, 4)
    for frame in frames:
        for node in (1, 2, 3):
            simulation.agenda.put(at_ms, Arrives(node, 0, frame))
    return simulation.run()


def proposal(round_: int, mark: int) -> ProposalFrame:
    """A proposal that no ledger agrees with, different from all others."""
    body = BatchBody(None, (), ())
    state = Digest(mark.to_bytes(32, "big"))
    committee_root = SETTING.committee.root
    header = BatchHeader(
        1,
        9_999,
        0,
        ZERO_DIGEST,
        body_root(body),
        ZERO_DIGEST,
        Uint256(0),
        Uint256(0),
        state,
        committee_root,
        ZERO_DIGEST,
        ZERO_DIGEST,
        LIAR.address,
    )
    return ProposalFrame(sign(Proposal(1, round_, 0, batch_hash(header), LIAR.address), LIAR, DOMAIN), header, body)


def test_one_signed_proposal_with_another_body_harms_nobody() -> None:
    """The header and signature of a valid proposal, with a body that is another batch's."""
    simulation = Simulation(SETTING, FaultPlan("none"), 1, 4)
    assert simulation.run().violation is None
    frames = [happening.frame for _, happening in simulation.recent if isinstance(happening, Arrives)]
    proposals = [frame for frame in frames if isinstance(frame, ProposalFrame)]
    assert proposals
    again = Simulation(SETTING, FaultPlan("none"), 1, 4)
    for frame in proposals:
        for node in range(4):
            for at_ms in range(1_000, 4_000, 61):
                again.agenda.put(at_ms, Arrives(node, 0, replace(frame, body=BatchBody(None, (), ()))))
    result = again.run()
    assert result.violation is None
    assert result.refused > 0


def test_one_member_can_not_use_up_the_room_for_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_module, "PATIENCE_MS", 8_000)
    own_rounds = [round_ for round_ in range(400) if SETTING.committee.proposer(1, round_) == LIAR.address]
    result = run_against([proposal(round_, mark) for mark, round_ in enumerate(own_rounds[:80])])
    assert result.violation is None


def test_one_member_can_not_use_up_the_room_for_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(height_module, "MAX_VOTES", 100, raising=False)
    votes = [Prevote(1, number % 50, 0, Digest(number.to_bytes(32, "big"))) for number in range(200)]
    result = run_against([PrevoteFrame(sign(vote, LIAR, DOMAIN)) for vote in votes])
    assert result.violation is None


class OnlyDoubleSpends(Workload):
    """In every eighth slot two sessions with one RFC index, and nothing else."""

    def __init__(self, setting: Setting) -> None:
        self.issuer = setting.workload.issuer  # type: ignore[method-assign]  # the same desks
        self.of_slot = lambda slot: setting.workload.of_slot(slot) if slot % 8 == 4 else ()  # type: ignore[assignment]  # fewer


def test_a_double_spent_index_costs_the_next_batch_no_rounds() -> None:
    assert all(isinstance(made, Settlement) for made in SETTING.workload.of_slot(4))
    setting = make_setting(4)
    sparse = Setting(
        terms=setting.terms,
        keys=setting.keys,
        people=setting.people,
        committee=setting.committee,
        secrets=setting.secrets,
        genesis=setting.genesis,
        workload=OnlyDoubleSpends(setting),
        verified=setting.verified,
    )
    result = Simulation(sparse, FaultPlan("none"), 1, 24).run()
    assert result.violation is None
    assert set(result.rounds) == {0}
