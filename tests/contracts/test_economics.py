"""Days, budgets, the reserve, receivers, governance and views of the deployed Compute Contract."""

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.market import access
from contracts.artifacts import load_artifact
from contracts.bindings import certificate, compact_signature, compute_arguments
from contracts.budget import BudgetPolicy, Economics, Schedule
from contracts.emission import COMPUTE_DECREASE_WEI, COMPUTE_INITIAL_WEI, PAYOUT_START_S
from contracts.errors import ContractsError
from contracts.merkle import merkle_proof
from contracts.payout import PayoutOrder
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, Address, Domain, Uint256
from tests.contracts.local_chain import AMPLE, DELAY_S, GOVERNOR, MOR, World, refused
from tests.contracts.twin import LIFELIKE, PROVIDERS, Side

ALICE, BOB, CAROL, _ = PROVIDERS
PROVIDER = Key(b"\x5a" * 32)
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "economics.json").read_text(encoding="utf-8"))


@pytest.fixture
def side() -> Side:
    return Side()


# days


def test_a_day_that_has_not_begun_is_refused(side: Side) -> None:
    assert not side.credit(ALICE, 1, 0, 1)
    side.pass_time(94)
    assert not side.credit(ALICE, 1, 0, 1)
    side.pass_time(1)
    assert side.credit(ALICE, 1, 0, 1)
    assert side.world.compute("today") == 1


def test_a_day_that_is_not_its_slots_is_refused(world: World) -> None:
    for slot, day in ((9, 1), (10, 0), (25, 3)):
        with refused("compute: wrong day"):
            world.submit(world.header(1, {}, slot, day=day))


def test_before_genesis_it_is_day_zero_and_nothing_is_accepted() -> None:
    world = World([100], economics=LIFELIKE, past_s=-50)
    assert world.compute("today") == 0
    with refused("compute: day not reached"):
        world.submit(world.header(1, {}, 0))


def test_a_height_that_does_not_fit_is_refused(world: World) -> None:
    world.submit(world.header(2**40 - 1, {}, 8))
    assert world.compute("latest_height") == 2**40 - 1
    with refused("compute: bad height"):
        world.submit(world.header(2**40, {}, 8))


# budgets: S23, S24, S37


def test_s37_the_days_emission_may_be_credited_and_not_a_wei_more() -> None:
    side = Side(endowment_wei=100_000 * MOR)
    assert not side.credit(ALICE, 3_456 * MOR + 1, 0, 0)
    assert side.credit(ALICE, 3_456 * MOR, 0, 0)
    assert not side.credit(ALICE, 1, 0, 0)


def test_s23_a_small_pool_holds_the_budget_down(side: Side) -> None:
    most = 3_456 * MOR * 9 // 10 + 20_000 * MOR // 100
    assert not side.credit(ALICE, most + 1, 0, 0)
    assert side.credit(ALICE, most, 0, 0)


def test_s37_one_percent_of_the_pool_under_the_second_policy() -> None:
    side = Side(BudgetPolicy.POOL_PERCENT)
    assert not side.credit(ALICE, 200 * MOR + 1, 0, 0)
    assert side.credit(ALICE, 200 * MOR, 0, 0)


def test_s35_nothing_can_be_credited_before_anything_was_emitted() -> None:
    side = Side(endowment_wei=0)
    assert not side.credit(ALICE, 1, 0, 0)
    side.pass_time(100)
    assert side.credit(ALICE, side.room(1), 0, 1)
    assert side.gate.credited == 3_456 * MOR * 9 // 10


def test_s24_the_bootstrap_has_a_ceiling_of_its_own(side: Side) -> None:
    assert not side.credit(ALICE, 0, 1, 0)
    side.pass_time(100)
    assert not side.credit(ALICE, 0, 345_600_000_000_000_000_001, 1)
    assert side.credit(ALICE, side.room(1), 345_600_000_000_000_000_000, 1)
    assert side.world.compute("reserve") == 0
    side.check()


def test_s24_the_reserve_of_a_year() -> None:
    side = Side()
    side.pass_time(100 * 400)
    assert side.world.compute("reserve") == 122_207_632_368_301_680_000_000


def test_a_falling_bootstrap_or_market_is_refused(side: Side) -> None:
    side.pass_time(100)
    assert side.credit(ALICE, 10, 5, 1)
    credits = side.credited
    for total, bootstrap in ((15, 4), (20, 11), (16, 7), (20, 21)):
        header = side.world.header(9, credits, 10, total_credited=Uint256(total), bootstrap_credited=Uint256(bootstrap))
        with refused("compute: falling total"):
            side.world.submit(header)


def test_s23_idle_days_are_no_present_where_batches_were_submitted(side: Side) -> None:
    for day in range(12):
        assert side.credit(ALICE, 0, 0, day)
        side.pass_time(100)
    three_days = 3 * 3_456 * MOR
    assert not side.credit(ALICE, three_days, 0, 12)


def test_a_batch_that_is_submitted_late_is_accepted(side: Side) -> None:
    side.pass_time(100 * 30)
    assert side.credit(ALICE, side.room(28), 0, 28)
    assert side.credit(ALICE, side.room(30), 0, 30)
    side.check()


def test_days_are_caught_up_with_by_anybody_where_they_are_too_many(side: Side) -> None:
    side.pass_time(100 * 4_100)
    with refused("compute: roll first"):
        side.world.submit(side.world.header(1, {}, 41_000))
    with refused("compute: roll first"):
        side.world.compute("roll", 4_096)
    side.roll(4_095)
    side.roll(4_094)
    side.roll(4_099)
    side.roll(4_098)
    assert side.gate.rolled == 4_099
    assert not side.credit(ALICE, side.room(4_101) + 1, 0, 4_101)
    assert side.credit(ALICE, 1_000_000 * MOR, 0, 4_100)
    side.check()


def test_s23_a_strangers_roll_never_raises_what_a_batch_may_credit() -> None:
    """Two networks with the same honest, modest batches; on one a stranger rolls at every time that it can."""
    quiet, rolled, chance = Side(), Side(), random.Random(23)
    for today in range(30):
        for batch in range(chance.choice((0, 1, 1, 2))):
            for day in range(today + 2):
                rolled.roll(day)
            late = chance.choice((0, 0, min(1, today))) if batch == 0 else 0
            for side in (quiet, rolled):
                assert side.credit(ALICE, 40 * MOR, 0, today - late)
        for day in range(today + 2):
            rolled.roll(day)
        for day in range(max(0, today - LIFELIKE.late_days), today + 1):
            assert rolled.world.compute("budget_left", day) == quiet.world.compute("budget_left", day)
            assert rolled.room(day) == quiet.room(day)
        for side in (quiet, rolled):
            side.pass_time(100)
    assert not rolled.credit(ALICE, quiet.room(29) + 1, 0, 29)
    rolled.check()


# where the money comes from


def test_s35_what_is_not_there_is_not_credited() -> None:
    side = Side(endowment_wei=0)
    side.pass_time(100)
    assert side.world.balance(side.world.compute.address) == 0
    assert side.credit(ALICE, side.room(1), 0, 1)
    side.claim(ALICE, 1)
    side.check()


def test_without_a_source_emission_comes_by_transfer() -> None:
    world = World([100], economics=LIFELIKE, past_s=150, funds=0)
    with refused("compute: no source"):
        world.compute("pull")
    with refused("compute: not funded"):
        world.submit(world.header(1, {ALICE: 1}, 10))
    world.mor("mint", world.compute.address, 1)
    world.submit(world.header(1, {ALICE: 1}, 10))
    assert world.compute("received") == 1


def test_the_source_is_bound_once_by_the_deployer_and_before_the_first_batch(world: World) -> None:
    with refused("compute: not the deployer"):
        world.compute("bind_source", CAROL, sender=CAROL)
    with refused("compute: zero source"):
        world.compute("bind_source", ZERO_ADDRESS)
    world.compute("bind_source", CAROL)
    with refused("compute: too late to bind"):
        world.compute("bind_source", BOB)
    other = World()
    other.submit(other.header(1, {}))
    with refused("compute: too late to bind"):
        other.compute("bind_source", CAROL)


def test_what_the_source_pays_is_logged(side: Side) -> None:
    side.pass_time(50)
    data = load_artifact("compute").encode_call("pull")
    [(_, body)] = side.world.compute.logs(data, "EmissionReceived(uint256)")
    assert int.from_bytes(body, "big") == side._due()  # the model's own word on it
    assert side.world.compute.logs(data, "EmissionReceived(uint256)") == []


def test_a_source_that_reenters_is_noticed() -> None:
    """A source that answers `pay` by submitting a batch of its own: its certificate is good, the outer one stale."""
    world = World([100], economics=LIFELIKE, past_s=150, funds=5)
    inner = load_artifact("compute").encode_call(
        "submit", *certificate(first := world.header(1, {ALICE: 5}, 10), 0, world.sign(first))
    )
    size = len(inner)
    # CODECOPY the call data behind this code into memory, CALL the sender with it, return 32 zero bytes
    prefix = bytes.fromhex(f"61{size:04x}601b5f395f5f61{size:04x}5f5f335af15060205ff300000000")[:27].ljust(27, b"\0")
    source = Address(b"\x5c" * 20)
    world.chain.env.set_code("0x" + source.hex(), prefix + inner)
    world.compute("bind_source", source)
    with refused("compute: reentered"):
        world.submit(world.header(2, {ALICE: 6}, 10))


# many at once


def test_many_providers_are_paid_in_one_call(side: Side) -> None:
    for provider in PROVIDERS:
        assert side.credit(provider, 7 * MOR, 0, 0)
    side.claim(BOB, 4)
    side.claim_many(4)
    side.claim_many(4)
    assert side.paid == dict.fromkeys(PROVIDERS, 7 * MOR)
    side.check()


def test_one_bad_proof_reverts_all(world: World) -> None:
    credits = {ALICE: 3, BOB: 4}
    world.submit(world.header(1, credits))
    good = (ALICE, 3, merkle_proof(credits, ALICE))
    with refused("compute: bad proof"):
        world.compute("claim_many", 1, [good, (BOB, 5, merkle_proof(credits, BOB))])
    with refused("compute: unknown height"):
        world.compute("claim_many", 2, [good])
    assert world.compute("claim_many", 1, [good, good]) == 3
    assert world.compute("claim_many", 1, []) == 0


def test_a_forged_tree_does_not_pay_more_than_its_total(world: World) -> None:
    for huge in (2**95, 2**97, 2**255):
        fresh = World()
        credits = {ALICE: huge, BOB: 1}
        fresh.submit(fresh.header(1, credits, total_credited=Uint256(5)))
        assert fresh.compute("claimable", ALICE, huge, 1, merkle_proof(credits, ALICE)) == 0
        with refused("compute: over credit"):
            fresh.claim(credits, ALICE, 1)
        with refused("compute: over credit"):
            fresh.compute("claim_many", 1, [(ALICE, huge, merkle_proof(credits, ALICE))])
        assert fresh.claim(credits, BOB, 1) == 1


# where a provider is paid


def test_a_provider_names_its_receiver(world: World) -> None:
    credits = {ALICE: 30, BOB: 12}
    world.submit(world.header(1, credits))
    world.compute("set_receiver", CAROL, sender=ALICE)
    assert world.compute("receiver_of", ALICE).lower() == "0x" + CAROL.hex()
    assert world.claim(credits, ALICE, 1) == 30
    assert (world.balance(ALICE), world.balance(CAROL), world.compute("paid", ALICE)) == (0, 30, 30)
    world.compute("set_receiver", ZERO_ADDRESS, sender=ALICE)
    assert world.compute("receiver_of", ALICE).lower() == "0x" + ALICE.hex()
    assert world.compute("paid", ALICE) == 30
    with refused("compute: bad receiver"):
        world.compute("set_receiver", world.compute.address, sender=ALICE)


def order(world: World, **changes: Any) -> PayoutOrder:
    return msgspec.structs.replace(PayoutOrder(PROVIDER.address, CAROL, 0, world.chain.now_s), **changes)


def hand_in(world: World, value: PayoutOrder, signed: PayoutOrder | None = None, **changes: Any) -> None:
    signature = (changes.get("key") or PROVIDER).sign(signed or value, changes.get("domain") or world.domain)
    arguments = (value.provider, value.receiver, value.deadline, compact_signature(signature))
    world.compute("set_receiver_by_order", *arguments, sender=BOB)


def test_a_signed_order_is_handed_in_by_anybody_and_once(world: World) -> None:
    hand_in(world, order(world))
    assert world.compute("receiver_of", PROVIDER.address).lower() == "0x" + CAROL.hex()
    assert world.compute("nonce_of", PROVIDER.address) == 1
    with refused("compute: not the provider"):
        hand_in(world, order(world))
    hand_in(world, order(world, nonce=1, receiver=BOB))
    assert world.compute("receiver_of", PROVIDER.address).lower() == "0x" + BOB.hex()


def test_an_order_that_is_not_the_providers_is_refused(world: World) -> None:
    with refused("compute: order expired"):
        hand_in(world, order(world, deadline=world.chain.now_s - 1))
    good = order(world)
    for changes in (
        {"key": Key(b"\x5b" * 32)},
        {"domain": Domain(1, world.compute.address)},
        {"domain": Domain(world.domain.chain_id, CAROL)},
        {"signed": order(world, receiver=BOB)},
        {"signed": order(world, nonce=1)},
        {"signed": order(world, deadline=2**63)},
    ):
        with refused("compute: not the provider"):
            hand_in(world, good, **changes)


def test_changing_the_receiver_oneself_voids_orders(world: World) -> None:
    world.compute("set_receiver", BOB, sender=PROVIDER.address)
    with refused("compute: not the provider"):
        hand_in(world, order(world))


# governance


@pytest.mark.parametrize("what", ["source", "governor"])
def test_the_governor_changes_what_it_may_after_the_delay(world: World, what: str) -> None:
    with refused("compute: not the governor"):
        world.compute(f"announce_{what}", CAROL, sender=CAROL)
    with refused("compute: nothing announced"):
        world.compute(f"change_{what}")
    world.compute(f"announce_{what}", BOB, sender=GOVERNOR)
    world.chain.pass_time(5)
    world.compute(f"announce_{what}", CAROL, sender=GOVERNOR)
    world.chain.pass_time(DELAY_S - 1)
    with refused("compute: too early"):
        world.compute(f"change_{what}", sender=BOB)
    world.chain.pass_time(1)
    world.compute(f"change_{what}", sender=BOB)
    assert world.compute(what).lower() == "0x" + CAROL.hex()
    with refused("compute: nothing announced"):
        world.compute(f"change_{what}")


def test_a_new_governor_voids_what_the_old_one_announced(world: World) -> None:
    world.compute("announce_source", CAROL, sender=GOVERNOR)
    world.compute("announce_governor", ZERO_ADDRESS, sender=GOVERNOR)
    world.chain.pass_time(DELAY_S)
    world.compute("change_governor")
    with refused("compute: nothing announced"):
        world.compute("change_source")
    with refused("compute: not the governor"):
        world.compute("announce_source", CAROL, sender=GOVERNOR)


# what it is deployed with


def changed(**changes: Any) -> Economics:
    return msgspec.structs.replace(AMPLE, **changes)


@pytest.mark.parametrize(
    ("economics", "reason"),
    [
        (changed(endowment_wei=2**86), "compute: bad endowment"),
        (changed(schedule=Schedule(2**86, 2**86, 0, 1)), "compute: bad emission"),
        (changed(schedule=Schedule(1, 0, 0, 1)), "emission: bad decrease"),
        (changed(genesis_s=2**40), "compute: bad genesis"),
        (changed(slot_ms=0), "compute: bad slot"),
        (changed(slot_ms=2**40), "compute: bad slot"),
        (changed(day_slots=0), "compute: bad day"),
        (changed(day_slots=2**40), "compute: bad day"),
        (changed(slot_ms=33, day_slots=10), "compute: bad day"),
        (changed(policy=2), "compute: bad policy"),
        (changed(late_days=65), "compute: bad late days"),
    ],
)
def test_terms_that_make_no_contract_are_refused(world: World, economics: Economics, reason: str) -> None:
    with refused(reason):
        world.chain.deploy("compute", *compute_arguments(ALICE, BOB, economics, GOVERNOR, 0))


def test_what_it_was_deployed_with_can_be_read(world: World) -> None:
    terms = world.economics
    compute = world.compute
    found = (compute("GENESIS_S"), compute("SLOT_MS"), compute("DAY_SLOTS"), compute("POLICY"), compute("ENDOWMENT"))
    assert found == (terms.genesis_s, terms.slot_ms, terms.day_slots, terms.policy, terms.endowment_wei)
    assert (compute("DAY_S"), compute("LATE_DAYS"), compute("GOVERNANCE_DELAY_S")) == (10, 1, DELAY_S)
    assert compute("schedule") == msgspec.structs.astuple(terms.schedule)
    assert compute("TOKEN").lower() == "0x" + world.mor.address.hex()
    assert compute("REGISTRY").lower() == "0x" + world.registry.address.hex()


# views and vectors


def test_s43_who_holds_nothing_is_not_eligible(world: World) -> None:
    assert not world.compute("is_eligible", ALICE)
    world.mor("mint", ALICE, 1)
    assert world.compute("is_eligible", ALICE)


def test_the_unused_pool_grows_by_emission_and_falls_by_credit(side: Side) -> None:
    compute = side.world.compute
    assert compute("pool") == 20_000 * MOR
    assert side.credit(ALICE, 100 * MOR, 0, 0)
    assert compute("pool") == 19_900 * MOR
    side.pass_time(100)
    assert compute("pool") == 19_900 * MOR + 3_456 * MOR * 9 // 10
    assert compute("emission_of", 0) == 3_456 * MOR


def public(vector: dict[str, Any]) -> Economics:
    schedule = Schedule(COMPUTE_INITIAL_WEI, COMPUTE_DECREASE_WEI, PAYOUT_START_S, 86_400)
    genesis = PAYOUT_START_S + vector["genesis_after_s"]
    policy, endowment = BudgetPolicy(vector["policy"]), int(vector["endowment_wei"])
    return Economics(schedule, genesis, 12_000, 7_200, policy, endowment_wei=endowment)


@pytest.mark.parametrize("vector", VECTORS["networks"], ids=lambda vector: vector["name"])
def test_contract_and_twin_give_the_vectors_budgets(vector: dict[str, Any]) -> None:
    terms = public(vector)
    chain = World([1]).chain
    compute = chain.deploy("compute", *compute_arguments(ALICE, BOB, terms, ZERO_ADDRESS, 0))
    for day, before, emission, budget, ceiling in vector["days"]:
        arguments = (day, int(before))
        assert terms.budget(*arguments) == compute("budget", *arguments) == int(budget)
        assert terms.emission(day) == compute("emission_of", day) == int(emission)
        assert terms.bootstrap_ceiling(day) == int(ceiling)


def test_s39_in_dollars_and_in_mor(world: World) -> None:
    compute, s39 = world.compute, VECTORS["s39"]
    budget, supply = s39["budget_mor"] * MOR, s39["supply_mor"] * MOR
    dollars = Fraction(s39["dollars_per_mor"]), Fraction(s39["dollars_per_1000_t"])
    in_wei = [int(value * MOR) for value in dollars]
    max_t = s39["max_t"]
    assert access.max_t_dollars(Fraction(s39["budget_mor"]), *dollars) == max_t
    assert compute("max_t_dollars", budget, *in_wei) == max_t
    assert access.max_t(budget, s39["wei_per_t"]) == compute("max_t", budget, s39["wei_per_t"]) == max_t
    assert access.access_rate(max_t, supply) == compute("access_rate", max_t, supply) == s39["access_rate"]
    for balance, user_max in s39["user_max"]:
        holding = (max_t, supply, balance * MOR)
        assert access.user_max(*holding) == compute("user_max", *holding) == user_max
    for view, arguments, reason in (
        ("max_t", (1, 0), "compute: zero price"),
        ("max_t_dollars", (1, 1, 0), "compute: zero price"),
        ("access_rate", (1, 0), "compute: zero supply"),
        ("user_max", (1, 0, 1), "compute: zero supply"),
    ):
        with refused(reason):
            compute(view, *arguments)


def test_no_budget_before_the_first_day() -> None:
    for arguments in ((-1, 0), (0, -1)):
        with pytest.raises(ContractsError, match="no budget"):
            LIFELIKE.budget(*arguments)
