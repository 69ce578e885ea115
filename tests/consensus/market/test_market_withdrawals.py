"""An RFC is taken back by its own session key alone, and nobody has a draw repeated for nothing by doing so (S34)."""

import pytest

from consensus.market.desk import Desk
from consensus.market.errors import RfcRefused
from consensus.market.throttle import rfc_rate
from consensus.market.waiting import SLACK
from consensus.market.withdrawals import EARLY_PER_USER, Withdrawals
from contracts.typed_data import Digest
from gossip.messages.router import Matched
from tests.consensus.builders import address, named_digest
from tests.consensus.market.counter import NOW, Counter, rfc_refused

SESSION = address("session")
ASKED = 100
"""TokenMax, in T."""


@pytest.fixture
def counter() -> Counter:
    return Counter()


def refused(desk: Desk, rfc_id: Digest, session: str = "session") -> str:
    with pytest.raises(RfcRefused) as error:
        desk.withdraw(rfc_id, address(session), is_drawn=False)
    return error.value.code


def test_an_rfc_that_waits_is_taken_back_for_nothing(counter: Counter) -> None:
    desk, granted = counter.desk, counter.grant()
    rfc = counter.rfc(granted, token_max=ASKED)
    rfc_id = counter.admit(rfc)
    assert desk.withdraw(rfc_id, SESSION, is_drawn=False) == 0
    assert desk.allowances.used(SESSION) == 0
    assert desk.next_waiting(NOW) is None
    assert not desk._waiting_of, "its user may have another wait"
    outcome = desk.outcome(rfc_id)
    assert isinstance(outcome, RfcRefused)
    assert outcome.code == "withdrawn"
    assert desk.withdraw(rfc_id, SESSION, is_drawn=False) == 0, "said twice"
    counter.admit(rfc)
    assert desk.next_waiting(NOW) is None, "the same RFC again has its answer"


def test_one_whose_provider_is_drawn_costs_what_an_unopened_ticket_costs(counter: Counter) -> None:
    """Else a provider that isn't asked could tell its user to draw again before the match is made."""
    desk, window = counter.desk, counter.world.terms.params.voucher_window
    rfc_id = counter.admit(counter.rfc(counter.grant(), token_max=ASKED))
    assert desk.next_waiting(NOW) is not None
    assert desk.withdraw(rfc_id, SESSION, is_drawn=True) == window
    assert desk.withdraw(rfc_id, SESSION, is_drawn=False) == window, "said twice"
    assert desk.allowances.used(SESSION) == window
    desk.requeue(rfc_id)
    assert desk.next_waiting(NOW) is None
    with pytest.raises(RfcRefused, match="isn't waiting"):
        counter.open_ticket(rfc_id)
    assert desk.slots_left(counter.world.standing(slots=1).bid) == 1


def test_one_that_was_matched_keeps_its_ticket_and_costs_as_much_whatever_is_reported(counter: Counter) -> None:
    desk, window = counter.desk, counter.world.terms.params.voucher_window
    rfc_id, ticket_id, _ = counter.session(token_max=ASKED)
    assert isinstance(desk.withdraw(rfc_id, SESSION, is_drawn=False), Matched)
    assert isinstance(desk.withdraw(rfc_id, SESSION, is_drawn=False), Matched)
    desk.file_report(counter.report(ticket_id, 0), 2)
    (_,) = desk.due(7)
    desk.settled(ticket_id, 1)
    assert desk.allowances.used(SESSION) == window


def test_one_that_overtakes_its_rfc_keeps_it_out(counter: Counter) -> None:
    desk, granted = counter.desk, counter.grant()
    rfc = counter.rfc(granted, token_max=ASKED)
    rfc_id = rfc.id(counter.world.domain)
    assert desk.withdraw(rfc_id, SESSION, is_drawn=False) == 0
    assert desk.withdraw(rfc_id, SESSION, is_drawn=False) == 0
    for _ in range(2):
        assert rfc_refused(counter, rfc).code == "withdrawn"
    assert desk.allowances.used(SESSION) == 0
    counter.admit(counter.rfc(granted, token_max=ASKED, index=1))


@pytest.mark.parametrize("stage", ["early", "waiting", "matched"])
def test_nobody_else_takes_it_back(counter: Counter, stage: str) -> None:
    desk, granted = counter.desk, counter.grant()
    counter.grant(user="other", session="other")
    rfc = counter.rfc(granted, token_max=ASKED)
    rfc_id = rfc.id(counter.world.domain)
    if stage == "early":
        assert refused(desk, rfc_id, "nobody's") == "unknown_rfc"
        assert desk.withdraw(rfc_id, address("other"), is_drawn=False) == 0
        counter.admit(rfc)
        assert desk.next_waiting(NOW) is not None, "another key's word says nothing of it"
        return
    counter.admit(rfc)
    if stage == "matched":
        assert desk.next_waiting(NOW) is not None
        counter.place(rfc_id)
    assert refused(desk, rfc_id, "other") == "not_the_asker"
    assert desk.allowances.used(SESSION) == ASKED
    assert not isinstance(desk.outcome(rfc_id), RfcRefused)


def test_one_that_was_refused_keeps_its_refusal(counter: Counter) -> None:
    rfc_id = counter.admit(counter.rfc(counter.grant(), token_max=ASKED))
    counter.desk.refuse(rfc_id, "no_provider", "")
    assert refused(counter.desk, rfc_id) == "no_provider"


def test_asking_and_taking_back_in_a_loop_meets_the_users_rate(counter: Counter) -> None:
    granted = counter.grant()
    _, burst = rfc_rate(granted.priority)
    for index in range(burst):
        rfc_id = counter.admit(counter.rfc(granted, index=index))
        counter.desk.withdraw(rfc_id, SESSION, is_drawn=False)
    assert "RFCs a second by this user" in rfc_refused(counter, counter.rfc(granted, index=burst)).detail


def test_those_that_left_are_forgotten_however_far_their_deadline(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consensus.market.desk.rfc_rate", lambda _: (1_000_000, 1_000_000))
    granted, room = counter.grant(), counter.desk._room
    stays = counter.admit(counter.rfc(granted, deadline_ms=2**62))
    for index in range(1, 1_000):
        rfc_id = counter.admit(counter.rfc(granted, index=index, deadline_ms=2**62))
        counter.desk.withdraw(rfc_id, SESSION, is_drawn=False)
    assert max(len(room._deadlines), len(room._dated), *map(len, room._ages.values())) <= SLACK + 8
    found = counter.desk.next_waiting(NOW)
    assert found is not None
    assert found.rfc_id == stays


def test_a_user_that_withdraws_what_never_comes_pushes_out_its_own() -> None:
    withdrawals = Withdrawals()
    withdrawals.note_early(address("honest"), address("h"), named_digest("h"))
    for number in range(EARLY_PER_USER + 1):
        withdrawals.note_early(address("spammer"), address("s"), named_digest(str(number)))
    assert withdrawals.has_come(address("h"), named_digest("h"))
    assert not withdrawals.has_come(address("s"), named_digest("0"))
    assert withdrawals.has_come(address("s"), named_digest("1"))
    assert len(withdrawals._early) == EARLY_PER_USER + 1
