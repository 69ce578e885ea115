"""The mark beside a Fail: each user counts once against a provider and day (S44), and stays unknown (S34)."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market.errors import SettlementInvalid
from consensus.market.ledger_state import decode_ledger, encode_ledger
from consensus.market.penalties import Penalties, PenaltyDraft, counted_as, fail_mark
from consensus.market.settlement import certified_ids, verify_settlement
from consensus.market.trie import Trie
from contracts.signing import Key
from gossip.messages.base import decode, encode, sign
from gossip.messages.session import FailMark, Settlement
from tests.consensus.builders import World, address, key, named_digest

SECRET = b"a router's own"


@pytest.fixture
def world() -> World:
    return World()


def marked(world: World, user: str, session: str, provider: str = "provider", router: Key | None = None) -> Settlement:
    """A Fail of one of a user's session keys, marked by the router."""
    failed = world.settlement(session=session, provider=provider, passed=False)
    router = router or world.router
    mark = fail_mark(SECRET, address(user), address(provider), 0)
    told = FailMark(failed.ticket.id(world.domain), mark, router.address)
    return replace(failed, fail_mark=sign(told, router, world.domain))


def test_s44_points_are_the_percent_of_a_days_t_that_fails_were_told_of(world: World) -> None:
    """A user with many session keys counts once for each provider, with the T of one session."""
    served = [world.settlement(session=f"passed {number}", tokens=100, allowance=400) for number in range(7)]
    fails = [marked(world, "user", f"key {number}") for number in range(4)]
    fails += [marked(world, "another", "its key"), marked(world, "user", "one more", "second provider")]
    charged = 100
    after = world.after(world.ledger(), [*served, *fails])
    assert [made.charged for made in after.outcomes] == [charged] * 13
    # 7 that passed and 2 that count: the other three Fails of the user are neither told nor served
    assert after.penalties == {address("provider"): 23, address("second provider"): 100}
    again = world.after(after, [marked(world, "user", "yet another")], slot=30)
    assert again.penalties == after.penalties
    more = world.after(again, [world.settlement(session="later", slot=31, tokens=100)], slot=40)
    assert more.penalties[address("provider")] == 20, "served T weigh against it until the day ends"
    tomorrow = world.after(more, [world.settlement(session="next", slot=101, passed=False)], slot=110)
    assert tomorrow.penalties[address("provider")] == 10 + 100, "half is forgiven, and everybody counts anew"
    assert tomorrow.penalties[address("second provider")] == 50
    assert decode_ledger(encode_ledger(tomorrow)).penalties == tomorrow.penalties


def test_a_thousand_addresses_cost_a_large_provider_what_their_t_weigh() -> None:
    """As many Fails as there are users of a rival, each of 1 T."""
    held = Penalties({}, 0)
    draft = PenaltyDraft(held, Trie())
    draft.serve(address("large"), 100_000)
    for number in range(1_000):
        draft.fail(address("large"), address(f"user {number}"), 1)
    after, _ = draft.finish()
    assert after == {address("large"): 1}, "1,000 of 101,000 T, rounded up"
    assert not held


@given(
    st.lists(st.tuples(st.sampled_from("ps"), st.integers(0, 2), st.integers(0, 4), st.integers(1, 999)), max_size=40)
)
def test_a_draft_is_the_percent_that_it_says(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is served, failed and accused, over three batches of two days."""
    held, counted = Penalties({}, 0), Trie[bytes, bool]()
    points, served, failed = dict.fromkeys(range(3), 0), Counter[int](), dict[tuple[int, int], int]()
    for batch, day in enumerate((0, 0, 1)):
        if day > held.day:
            points = {who: share(points[who], served[who], failed, who) // 2 for who in points}
            served, failed, counted = Counter(), {}, Trie()
        draft = PenaltyDraft(held.on(day), counted)
        for kind, who, user, tokens in steps[batch::3]:
            if kind == "p":
                draft.serve(address(str(who)), tokens)
                served[who] += tokens
            else:
                draft.fail(address(str(who)), address(f"user {user}"), tokens)
                failed.setdefault((who, user), tokens)
        held, counted = draft.finish()
        expected = {address(str(who)): share(points[who], served[who], failed, who) for who in points}
        assert held == {who: left for who, left in expected.items() if left}


def share(points: int, served: int, failed: dict[tuple[int, int], int], provider: int) -> int:
    """Points in fractions."""
    bad = sum(tokens for (who, _), tokens in failed.items() if who == provider)
    return points + math.ceil(Fraction(100 * bad, max(1, served + bad)))


def test_without_a_mark_the_session_key_counts(world: World) -> None:
    failed = world.settlement(session="one", passed=False)
    assert counted_as(failed) == address("one")
    assert counted_as(marked(world, "user", "one")) == counted_as(marked(world, "user", "two"))


def test_s34_a_mark_says_nothing_without_the_routers_secret() -> None:
    user, provider = address("user"), address("provider")
    marks = [
        fail_mark(SECRET, user, provider, 0),
        fail_mark(b"another router's", user, provider, 0),
        fail_mark(SECRET, address("another"), provider, 0),
        fail_mark(SECRET, user, address("second provider"), 0),
        fail_mark(SECRET, user, provider, 1),
    ]
    assert len(set(marks)) == len(marks)


def test_a_mark_is_the_tickets_routers_and_stands_beside_a_fail(world: World) -> None:
    good = marked(world, "user", "one")
    assert verify_settlement(good, world.terms) == certified_ids(good, world.terms)
    assert decode(Settlement, encode(good)) == good
    assert good.fail_mark is not None
    told = good.fail_mark.payload
    passed = world.settlement(session="one")
    cases = (
        ("signature", replace(good, fail_mark=sign(told, key("stranger"), world.domain))),
        ("mark_router", marked(world, "user", "one", router=world.members[1])),
        (
            "mark_ticket",
            replace(good, fail_mark=sign(replace(told, ticket_id=named_digest("other")), world.router, world.domain)),
        ),
        ("mark_without_fail", replace(passed, fail_mark=good.fail_mark)),
        ("mark_without_fail", replace(good, report=None)),
    )
    for reason, bad in cases:
        with pytest.raises(SettlementInvalid) as refused:
            verify_settlement(bad, world.terms)
        assert refused.value.reason == reason
