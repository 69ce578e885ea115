import random

import pytest

from contracts.budget import Schedule
from contracts.emission import compute_period_reward
from contracts.typed_data import ZERO_ADDRESS, Address
from testnet.evm import LocalChain
from tests.contracts.local_chain import MOR, World, refused
from tests.contracts.twin import LIFELIKE

CAROL = Address(b"\xca" * 20)
PUBLIC = (3_456 * MOR, 592_558_728_240_000_000, 1_707_393_600, 86_400)
ALL_POOLS = (14_400 * MOR, 2_468_994_701_000_000_000, 1_707_393_600, 86_400)


@pytest.fixture(scope="module")
def source() -> World:
    world = World([100], economics=LIFELIKE, past_s=0, funds=0)
    world.deploy_source(1_000 * MOR)
    return world


def deployed(chain: LocalChain) -> object:
    return chain.deploy("emission_source", CAROL, CAROL, PUBLIC)


@pytest.mark.parametrize(
    ("schedule", "days", "wei"),
    [
        (PUBLIC, 0.5, 1_728 * 10**18),
        (PUBLIC, 1, 3_456 * 10**18),
        (PUBLIC, 2, 6_911_407_441_271_760_000_000),
        (PUBLIC, 365, 1_222_076_323_683_016_800_000_000),
        (PUBLIC, 5_833, 10_079_999_999_721_449_280_000_000),
        (PUBLIC, 20_000, 10_079_999_999_721_449_280_000_000),
        (ALL_POOLS, 6_000, 41_999_999_998_839_372_000_000_000),
    ],
)
def test_the_designs_figures(schedule: tuple[int, ...], days: float, wei: int) -> None:
    source = LocalChain().deploy("emission_source", CAROL, CAROL, PUBLIC)
    start = schedule[2]
    assert source("period_reward", schedule, 0, start + int(days * 86_400)) == wei


def test_the_formula_equals_pythons_on_random_cases() -> None:
    agree(300, seed=5)


def agree(cases: int, seed: int) -> None:
    """``python -m tests.contracts.test_emission_source`` does 10,000."""
    chance = random.Random(seed)
    source = LocalChain().deploy("emission_source", CAROL, CAROL, PUBLIC)
    for _ in range(cases):
        initial = chance.choice((0, 1, chance.randrange(1, 1_000), chance.randrange(1, 2**96)))
        decrease = max(
            1, chance.choice((1, initial // chance.randrange(1, 5_000), initial + 1, chance.randrange(2**95)))
        )
        interval = chance.choice((1, 7, 86_400, chance.randrange(1, 10**6)))
        payout = chance.randrange(2**32)
        start = max(0, payout + chance.randrange(-5 * interval, 100 * interval))
        end = max(0, start + chance.randrange(-interval, chance.choice((2, 10, 10_000)) * interval))
        found = source("period_reward", (initial, decrease, payout, interval), start, end)
        expected = compute_period_reward(
            initial, decrease, payout_start_s=payout, interval_s=interval, start_s=start, end_s=end
        )
        assert found == expected, (seed, initial, decrease, interval, payout, start, end)


@pytest.mark.parametrize(
    ("initial", "decrease", "wei"), [(5, 3, 5 + 2), (4, 3, 4 + 1), (6, 3, 6 + 3), (7, 7, 7), (8, 7, 8 + 1), (1, 5, 1)]
)
def test_the_last_interval_emits_what_is_left_and_the_next_nothing(initial: int, decrease: int, wei: int) -> None:
    chain = LocalChain()
    schedule = (initial, decrease, chain.now_s, 10)
    source = chain.deploy("emission_source", CAROL, CAROL, schedule)
    end_s = chain.now_s + 10 * -(-initial // decrease)
    assert source("getPeriodReward", end_s, end_s) == source("getPeriodReward", end_s, end_s + 9) == 0
    assert source("getPeriodReward", end_s - 10, end_s) == initial - decrease * ((initial - 1) // decrease)
    assert source("getPeriodReward", end_s - 10, end_s - 5) == (initial - decrease * ((initial - 1) // decrease)) // 2
    for seconds in (10 * -(-initial // decrease), 1, 9, 10, 1_000):
        chain.pass_time(seconds)
        assert source("due") == wei
        assert source("getPeriodReward", 0, chain.now_s) == wei


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ((1, 0, 0, 1), "emission: bad decrease"),
        ((1, 2**96, 0, 1), "emission: bad decrease"),
        ((1, 1, 0, 0), "emission: bad interval"),
        ((1, 1, 0, 2**40), "emission: bad interval"),
        ((2**96, 1, 0, 1), "emission: bad initial"),
        ((1, 1, 2**40, 1), "emission: bad payout start"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule: tuple[int, ...], reason: str) -> None:
    chain = LocalChain()
    with refused(reason):
        chain.deploy("emission_source", CAROL, CAROL, schedule)
    with refused(reason):
        chain.deploy("emission_source", CAROL, CAROL, PUBLIC)("period_reward", schedule, 0, 1)


def test_the_largest_schedule_is_taken() -> None:
    widest = (2**96 - 1, 2**96 - 1, 2**40 - 1, 2**40 - 1)
    source = LocalChain().deploy("emission_source", CAROL, CAROL, widest)
    assert source("schedule") == widest
    assert source("getPeriodReward", 0, 2**256 - 1) == 2**96 - 1


def test_the_source_needs_a_token_and_a_beneficiary() -> None:
    for token, beneficiary, reason in (
        (ZERO_ADDRESS, CAROL, "source: zero token"),
        (CAROL, ZERO_ADDRESS, "source: zero beneficiary"),
    ):
        with refused(reason):
            LocalChain().deploy("emission_source", token, beneficiary, PUBLIC)


def test_anybody_has_the_beneficiary_paid_what_is_due() -> None:
    world = World([100], economics=LIFELIKE, past_s=0, funds=0)
    source = world.deploy_source(1_000_000 * MOR)
    schedule: Schedule = world.economics.schedule
    assert source("TOKEN") == "0x" + world.mor.address.hex()
    assert source("BENEFICIARY").lower() == "0x" + world.compute.address.hex()
    paid = 0
    for seconds in (0, 1, 37, 250):
        world.chain.pass_time(seconds)
        due = schedule.emitted(world.chain.now_s) - paid
        assert source("due") == due
        assert source("pay", sender=CAROL) == due
        paid += due
        assert world.balance(world.compute.address) == source("paid_total") == paid
        assert source("due") == source("pay") == 0


def test_the_source_pays_what_it_has_and_owes_the_rest(source: World) -> None:
    world = World([100], economics=LIFELIKE, past_s=200, funds=0)
    source_ = world.deploy_source(1_000 * MOR)
    assert source_("pay") == 1_000 * MOR
    assert source_("pay") == 0
    owed = source_("due")
    assert owed > 5_000 * MOR
    world.mor("mint", source_.address, owed)
    assert source_("pay") == owed


def test_a_token_that_does_not_pay_is_noticed() -> None:
    world = World([100], economics=LIFELIKE, past_s=200, funds=0)
    source = world.deploy_source(1_000 * MOR)
    # CALLDATASIZE 68 EQ: transfer answers false, anything else 1,000 MOR
    amount = (1_000 * MOR).to_bytes(9, "big").hex()
    code = bytes.fromhex("36604414601757" + "68" + amount + "5f5260205ff3" + "5b5f5f5260205ff3")
    world.chain.env.set_code("0x" + world.mor.address.hex(), code)
    with refused("source: transfer failed"):
        source("pay")


if __name__ == "__main__":
    drawn = random.SystemRandom().randrange(2**32)
    agree(10_000, drawn)
    print(f"seed {drawn}: 10,000 random cases of the emission formula are equal in Python and Vyper")
