from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.market import access
from consensus.market.errors import AccessInvalid, PassRefused
from contracts.typed_data import Digest
from tests.consensus.builders import address

WEI = access.WEI


def test_s39_vector_in_dollars() -> None:
    most = access.max_t_dollars(Fraction(3_000), Fraction(20), Fraction("0.002"))
    supply = 10_000_000 * WEI
    assert most == 30_000_000_000
    assert access.access_rate(most, supply) == 3_000
    assert access.user_max(most, supply, 5 * WEI) == 15_000
    assert access.user_max(most, supply, 500 * WEI) == 1_500_000


def test_the_dollar_cancels() -> None:
    """$20 per MOR and $0.002 per 1000 T are 10^11 wei per T: both forms of S38 agree."""
    assert access.max_t(3_000 * WEI, 10**11) == access.max_t_dollars(Fraction(3_000), Fraction(20), Fraction("0.002"))


def test_impossible_numbers_are_named() -> None:
    with pytest.raises(AccessInvalid) as price:
        access.max_t(1, 0)
    assert (price.value.name, price.value.value) == ("reference_price_wei", 0)
    with pytest.raises(AccessInvalid, match="supply_wei must be above 0"):
        access.user_max(1, 0, 1)
    with pytest.raises(AccessInvalid, match="supply_wei"):
        access.access_rate(1, 0)
    with pytest.raises(AccessInvalid, match="dollars_per_1000_t"):
        access.max_t_dollars(Fraction(1), Fraction(1), Fraction(0))


def test_s25_any_balance_gives_access_and_none_does_not() -> None:
    assert access.priority(1) == 1
    assert access.rank(0) == 0
    with pytest.raises(PassRefused) as refused:
        access.priority(0)
    assert refused.value.code == "no_balance"


@pytest.mark.parametrize(
    ("balance_mor", "expected"), [(1, 2), (2, 3), (3, 3), (4, 4), (500, 10), (512, 11), (10_000_000, 25)]
)
def test_s26_priority_is_the_bit_length_of_whole_mor(balance_mor: int, expected: int) -> None:
    assert access.priority(balance_mor * WEI) == expected
    assert access.priority(balance_mor * WEI + WEI - 1) == expected


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=100)
def test_an_allowance_is_rounded_down_by_less_than_a_third_to_few_values(tokens: int) -> None:
    rounded = access.round_allowance(tokens)
    assert rounded <= tokens
    assert 3 * rounded >= 2 * tokens
    assert rounded == access.round_allowance(rounded)
    assert rounded.bit_count() <= 2


@given(st.lists(st.integers(0, 10**25), min_size=1, max_size=20), st.integers(1, 10**22), st.integers(1, 10**12))
@settings(max_examples=100)
def test_s2_all_user_maxes_together_stay_below_max_t(balances: list[int], budget: int, price: int) -> None:
    supply = max(1, sum(balances))
    most = access.max_t(budget, price)
    maxes = [access.user_max(most, supply, balance) for balance in balances]
    assert sum(maxes) <= most
    assert sum(maxes) > most - len(balances) - 1 or sum(balances) == 0
    assert most * price <= budget


def test_home_routers_rank_all_members_and_change_with_user_and_day() -> None:
    members = [address(f"m{number}") for number in range(7)]
    ranking = access.home_routers(address("user"), 3, members)
    assert sorted(ranking) == sorted(members)
    assert ranking == access.home_routers(address("user"), 3, reversed(members))
    firsts = {access.home_routers(address("user"), day, members)[0] for day in range(40)}
    assert len(firsts) > 3
    without_first = [member for member in members if member != ranking[0]]
    assert access.home_routers(address("user"), 3, without_first) == ranking[1:]


def test_home_routers_share_the_users_evenly() -> None:
    members = [address(f"m{number}") for number in range(4)]
    homes = [access.home_routers(address(f"user {number}"), 0, members)[0] for number in range(400)]
    assert all(60 <= homes.count(member) <= 140 for member in members)


def test_a_pass_commitment_binds_user_and_salt() -> None:
    salts = Digest(b"\1" * 32), Digest(b"\2" * 32)
    made = {access.pass_commitment(address(user), salt) for user in ("a", "b") for salt in salts}
    assert len(made) == 4


def test_a_ranking_is_the_same_for_every_implementation() -> None:
    members = [address(f"m{number}") for number in range(4)]
    ranking = access.home_routers(address("user"), 300, members)
    assert [members.index(member) for member in ranking] == [1, 3, 2, 0]


@given(st.integers(0, 256))
def test_the_least_balance_of_a_rank_has_it_and_a_wei_less_has_not(rank: int) -> None:
    least = access.least_balance(rank)
    assert access.rank(least) == rank
    assert rank == 0 or access.rank(least - 1) == rank - 1


def test_every_shard_has_its_followers_and_a_large_committee_shares_them_out() -> None:
    small = [address(f"member {n}") for n in range(8)]
    assert all(access.followed_shards(one, small, 16, 8) == tuple(range(16)) for one in small)
    large = [address(f"member {n}") for n in range(64)]
    followed = {one: access.followed_shards(one, large, 16, 8) for one in large}
    assert all(sum(shard in of for of in followed.values()) == 8 for shard in range(16))
    assert max(len(of) for of in followed.values()) <= 8, "nobody carries half of the topics"
    without = {one: access.followed_shards(one, large[1:], 16, 8) for one in large[1:]}
    assert sum(without[one] != followed[one] for one in large[1:]) <= len(followed[large[0]])
    assert access.followed_shards(address("stranger"), large, 16, 8) == ()
