"""What each contract logs, field by field: explorers and dashboards have nothing else."""

from contracts.artifacts import load_artifact
from contracts.merkle import merkle_proof
from contracts.typed_data import ZERO_ADDRESS, Address
from testnet.evm import DEPLOYER, Contract
from tests.contracts.local_chain import (
    DELAY_S,
    GOVERNOR,
    MOR,
    RESCUE_DELAY_S,
    RESCUE_NOTICE_S,
    UNBONDING_S,
    World,
)
from tests.contracts.twin import LIFELIKE

ALICE, BOB = Address(b"\xa1" * 20), Address(b"\xb0" * 20)

Logged = list[tuple[list[bytes], bytes]]


def word(value: int | bytes) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


def words(*values: int | bytes) -> bytes:
    return b"".join(map(word, values))


def logs(contract: Contract, event: str, sender: Address, function: str, *arguments: object) -> Logged:
    return contract.logs(load_artifact(contract.name).encode_call(function, *arguments), event, sender)


def test_stake_comes_and_goes(world: World) -> None:
    registry = world.registry
    world.mor("mint", ALICE, 50)
    world.mor("approve", registry.address, 50, sender=ALICE)
    found = logs(registry, "Staked(address,uint256,uint256)", ALICE, "stake", 30)
    assert found == [([word(ALICE)], words(30, 30))]
    found = logs(registry, "Staked(address,uint256,uint256)", ALICE, "stake", 20)
    assert found == [([word(ALICE)], words(20, 50))]
    ready_s = world.chain.now_s + UNBONDING_S
    found = logs(registry, "Unstaked(address,uint256,uint256,uint256)", ALICE, "unstake", 15)
    assert found == [([word(ALICE)], words(15, 35, ready_s))]
    world.chain.pass_time(UNBONDING_S)
    found = logs(registry, "Withdrawn(address,uint256)", ALICE, "withdraw")
    assert found == [([word(ALICE)], words(15))]


def test_a_rescue_is_announced_and_opens_an_epoch(world: World) -> None:
    registry = world.registry
    world.chain.pass_time(RESCUE_DELAY_S)
    possible_s = world.chain.now_s + RESCUE_NOTICE_S
    found = logs(registry, "RescueAnnounced(uint256,uint256)", BOB, "announce_rescue")
    assert found == [([word(1)], words(possible_s))]
    world.chain.pass_time(RESCUE_NOTICE_S)
    with world.chain.env.anchor():
        assert logs(registry, "Rescued(uint256)", BOB, "rescue") == [([word(2)], b"")]
    found = logs(registry, "EpochOpened(uint256,bytes32,uint256)", BOB, "rescue")
    assert found == [([word(2)], words(registry("committee_root"), 1_000))]


def test_what_governs_is_seen_coming(world: World) -> None:
    compute = world.compute
    ready_s = world.chain.now_s + DELAY_S
    for what in ("source", "governor"):
        name = what.capitalize()
        found = logs(compute, f"{name}Announced(address,uint256)", GOVERNOR, f"announce_{what}", ALICE)
        assert found == [([], words(ALICE, ready_s))]
    world.chain.pass_time(DELAY_S)
    for what in ("source", "governor"):
        found = logs(compute, f"{what.capitalize()}Set(address)", BOB, f"change_{what}")
        assert found == [([], words(ALICE))]


def test_the_first_source_is_seen(world: World) -> None:
    assert logs(world.compute, "SourceSet(address)", DEPLOYER, "bind_source", BOB) == [([], words(BOB))]


def test_a_receiver_is_seen(world: World) -> None:
    event = "ClaimReceiverSet(address,address)"
    for receiver in (BOB, ZERO_ADDRESS):
        assert logs(world.compute, event, ALICE, "set_receiver", receiver) == [([word(ALICE)], words(receiver))]


def test_who_is_paid_among_many_is_seen_and_who_was_paid_before_is_not(world: World) -> None:
    credits = {ALICE: 5, BOB: 7}
    world.submit(world.header(3, credits))
    world.claim(credits, ALICE, 3)
    many = [(provider, credit, merkle_proof(credits, provider)) for provider, credit in credits.items()]
    found = logs(world.compute, "Claimed(address,uint64,address,uint256)", ALICE, "claim_many", 3, many)
    assert found == [([word(BOB), word(3)], words(BOB, 7))]


def test_emission_is_seen_leaving() -> None:
    world = World([1], economics=LIFELIKE, past_s=150, funds=0)
    source = world.deploy_source(1_000 * MOR)
    assert logs(source, "Paid(uint256,uint256)", ALICE, "pay") == [([], words(1_000 * MOR, 1_000 * MOR))]
    assert logs(source, "Paid(uint256,uint256)", ALICE, "pay") == []


def test_the_tokens_moves_are_seen(world: World) -> None:
    mor, transfer = world.mor, "Transfer(address,address,uint256)"
    found = logs(mor, transfer, DEPLOYER, "mint", ALICE, 9)
    assert found == [([word(ZERO_ADDRESS), word(ALICE)], words(9))]
    found = logs(mor, "Approval(address,address,uint256)", ALICE, "approve", BOB, 4)
    assert found == [([word(ALICE), word(BOB)], words(4))]
    found = logs(mor, transfer, BOB, "transferFrom", ALICE, BOB, 4)
    assert found == [([word(ALICE), word(BOB)], words(4))]


def test_a_single_wei_of_emission_is_seen_coming() -> None:
    world = World([1], economics=LIFELIKE, past_s=150, funds=0)
    world.deploy_source(1)
    event = "EmissionReceived(uint256)"
    assert logs(world.compute, event, ALICE, "pull") == [([], words(1))]
    assert logs(world.compute, event, ALICE, "pull") == []
