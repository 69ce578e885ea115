"""What the options make of a network: numbers, prices, parameters, and refusals that name the option."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testnet.errors import OptionInvalid
from testnet.plan import (
    BUDGET_WEI,
    MOR,
    POOL_WEI,
    REFERENCE_PRICE_WEI,
    SOURCE_WEI,
    STAKE_WEI,
    SUPPLY_WEI,
    USER_WEI,
    TestnetOptions,
    compute_bid,
    compute_plan,
)


def test_the_default_network() -> None:
    plan = compute_plan(TestnetOptions())
    names = [node.name for node in plan.nodes]
    assert names == [
        "member-1",
        "member-2",
        "member-3",
        "member-4",
        "provider-1",
        "provider-2",
        "full",
        "user",
        "guest",
    ]
    assert [node.name for node in plan.started] == names[:-1]
    assert plan.faults_tolerated == 1
    assert (plan.params.slot_ms, plan.params.day_slots) == (4_000, 7_200)
    assert {node.stake_wei for node in plan.of_kind("member")} == {STAKE_WEI}
    assert plan.of_kind("user")[0].balance_wei == USER_WEI == 500 * MOR
    assert plan.of_kind("user")[0].roles == ("full", "user")
    assert all(node.balance_wei > 0 for node in plan.of_kind("provider")), "S43"


def test_the_numbers_of_the_plan() -> None:
    assert SUPPLY_WEI == 10_000_000 * MOR
    assert BUDGET_WEI == 3_456 * MOR
    assert [compute_bid(i) for i in range(3)] == [90_000_000_000, 92_700_000_000, 95_400_000_000]


def test_two_bids_are_in_the_tie_band_and_a_third_is_not() -> None:
    params = compute_plan(TestnetOptions(providers=3)).params
    in_band = [i for i in range(3) if compute_bid(i) * 100 <= compute_bid(0) * (100 + params.tie_percent)]
    assert in_band == [0, 1]


@settings(max_examples=50)
@given(
    members=st.integers(1, 64), providers=st.integers(1, 32), block=st.integers(1, 60), blocks=st.integers(2, 10_000)
)
def test_every_possible_network_is_consistent(members: int, providers: int, block: int, blocks: int) -> None:
    plan = compute_plan(TestnetOptions(members=members, providers=providers, block_s=block, day_s=block * blocks))
    assert len({node.name for node in plan.nodes}) == len(plan.nodes) == members + providers + 3
    assert sum(node.balance_wei + node.stake_wei for node in plan.nodes) + POOL_WEI + SOURCE_WEI <= SUPPLY_WEI
    assert plan.params.day_slots == blocks
    assert plan.params.slot_ms * plan.params.day_slots == 1_000 * block * blocks
    assert all(node.price_wei <= 2 * REFERENCE_PRICE_WEI for node in plan.of_kind("provider")), "under the ceiling"
    left = members - plan.faults_tolerated
    assert 3 * left > 2 * members, "who is left is a quorum"
    assert 3 * (left - 1) <= 2 * members, "one fewer is none"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (TestnetOptions(members=0), "--members 0: must be 1 to 64"),
        (TestnetOptions(members=65), "--members 65"),
        (TestnetOptions(providers=0), "--providers 0"),
        (TestnetOptions(block_s=0), "--block 0"),
        (TestnetOptions(max_tokens=0), "--max-tokens 0"),
        (TestnetOptions(prompt="  "), "--prompt '  '"),
        (TestnetOptions(block_s=4, day_s=10), "--day 10: must be a multiple of --block 4"),
        (TestnetOptions(block_s=4, day_s=4), "--day 4"),
    ],
    ids=str,
)
def test_options_that_make_no_network(options: TestnetOptions, named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        compute_plan(options)
    assert named in str(caught.value)
