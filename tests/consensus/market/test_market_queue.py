"""The queue under more RFCs than there is capacity: order, bounded waiting, eviction, places, and rates by balance."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market import desk as desk_module
from consensus.market import waiting as waiting_module
from consensus.market.access import MAX_PRIORITY, rank
from consensus.market.errors import RfcRefused
from consensus.market.queueing import Pace, compute_places
from consensus.market.rests import FIRST_REST_MS, LONGEST_REST_MS, Rests
from consensus.market.throttle import LEAST_BURST, LEAST_PER_S, Throttle, most_waiting, rfc_rate
from consensus.market.waiting import Waiting, WaitingRoom
from contracts.typed_data import Digest
from tests.consensus.builders import MODEL, OTHER_MODEL, World, address, named_digest
from tests.consensus.market.counter import Counter


@pytest.fixture
def counter() -> Counter:
    return Counter()


BOOST_MS = 1_000


@dataclass
class Line:
    """A room, and unsigned RFCs to fill it with."""

    room: WaitingRoom = field(default_factory=lambda: WaitingRoom(BOOST_MS))
    made: int = 0

    def add(self, priority: int, now_ms: int, model: Digest = MODEL) -> Waiting:
        self.made += 1
        rfc = World().rfc(model_id=model, index=self.made)
        waiting = Waiting(rfc, Digest(self.made.to_bytes(32, "big")), priority, now_ms)
        self.room.add(waiting)
        return waiting


@settings(max_examples=25, deadline=None)
@given(
    smallest=st.integers(1, 4),
    richest=st.integers(5, 25),
    serve_ms=st.integers(50, 400),
    per_service=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
def test_s26_the_smallest_waits_a_bounded_time_whatever_comes(
    smallest: int, richest: int, serve_ms: int, per_service: int, seed: int
) -> None:
    """More RFCs come than can be served, for ever, all of richer holders. Whoever is (richest − own priority + 1) steps
    younger stands behind; so at most what comes until then is served first."""
    rng, line = random.Random(seed), Line()
    for _ in range(rng.randrange(20)):
        line.add(rng.randint(smallest, richest), 0)
    small = line.add(smallest, 0)
    head_start_ms = (richest - smallest + 1) * BOOST_MS
    ahead = len(line.room.queue()) + (head_start_ms // serve_ms + 1) * per_service
    now = 0
    for _ in range(ahead + 1):
        if line.room.next(now) is small:
            assert now <= ahead * serve_ms
            return
        now += serve_ms
        for _ in range(per_service):
            line.add(rng.randint(smallest, richest), now)
    pytest.fail(f"not among the first {ahead} served; seed {seed}")


def test_no_balance_ranks_above_the_bound() -> None:
    assert rank(2**256 - 1) == MAX_PRIORITY
    assert rank(10_000_000 * 10**18) == 25


def test_s26_order_follows_balance_and_then_age() -> None:
    line = Line()
    small, rich, late = line.add(1, 0), line.add(9, 0), line.add(9, 10)
    assert [line.room.next(10), line.room.next(10), line.room.next(10)] == [rich, late, small]
    assert line.room.next(10) is None


def test_places_are_the_order_of_service_by_model() -> None:
    rng, line = random.Random(7), Line()
    for number in range(40):
        line.add(rng.randint(1, 9), number * 300, rng.choice([MODEL, OTHER_MODEL]))
    now = 15_000
    places = compute_places(line.room.queue(), now, BOOST_MS)
    order = {MODEL: 0, OTHER_MODEL: 0}
    while (served := line.room.next(now)) is not None:
        model = served.rfc.payload.model_id
        assert places[served.rfc_id].position == order[model]
        order[model] += 1
    assert {place.waiting for place in places.values()} == set(order.values())


def test_a_full_queue_lets_the_last_go_for_who_stands_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING", 3)
    line = Line()
    poor, middle = line.add(2, 0), line.add(5, 0)
    line.add(9, 0)
    assert line.room.is_full
    assert line.room.last(0, stands_below=2) is None, "as high is not higher"
    assert line.room.last(0, stands_below=3) is poor
    line.room.remove(poor.rfc_id)
    line.add(6, 0)
    assert line.room.last(0, stands_below=5) is None
    assert line.room.last(0, stands_below=6) is middle
    assert line.room.last(4 * BOOST_MS, stands_below=6) is None, "patience counts as balance"


def test_a_rich_newcomer_is_admitted_to_a_full_queue_and_the_last_is_told(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING", 2)
    rfcs = {}
    for user, mor in (("a", 1), ("b", 3), ("rich", 500)):
        granted = counter.grant(mor, user=user, session=user)
        rfcs[user] = [counter.rfc(granted, user, index=index, token_max=1) for index in (0, 1)]
    first = counter.admit(rfcs["a"][0])
    counter.admit(rfcs["b"][0])
    rich = counter.admit(rfcs["rich"][0])
    outcome = counter.desk.outcome(first)
    assert isinstance(outcome, RfcRefused)
    assert outcome.code == "busy"
    assert isinstance(counter.desk.outcome(rich), Waiting)
    with pytest.raises(RfcRefused, match="all stand before this one"):
        counter.admit(rfcs["a"][1])


def test_how_many_rfcs_of_one_holder_wait_follows_its_balance(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "most_waiting", lambda priority: priority)
    granted = counter.grant(3)
    priority = granted.priority
    rfcs = [counter.rfc(granted, index=index, token_max=1) for index in range(priority + 1)]
    for rfc in rfcs[:-1]:
        counter.admit(rfc)
    with pytest.raises(RfcRefused, match="wait already") as refused:
        counter.admit(rfcs[-1])
    assert refused.value.code == "busy"
    counter.desk.refuse(rfcs[0].id(counter.world.domain), "expired", "")
    counter.admit(rfcs[-1])


def test_rates_follow_balance_and_everybody_has_some() -> None:
    assert rfc_rate(0) == rfc_rate(1) == (LEAST_PER_S, LEAST_BURST + 2 * LEAST_PER_S)
    rates = [rfc_rate(rank(mor * 10**18))[0] - LEAST_PER_S for mor in (64, 128, 1_024, 8_192)]
    assert rates == [16, 32, 256, 2_048], "in proportion to the balance"
    assert most_waiting(1) < most_waiting(10)


@given(st.lists(st.integers(0, 3_000), max_size=200))
def test_a_bucket_never_lets_through_more_than_its_rate(pauses: list[int]) -> None:
    throttle, now, through = Throttle(), 0, 0
    for pause in pauses:
        now += pause
        wait = throttle.take("key", 2, 5, now)
        through += not wait
        assert through <= 5 + 2 * now // 1_000 + 1
        if wait:
            assert throttle.take("key", 2, 5, now + wait - 1 if wait > 1 else now) or wait == 1
            break


def test_a_throttle_is_bounded_and_says_when_to_come_back() -> None:
    throttle = Throttle(kept=10)
    assert [throttle.take("a", 2, 2, 0) for _ in range(3)] == [0, 0, 500]
    assert throttle.take("a", 2, 2, 499) == 1
    assert throttle.take("a", 2, 2, 500) == 0
    for number in range(1_000):
        throttle.take(address(str(number)), 1, 1, 0)
    assert len(throttle) == 10


def test_pace_tells_the_wait_from_the_last_sessions() -> None:
    pace = Pace()
    assert pace.expected_ms(MODEL, 3, 2) == 0, "nothing is known"
    for number in range(20):
        ticket = named_digest(f"t{number}")
        pace.begin(ticket, MODEL, number)
        pace.end(ticket, number + 800)
        pace.end(ticket, number + 5_000)
    assert pace.expected_ms(MODEL, 0, 1) == 800
    assert pace.expected_ms(MODEL, 3, 2) == 1_600
    assert pace.expected_ms(OTHER_MODEL, 3, 2) == 0


def test_who_refuses_rests_longer_each_time_and_is_forgiven() -> None:
    rests, seat = Rests(), (address("p"), MODEL)
    assert not rests.is_resting(seat, 0)
    now = 0
    for failures in range(8):
        until = rests.fail(seat, now)
        assert until - now == min(LONGEST_REST_MS, FIRST_REST_MS << failures)
        assert rests.fail(seat, now + 1) == until, "within a rest it counts once"
        assert rests.is_resting(seat, until - 1)
        assert not rests.is_resting(seat, until)
        now = until
    rests.serve(seat)
    assert rests.fail(seat, now) == now + FIRST_REST_MS
