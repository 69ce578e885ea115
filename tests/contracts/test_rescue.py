"""A committee that is lost is replaced, one that shows a sign of life isn't."""

import pytest

from consensus.committee import Committee, Member
from contracts.bindings import evidence
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.base import sign
from gossip.messages.committee import Precommit
from tests.contracts.local_chain import RESCUE_DELAY_S, RESCUE_NOTICE_S, TERMS, World, refused

PROVIDER = Address(b"\xa1" * 20)
CREDITS = {PROVIDER: 5}
ANYBODY = Address(b"\x66" * 20)


@pytest.fixture
def announced(world: World) -> World:
    """A committee that was silent for long enough."""
    world.chain.pass_time(RESCUE_DELAY_S)
    world.registry("announce_rescue", sender=ANYBODY)
    return world


def test_the_candidates_become_the_committee(announced: World) -> None:
    world = announced
    saviour = Key(b"\x09" * 32)
    world.stake(saviour.address, 5_000)
    world.chain.pass_time(RESCUE_NOTICE_S)
    root = world.registry("rescue", sender=ANYBODY)
    members = [*world.committee.members, Member(saviour.address, 5_000)]
    assert root == Committee.of(2, members).root
    assert world.registry("epoch") == 2
    world.root = root
    header = world.header(1, CREDITS)
    world.submit(header, world.sign(header, [saviour]))
    assert world.claim(CREDITS, PROVIDER, 1) == 5


def test_a_slashed_member_is_not_among_them(announced: World) -> None:
    world, culprit = announced, announced.keys[0]
    votes = [sign(Precommit(1, 0, Digest(value * 32), world.root), culprit, world.domain) for value in (b"1", b"2")]
    world.registry("slash", *evidence(culprit.address, *votes))
    world.chain.pass_time(RESCUE_NOTICE_S)
    members = [member for member in world.committee.members if member.address != culprit.address]
    assert world.registry("rescue") == Committee.of(2, members).root


def test_who_was_relieved_by_a_rescue_has_no_say(announced: World) -> None:
    before = announced.header(1, CREDITS)
    announced.chain.pass_time(RESCUE_NOTICE_S)
    announced.registry("rescue")
    with refused("registry: unknown committee"):
        announced.submit(before)


def test_claims_survive_a_rescue(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    world.chain.pass_time(RESCUE_DELAY_S)
    world.registry("announce_rescue")
    world.chain.pass_time(RESCUE_NOTICE_S)
    world.registry("rescue")
    assert world.claim(CREDITS, PROVIDER, 1) == 5


def test_it_is_not_announced_before_the_delay(world: World) -> None:
    world.chain.pass_time(RESCUE_DELAY_S - 1)
    with refused("registry: committee is alive"):
        world.registry("announce_rescue")
    world.chain.pass_time(1)
    world.registry("announce_rescue")


def test_it_does_not_come_before_its_notice(announced: World) -> None:
    announced.chain.pass_time(RESCUE_NOTICE_S - 1)
    with refused("registry: too early"):
        announced.registry("rescue")
    announced.chain.pass_time(1)
    announced.registry("rescue")


def test_it_does_not_come_unannounced(world: World) -> None:
    world.chain.pass_time(RESCUE_DELAY_S + RESCUE_NOTICE_S)
    with refused("registry: not announced"):
        world.registry("rescue")


def test_announcing_again_does_not_put_it_off(announced: World) -> None:
    announced.chain.pass_time(RESCUE_NOTICE_S - 1)
    with refused("registry: already announced"):
        announced.registry("announce_rescue")
    announced.chain.pass_time(1)
    announced.registry("rescue")


@pytest.mark.parametrize("waits_s", [0, RESCUE_NOTICE_S])
@pytest.mark.parametrize("sign_of_life", ["batch", "hand-over"])
def test_progress_makes_the_announcement_void(announced: World, waits_s: int, sign_of_life: str) -> None:
    """However late within the notice, even in the block of the announcement; then the delay starts anew."""
    world = announced
    world.chain.pass_time(waits_s)
    if sign_of_life == "batch":
        world.submit(world.header(1, CREDITS))
    else:
        world.hand_over([(member.address, member.stake) for member in world.committee.members])
    world.chain.pass_time(RESCUE_DELAY_S - 1)
    with refused("registry: committee is alive"):
        world.registry("rescue")
    with refused("registry: committee is alive"):
        world.registry("announce_rescue")
    world.chain.pass_time(1)
    with refused("registry: committee is alive"):
        world.registry("rescue")  # the old announcement stays void
    world.registry("announce_rescue")
    world.chain.pass_time(RESCUE_NOTICE_S)
    world.registry("rescue")


def test_a_batch_before_counts_as_life(world: World) -> None:
    world.chain.pass_time(RESCUE_DELAY_S - 1)
    world.submit(world.header(3, CREDITS))
    now = world.chain.env.evm.patch.timestamp
    assert world.registry("progress_s") == world.compute("accepted_s") == now
    assert world.compute("latest_height") == 3
    world.chain.pass_time(RESCUE_DELAY_S - 1)
    with refused("registry: committee is alive"):
        world.registry("announce_rescue")


def test_a_rescue_uses_its_announcement_up(announced: World) -> None:
    announced.chain.pass_time(RESCUE_NOTICE_S)
    announced.registry("rescue")
    announced.chain.pass_time(RESCUE_NOTICE_S)
    with refused("registry: committee is alive"):
        announced.registry("rescue")
    announced.chain.pass_time(RESCUE_DELAY_S)
    with refused("registry: committee is alive"):
        announced.registry("rescue")
    announced.registry("announce_rescue")


def test_with_nobody_staked_there_is_nobody_to_rescue_with(announced: World) -> None:
    for member in announced.committee.members:
        announced.registry("unstake", member.stake, sender=member.address)
    announced.chain.pass_time(RESCUE_NOTICE_S)
    with refused("registry: nobody has staked"):
        announced.registry("rescue")
    announced.stake(ANYBODY, 1)
    announced.registry("rescue")
    assert announced.registry("committee", 2) == (("0x" + ANYBODY.hex(),), (1,))
    assert announced.registry("is_rescue", 2)
    assert not announced.registry("is_rescue", 1)


def test_before_the_first_epoch_there_is_nothing_to_rescue(world: World) -> None:
    registry = world.chain.deploy("registry", world.mor.address, *TERMS)
    with refused("registry: no epoch"):
        registry("announce_rescue")
    with refused("registry: not announced"):
        registry("rescue")
