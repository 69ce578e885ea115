"""Timers grow with the round, and only three steps have one."""

import pytest

from consensus.errors import UntimedStep
from consensus.params import NetworkParams
from consensus.tendermint.timeouts import duration_ms
from consensus.tendermint.types import Step

PARAMS = NetworkParams(propose_ms=3_000, prevote_ms=1_000, precommit_ms=700, round_step_ms=500)


@pytest.mark.parametrize(("step", "base"), [(Step.PROPOSE, 3_000), (Step.PREVOTE, 1_000), (Step.PRECOMMIT, 700)])
def test_a_timer_grows_by_a_fixed_step_a_round(step: Step, base: int) -> None:
    assert [duration_ms(step, round_, PARAMS) for round_ in (0, 1, 10)] == [base, base + 500, base + 5_000]


@pytest.mark.parametrize("step", [Step.NONE, Step.UNSTARTED, Step.COMMIT])
def test_the_other_steps_have_none(step: Step) -> None:
    with pytest.raises(UntimedStep):
        duration_ms(step, 0, PARAMS)
