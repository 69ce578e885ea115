"""A speed window is :func:`with_sample` and :func:`is_fast_enough`, told in sums and counts."""

from hypothesis import given
from hypothesis import strategies as st

from consensus.market.speed import SpeedSample, SpeedWindow, is_fast_enough, with_sample
from consensus.params import NetworkParams
from contracts.typed_data import Address

GIVERS = st.integers(0, 4).map(lambda number: Address(bytes([number]) * 20))
SAMPLES = st.builds(SpeedSample, GIVERS, GIVERS, st.integers(0, 2**63 - 1))
PARAMS = st.builds(
    NetworkParams,
    speed_samples=st.integers(1, 12),
    speed_samples_min=st.integers(0, 12).map(lambda least: max(1, least)),
    speed_share=st.integers(1, 6),
)


@given(PARAMS, st.lists(SAMPLES, max_size=15), st.lists(st.tuples(SAMPLES, st.integers(0, 2**63 - 1)), max_size=30))
def test_a_window_is_its_readable_twin(
    params: NetworkParams, held: list[SpeedSample], added: list[tuple[SpeedSample, int]]
) -> None:
    expected: tuple[SpeedSample, ...] = tuple(held)
    window = SpeedWindow(held, params)
    for sample, value in added:
        assert window.is_fast_enough(value) == is_fast_enough(expected, value, params)
        window.add(sample)
        expected = with_sample(expected, sample, params)
        assert window.samples == expected
