"""The speed test of S31 against what it says of itself in plain words: marks on a line of T, a median, a mean."""

import random
from collections import deque
from fractions import Fraction
from statistics import median_low

import pytest
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market.speed import (
    STEP_T,
    SpeedSample,
    Timed,
    compute_mean,
    draw_timed,
    is_fast_enough,
    with_samples,
)
from consensus.params import NetworkParams
from contracts.typed_data import Digest
from tests.consensus.builders import World, address, make_terms

MODEL = Digest(b"m" * 32)
TIMED = st.builds(
    Timed,
    st.integers(0, 8).map(lambda number: address(f"u{number}")),
    st.integers(0, 8).map(lambda number: address(f"p{number}")),
    st.integers(0, 10**6),
    st.integers(1, 700),
)
PARAMS = st.builds(NetworkParams, speed_samples=st.integers(1, 60), speed_share=st.integers(1, 6))


def samples(*values: int) -> list[SpeedSample]:
    return [SpeedSample(address(f"s{n}"), address(f"p{n}"), value, n) for n, value in enumerate(values)]


@given(PARAMS, st.lists(TIMED, max_size=20), st.binary(min_size=32, max_size=32))
@settings(max_examples=60)
def test_samples_are_the_sessions_under_the_marks_of_a_line(
    params: NetworkParams, passed: list[Timed], beacon: bytes
) -> None:
    line = [place for place, one in enumerate(passed) for _ in range(one.tokens)]
    most = max(1, params.speed_samples // 10)
    step = max(STEP_T, (len(line) + most - 1) // most)
    first = int.from_bytes(keccak(beacon + MODEL), "big") % step
    places = dict.fromkeys(line[first::step])
    drawn = draw_timed(passed, Digest(beacon), MODEL, params)
    assert drawn == tuple(passed[place] for place in places)
    assert len(drawn) <= most


@given(PARAMS, st.lists(TIMED, max_size=90))
@settings(max_examples=60)
def test_s31_nobody_gives_more_than_its_share_of_the_last_samples(params: NetworkParams, drawn: list[Timed]) -> None:
    share = max(1, params.speed_samples // params.speed_share)
    last: deque[tuple[int, Timed]] = deque(maxlen=params.speed_samples)
    kept: tuple[SpeedSample, ...] = ()
    gone: set[int] = set()
    for number, one in enumerate(drawn, 1):
        kept = with_samples(kept, [one], params)
        for giver in ("session_key", "provider"):
            own = [n for n, held in last if n not in gone and getattr(held, giver) == getattr(one, giver)]
            if len(own) >= share:
                gone.add(own[0])
        last.append((number, one))
        assert [sample.number for sample in kept] == [n for n, _ in last if n not in gone]
        for giver in ("session_key", "provider"):
            givers = [getattr(sample, giver) for sample in kept]
            assert all(givers.count(who) <= share for who in givers)
    assert kept == with_samples((), drawn, params)


@given(st.lists(st.integers(0, 10**6), min_size=10, max_size=30), st.integers(0, 10**7), st.integers(0, 300))
@settings(max_examples=60)
def test_s31_in_fractions(values: list[int], value: int, percent: int) -> None:
    params = NetworkParams(speed_percent=percent)
    middle = median_low(values)
    counted = [min(4 * middle, max((middle + 1) // 2, one)) for one in values]
    limit = Fraction(sum(counted), len(counted)) * (1 + Fraction(percent, 100))
    assert is_fast_enough(samples(*values), value, params) == (value <= limit)
    assert compute_mean(samples(*values)) == sum(counted) // len(counted)


def test_the_mean_of_like_queries_is_the_plain_mean() -> None:
    assert compute_mean(samples(*range(100, 201))) == 150
    assert compute_mean([]) == 0


@pytest.mark.seed(20261201)
@pytest.mark.parametrize(("percent", "most"), [(20, 0), (35, 18)])
def test_who_has_less_than_half_of_a_models_t_makes_hardly_an_honest_provider_slow(
    chance: random.Random, percent: int, most: int
) -> None:
    """Whatever it says, in however many sessions under however many names.

    With a third of the T, more than half of a hundred draws fall on it in one batch of some hundreds.
    """
    params = NetworkParams()
    for size in (1, 20, STEP_T):
        kept: tuple[SpeedSample, ...] = ()
        slow = 0
        for batch in range(200):
            honest = [
                Timed(address(f"u{chance.random()}"), address(f"p{n % 40}"), chance.randrange(16_000, 24_000), 500)
                for n in range(20)
            ]
            others = 10_000 * percent // (100 - percent) // size
            passed = honest + [Timed(address(f"f{n}"), address(f"f{n}"), 1, size) for n in range(others)]
            chance.shuffle(passed)
            beacon = Digest(chance.randbytes(32))
            kept = with_samples(kept, draw_timed(passed, beacon, MODEL, params), params)
            slow += batch >= 20 and not is_fast_enough(kept, 20_000, params)
        assert slow <= most, (size, slow)


def test_samples_come_from_the_batches_before() -> None:
    """A batch's own sessions are held against the same mean, in whatever order they stand."""
    world = World(make_terms(speed_samples=40, speed_samples_min=1))
    quick = [world.settlement(session=f"s{n}", provider=f"p{n}", tokens=300, last_ms=300) for n in range(4)]
    slow = world.settlement(session="slow", tokens=300, last_ms=30_000)
    ledger = world.after(world.ledger(), [*quick, slow])
    assert [made.reason for made in ledger.outcomes] == ["credited"] * 5
    again = world.after(ledger, [world.settlement(session="again", tokens=300, last_ms=30_000)], slot=20)
    assert [made.reason for made in again.outcomes] == ["slow"]
