"""Points fade, and a threshold bans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.scores import PeerScores


def test_points_halve_in_a_half_life() -> None:
    scores = PeerScores(threshold=100, half_life=10, ban=60)
    scores.penalise("a", 40, now=0)
    assert scores.points("a", now=10) == pytest.approx(20)
    assert scores.points("a", now=30) == pytest.approx(5)
    assert scores.points("b", now=0) == 0


def test_the_threshold_bans_once_and_the_ban_ends() -> None:
    scores = PeerScores(threshold=100, half_life=10, ban=60)
    assert not scores.penalise("a", 99, now=0)
    assert not scores.is_banned("a", now=0)
    assert scores.penalise("a", 1, now=0)
    assert scores.is_banned("a", now=59.9)
    assert not scores.penalise("a", 200, now=1), "it is banned already"
    assert not scores.is_banned("a", now=60)
    assert not scores.is_banned("b", now=0)


def test_old_faults_do_not_ban() -> None:
    scores = PeerScores(threshold=100, half_life=10, ban=60)
    assert not any(scores.penalise("a", 50, now=20 * step) for step in range(100))


@given(points=st.lists(st.integers(1, 200), max_size=20))
def test_a_peer_is_banned_exactly_when_its_points_reach_the_threshold(points: list[int]) -> None:
    scores = PeerScores(threshold=100, half_life=1e12, ban=1)
    total = 0
    for each in points:
        total += each
        if scores.penalise("a", each, now=0):
            assert total >= 100
            return
    assert total < 100 + 1e-6


def test_memory_is_bounded() -> None:
    scores = PeerScores(threshold=100, half_life=10, ban=60)
    for number in range(5000):
        scores.penalise(str(number), 1, now=0)
    assert scores.points("0", now=0) == 0
    assert scores.points("4999", now=0) == 1
