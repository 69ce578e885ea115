"""Second opinions in the ledger (S8): credits that mature, picks, verdicts, and who tries to get round them."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from consensus.market.batch import apply_batch
from consensus.market.budget import market_credit
from consensus.market.errors import BatchInvalid, OpinionInvalid
from consensus.market.explain_access import explain_day
from consensus.market.explain_opinions import explain_credit
from consensus.market.history import History
from consensus.market.ledger import Draft
from consensus.market.ledger_state import Ledger, decode_ledger, encode_ledger, state_root
from consensus.market.maturing import has_work
from consensus.market.opinions import (
    MAX_OFFERS,
    Offer,
    Pick,
    bucket_of,
    draw_scorers,
    due_slot,
    is_picked,
    with_offer,
)
from consensus.params import NetworkParams, economics_of
from contracts.amounts import show_exact, show_mor
from contracts.typed_data import Address, Digest
from gossip.messages.base import Signed
from gossip.messages.opinions import Opinion
from gossip.messages.session import Settlement
from tests.consensus.builders import PRICE, World, address, make_terms, named_digest

WINDOW = 12
SCORERS = ("x", "y", "z")


def make_world(**params: Any) -> World:
    """Everything is picked, unless a test says otherwise."""
    return World(make_terms(**({"audit_slots": WINDOW, "audit_bps": 10_000, "forfeits": "pair"} | params)))


def session(world: World, **changes: Any) -> Settlement:
    """A session whose ticket shows three who can score."""
    rivals = [world.bid(name, scores=True, price_wei=PRICE + 5) for name in SCORERS]
    return world.settlement(**({"rivals": rivals} | changes))


def picked(world: World, *sessions: Settlement) -> tuple[Ledger, list[Pick]]:
    """The ledger after the batch that picks ``sessions``, settled in slot 10 and picked in slot 11."""
    ledger = world.after(world.ledger(), sessions or [session(world)], slot=10)
    tickets = [outcome.ticket_id for outcome in ledger.outcomes]
    ledger = world.after(ledger, slot=11)
    found = [ledger.audits.pick(ticket_id) for ticket_id in tickets]
    assert None not in found
    return ledger, [pick for pick in found if pick is not None]


def names(pick: Pick) -> list[str]:
    """The scorers in the order of their turns."""
    known = {address(name): name for name in SCORERS}
    return [known[offer.provider] for offer in pick.scorers]


def ticket_of(ledger: Ledger, pick: Pick) -> Digest:
    return next(ticket for some in ledger.audits.picks.values() for ticket, one in some.items() if one == pick)


def end_slot(ledger: Ledger, world: World) -> int:
    return due_slot(max({*ledger.audits.picks, *ledger.audits.immature}), world.terms.params)


def opined(world: World, ledger: Ledger, *opinions: Signed[Opinion], slot: int | None = None) -> Ledger:
    """The ledger after a batch with ``opinions``, all of which must be in it."""
    header, body, _ = world.propose(ledger, slot=ledger.slot + 1 if slot is None else slot, opinions=opinions)
    assert body.opinions == opinions
    return world.apply(ledger, header, body)


def refusal(world: World, ledger: Ledger, opinion: Signed[Opinion], slot: int | None = None) -> OpinionInvalid:
    with pytest.raises(OpinionInvalid) as refused:
        Draft(ledger, world.terms, ledger.slot + 1 if slot is None else slot).opine(opinion)
    header, body, _ = world.propose(ledger, slot=ledger.slot + 1, opinions=[opinion])
    if slot is None:
        assert body.opinions == (), "a proposer leaves it out"
        forced = replace(body, opinions=(opinion,))
        with pytest.raises(BatchInvalid, match="opinion"):
            apply_batch(ledger, world.terms, replace(header, body_root=forced.root), forced)
    return refused.value


def balance(world: World, ledger: Ledger, settled_wei: int) -> None:
    """Settled = matured + immature + forfeited, to the wei."""
    audits = ledger.audits
    matured = ledger.total_credited - ledger.bootstrap_credited - audits.opinions_wei
    assert settled_wei == matured + audits.immature_wei + audits.forfeited_wei
    assert sum(ledger.credits.values()) == ledger.total_credited
    put_by = sum(sum(sums.values()) for sums in audits.immature.values())
    assert audits.immature_wei == put_by + sum(outcome.credited_wei for outcome in ledger.outcomes)


# Maturing.


def test_a_credit_matures_after_its_window() -> None:
    world = make_world(audit_bps=0)
    ledger = world.after(world.ledger(), [session(world), session(world, provider="x", rivals=())], slot=10)
    assert (ledger.total_credited, ledger.audits.immature_wei) == (0, 200 * PRICE)
    assert ledger.account.credited_wei == 200 * PRICE, "the budget is spent when a session is settled"
    assert dict(ledger.day_credits) == {address("provider"): 100 * PRICE, address("x"): 100 * PRICE}
    ledger = world.after(ledger, slot=11)
    end = end_slot(ledger, world)
    assert WINDOW < end - 10 <= WINDOW + 3
    ledger = world.after(ledger, slot=end - 1)
    assert ledger.total_credited == 0
    header, body, _ = world.propose(ledger, slot=end)
    ledger = world.apply(ledger, header, body)
    assert ledger.credits == {address("provider"): 100 * PRICE, address("x"): 100 * PRICE}
    assert header.total_credited == 200 * PRICE
    assert (ledger.audits.immature, ledger.audits.immature_wei) == ({}, 0)
    balance(world, ledger, 200 * PRICE)


def test_without_a_window_everything_is_as_it_was() -> None:
    world = World()
    ledger = world.after(world.ledger(), [session(world)], slot=10)
    assert ledger.total_credited == 100 * PRICE
    assert ledger.audits == world.ledger().audits
    assert not has_work(ledger.audits, 100, 99, world.terms.params, is_new_day=True)


def test_an_idle_network_still_picks_and_pays() -> None:
    world = make_world()
    params = world.terms.params
    ledger = world.after(world.ledger(), [session(world)], slot=10)
    assert has_work(ledger.audits, ledger.outcomes[0].credited_wei, 11, params, is_new_day=False)
    ledger = world.after(ledger, slot=11)
    assert not has_work(ledger.audits, 0, 12, params, is_new_day=True)
    assert has_work(ledger.audits, 0, end_slot(ledger, world), params, is_new_day=False)


def test_what_is_put_by_counts_as_paid_when_a_day_opens() -> None:
    world = make_world(audit_slots=60)
    ledger = world.after(world.ledger(), [session(world)], slot=90)
    left = ledger.account.budget_left_wei
    assert market_credit(ledger, world.terms, 1) == 100 * PRICE + left
    late_days = [economics_of(NetworkParams(audit_slots=slots), 0).late_days for slots in (0, 600, 7_200)]
    assert late_days == [1, 3, 4]


def test_a_session_without_a_transcript_is_not_credited() -> None:
    world = make_world()
    only_told = session(world, with_receipt=False)
    vouched = session(world, with_receipt=False, voucher_tokens=100)
    ledger = world.after(world.ledger(), [only_told, vouched], slot=10)
    assert [outcome.reason for outcome in ledger.outcomes] == ["no_transcript", "credited"]
    ledger = world.after(ledger, slot=11)
    pick = ledger.audits.pick(vouched.ticket.id(world.domain))
    assert pick is not None
    assert pick.transcript == named_digest("transcript"), "a voucher commits to what it pays for"


# Picks.


def test_the_beacon_picks_its_share_and_anybody_can_check() -> None:
    params = NetworkParams(audit_bps=200)
    tickets = [named_digest(str(number)) for number in range(20_000)]
    found = sum(is_picked(named_digest("beacon"), ticket, 100, params) for ticket in tickets)
    assert 300 < found < 500
    world = make_world(audit_bps=5_000)
    sessions = [session(world, session=f"s{number}") for number in range(12)]
    ledger = world.after(world.ledger(), sessions, slot=10)
    after = world.after(ledger, slot=11)
    params = world.terms.params
    expected = {one.ticket_id for one in ledger.outcomes if is_picked(after.beacon, one.ticket_id, one.tokens, params)}
    assert {ticket for some in after.audits.picks.values() for ticket in some} == expected
    assert 0 < len(expected) < 12


def test_scorers_are_others_that_tickets_have_shown() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    assert sorted(names(pick)) == ["x", "y", "z"]
    assert [offer.price_wei for offer in pick.scorers] == [PRICE + 5] * 3
    alone = session(world, rivals=())
    after = world.after(world.after(world.ledger(), [alone], slot=10), slot=11)
    assert not after.audits.picks, "nobody is known who could score it"
    late = world.after(ledger, [session(world, rivals=(), slot=195, session="late", day=1)], slot=196)
    assert not world.after(late, slot=197).audits.picks, "and nobody was seen for long"


def nothing(_: Address) -> int:
    return 0


def test_offers_are_bounded_and_kept_fresh() -> None:
    params = make_world().terms.params
    world = World()
    offers: tuple[Offer, ...] = ()
    for number in range(MAX_OFFERS + 5):
        offers = with_offer(offers, world.bid(f"p{number}", scores=True).payload, number, params, nothing)
    assert len(offers) == MAX_OFFERS
    assert {offer.slot for offer in offers} == set(range(5, MAX_OFFERS + 5))
    bid = world.bid("p9", scores=True).payload
    assert with_offer(offers, bid, 9 + params.settle_window_slots // 8 - 1, params, nothing) is offers
    cheaper = with_offer(offers, replace(bid, price_wei=1), 10, params, nothing)
    assert next(offer.price_wei for offer in cheaper if offer.provider == address("p9")) == 1
    assert with_offer(cheaper, bid, 8, params, nothing) is cheaper, "an older ticket is no news"
    order = draw_scorers(named_digest("b"), named_digest("t"), address("p9"), offers, oldest_slot=0, credit_of=nothing)
    assert len(order) == 3
    assert address("p9") not in {offer.provider for offer in order}


# Verdicts.


def test_a_pass_lets_the_credit_mature_and_pays_the_scorer() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    first, ticket_id = names(pick)[0], ticket_of(ledger, pick)
    ledger = opined(world, ledger, world.opinion(first, ticket_id))
    fee = 100 * (PRICE + 5)
    assert ledger.credits == {address(first): fee}
    assert ledger.account.opinions_wei == ledger.audits.opinions_wei == fee
    assert ledger.account.budget_left_wei == world.budget_wei - 100 * PRICE - fee
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.credits == {address(first): fee, address("provider"): 100 * PRICE}
    assert not ledger.penalties
    balance(world, ledger, 100 * PRICE)


def test_two_fails_forfeit_all_that_the_pair_has_put_by() -> None:
    world = make_world()
    ledger, picks = picked(world, session(world), session(world), session(world, session="honest"))
    first, second, _ = names(picks[0])
    ticket_id = ticket_of(ledger, picks[0])
    ledger = opined(world, ledger, world.opinion(first, ticket_id, passed=False))
    assert ledger.audits.struck == {}
    ledger = opined(world, ledger, world.opinion(second, ticket_id, passed=False))
    assert address("provider") + address("session") in ledger.audits.struck
    assert ledger.penalties == {address("provider"): 1}
    assert {address(first), address(second)} == set(ledger.credits), "both are paid for their work"
    honest = names(picks[2])[0]
    ledger = opined(world, ledger, world.opinion(honest, ticket_of(ledger, picks[2])))
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.credits[address("provider")] == 100 * PRICE, "of the other session key"
    assert ledger.audits.forfeited_wei == ledger.account.returned_wei == 200 * PRICE
    assert ledger.account.budget_left_wei == world.budget_wei - 100 * PRICE - ledger.audits.opinions_wei
    assert (ledger.audits.struck, ledger.audits.picks) == ({}, {})
    balance(world, ledger, 300 * PRICE)


def test_a_wash_trading_pair_that_computes_nothing_never_opens_and_is_never_paid() -> None:
    world = make_world()
    sessions = [session(world, session="wash", token_max=256, tokens=200) for _ in range(5)]
    ledger, picks = picked(world, *sessions)
    assert len(picks) == 5
    ledger = world.after(ledger, [session(world, session="wash")], slot=15)
    ledger = world.after(ledger, slot=16)
    ledger = world.after(ledger, slot=end_slot(ledger, world) + 20)
    assert ledger.total_credited == 0
    assert ledger.audits.forfeited_wei == 1_100 * PRICE
    assert ledger.account.budget_left_wei == world.budget_wei
    assert ledger.penalties == {address("provider"): 1}, "once for a session key and day"
    balance(world, ledger, 1_100 * PRICE)


def test_a_network_may_forfeit_all_of_a_provider() -> None:
    world = make_world(forfeits="provider")
    ledger, _ = picked(world, session(world), session(world, session="second"), session(world, provider="other"))
    for pick in [pick for some in ledger.audits.picks.values() for pick in some.values()]:
        if pick.session_key == address("second") or pick.provider == address("other"):
            ledger = opined(world, ledger, world.opinion(names(pick)[0], ticket_of(ledger, pick)))
    fees = ledger.audits.opinions_wei
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.audits.forfeited_wei == 200 * PRICE
    assert ledger.credits[address("other")] == 100 * PRICE
    assert ledger.audits.opinions_wei == fees


def test_a_scorer_that_lies_is_overruled_unpaid_and_penalised() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    liar, second, third = names(pick)
    ticket_id = ticket_of(ledger, pick)
    ledger = opined(world, ledger, world.opinion(liar, ticket_id, passed=False))
    ledger = opined(world, ledger, world.opinion(second, ticket_id))
    assert not ledger.credits, "one against one: nobody is paid yet"
    ledger = opined(world, ledger, world.opinion(third, ticket_id))
    assert set(ledger.credits) == {address(second), address(third)}
    assert ledger.penalties == {address(liar): 1}
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert ledger.credits[address("provider")] == 100 * PRICE
    assert ledger.audits.forfeited_wei == 0


@pytest.mark.parametrize(("said", "is_paid"), [((False,), False), ((False, True), True), ((), False), ((True,), True)])
def test_what_counts_at_the_end_of_the_window(said: Sequence[bool], is_paid: bool) -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    ticket_id = ticket_of(ledger, pick)
    for name, passed in zip(names(pick), said, strict=False):
        ledger = opined(world, ledger, world.opinion(name, ticket_id, passed=passed))
    ledger = world.after(ledger, slot=end_slot(ledger, world))
    assert (ledger.credits.get(address("provider"), 0) > 0) is is_paid
    assert ledger.audits.immature_wei == 0


def test_the_next_scorer_may_speak_when_one_has_or_when_a_third_of_the_window_is_over() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    first, second, third = names(pick)
    ticket_id = ticket_of(ledger, pick)
    early = refusal(world, ledger, world.opinion(second, ticket_id))
    assert (early.reason, early.retry) == ("not_its_turn", True)
    assert refusal(world, ledger, world.opinion(third, ticket_id), slot=11 + WINDOW // 3).reason == "not_its_turn"
    opined(world, ledger, world.opinion(second, ticket_id), slot=11 + WINDOW // 3)
    opined(world, ledger, world.opinion(third, ticket_id), slot=11 + 2 * WINDOW // 3)
    after_first = opined(world, ledger, world.opinion(first, ticket_id, passed=False))
    opined(world, after_first, world.opinion(second, ticket_id))


def test_an_opinion_that_counts_for_nothing_is_refused_by_name() -> None:
    world = make_world()
    ledger, picks = picked(world, session(world), session(world, session="second"))
    pick, other = picks
    first = names(pick)[0]
    ticket_id = ticket_of(ledger, pick)
    bad = {
        "not_picked": world.opinion(first, named_digest("another ticket")),
        "not_drawn": world.opinion("stranger", ticket_id),
        "another_transcript": world.opinion(first, ticket_id, transcript=named_digest("made up")),
        "tokens": world.opinion(first, ticket_id, tokens=99),
        "signature": world.opinion(first, ticket_id, signer="stranger"),
    }
    assert {expected: refusal(world, ledger, opinion).reason for expected, opinion in bad.items()} == {
        name: name for name in bad
    }
    own = world.opinion("provider", ticket_id)
    assert refusal(world, ledger, own).reason == "not_drawn", "nobody judges itself"
    passed = world.opinion(first, ticket_id)
    ledger = opined(world, ledger, passed)
    assert refusal(world, ledger, passed).reason == "said_already", "a verdict counts once"
    second = names(pick)[1]
    assert refusal(world, ledger, world.opinion(second, ticket_id)).reason == "decided"
    moved = world.opinion(first, ticket_of(ledger, other), signer=first)
    assert moved.payload.ticket_id != passed.payload.ticket_id
    replayed = Signed(replace(passed.payload, ticket_id=moved.payload.ticket_id), passed.signature)
    assert refusal(world, ledger, replayed).reason == "signature", "nor for another session"
    gone = world.after(ledger, slot=end_slot(ledger, world))
    assert refusal(world, gone, passed).reason == "not_picked", "nor after the end"


def test_fees_stay_within_the_days_budget() -> None:
    world = make_world()
    world.budget_wei = 150 * PRICE
    ledger, (pick,) = picked(world, session(world, allowance=150))
    ledger = opined(world, ledger, world.opinion(names(pick)[0], ticket_of(ledger, pick)))
    assert ledger.audits.opinions_wei == 50 * PRICE
    assert ledger.account.budget_left_wei == 0


def test_a_draft_may_be_closed_again_and_the_old_ledger_stays() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    root = state_root(ledger)
    draft = Draft(ledger, world.terms, end_slot(ledger, world))
    assert draft.close(named_digest("r")) == draft.close(named_digest("r"))
    assert state_root(ledger) == root
    copied = decode_ledger(encode_ledger(ledger))
    assert copied == ledger
    assert state_root(copied) == root
    header, body, _ = world.propose(ledger, opinions=[world.opinion(names(pick)[0], ticket_of(ledger, pick))])
    assert world.apply(copied, header, body) == world.apply(ledger, header, body)


def test_every_part_of_the_audits_is_in_the_state_root() -> None:
    world = make_world()
    ledger, (pick,) = picked(world)
    audits, ticket_id = ledger.audits, ticket_of(ledger, pick)
    (bucket,) = audits.picks
    empty: dict[Any, Any] = {}
    changed = [
        replace(audits, immature_wei=audits.forfeited_wei),
        replace(audits, forfeited_wei=audits.immature_wei),
        replace(audits, opinions_wei=audits.immature_wei),
        replace(audits, immature=empty),
        replace(audits, picks=empty),
        replace(audits, picks={bucket: {ticket_id: replace(pick, tokens=1)}}),
        replace(audits, picks={bucket + 1: audits.picks[bucket]}),
        replace(audits, struck={b"x": 1}),
        replace(audits, offers=empty),
    ]
    roots = {state_root(replace(ledger, audits=one)) for one in changed}
    assert len(roots | {state_root(ledger)}) == len(changed) + 1


def test_a_credit_is_explained_on_its_way() -> None:
    world = make_world()
    pair, params = (address("provider"), address("session")), world.terms.params

    def told(ledger: Ledger, ticket_id: Digest, slot: int | None = 11) -> str:
        return "\n".join(explain_credit(ledger, params, ticket_id, pair, slot))

    ledger, (pick,) = picked(world)
    ticket_id = ticket_of(ledger, pick)
    assert "the beacon of the next batch says" in told(ledger, ticket_id, None)
    end = end_slot(ledger, world)
    text = told(ledger, ticket_id)
    assert f"immature until slot {end}" in text
    assert "picked for a second opinion on 100 T" in text
    assert (text.count("may speak"), text.count("waits for its turn")) == (1, 2)
    assert "verdict: still open" in text
    assert "not picked" in told(ledger, named_digest("another"))
    for name in names(pick)[:2]:
        ledger = opined(world, ledger, world.opinion(name, ticket_id, passed=False))
    text = told(ledger, ticket_id)
    assert text.count("says Fail") == 2
    assert "verdict: FAILED" in text
    assert "FORFEITED" in text
    assert "  sessions picked, until their window ends = 1" in told_of_day(world, ledger)
    ledger = world.after(ledger, slot=end)
    assert f"its window ended in slot {end}" in told(ledger, ticket_id)
    account = ledger.account
    sums = f"+ {show_mor(100 * PRICE)} - {show_mor(100 * PRICE)} - {show_mor(account.opinions_wei)}"
    assert any(f"{sums} = {show_exact(account.budget_left_wei)}" in line for line in told_of_day(world, ledger))
    plain = World()
    lines = explain_credit(plain.ledger(), plain.terms.params, ticket_id, pair, 11)
    assert lines == ("credit: at once; this network asks for no second opinions (params.audit_slots = 0)",)


def told_of_day(world: World, ledger: Ledger) -> tuple[str, ...]:
    return explain_day(History(ledger).days[ledger.day], world.terms, ledger.day)


def test_a_long_window_is_cut_into_parts() -> None:
    params = NetworkParams(audit_slots=7_200)
    buckets = {bucket_of(slot, params) for slot in range(7_200)}
    assert len(buckets) <= 66
    for slot in (0, 1, 111, 7_199):
        assert 7_200 < due_slot(bucket_of(slot, params), params) - slot <= 7_200 + 113
