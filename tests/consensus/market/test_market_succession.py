"""Passes of a router that is gone: what ends, what is given anew, and that no T counts twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market import access
from consensus.market.allowances import Allowances
from consensus.market.errors import PassRefused, RfcRefused
from consensus.market.ledger_state import account_of
from consensus.market.promises import Promises
from contracts.signing import Key
from contracts.typed_data import Address
from gossip.messages import sign
from gossip.messages.market import AccessPass, PassEnd, PassIssued
from tests.consensus.builders import GENESIS_MS, SALT, WEI, World, address, key

WORLD = World()
ACCOUNT = account_of(WORLD.ledger(), WORLD.terms, 0)
RANKED = access.home_routers(address("user"), 0, [member.address for member in WORLD.members])
HOME, NEXT, LAST = (next(m for m in WORLD.members if m.address == RANKED[place]) for place in (0, 1, 2))


def desk_of(router: Key) -> Allowances:
    return Allowances(router.address, lambda _: [m.address for m in WORLD.members], Promises())


def grant(
    desk: Allowances, session: str, tokens: int = 0, rank: int = 0, gone: frozenset[Address] = frozenset()
) -> AccessPass:
    request = WORLD.pass_request("user", session, tokens=tokens).payload
    return desk.grant(
        request,
        balance_wei=5 * WEI,
        account=ACCOUNT,
        salt=SALT,
        now_ms=GENESIS_MS,
        accept_rank=rank,
        gone=gone,
    )


def issued(granted: AccessPass, session: str, ends: tuple[PassEnd, ...] = ()) -> PassIssued:
    router = next(m for m in WORLD.members if m.address == granted.issuer)
    request = WORLD.pass_request("user", session)
    return PassIssued(sign(granted, router, WORLD.domain), request, SALT, router.address, ends)


MOST = access.user_max(ACCOUNT.max_t, ACCOUNT.supply_wei, 5 * WEI)


@settings(max_examples=50, deadline=None)
@given(used=st.integers(0, 16_384), lost=st.integers(0, 500))
def test_used_and_given_anew_never_exceed_user_max(used: int, lost: int) -> None:
    """Also where the dead router had used more than it could tell: then by no more than what was lost on the way."""
    home, following = desk_of(HOME), desk_of(NEXT)
    first = grant(home, "s1", 16_384)
    following.note_issued(issued(first, "s1"))
    following.note_usage(HOME.address, first.session_key, used)
    gone = frozenset({HOME.address})
    ends = following.ends_of(address("user"), 0, gone)
    assert ends == (PassEnd(first.session_key, used),)
    second = grant(following, "s2", rank=1, gone=gone)
    assert second.allowance <= MOST - used
    assert following.issued_to(address("user"), 0) <= MOST
    # The first comes back, knowing better what it had promised.
    home.reserve(WORLD.rfc("s1", sign(first, HOME, WORLD.domain), token_max=max(1, min(16_384, used + lost))).payload)
    home.note_issued(issued(second, "s2", ends))
    assert home.issued_to(address("user"), 0) <= MOST + lost + 1
    with pytest.raises(RfcRefused, match="its rest anew") as refused:
        home.reserve(WORLD.rfc("s1", sign(first, HOME, WORLD.domain), index=9, token_max=1).payload)
    assert refused.value.code == "index_used"


def test_without_word_of_what_was_used_the_whole_pass_counts() -> None:
    home, following = desk_of(HOME), desk_of(NEXT)
    first = grant(home, "s1", 16_384)
    following.note_issued(issued(first, "s1"))
    gone = frozenset({HOME.address})
    assert following.ends_of(address("user"), 0, gone) == ()
    with pytest.raises(PassRefused):
        grant(following, "s2", MOST - 16_384 + 1, rank=1, gone=gone)


def test_nobody_speaks_for_another_routers_pass() -> None:
    home, following = desk_of(HOME), desk_of(NEXT)
    first = grant(home, "s1", 16_384)
    following.note_issued(issued(first, "s1"))
    following.note_usage(LAST.address, first.session_key, 5)
    assert following.ends_of(address("user"), 0, frozenset({HOME.address})) == ()
    following.note_usage(HOME.address, first.session_key, 5)
    following.note_settled(first.session_key, 9)
    assert following.ends_of(address("user"), 0, frozenset({HOME.address})) == (PassEnd(first.session_key, 9),)
    assert following.ends_of(address("user"), 0, frozenset({LAST.address})) == ()


def test_only_who_stands_behind_ends_a_pass() -> None:
    """A router can't end the passes of one that comes after it, nor those of other users."""
    last, home = desk_of(LAST), desk_of(HOME)
    late = grant(last, "s1", 1_024, rank=3)
    early = grant(home, "s2", 1_024)
    last.note_issued(issued(early, "s2", (PassEnd(late.session_key, 0),)))
    last.reserve(WORLD.rfc("s1", sign(late, LAST, WORLD.domain), token_max=1).payload)
    assert last.used(key("s1").address) == 1
