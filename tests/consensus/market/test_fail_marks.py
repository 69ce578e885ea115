"""The mark beside a Fail: each user counts once against a provider and day (S44), and stays unknown (S34)."""

import pytest
from msgspec.structs import replace

from consensus.market.errors import SettlementInvalid
from consensus.market.penalties import counted_as, fail_mark
from consensus.market.settlement import certified_ids, verify_settlement
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


def test_s44_a_user_with_many_session_keys_counts_once_for_each_provider(world: World) -> None:
    fails = [marked(world, "user", f"key {number}") for number in range(4)]
    fails += [marked(world, "another", "its key"), marked(world, "user", "one more", "second provider")]
    after = world.after(world.ledger(), fails)
    assert after.penalties == {address("provider"): 2, address("second provider"): 1}
    again = world.after(after, [marked(world, "user", "yet another")], slot=30)
    assert again.penalties == after.penalties
    tomorrow = world.after(again, [world.settlement(session="next", slot=101, passed=False)], slot=110)
    assert tomorrow.penalties[address("provider")] == 1 + 1, "half is forgiven, and everybody counts anew"


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
