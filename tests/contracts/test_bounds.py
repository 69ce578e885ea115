"""What just fits is taken, and what is just too much is refused: the edges that no ordinary day comes near."""

import msgspec
import pytest

from contracts.bindings import compute_arguments, evidence
from contracts.budget import BudgetPolicy, Economics, Schedule
from contracts.merkle import merkle_proof
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Uint256
from gossip.messages.base import sign
from gossip.messages.committee import Precommit
from tests.contracts.local_chain import AMPLE, GOVERNOR, MOR, TERMS, UNBONDING_S, World, refused
from tests.contracts.twin import LIFELIKE, Side

ALICE, BOB, CAROL = (Address(bytes([value]) * 20) for value in (0xA1, 0xB0, 0xCA))
FINDER = Address(b"\xf1" * 20)
HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
FALSE = bytes.fromhex("5f5f5260205ff3")
"""PUSH0 PUSH0 MSTORE, RETURN 32 zero bytes: a token whose every answer is false."""


def changed(**changes: object) -> Economics:
    return msgspec.structs.replace(AMPLE, **changes)


# what a contract is deployed with


@pytest.mark.parametrize(
    "economics",
    [
        changed(endowment_wei=2**86 - 1),
        changed(schedule=Schedule(2**86 - 1, 2**86 - 1, 0, 1)),
        changed(genesis_s=2**40 - 1),
        changed(slot_ms=1, day_slots=1_000),
        changed(slot_ms=1_000, day_slots=1),
        changed(slot_ms=2**40 - 1, day_slots=1_000),
        changed(slot_ms=1_000, day_slots=2**40 - 1),
        changed(policy=BudgetPolicy.POOL_PERCENT),
        changed(late_days=64),
        changed(late_days=0),
    ],
)
def test_the_most_and_the_least_that_fits_is_taken(world: World, economics: Economics) -> None:
    compute = world.chain.deploy("compute", *compute_arguments(ALICE, BOB, economics, GOVERNOR, 86_400))
    found = [compute(name) for name in ("ENDOWMENT", "GENESIS_S", "SLOT_MS", "DAY_SLOTS", "POLICY", "LATE_DAYS")]
    terms = economics
    assert found == [
        terms.endowment_wei,
        terms.genesis_s,
        terms.slot_ms,
        terms.day_slots,
        terms.policy,
        terms.late_days,
    ]
    assert compute("DAY_S") == terms.slot_ms * terms.day_slots // 1_000


def test_the_most_that_may_be_endowed_and_emitted_is_accounted_to_the_wei() -> None:
    schedule = Schedule(2**86 - 1, 2**86 - 1, payout_start_s=0, interval_s=10)
    world = World([1], economics=changed(schedule=schedule, endowment_wei=2**86 - 1), past_s=100, funds=2**87)
    budget = world.compute("budget", 0, 0)
    assert budget == world.economics.budget(0, 0) == (2**86 - 1) // 100 + (2**86 - 1) * 9 // 10 + 1
    credits = {ALICE: budget}
    world.submit(world.header(1, credits, 0))
    assert world.claim(credits, ALICE, 1) == world.compute("paid_total") == budget > 2**85


@pytest.mark.parametrize("terms", [(1, 1, 0, 1, 1), (1, 100, 100, 1, 1)])
def test_the_least_and_the_most_of_a_registrys_terms_are_taken(world: World, terms: tuple[int, ...]) -> None:
    registry = world.chain.deploy("registry", world.mor.address, *terms)
    names = ("UNBONDING_S", "SLASH_PERCENT", "FINDER_PERCENT", "RESCUE_DELAY_S", "RESCUE_NOTICE_S")
    assert tuple(registry(name) for name in names) == terms


# signatures


def test_half_the_order_is_no_high_s(world: World) -> None:
    signature = (world.sign(world.header(1, {}))[0][:32], HALF_ORDER.to_bytes(32, "big"))
    with refused("compute: not the provider"):
        world.compute("set_receiver_by_order", ALICE, BOB, 2**63, signature)
    vote = (Digest(b"\x01" * 32), 0, signature)
    with refused("registry: not the signer"):
        world.registry("slash", ALICE, 2, 1, 0, ZERO_DIGEST, vote, (Digest(b"\x02" * 32), 0, signature))


# how many


def test_64_are_paid_at_once_and_a_65th_does_not_fit(world: World) -> None:
    credits = {Address(bytes([number]) * 20): number for number in range(1, 66)}
    world.submit(world.header(1, credits))
    many = [(provider, credit, merkle_proof(credits, provider)) for provider, credit in credits.items()]
    with refused(""):
        world.compute("claim_many", 1, many)
    assert world.compute("claim_many", 1, many[:64]) == 64 * 65 // 2
    assert [world.balance(provider) for provider in credits] == [*range(1, 65), 0]


def test_a_proof_has_24_siblings_at_most(world: World) -> None:
    world.submit(world.header(1, {ALICE: 1}))
    for siblings, reason in ((24, "compute: bad proof"), (25, "")):
        proof = (ZERO_DIGEST,) * siblings
        with refused(reason):
            world.compute("claim", ALICE, 1, 1, proof)
        with refused(reason):
            world.compute("claim_many", 1, [(ALICE, 1, proof)])


def test_of_equal_stakes_the_first_address_makes_room() -> None:
    world = World([5] * 64)
    members = sorted(key.address for key in world.keys)
    world.stake(CAROL, 6)
    assert world.registry("unbonding", members[0])[0] == 5
    assert all(world.registry("stake_of", member) == 5 for member in members[1:])


# claims


def test_claimable_tells_the_last_wei(world: World) -> None:
    credits = {ALICE: 5}
    world.submit(world.header(1, credits))
    assert world.compute("claimable", ALICE, 5, 1, ()) == 5
    world.submit(world.header(2, {ALICE: 6}, total_credited=Uint256(5)))
    assert world.compute("claimable", ALICE, 6, 2, ()) == 0


def test_every_bit_of_a_receivers_address_is_kept_apart_from_the_payments(world: World) -> None:
    receiver = Address(b"\xff" * 20)
    world.submit(world.header(1, {ALICE: 5}))
    world.compute("set_receiver", receiver, sender=ALICE)
    assert world.claim({ALICE: 5}, ALICE, 1) == 5
    assert (world.compute("paid", ALICE), world.balance(receiver)) == (5, 5)
    world.submit(world.header(2, {ALICE: 7, BOB: 1}))
    many = [(ALICE, 7, merkle_proof({ALICE: 7, BOB: 1}, ALICE))]
    assert world.compute("claim_many", 2, many) == 2
    assert world.compute("receiver_of", ALICE).lower() == "0x" + receiver.hex()
    assert (world.compute("paid", ALICE), world.balance(receiver)) == (7, 7)


def test_a_forged_tree_does_not_spill_into_the_receiver(world: World) -> None:
    huge = 2**256 - 1
    world.compute("set_receiver", CAROL, sender=ALICE)
    world.submit(world.header(1, {ALICE: huge}, total_credited=Uint256(5)))
    with refused("compute: over credit"):
        world.compute("claim_many", 1, [(ALICE, huge, ())])


# the money that is there (S35)


def short(day: int, missing: int) -> World:
    """A network on its ``day`` that has all that the day allows, but for ``missing`` wei, and no source."""
    world = World([1], economics=LIFELIKE, past_s=100 * day + 5, funds=0)
    terms = world.economics
    allowed = terms.roll(0, 0, day + 1, 0) + terms.bootstrap_ceiling(day)
    world.mor("mint", world.compute.address, allowed - missing)
    return world


@pytest.mark.parametrize("day", [1, 2])
def test_s35_one_wei_short_of_what_the_day_allows_is_noticed_to_its_end(day: int) -> None:
    world = short(day, 1)
    slot, terms = 10 * day, world.economics
    world.submit(world.header(1, {ALICE: 1}, slot))
    market, bootstrap = terms.roll(0, 0, day + 1, 0), terms.bootstrap_ceiling(day)
    everything = {ALICE: market + bootstrap}
    with refused("compute: not funded"):
        world.submit(world.header(2, everything, slot, bootstrap_credited=Uint256(bootstrap)))
    world.mor("mint", world.compute.address, 1)
    world.submit(world.header(2, everything, slot, bootstrap_credited=Uint256(bootstrap)))
    assert world.claim(everything, ALICE, 2) == market + bootstrap


def test_s35_what_was_enough_for_one_day_is_looked_at_again_on_the_next() -> None:
    world = short(1, 0)
    world.submit(world.header(1, {ALICE: 1}, 10))
    world.chain.pass_time(100)
    left = world.compute("budget_left", 2)
    assert left > world.balance(world.compute.address)
    with refused("compute: not funded"):
        world.submit(world.header(2, {ALICE: left}, 20))


def test_nothing_is_fetched_where_enough_is_held() -> None:
    world = World([1], economics=LIFELIKE, past_s=150, funds=7)
    source = world.deploy_source(MOR)
    world.submit(world.header(1, {ALICE: 7}, 10))
    assert source("paid_total") == 0
    world.submit(world.header(2, {ALICE: 8}, 10))
    assert source("paid_total") > 0


def test_s24_a_batch_of_an_earlier_day_may_leave_the_bootstrap_as_it_is() -> None:
    side = Side()
    side.pass_time(300)
    ceiling = side.gate.economics.bootstrap_ceiling(3)
    assert side.credit(ALICE, 0, ceiling, 3)
    assert side.credit(BOB, 1, 0, 2)
    assert not side.credit(BOB, 0, 1, 2)
    side.check()


def test_s23_the_pool_is_empty_where_today_has_credited_more_than_came_before() -> None:
    side = Side(endowment_wei=0)
    side.pass_time(200)
    assert side.credit(ALICE, side.room(2), 0, 2)
    assert side.world.compute("pool") == side.gate.economics.unused(2, side.gate.market)
    side.check()


def test_a_roll_leaves_the_bootstrap_alone_and_is_done_once() -> None:
    side = Side()
    side.pass_time(700)
    assert side.credit(ALICE, 5, 7, 3)
    for day in (3, 4, 4, 5, 6):
        side.roll(day)
    assert (side.gate.rolled, side.world.compute("bootstrap_credited")) == (6, 7)
    side.check()


# slashing


def votes(world: World, key: Key) -> tuple[object, ...]:
    pair = [sign(Precommit(1, 0, Digest(value * 32), world.root), key, world.domain) for value in (b"1", b"2")]
    return evidence(key.address, *pair)


def test_a_finder_that_gets_nothing_is_sent_nothing() -> None:
    world = World(terms=(UNBONDING_S, 100, 0, *TERMS[3:]))
    world.chain.env.set_code("0x" + world.mor.address.hex(), FALSE)
    assert world.registry("slash", *votes(world, world.keys[0]), sender=FINDER) == 0


def test_who_has_left_the_candidates_takes_nobody_with_it_when_slashed(world: World) -> None:
    leaver = world.keys[0]
    world.registry("unstake", 100, sender=leaver.address)
    before = world.registry("candidates")
    world.registry("slash", *votes(world, leaver), sender=FINDER)
    assert world.registry("candidates") == before
    assert len(before[0]) == 3


def test_what_a_slashing_leaves_waits_as_long_as_all_else() -> None:
    world = World(terms=(UNBONDING_S, 50, 0, *TERMS[3:]))
    world.registry("slash", *votes(world, world.keys[0]))
    assert world.registry("unbonding", world.keys[0].address) == (50, world.chain.now_s + UNBONDING_S)


def test_nobody_binds_a_source_to_nobody(world: World) -> None:
    assert world.compute("source").lower() == "0x" + ZERO_ADDRESS.hex()
    world.compute("announce_source", ZERO_ADDRESS, sender=GOVERNOR)
    world.chain.pass_time(86_400)
    world.compute("change_source")
    assert world.compute("source").lower() == "0x" + ZERO_ADDRESS.hex()


def test_a_day_is_rolled_once_nothing_of_it_can_be_paid_late() -> None:
    side = Side()
    side.pass_time(294)
    side.roll(1)
    assert (side.today, side.gate.rolled) == (2, 0)
    side.pass_time(1)
    side.roll(1)
    assert (side.today, side.gate.rolled) == (3, 2)
    side.roll(3)
    side.roll(2**64 - 1)
    assert side.gate.rolled == 2
    side.check()


def test_claimable_counts_what_has_been_paid_already(world: World) -> None:
    credits = {ALICE: 5, BOB: 5}
    world.submit(world.header(1, credits, total_credited=Uint256(8)))
    world.claim(credits, ALICE, 1)
    proof = merkle_proof(credits, BOB)
    assert world.compute("claimable", BOB, 5, 1, proof) == 0, "3 wei are left"
    world.submit(world.header(2, {ALICE: 9}, total_credited=Uint256(9)))
    assert world.compute("claimable", ALICE, 9, 2, ()) == 4
    assert world.claim({ALICE: 9}, ALICE, 2) == 4
    assert world.compute("claimable", ALICE, 5, 1, merkle_proof(credits, ALICE)) == 0, "an old root owes nothing"
    assert world.compute("claimable", ALICE, 9, 3, ()) == 0, "an unknown height owes nothing"


def test_the_least_price_and_the_least_supply_are_some(world: World) -> None:
    compute = world.compute
    assert compute("max_t", 10, 1) == 10
    assert compute("max_t_dollars", 10**18, 3, 1) == 3_000
    assert compute("access_rate", 7, 1) == 7 * MOR
    assert compute("user_max", 7, 1, 2) == 14


def test_a_single_wei_of_stake_comes_and_goes_like_any_other(world: World) -> None:
    world.stake(ALICE, 1)
    world.registry("unstake", 1, sender=ALICE)
    assert world.registry("unbonding", ALICE) == (1, world.chain.now_s + UNBONDING_S)
    world.chain.pass_time(UNBONDING_S)
    world.registry("withdraw", sender=ALICE)
    assert world.balance(ALICE) == 1


def test_a_single_wei_is_lost_and_a_single_wei_rewarded() -> None:
    world = World((1, 20, 300))
    least, small, _ = world.keys
    assert world.registry("slash", *votes(world, least), sender=FINDER) == 0
    assert (world.registry("stake_of", least.address), world.registry("forfeited_total")) == (0, 1)
    assert "0x" + least.address.hex() not in world.registry("candidates")[0]
    assert world.registry("slash", *votes(world, small), sender=FINDER) == 1 == world.balance(FINDER)
    assert len(world.registry("candidates")[0]) == 1


def test_a_member_of_a_single_wei_signs_like_any_other() -> None:
    world = World((1, 300))
    members = [(member.address, member.stake) for member in world.committee.members]
    world.hand_over(members)
    world.submit(world.header(1, {ALICE: 1}))
    assert world.claim({ALICE: 1}, ALICE, 1) == 1
