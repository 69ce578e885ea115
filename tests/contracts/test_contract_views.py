"""What a contract was deployed with and what can be asked of it, and tokens that don't pay what a registry owes."""

import pytest

from contracts.bindings import compute_arguments
from contracts.typed_data import ZERO_ADDRESS, Address
from testnet.evm import DEPLOYER
from tests.contracts.local_chain import (
    AMPLE,
    DELAY_S,
    GOVERNOR,
    RESCUE_DELAY_S,
    RESCUE_NOTICE_S,
    UNBONDING_S,
    World,
    refused,
)

ALICE, BOB = Address(b"\xa1" * 20), Address(b"\xb0" * 20)
FALSE = bytes.fromhex("5f5f5260205ff3")
"""PUSH0 PUSH0 MSTORE, RETURN 32 zero bytes: a token whose every answer is false."""


def test_what_a_registry_was_deployed_with_can_be_read(world: World) -> None:
    registry = world.registry
    names = ("UNBONDING_S", "SLASH_PERCENT", "FINDER_PERCENT", "RESCUE_DELAY_S", "RESCUE_NOTICE_S", "MAX_MEMBERS")
    assert [registry(name) for name in names] == [UNBONDING_S, 100, 5, RESCUE_DELAY_S, RESCUE_NOTICE_S, 64]
    assert [registry(name) for name in ("PROPOSAL", "PREVOTE", "PRECOMMIT")] == [1, 2, 3]
    assert (registry("TOKEN"), registry("OPENER").lower()) == (address(world.mor.address), address(DEPLOYER))


def test_what_the_registry_has_done_can_be_read(world: World) -> None:
    registry, [member, *_] = world.registry, [key.address for key in world.keys]
    assert registry("compute").lower() == address(world.compute.address)
    assert registry("opened_s", 1) == world.chain.now_s
    assert (registry("announced_s"), registry("latest_day"), registry("forfeited_total")) == (0, 0, 0)
    assert (registry("is_rescue", 1), registry("is_slashed", member)) == (False, False)
    assert (registry("frozen_stake", world.root, member), registry("frozen_total", world.root)) == (100, 1_000)
    assert registry("root_of", 1) == registry("committee_root") == world.root
    assert registry("unbonding", member) == (0, 0)


def test_who_governs_and_what_is_coming_can_be_read(world: World) -> None:
    compute = world.compute
    assert compute("governor").lower() == address(GOVERNOR)
    for what in ("source", "governor"):
        assert compute(f"coming_{what}") == (address(ZERO_ADDRESS), 0)
        compute(f"announce_{what}", ALICE, sender=GOVERNOR)
        value, ready_s = compute(f"coming_{what}")
        assert (value.lower(), ready_s) == (address(ALICE), world.chain.now_s + DELAY_S)


def test_the_tokens_minter_can_be_read(world: World) -> None:
    assert world.mor("MINTER").lower() == address(DEPLOYER)


@pytest.mark.parametrize("delay_s", [0, 1, 86_399, 2**40])
def test_a_governor_that_nobody_could_see_coming_is_refused(world: World, delay_s: int) -> None:
    with refused("compute: bad delay"):
        world.chain.deploy("compute", *compute_arguments(ALICE, BOB, AMPLE, GOVERNOR, delay_s))


@pytest.mark.parametrize(("governor", "delay_s"), [(GOVERNOR, 86_400), (GOVERNOR, 2**40 - 1), (ZERO_ADDRESS, 0)])
def test_a_delay_of_a_day_or_no_governor_at_all_is_taken(world: World, governor: Address, delay_s: int) -> None:
    compute = world.chain.deploy("compute", *compute_arguments(ALICE, BOB, AMPLE, governor, delay_s))
    assert (compute("governor").lower(), compute("GOVERNANCE_DELAY_S")) == (address(governor), delay_s)


def test_nobody_is_no_governor_that_anybody_could_be(world: World) -> None:
    compute = world.chain.deploy("compute", *compute_arguments(ALICE, BOB, AMPLE, ZERO_ADDRESS, 0))
    for what in ("announce_source", "announce_governor"):
        with refused("compute: not the governor"):
            compute(what, ALICE, sender=BOB)


def test_a_token_that_does_not_take_a_stake_leaves_none(world: World) -> None:
    code = world.chain.env.get_code(address(world.mor.address))
    world.chain.env.set_code(address(world.mor.address), FALSE)
    with refused("registry: transfer failed"):
        world.registry("stake", 5, sender=ALICE)
    world.chain.env.set_code(address(world.mor.address), code)
    assert world.registry("stake_of", ALICE) == 0


def test_a_token_that_does_not_pay_a_withdrawal_leaves_the_claim_to_it() -> None:
    world = World()
    world.stake(ALICE, 7)
    world.registry("unstake", 7, sender=ALICE)
    world.chain.pass_time(UNBONDING_S)
    code = world.chain.env.get_code(address(world.mor.address))
    world.chain.env.set_code(address(world.mor.address), FALSE)
    with refused("registry: transfer failed"):
        world.registry("withdraw", sender=ALICE)
    world.chain.env.set_code(address(world.mor.address), code)
    world.registry("withdraw", sender=ALICE)
    assert world.balance(ALICE) == 7


def address(raw: Address) -> str:
    return "0x" + raw.hex()
