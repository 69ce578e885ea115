import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.committee import Committee, Member
from contracts.bindings import compute_arguments
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest
from testnet.evm import Contract, LocalChain
from tests.contracts.local_chain import AMPLE, TERMS, UNBONDING_S, World, refused


def member(number: int) -> Address:
    return Address(number.to_bytes(2, "big") * 10)


class Staking:
    """A registry in which nothing is staked yet."""

    def __init__(self) -> None:
        self.chain = LocalChain()
        self.mor = self.chain.deploy("mor")
        self.registry: Contract = self.chain.deploy("registry", self.mor.address, *TERMS)
        arguments = compute_arguments(self.mor.address, self.registry.address, AMPLE, ZERO_ADDRESS, 0)
        compute = self.chain.deploy("compute", *arguments)
        self.registry("bind", compute.address)

    def stake(self, who: Address, amount: int) -> None:
        self.mor("mint", who, amount)
        self.mor("approve", self.registry.address, amount, sender=who)
        self.registry("stake", amount, sender=who)

    def candidates(self) -> list[Address]:
        return [Address(bytes.fromhex(address[2:])) for address in self.registry("candidates")[0]]


@pytest.fixture
def staking() -> Staking:
    return Staking()


def test_stake_is_pulled_in(staking: Staking) -> None:
    staking.stake(member(3), 500)
    staking.stake(member(3), 20)
    assert staking.registry("stake_of", member(3)) == 520
    assert staking.mor("balanceOf", staking.registry.address) == 520
    assert staking.candidates() == [member(3)]


def test_nothing_is_no_stake(staking: Staking) -> None:
    with refused("registry: zero amount"):
        staking.registry("stake", 0, sender=member(1))
    with refused("registry: zero amount"):
        staking.registry("unstake", 0, sender=member(1))


def test_stake_without_allowance_is_refused_whole(staking: Staking) -> None:
    with refused("mor: allowance too low"):
        staking.registry("stake", 1, sender=member(1))
    assert staking.candidates() == []


def test_unstaked_mor_is_paid_out_after_the_wait(staking: Staking) -> None:
    staking.stake(member(1), 500)
    staking.registry("unstake", 200, sender=member(1))
    assert staking.registry("stake_of", member(1)) == 300
    staking.chain.pass_time(UNBONDING_S - 1)
    with refused("registry: still bonded"):
        staking.registry("withdraw", sender=member(1))
    staking.chain.pass_time(1)
    staking.registry("withdraw", sender=member(1))
    assert staking.mor("balanceOf", member(1)) == 200
    with refused("registry: nothing to withdraw"):
        staking.registry("withdraw", sender=member(1))


def test_unstaking_again_starts_the_wait_anew(staking: Staking) -> None:
    staking.stake(member(1), 500)
    staking.registry("unstake", 200, sender=member(1))
    staking.chain.pass_time(UNBONDING_S)
    staking.registry("unstake", 300, sender=member(1))
    with refused("registry: still bonded"):
        staking.registry("withdraw", sender=member(1))
    staking.chain.pass_time(UNBONDING_S)
    staking.registry("withdraw", sender=member(1))
    assert staking.mor("balanceOf", member(1)) == 500
    assert staking.candidates() == []


def test_more_than_the_stake_cannot_leave(staking: Staking) -> None:
    staking.stake(member(1), 500)
    with refused("registry: stake too low"):
        staking.registry("unstake", 501, sender=member(1))
    with refused("registry: stake too low"):
        staking.registry("unstake", 1, sender=member(2))


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=25))
@settings(max_examples=15, deadline=None)
def test_the_staked_set_stays_sorted_and_exact(steps: list[tuple[int, bool]]) -> None:
    staking = Staking()
    model: dict[Address, int] = {}
    for number, enters in steps:
        who = member(number * 4_001)
        if enters:
            staking.stake(who, number)
            model[who] = model.get(who, 0) + number
        elif who in model:
            staking.registry("unstake", model.pop(who), sender=who)
    assert staking.candidates() == sorted(model)
    assert all(staking.registry("stake_of", who) == stake for who, stake in model.items())


def test_a_full_registry_takes_only_who_stakes_more_than_the_smallest(staking: Staking) -> None:
    for number in range(1, 65):
        staking.stake(member(number), 100 + number)
    with refused("registry: full"):
        staking.stake(member(65), 101)
    staking.stake(member(65), 102)
    assert staking.candidates() == [member(number) for number in range(2, 66)]
    assert staking.registry("unbonding", member(1))[0] == 101
    staking.chain.pass_time(UNBONDING_S)
    staking.registry("withdraw", sender=member(1))
    assert staking.mor("balanceOf", member(1)) == 101


def test_a_member_of_a_full_registry_may_add_to_its_stake(staking: Staking) -> None:
    for number in range(1, 65):
        staking.stake(member(number), 100)
    staking.stake(member(64), 1)
    assert len(staking.candidates()) == 64


@pytest.mark.parametrize("count", [1, 4, 64])
def test_the_committee_root_is_the_consensus_cores(staking: Staking, count: int) -> None:
    members = [Member(member(900 * number % 64_007 + 1), 7 + number) for number in range(count)]
    for entry in members:
        staking.stake(entry.address, entry.stake)
    committee = Committee.of(1, members)
    assert staking.registry("open_epoch") == committee.root
    assert staking.registry("committee_root") == committee.root
    assert staking.registry("root_of", 1) == committee.root
    assert staking.registry("frozen_total", committee.root) == committee.total
    addresses, stakes = staking.registry("committee", 1)
    assert addresses == tuple("0x" + entry.address.hex() for entry in committee.members)
    assert stakes == tuple(entry.stake for entry in committee.members)


def test_the_first_epoch_opens_once(world: World) -> None:
    with refused("registry: epoch already open"):
        world.registry("open_epoch")


def test_only_the_deployer_opens_the_first_epoch(staking: Staking) -> None:
    staking.stake(member(1), 1)
    with refused("registry: not the opener"):
        staking.registry("open_epoch", sender=member(1))


def test_a_committee_of_nobody_is_not_opened(staking: Staking) -> None:
    with refused("registry: nobody has staked"):
        staking.registry("open_epoch")


def test_an_epoch_that_is_not_open_has_no_committee(staking: Staking) -> None:
    assert staking.registry("committee", 1) == ((), ())
    assert staking.registry("committee_root") == ZERO_DIGEST
    with refused("registry: unknown committee"):
        staking.registry("weigh", ZERO_DIGEST, ())


def test_an_epoch_is_frozen(world: World) -> None:
    key = world.keys[0]
    world.registry("unstake", 100, sender=key.address)
    world.stake(member(9), 1_000_000)
    assert world.registry("weigh", world.root, (key.address,)) == (100, 1_000)
    with refused("registry: unknown signer"):
        world.registry("weigh", world.root, (member(9),))


def test_stake_is_weighed_under_the_newest_root_only(world: World) -> None:
    signers = [key.address for key in world.keys[1:3]]
    assert world.registry("weigh", world.root, signers) == (500, 1_000)
    with refused("registry: unknown committee"):
        world.registry("weigh", Digest(b"\x01" * 32), signers)


def test_the_registry_needs_a_token(staking: Staking) -> None:
    with refused("registry: zero token"):
        staking.chain.deploy("registry", ZERO_ADDRESS, *TERMS)
