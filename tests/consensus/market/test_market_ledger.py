from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market.budget import compute_budget
from consensus.market.day_account import next_reference_price
from consensus.market.errors import BatchInvalid, SettlementInvalid
from consensus.market.ledger import Draft, charged_tokens, delivered_tokens
from consensus.market.ledger_state import account_of, decode_ledger, encode_ledger, genesis_ledger, state_root
from consensus.market.listing import Listing
from consensus.market.maturing import Audits
from consensus.market.settlement import verify_settlement
from consensus.market.speed import SpeedSample, is_fast_enough, us_per_t
from consensus.membership import Draw
from consensus.params import NetworkParams
from contracts.typed_data import Address, Uint256
from gossip.errors import MalformedMessage, SignerMismatch
from gossip.messages.base import sign
from tests.consensus.builders import MODEL, PRICE, World, address, key, make_terms, named_digest
from tests.consensus.market.settling import outcome


@pytest.fixture
def world() -> World:
    return World()


# What is paid.


def test_s33_a_provider_gets_exactly_what_it_bid(world: World) -> None:
    made = outcome(world, world.settlement(tokens=123, price_wei=PRICE + 7))
    assert (made.tokens, made.charged, made.reason) == (123, 123, "credited")
    assert made.credited_wei == 123 * (PRICE + 7)
    assert (made.provider, made.model_id) == (address("provider"), MODEL)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"user_tokens": 90, "tokens": 100}, 90),
        ({"user_tokens": 100, "tokens": 90}, 90),
        ({"tokens": 300}, 256),
        ({"tokens": 300, "token_max": 40}, 40),
        ({"user_tokens": 90, "voucher_tokens": 80, "with_receipt": False}, 80),
        ({"user_tokens": 90, "voucher_tokens": 32, "tokens": 90}, 90),
        ({"user_tokens": 90, "with_receipt": False}, 90),
        ({"with_report": False, "tokens": 77}, 77),
        ({"with_report": False, "with_receipt": False, "voucher_tokens": 64}, 64),
    ],
)
def test_s21_the_lowest_count_is_paid(world: World, counts: dict[str, Any], expected: int) -> None:
    settlement = world.settlement(**counts)
    assert delivered_tokens(settlement) == expected
    assert outcome(world, settlement).credited_wei == expected * PRICE


def test_s1_nothing_delivered_is_nothing_paid_and_still_costs_one_t(world: World) -> None:
    made = outcome(world, world.settlement(tokens=0))
    assert (made.reason, made.tokens, made.credited_wei, made.charged) == ("nothing_delivered", 0, 0, 1)


def test_s44_a_fail_pays_nothing_and_costs_the_quota(world: World) -> None:
    made = outcome(world, world.settlement(tokens=100, user_tokens=0, passed=False))
    assert (made.reason, made.credited_wei, made.charged) == ("failed", 0, 100)
    vouchers_only = world.settlement(user_tokens=0, passed=False, with_receipt=False, voucher_tokens=64)
    assert charged_tokens(vouchers_only) == 64
    assert charged_tokens(world.settlement(user_tokens=0, passed=False, with_receipt=False)) == 1
    assert charged_tokens(world.settlement(user_tokens=10**6, passed=False)) == 256


def test_s44_a_days_fails_are_remembered_until_it_ends(world: World) -> None:
    passed = [world.settlement(session=f"good {number}", allowance=400) for number in range(3)]
    ledger = world.after(world.ledger(), [*passed, world.settlement(passed=False)], slot=10)
    ledger = world.after(ledger, [world.settlement(passed=False)], slot=20)
    assert ledger.penalties == {address("provider"): 25}, "a session key counts once a day"
    ledger = world.after(ledger, [world.settlement(session="second", passed=False)], slot=30)
    assert ledger.penalties == {address("provider"): 40}
    assert ledger.total_credited == sum(made.credited_wei for made in world.after(world.ledger(), passed).outcomes)
    good = world.settlement(session="good 4", slot=99)
    ledger = world.after(ledger, [good, world.settlement(slot=99, passed=False)], slot=101)
    assert ledger.penalties == {address("provider"): 20 + 50}


def test_s44_half_of_the_points_are_forgiven_every_day(world: World) -> None:
    passed = [world.settlement(session=f"s{number}") for number in range(19)]
    ledger = world.after(world.ledger(), [*passed, world.settlement(session="failed", passed=False)])
    expected = [5, 2, 1]
    for day, points in enumerate(expected):
        if day:
            ledger = world.after(ledger, slot=day * 100 + 1)
        assert ledger.penalties == {address("provider"): points}
    assert world.after(ledger, slot=300).penalties == {}


def test_s37_a_spent_budget_credits_nothing_more() -> None:
    world = World(budget_wei=250 * PRICE)
    counts = enumerate((100, 100, 100, 50))
    pending = [world.settlement(session=f"s{number}", tokens=tokens, allowance=200) for number, tokens in counts]
    after = world.after(world.ledger(), pending)
    assert [made.reason for made in after.outcomes] == ["credited", "credited", "budget_spent", "credited"]
    assert after.total_credited == world.budget_wei
    assert after.account.budget_left_wei == 0
    assert after.outcomes[2].charged == 100
    tomorrow = world.after(after, [world.settlement(slot=100, session="next", allowance=200)], slot=110)
    assert tomorrow.outcomes[0].reason == "credited"


# Speed.


def slow_world(**params: Any) -> World:
    return World(make_terms(speed_samples=40, speed_samples_min=4, speed_percent=50, **params))


def test_s31_slow_is_not_paid_once_there_are_samples() -> None:
    world = slow_world()
    quick = [world.settlement(session=f"s{n}", provider=f"p{n}", tokens=256, last_ms=5_120) for n in range(4)]
    ledger = world.after(world.ledger(), quick)
    assert [one.us_per_t for one in ledger.speed[quick[0].rfc.payload.model_id]] == [20_000] * 4
    limit = world.settlement(session="at the limit", last_ms=3_000)
    over = world.settlement(session="over it", last_ms=3_001)
    assert outcome(world, limit, ledger, 20).reason == "credited"
    made = outcome(world, over, ledger, 20)
    assert (made.reason, made.credited_wei, made.charged) == ("slow", 0, 100)
    assert outcome(world, world.settlement(last_ms=10**9), world.ledger(), 20).reason == "credited"


def test_without_a_report_there_is_no_speed_test_and_no_sample() -> None:
    world = slow_world()
    ledger = world.after(world.ledger(), [world.settlement(with_report=False)])
    assert ledger.outcomes[0].reason == "credited"
    assert ledger.speed == {}


def test_a_fail_gives_no_sample(world: World) -> None:
    assert world.after(world.ledger(), [world.settlement(passed=False)]).speed == {}


def samples(*values: int) -> list[SpeedSample]:
    return [SpeedSample(address(f"s{n}"), address(f"p{n}"), value) for n, value in enumerate(values)]


def test_fewer_samples_than_the_minimum_are_no_test() -> None:
    params = NetworkParams(speed_samples_min=10)
    assert is_fast_enough(samples(*[1] * 9), 10**9, params)
    assert not is_fast_enough(samples(*[1] * 10), 10**9, params)


def test_us_per_t_rounds_down_and_stays_in_64_bits() -> None:
    assert us_per_t(2_000, 100) == 20_000
    assert us_per_t(1, 3) == 333
    assert us_per_t(2**63 - 1, 1) == 2**63 - 1


# Days.


def test_the_reference_price_follows_the_mean_by_a_tenth_a_day(world: World) -> None:
    account = world.ledger().account
    params = world.terms.params

    def after(credited_t: int, mean: int) -> int:
        credited = replace(account, credited_t=Uint256(credited_t), credited_wei=Uint256(credited_t * mean))
        return next_reference_price(credited, params)

    assert after(0, 0) == PRICE
    assert after(10, PRICE + 5) == PRICE + 5
    assert after(10, PRICE * 2) == PRICE * 110 // 100
    assert after(10, 1) == PRICE * 90 // 100


@given(st.integers(1, 10**15), st.integers(1, 10**9), st.integers(1, 10**15))
@settings(max_examples=100)
def test_the_reference_price_never_moves_more_than_its_step(price: int, credited_t: int, mean: int) -> None:
    account = replace(World().ledger().account, reference_price_wei=price)
    credited = replace(account, credited_t=Uint256(credited_t), credited_wei=Uint256(credited_t * mean))
    moved = next_reference_price(credited, NetworkParams())
    assert abs(moved - price) * 10 <= price
    assert moved >= 1
    assert (moved - price) * (mean - price) >= 0


def test_a_mean_is_weighted_by_t(world: World) -> None:
    cheap = world.settlement(tokens=300, token_max=300, price_wei=PRICE)
    dear = world.settlement(tokens=100, price_wei=PRICE + 10**9)
    ledger = world.after(world.ledger(), [cheap, dear])
    after = world.after(ledger, slot=100)
    assert after.account.reference_price_wei == PRICE + 10**9 // 4


def test_a_day_opens_with_its_opening_or_carries_over(world: World) -> None:
    ledger = world.after(world.ledger(), slot=99)
    opened = world.after(ledger, slot=100, opening=world.opening(1, supply_wei=Uint256(5), budget_wei=Uint256(7)))
    assert (opened.account.supply_wei, opened.account.budget_wei, opened.account.snapshot_block) == (5, 7, 101)
    carried = world.after(opened, slot=205)
    assert (carried.day, carried.account.day) == (2, 2)
    assert (carried.account.supply_wei, carried.account.snapshot_block) == (5, 101)
    assert carried.account.budget_wei == compute_budget(2, world.budget_wei + 7, world.terms)
    assert carried.account.credited_wei == 0


def test_days_without_a_batch_have_numbers_as_well(world: World) -> None:
    world.terms = make_terms(settle_window_slots=350)
    ledger = world.after(world.ledger(), [world.settlement(price_wei=PRICE * 2)])
    after = world.after(ledger, [world.settlement(slot=250, session="late", price_wei=PRICE * 2)], slot=310)
    assert set(after.days) == {0, 1, 2, 3}
    assert {account.reference_price_wei for day, account in after.days.items() if day} == {PRICE * 110 // 100}


def test_a_leap_over_a_million_days_is_cheap(world: World) -> None:
    after = world.after(world.ledger(), slot=10**12)
    assert len(after.days) <= 2
    assert after.day == 10**10


def test_a_router_can_look_ahead_to_the_next_days_numbers(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(price_wei=PRICE * 2)])
    assert account_of(ledger, world.terms, 0) == ledger.account
    preview = account_of(ledger, world.terms, 1, world.opening(1))
    assert preview == world.after(ledger, slot=100, opening=world.opening(1)).account
    with pytest.raises(BatchInvalid):
        account_of(world.after(ledger, slot=500), world.terms, 0)


def test_what_is_too_old_to_matter_is_forgotten(world: World) -> None:
    settlement = world.settlement()
    ledger = world.after(world.ledger(), [settlement])
    rfc = settlement.rfc.payload
    assert ledger.is_settled(rfc)
    assert not ledger.is_settled(replace(rfc, index=rfc.index + 1))
    assert ledger.sessions
    assert set(ledger.commitments) == {0, 1}
    later = world.after(ledger, slot=150)
    assert later.is_settled(rfc)
    assert later.sessions[0] == ledger.sessions[0]
    much_later = world.after(later, slot=200)
    assert not much_later.sessions
    assert not much_later.is_settled(rfc)
    assert not much_later.indexes
    assert set(much_later.days) == {1, 2}
    assert set(much_later.commitments) == {1}
    assert much_later.credits == later.credits


def test_allowances_seen_are_counted_once_for_each_pass(world: World) -> None:
    pending = [world.settlement(allowance=1_000), world.settlement(allowance=1_000)]
    pending.append(world.settlement(session="second", allowance=500))
    assert world.after(world.ledger(), pending).account.issued_t == 1_500


# State.


def test_a_snapshot_reads_back_to_the_same_state(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(session=f"s{n}", provider=f"p{n % 3}") for n in range(6)])
    copied = decode_ledger(encode_ledger(ledger))
    assert copied == ledger
    assert state_root(copied) == state_root(ledger)
    header, body, _ = world.propose(ledger, [world.settlement()])
    assert world.apply(copied, header, body) == world.apply(ledger, header, body)
    with pytest.raises(MalformedMessage):
        decode_ledger(b"\x90")


def test_the_state_root_covers_everything_but_the_parent(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement(passed=False), world.settlement(session="second")])
    root = state_root(ledger)
    assert state_root(replace(ledger, parent=named_digest("x"))) == root
    empty: dict[Address, Uint256] = {}
    changes: dict[str, Any] = dict.fromkeys(("credits", "days", "sessions", "indexes", "speed", "penalties"), empty)
    changes |= {"penalised": empty, "commitments": empty, "outcomes": (), "beacon": named_digest("x")}
    changes |= {"height": 9, "slot": 9, "day": 9, "total_credited": Uint256(9), "since": 9, "is_rescued": True}
    changes |= {"bootstrap_credited": Uint256(9), "day_credits": empty, "pairs": {0: {b"pair": 9}}}
    changes |= {"audits": Audits(forfeited_wei=Uint256(9)), "ranks": {0: {address("provider"): 1}}}
    term = replace(ledger.running, epoch=9)
    changes |= {"committees": (term,), "drawn": Draw(9, term), "listing": Listing(ordered={MODEL: 1})}
    assert set(changes) == set(ledger.__struct_fields__) - {"parent"}
    assert len({state_root(replace(ledger, **{name: value})) for name, value in changes.items()} | {root}) == 25


def test_genesis_is_deterministic_and_checked(world: World) -> None:
    assert world.ledger() == world.ledger()
    assert world.ledger().height == 0
    other = World(member_count=3)
    assert other.ledger().beacon != world.ledger().beacon
    with pytest.raises(BatchInvalid, match="opening_supply"):
        genesis_ledger(world.terms, world.committee, world.opening(supply_wei=Uint256(0)), PRICE, [])
    with pytest.raises(BatchInvalid, match="reference_price_wei"):
        genesis_ledger(world.terms, world.committee, world.opening(), 0, [])
    forged = sign(world.commitment(world.router, 0).payload, key("stranger"), world.domain)
    with pytest.raises(SignerMismatch):
        genesis_ledger(world.terms, world.committee, world.opening(), PRICE, [forged])


def test_a_refused_settlement_leaves_the_draft_as_it_was(world: World) -> None:
    draft = Draft(world.ledger(), world.terms, 10)
    good = world.settlement(index=0)
    draft.settle(good, verify_settlement(good, world.terms))
    before = draft.close(named_digest("reveal"))
    for bad in (good, world.settlement(index=0, tokens=1), world.settlement(price_wei=10**15)):
        with pytest.raises(SettlementInvalid):
            draft.settle(bad, verify_settlement(bad, world.terms))
    assert draft.close(named_digest("reveal")) == before
