"""How long a step waits: longer with every round, so that a slow network is outwaited in the end."""

from consensus.errors import UntimedStep
from consensus.params import NetworkParams
from consensus.tendermint.types import Step


def duration_ms(step: Step, round_: int, params: NetworkParams) -> int:
    """The timer of ``step`` in ``round_``, in ms. Raises :class:`UntimedStep` for a step that has none."""
    match step:
        case Step.PROPOSE:
            base = params.propose_ms
        case Step.PREVOTE:
            base = params.prevote_ms
        case Step.PRECOMMIT:
            base = params.precommit_ms
        case _:
            raise UntimedStep(step)
    return base + round_ * params.round_step_ms
