from contracts.typed_data import Address
from node.roles.decisions import AGAIN_S, DECIDE_S, REMEMBERED, LargeDecisions

LATE, LATER = Address(bytes([1]) * 20), Address(bytes([2]) * 20)


def test_small_decisions_go_out_whenever_they_are_asked_for() -> None:
    decisions = LargeDecisions()
    assert [decisions.is_due(LATE, 7, now_s) for now_s in (0.0, 0.0, 0.1)] == [True] * 3


def test_a_large_one_waits_and_is_not_said_again_each_second() -> None:
    decisions = LargeDecisions()
    decisions.note(7, 100.0)
    sent = [second for second in range(40) if decisions.is_due(LATE, 7, 100.0 + second)]
    assert sent == [int(DECIDE_S), int(DECIDE_S + AGAIN_S), int(DECIDE_S + 2 * AGAIN_S), int(DECIDE_S + 3 * AGAIN_S)]
    assert decisions.is_due(LATER, 7, 139.0), "what one member was sent says nothing of another"
    assert decisions.is_due(LATE, 6, 100.0), "another height's"


def test_what_is_remembered_is_bounded() -> None:
    decisions = LargeDecisions()
    for height in range(3 * REMEMBERED):
        decisions.note(height, float(height))
        for member in (LATE, LATER):
            assert decisions.is_due(member, height, height + DECIDE_S)
    assert len(decisions._adopted) == REMEMBERED
    assert len(decisions._sent) == 2 * REMEMBERED
    assert decisions.is_due(LATE, 0, 0.0)
