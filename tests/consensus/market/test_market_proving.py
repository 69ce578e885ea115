"""When a router challenges a provider's model, and what a failure costs."""

from consensus.market.proving import RETRY_MS, ProvingLog
from contracts.typed_data import Address, Digest

ROUTER = Address(b"r" * 20)
BEACON = Digest(b"b" * 32)
ONE = (Address(b"1" * 20), Digest(b"m" * 32))
TWO = (Address(b"2" * 20), Digest(b"m" * 32))


def test_who_is_new_is_challenged_at_once_and_proven_by_an_answer_alone() -> None:
    log = ProvingLog(ROUTER, 10**9)
    assert log.due([TWO, ONE], 5, BEACON, 0) == (ONE, TWO)
    assert not log.is_proven(*ONE)
    log.asked(ONE, 5)
    assert log.due([ONE, TWO], 5, BEACON, 0) == (TWO,), "one challenge at a time"
    assert not log.is_proven(*ONE)
    assert log.passed(ONE, 7).proven_ms is None
    assert log.is_proven(*ONE)
    assert not log.is_proven(*TWO)
    assert log.due([ONE], 6, BEACON, 10**9) == ()
    assert log.state(*ONE).answered == 1


def test_a_failure_costs_the_proof_until_an_answer_and_is_tried_again_ever_later() -> None:
    log = ProvingLog(ROUTER, 10**9)
    log.passed(ONE, 0)
    now = 100
    for number in range(len(RETRY_MS) + 2):
        log.asked(ONE, 5 + number)
        log.lost(ONE, "silent", now)
        assert not log.is_proven(*ONE)
        state = log.state(*ONE)
        assert (state.reason, state.in_a_row, state.failed) == ("silent", number + 1, number + 1)
        pause = RETRY_MS[min(number, len(RETRY_MS) - 1)]
        assert log.due([ONE], 5 + number, BEACON, now + pause - 1) == ()
        assert log.due([ONE], 5 + number, BEACON, now + pause) == (ONE,)
        now += pause
    log.passed(ONE, now)
    assert log.is_proven(*ONE)
    assert (log.state(*ONE).reason, log.state(*ONE).in_a_row, log.state(*ONE).failed) == ("", 0, len(RETRY_MS) + 2)


def test_the_beacon_draws_about_one_slot_in_so_many() -> None:
    log = ProvingLog(ROUTER, 10)
    log.asked(ONE, 0)
    log.passed(ONE, 0)
    drawn = [slot for slot in range(1, 2_001) if log.due([ONE], slot, BEACON, 0)]
    assert 140 < len(drawn) < 260
    assert drawn == [slot for slot in range(1, 2_001) if log.due([ONE], slot, BEACON, 0)], "nothing is left to choice"
    assert drawn != [slot for slot in range(1, 2_001) if log.due([ONE], slot, Digest(bytes(32)), 0)]
    other = ProvingLog(Address(b"s" * 20), 10)
    other.asked(ONE, 0)
    other.passed(ONE, 0)
    assert drawn != [slot for slot in range(1, 2_001) if other.due([ONE], slot, BEACON, 0)]


def test_a_slot_challenges_once() -> None:
    log = ProvingLog(ROUTER, 1)
    log.asked(ONE, 5)
    log.passed(ONE, 0)
    assert log.due([ONE], 5, BEACON, 0) == ()
    assert log.due([ONE], 6, BEACON, 0) == (ONE,)


def test_who_is_off_the_book_is_forgotten_and_proves_anew() -> None:
    log = ProvingLog(ROUTER, 10**9)
    log.asked(ONE, 5)
    assert log.due([], 5, BEACON, 0) == ()
    log.passed(ONE, 0)
    assert log.is_proven(*ONE), "its answer came after it had gone"
    assert log.due([], 6, BEACON, 0) == ()
    assert not log.is_proven(*ONE)
    assert log.due([ONE], 6, BEACON, 0) == (ONE,)
