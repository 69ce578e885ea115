"""The running committee hands over to the next, and what remains of the old one."""

from collections.abc import Sequence

import pytest

from consensus.committee import Committee, Member
from contracts.artifacts import load_artifact
from contracts.bindings import compact_signature, evidence
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Domain, digest
from gossip.messages.base import sign
from gossip.messages.committee import HandOver, Precommit, Prevote
from testnet.evm import Refused
from tests.contracts.local_chain import MOR, UNBONDING_S, World, refused

PROVIDER = Address(b"\xa1" * 20)
CREDITS = {PROVIDER: 30 * MOR, Address(b"\xb0" * 20): MOR}
STRANGER = Address(b"\x66" * 20)


def newcomers(world: World, stakes: Sequence[int]) -> tuple[list[Key], list[tuple[Address, int]]]:
    """Keys with that much stake, and the committee that they would make."""
    keys = [Key(bytes([9, number]) * 16) for number in range(1, len(stakes) + 1)]
    for key, stake in zip(keys, stakes, strict=True):
        world.stake(key.address, stake)
    return keys, sorted((key.address, stake) for key, stake in zip(keys, stakes, strict=True))


def keys_of(world: World, *stakes: int) -> list[Key]:
    return [key for key in world.keys if world.committee.weight(key.address) in stakes]


def test_the_next_committee_takes_over(world: World) -> None:
    keys, members = newcomers(world, [50, 60, 70])
    root = world.hand_over(members, day=4)
    assert root == Committee.of(2, [Member(*member) for member in members]).root
    assert world.registry("epoch") == 2
    assert world.registry("latest_day") == 4
    assert world.registry("committee_root") == world.registry("root_of", 2) == root
    addresses, stakes = world.registry("committee", 2)
    assert list(zip(addresses, stakes, strict=True)) == [("0x" + member.hex(), stake) for member, stake in members]
    world.keys = keys
    world.submit(world.header(1, CREDITS))
    assert world.compute("latest_height") == 1


def test_a_committee_may_hand_over_to_itself_and_on(world: World) -> None:
    members = [(member.address, member.stake) for member in world.committee.members]
    roots = {world.root} | {world.hand_over(members, day=day) for day in (1, 2, 2)}
    assert len(roots) == world.registry("epoch") == 4
    world.submit(world.header(1, CREDITS))


def test_who_has_handed_over_has_no_say(world: World) -> None:
    before, old_keys, old_root = world.header(1, CREDITS), world.keys, world.root
    keys, members = newcomers(world, [50, 60, 70])
    world.hand_over(members)
    with refused("registry: unknown committee"):
        world.submit(before, world.sign(before, old_keys))
    after = world.header(1, CREDITS)
    with refused("registry: unknown signer"):
        world.submit(after, world.sign(after, old_keys))
    with refused("registry: unknown committee"):
        world.registry("weigh", old_root, ())
    with refused("registry: unknown signer"):
        world.hand_over([(old_keys[0].address, 100)], signers=old_keys)
    world.hand_over([(keys[0].address, 50)], signers=keys)


def test_claims_pending_on_submitted_heights_survive(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    keys, members = newcomers(world, [50, 60, 70])
    world.hand_over(members)
    assert world.claim(CREDITS, PROVIDER, 1) == 30 * MOR
    world.keys = keys
    later = CREDITS | {PROVIDER: 31 * MOR}
    world.submit(world.header(2, later))
    assert world.claim(later, PROVIDER, 2) == MOR


def test_the_frozen_history_of_an_epoch_can_still_be_read(world: World) -> None:
    first = world.registry("committee", 1)
    _, members = newcomers(world, [50])
    world.hand_over(members)
    assert world.registry("committee", 1) == first


def test_anybody_hands_it_in_and_it_is_logged(world: World) -> None:
    _, members = newcomers(world, [50])
    following = Committee.of(2, [Member(*member) for member in members])
    value = digest(world.domain, HandOver(1, 3, world.root, following.root))
    keys = sorted(world.keys, key=lambda key: key.address)
    signatures = [compact_signature(key.sign_digest(value)) for key in keys]
    data = load_artifact("registry").encode_call("hand_over", 3, [members[0][0]], [50], signatures)
    logged = world.registry.logs(data, "HandedOver(uint256,uint64)", sender=STRANGER)
    assert logged == [([(2).to_bytes(32, "big")], (3).to_bytes(32, "big"))]


# quorum


def test_exactly_two_thirds_hand_nothing_over() -> None:
    world = World((100, 200, 300, 300))
    _, members = newcomers(world, [50])
    with refused("registry: no quorum"):
        world.hand_over(members, signers=keys_of(world, 300))
    world.hand_over(members, signers=keys_of(world, 300, 100))


def test_nobody_hands_nothing_over(world: World) -> None:
    _, members = newcomers(world, [50])
    with refused("registry: no quorum"):
        world.hand_over(members, signers=[])


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"day": 2},
        {"committee_root": Digest(b"\x01" * 32)},
        {"next_root": Digest(b"\x01" * 32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_about_a_hand_over_is_signed(world: World, change: dict[str, object]) -> None:
    _, members = newcomers(world, [50])
    with pytest.raises(Refused):  # each signature recovers to a stranger: which rule catches it is chance
        world.hand_over(members, signed=change)
    assert world.registry("epoch") == 1


def test_a_hand_over_elsewhere_is_none_here(world: World) -> None:
    _, members = newcomers(world, [50])
    for domain in (Domain(1, world.compute.address), Domain(world.chain.chain_id, world.registry.address)):
        with pytest.raises(Refused):
            world.hand_over(members, domain=domain)


def test_a_precommit_is_no_hand_over(world: World) -> None:
    _, members = newcomers(world, [50])
    following = Committee.of(2, [Member(*member) for member in members])
    vote = Precommit(1, 1, world.root, following.root)
    keys = sorted(world.keys, key=lambda key: key.address)
    signatures = [compact_signature(key.sign(vote, world.domain)) for key in keys]
    with pytest.raises(Refused):
        world.registry("hand_over", 1, [members[0][0]], [50], signatures)


def test_signers_ascend_and_are_members(world: World) -> None:
    _, members = newcomers(world, [50])
    following = Committee.of(2, [Member(*member) for member in members])
    value = digest(world.domain, HandOver(1, 1, world.root, following.root))
    keys = sorted(world.keys, key=lambda key: key.address)
    signatures = [compact_signature(key.sign_digest(value)) for key in keys]
    arguments = (1, [members[0][0]], [50])
    for bad in (signatures[::-1], [signatures[0]] * 4):
        with refused("registry: unsorted signers"):
            world.registry("hand_over", *arguments, bad)
    with refused("registry: unknown signer"):
        world.hand_over(members, signers=[*world.keys, Key(b"\x66" * 32)])
    with refused("registry: bad signature"):
        world.registry("hand_over", *arguments, [(b"\xff" * 32, signatures[0][1]), *signatures[1:]])
    world.registry("hand_over", *arguments, signatures)


# the next committee


def test_the_next_committee_is_sorted_and_somebody(world: World) -> None:
    _, members = newcomers(world, [50, 60])
    for bad, reason in (
        ([], "registry: nobody to hand over to"),
        (members[::-1], "registry: unsorted members"),
        ([members[0], members[0]], "registry: unsorted members"),
        ([(ZERO_ADDRESS, 1)], "registry: unsorted members"),
        ([(members[0][0], 0)], "registry: zero stake"),
    ):
        with refused(reason):
            world.hand_over(bad)
    with refused("registry: members without stakes"):
        world.registry("hand_over", 1, [members[0][0]], [], [])
    assert world.registry("epoch") == 1


def test_64_members_take_over_and_a_65th_does_not_fit(world: World) -> None:
    for key in world.keys:
        world.registry("unstake", world.committee.weight(key.address), sender=key.address)
    _, members = newcomers(world, list(range(10, 74)))
    with pytest.raises(Refused):
        world.hand_over(sorted([*members, (world.keys[0].address, 1)]))
    world.hand_over(members)
    assert world.registry("epoch") == 2


def test_a_hand_over_is_not_stopped_by_one_wei(world: World) -> None:
    """Stakes are the ones that the signers saw, as long as they are still here to be lost."""
    keys, members = newcomers(world, [50, 60])
    world.stake(keys[0].address, 1)
    world.registry("unstake", 60, sender=keys[1].address)
    assert world.hand_over(members) == Committee.of(2, [Member(*member) for member in members]).root


def test_stake_that_has_gone_has_no_weight_and_stops_nothing(world: World) -> None:
    """1 wei is left of it, so that its signature is a known one; the total stays what was signed."""
    keys, members = newcomers(world, [50, 60])
    world.registry("unstake", 60, sender=keys[1].address)
    world.chain.pass_time(UNBONDING_S)
    world.registry("withdraw", sender=keys[1].address)
    root = world.hand_over(members)
    assert world.registry("weigh", root, [keys[0].address]) == (50, 110)
    assert world.registry("weigh", root, [keys[1].address]) == (1, 110)


def test_a_member_slashed_before_the_hand_over_weighs_what_it_has_left(world: World) -> None:
    keys, members = newcomers(world, [50, 60])
    votes = [sign(Prevote(1, 0, 0, Digest(bytes([n]) * 32)), keys[1], world.domain) for n in (1, 2)]
    world.registry("slash", *evidence(keys[1].address, *votes), sender=STRANGER)
    root = world.hand_over(members)
    assert world.registry("weigh", root, [keys[1].address]) == (1, 110)


def test_nobody_is_handed_more_weight_than_it_has_staked(world: World) -> None:
    _, members = newcomers(world, [50])
    root = world.hand_over(sorted([(members[0][0], 51), (STRANGER, 7)]))
    assert world.registry("weigh", root, [members[0][0]]) == (50, 58)
    assert world.registry("weigh", root, [STRANGER]) == (1, 58)


def test_the_day_never_falls(world: World) -> None:
    members = [(member.address, member.stake) for member in world.committee.members]
    world.hand_over(members, day=5)
    with refused("registry: old day"):
        world.hand_over(members, day=4)
    world.hand_over(members, day=5)


def test_before_the_first_epoch_there_is_nothing_to_hand_over(world: World) -> None:
    world.registry = world.chain.deploy("registry", world.mor.address, 1, 1, 1, 1, 1)
    with refused("registry: no epoch"):
        world.registry("hand_over", 1, [STRANGER], [1], [])
    assert world.registry("committee_root") == ZERO_DIGEST
