from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.market import batch
from consensus.market import settlement as settlement_module
from consensus.market.batch import body_root, credits, settlement_outcome
from consensus.market.beacon import next_beacon
from consensus.market.bootstrap import reserve_until
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import encode_ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.params import NetworkParams
from contracts.emission import daily_budget
from contracts.merkle import merkle_proof, merkle_root, merkle_verify
from contracts.typed_data import ZERO_DIGEST, Address, Signature, Uint256
from gossip.messages.base import decode, encode, sign
from gossip.messages.committee import (
    MAX_BATCH_BYTES,
    MAX_MEMBERS,
    MAX_OPINIONS,
    MAX_RANKED,
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    CommitCertificate,
    SealedBatch,
    batch_hash,
)
from gossip.messages.market import Ticket
from gossip.messages.session import Settlement
from tests.consensus.builders import PRICE, World, address, key, make_terms, named_digest


@pytest.fixture
def world() -> World:
    return World()


def reason(world: World, header: BatchHeader, body: BatchBody, ledger: Any = None) -> str:
    with pytest.raises(BatchInvalid) as refused:
        world.apply(ledger or world.ledger(), header, body)
    return refused.value.reason


def test_what_is_proposed_applies(world: World) -> None:
    ledger = world.ledger()
    header, body, rejected = world.propose(ledger, [world.settlement() for _ in range(3)])
    after = world.apply(ledger, header, body)
    assert rejected == ()
    assert (after.height, after.slot, after.day) == (header.height, header.slot, header.day) == (1, 10, 0)
    assert after.parent == batch_hash(header)
    assert after.total_credited == header.total_credited == 300 * PRICE
    assert header.parent == ZERO_DIGEST
    assert header.beacon == after.beacon == next_beacon(ledger.beacon, header.reveal, ZERO_DIGEST)


def test_a_chain_of_batches_links_and_accumulates(world: World) -> None:
    first = world.after(world.ledger(), [world.settlement(provider="a")])
    header, body, _ = world.propose(first, [world.settlement(provider="a"), world.settlement(provider="b")])
    second = world.apply(first, header, body)
    assert header.parent == first.parent
    assert credits(second) == {address("a"): 200 * PRICE, address("b"): 100 * PRICE}


def test_s32_every_provider_can_prove_its_credit(world: World) -> None:
    ledger = world.ledger()
    header, body, _ = world.propose(ledger, [world.settlement(provider=f"p{n}", tokens=n + 1) for n in range(5)])
    after = world.apply(ledger, header, body)
    for provider, cumulative in credits(after).items():
        proof = merkle_proof(credits(after), provider)
        assert merkle_verify(header.credit_root, provider, cumulative, proof)
    assert header.credit_root == merkle_root(credits(after))


def test_an_empty_batch_closes_a_slot(world: World) -> None:
    header, body, _ = world.propose(world.ledger())
    assert header.credit_root == ZERO_DIGEST
    assert world.apply(world.ledger(), header, body).height == 1


def test_the_batch_survives_the_wire(world: World) -> None:
    header, body, _ = world.propose(world.ledger(), [world.settlement(voucher_tokens=64)])
    copied_header, copied_body = decode(BatchHeader, encode(header)), decode(BatchBody, encode(body), 10**6)
    assert world.apply(world.ledger(), copied_header, copied_body) == world.apply(world.ledger(), header, body)


# Every field of the header is recomputed.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"height": 2}, "height"),
        ({"slot": 11}, "reveal"),
        ({"slot": 0}, "slot"),
        ({"slot": 110}, "day"),
        ({"day": 1}, "day"),
        ({"parent": named_digest("x")}, "parent"),
        ({"body_root": named_digest("x")}, "body_root"),
        ({"credit_root": named_digest("x")}, "credit_root"),
        ({"total_credited": Uint256(1)}, "total_credited"),
        ({"state_root": named_digest("x")}, "state_root"),
        ({"committee_root": named_digest("x")}, "committee_root"),
        ({"beacon": named_digest("x")}, "beacon"),
        ({"reveal": named_digest("x")}, "reveal"),
        ({"reveal": ZERO_DIGEST}, "reveal"),
        ({"proposer": address("stranger")}, "proposer"),
        ({"proposer": address("member 2")}, "reveal"),
    ],
)
def test_a_bent_header_is_named(world: World, changes: dict[str, Any], expected: str) -> None:
    header, body, _ = world.propose(world.ledger(), [world.settlement()])
    assert reason(world, replace(header, **changes), body) == expected


def test_a_body_is_bound_to_its_header(world: World) -> None:
    header, body, _ = world.propose(world.ledger(), [world.settlement(), world.settlement()])
    shorter = replace(body, settlements=body.settlements[:1])
    assert reason(world, header, shorter) == "body_root"
    assert reason(world, replace(header, body_root=body_root(shorter)), shorter) == "credit_root"


def rebound(header: BatchHeader, body: BatchBody, **changes: Any) -> tuple[BatchHeader, BatchBody]:
    """A body with other parts under a header that owns up to them."""
    bent = replace(body, **changes)
    return replace(header, body_root=body_root(bent)), bent


def test_an_invalid_settlement_spoils_the_batch(world: World) -> None:
    header, body, _ = world.propose(world.ledger(), [world.settlement()])
    (good,) = body.settlements
    assert reason(world, *rebound(header, body, settlements=(good, good))) == "settlement"
    forged = replace(good, rfc=sign(good.rfc.payload, key("stranger"), world.domain))
    with pytest.raises(BatchInvalid, match="number 0: signature"):
        world.apply(world.ledger(), *rebound(header, body, settlements=(forged,)))


def test_a_batch_has_a_largest_size() -> None:
    world = World(make_terms(batch_settlements=2))
    pending = [world.settlement() for _ in range(3)]
    header, body, rejected = world.propose(world.ledger(), pending)
    assert (len(body.settlements), rejected) == (2, ())
    assert reason(world, *rebound(header, body, settlements=tuple(pending))) == "too_many_settlements"


def test_a_proposer_stops_where_a_batch_would_be_too_long_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    pending = [world.settlement() for _ in range(5)]
    monkeypatch.setattr(batch, "MAX_SETTLED_BYTES", sum(len(encode(one)) for one in pending[:3]))
    _, body, rejected = world.propose(world.ledger(), pending)
    assert (body.settlements, rejected) == (tuple(pending[:3]), ())


def test_a_slot_of_700_rfcs_a_second_fits_into_a_batch_with_all_else_that_may_be_in_it(world: World) -> None:
    params = NetworkParams()
    assert params.batch_settlements * 1_000 >= 700 * params.slot_ms
    usual = len(encode(world.settlement(rivals=[world.bid("another")])))
    assert params.batch_settlements * usual < batch.MAX_SETTLED_BYTES
    else_ = 512 * MAX_OPINIONS + 32 * MAX_RANKED + 512 * MAX_MEMBERS + 512 * batch.MAX_COMMITMENTS
    assert batch.MAX_SETTLED_BYTES + 4 * Ticket.MAX_BYTES + else_ < batch.MAX_BODY_BYTES


def longest_bodies(world: World) -> tuple[BatchHeader, BatchBody, BatchBody]:
    """A header, a body just below the largest size, and one of a settlement more, which is above it."""
    header, body, _ = world.propose(world.ledger(), [])
    large = world.settlement(rivals=[world.bid(f"rival {number}") for number in range(6)])
    count = (batch.MAX_BODY_BYTES - body.size - 8) // len(encode(large))
    below, above = (replace(body, settlements=(large,) * number) for number in (count, count + 1))
    assert below.size <= batch.MAX_BODY_BYTES < above.size
    return header, below, above


def test_a_body_that_is_too_large_to_be_read_is_no_batch(world: World) -> None:
    header, below, above = longest_bodies(world)
    assert reason(world, replace(header, body_root=above.root), above) == "body"
    # what is just below is looked at: one settlement, thousands of times, is refused for what it is
    assert reason(world, replace(header, body_root=below.root), below) in ("too_many_settlements", "settlement")


def test_what_is_no_larger_than_a_batch_may_be_is_read_by_everybody(world: World) -> None:
    header, below, _ = longest_bodies(world)
    signatures = (Signature(bytes(65)),) * MAX_MEMBERS
    certificate = CommitCertificate(header.height, 0, batch_hash(header), world.committee.root, signatures)
    encoded = encode(CertifiedBatch(header, certificate, below))
    assert len(encoded) < MAX_BATCH_BYTES
    assert decode(CertifiedBatch, encoded).body_root == below.root
    assert decode(SealedBatch, encoded).body_root == below.root


def test_a_refused_batch_leaves_the_ledger_as_it_was(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement()])
    before = encode_ledger(ledger)
    header, body, _ = world.propose(ledger, [world.settlement(provider="b"), world.settlement(passed=False)])
    reason(world, replace(header, state_root=named_digest("x")), body, ledger)
    (first, second) = body.settlements
    reason(world, *rebound(header, body, settlements=(first, second, first)), ledger)
    assert encode_ledger(ledger) == before


def test_a_valid_batch_leaves_the_old_ledger_as_it_was(world: World) -> None:
    ledger = world.after(world.ledger(), [world.settlement()])
    before = encode_ledger(ledger)
    world.after(ledger, [world.settlement(), world.settlement(passed=False)], slot=101)
    assert encode_ledger(ledger) == before


# What the proposer leaves out.


def test_the_proposer_leaves_out_what_cannot_be_settled_and_says_why(world: World) -> None:
    good, early = world.settlement(), world.settlement(with_report=False, slot=8)
    dear = world.settlement(price_wei=10**15)
    header, body, rejected = world.propose(world.ledger(), [good, good, early, dear])
    assert body.settlements == (good,)
    assert [(left.reason.split(":")[0], left.retry) for left in rejected] == [
        ("index_used", False),
        ("report_awaited", True),
        ("price_over_ceiling", False),
    ]
    assert [left.settlement for left in rejected] == [good, early, dear]
    world.apply(world.ledger(), header, body)


def test_an_outcome_is_found_by_its_ticket(world: World) -> None:
    settlement = world.settlement()
    ledger = world.after(world.ledger(), [world.settlement(session="second"), settlement])
    ticket_id = settlement.ticket.id(world.domain)
    found = settlement_outcome(ledger, ticket_id)
    assert found is not None
    assert (found.ticket_id, found.reason) == (ticket_id, "credited")
    assert settlement_outcome(world.after(ledger), ticket_id) is None


def test_remembered_signatures_are_not_checked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = VerifiedSettlements(world.terms)
    pending = [world.settlement() for _ in range(3)]
    for settlement in pending:
        verified(settlement)
    monkeypatch.setattr(settlement_module, "verify_settlement", lambda *_: pytest.fail("checked again"))
    header, body, _ = world.propose(world.ledger(), pending, verified=verified)
    world.apply(world.ledger(), header, body, verified=verified)


def test_what_another_committee_remembers_does_not_count(world: World) -> None:
    """A pass by somebody who has left the committee is refused, whatever was remembered before."""
    settlement = world.settlement()
    wider = World(member_count=5)
    verified = VerifiedSettlements(wider.terms)
    foreign = replace(
        settlement, rfc=world.rfc(access_pass=world.access_pass(issuer=key("member 4"))), ticket=settlement.ticket
    )
    rfc = foreign.rfc
    ticket = world.ticket(rfc, router=key("member 4"))
    foreign = Settlement(rfc, ticket, None, None, world.report(ticket.id(world.domain), 5))
    verified(foreign)
    _, body, rejected = world.propose(world.ledger(), [foreign], verified=verified)
    assert body.settlements == ()
    assert rejected[0].reason.startswith("issuer_not_a_member")


# Openings, commitments, reveals.


def test_a_day_opens_once_and_with_its_first_batch(world: World) -> None:
    with pytest.raises(BatchInvalid, match="opening_not_first"):
        world.propose(world.ledger(), slot=10, opening=world.opening(0))
    ledger = world.after(world.ledger(), slot=99)
    for opening, expected in (
        (world.opening(2), "opening_day"),
        (world.opening(1, supply_wei=Uint256(0)), "opening_supply"),
        (world.opening(1, snapshot_block=99), "opening_snapshot_block"),
    ):
        with pytest.raises(BatchInvalid) as refused:
            world.propose(ledger, slot=100, opening=opening)
        assert refused.value.reason == expected
    assert world.after(ledger, slot=100, opening=world.opening(1, snapshot_block=100)).day == 1
    ledger = world.after(ledger, slot=100, opening=world.opening(1))
    header, body, _ = world.propose(ledger, slot=101)
    assert reason(world, *rebound(header, body, opening=world.opening(1)), ledger) == "opening_not_first"


def test_commitments_are_for_later_days_and_by_members(world: World) -> None:
    ledger, member = world.ledger(), world.router
    after = world.after(ledger, commitments=[world.commitment(member, 2), world.commitment(member, 7)])
    assert set(after.commitments[2]) == {member.address}
    header, body, _ = world.propose(ledger)
    bad = {
        "commitment_day": world.commitment(member, 0),
        "commitment_twice": world.commitment(member, 1),
        "commitment_member": world.commitment(key("stranger"), 2),
        "commitment_signature": sign(world.commitment(member, 2).payload, key("stranger"), world.domain),
    }
    for expected, commitment in bad.items():
        assert reason(world, *rebound(header, body, commitments=(commitment,))) == expected
    too_far = world.commitment(member, 8)
    assert reason(world, *rebound(header, body, commitments=(too_far,))) == "commitment_day"
    _, taken, _ = world.propose(ledger, commitments=[*bad.values(), too_far, world.commitment(member, 2)])
    assert taken.commitments == (world.commitment(member, 2),)


def test_a_commitment_must_come_before_its_day(world: World) -> None:
    ledger = world.after(world.ledger(), slot=199)
    header, body, _ = world.propose(ledger, slot=200)
    late = world.commitment(world.router, 2)
    assert reason(world, *rebound(header, body, commitments=(late,)), ledger) == "commitment_day"


def test_who_has_committed_to_nothing_reveals_nothing() -> None:
    world = World(committed_days=0)
    header, body, _ = world.propose(world.ledger())
    assert header.reveal == ZERO_DIGEST
    world.apply(world.ledger(), header, body)
    with pytest.raises(BatchInvalid, match="reveal"):
        world.propose(world.ledger(), reveal=named_digest("made up"))


def test_withholding_a_committed_secret_costs_the_slot(world: World) -> None:
    with pytest.raises(BatchInvalid) as refused:
        world.propose(world.ledger(), reveal=ZERO_DIGEST)
    assert refused.value.reason == "reveal"
    with pytest.raises(BatchInvalid, match="reveal"):
        world.propose(world.ledger(), slot=10, reveal=world.secret(world.members[1], 11))


def test_a_stranger_proposes_nothing_and_no_slot_closes_twice(world: World) -> None:
    with pytest.raises(BatchInvalid, match="proposer"):
        world.propose(world.ledger(), proposer=key("stranger"))
    ledger = world.after(world.ledger(), slot=10)
    for slot in (9, 10):
        with pytest.raises(BatchInvalid, match="slot"):
            world.propose(ledger, slot=slot)


def test_the_beacon_is_out_of_the_proposers_hands(world: World) -> None:
    """Whatever a proposer puts into its batch, the beacon that the batch leaves is the same."""
    empty, _, _ = world.propose(world.ledger())
    full, _, _ = world.propose(world.ledger(), [world.settlement()], commitments=[world.commitment(world.router, 2)])
    assert empty.beacon == full.beacon


# Conservation.

SESSIONS = st.lists(
    st.fixed_dictionaries(
        {
            "session": st.sampled_from(["s0", "s1", "s2"]),
            "provider": st.sampled_from(["p0", "p1", "p2"]),
            "tokens": st.integers(0, 300),
            "price_wei": st.sampled_from([1, PRICE // 2, PRICE, 2 * PRICE, 2 * PRICE + 1]),
            "passed": st.booleans(),
            "with_report": st.booleans(),
            "last_ms": st.integers(0, 20_000),
            "index": st.none() | st.integers(0, 3),
        }
    ),
    max_size=8,
)


def fair_shares(credited: Mapping[Address, int], reserve: int) -> dict[bytes, int]:
    """S24 in fractions, for no more providers than share."""
    total = sum(credited.values())
    return {provider: int(Fraction(reserve * wei, total)) for provider, wei in credited.items()}


@given(st.lists(SESSIONS, min_size=1, max_size=3), st.integers(1, 700))
@settings(max_examples=60, deadline=None)
def test_s35_credits_are_conserved_whatever_is_proposed(batches: list[Any], budget_t: int) -> None:
    world = World(make_terms(speed_samples_min=2), budget_wei=budget_t * PRICE)
    ledger = world.ledger()
    expected: dict[bytes, int] = {}
    for number, sessions in enumerate(batches):
        slot = 10 + number * 60
        common = {"slot": slot - 6, "allowance": min(600, budget_t)}
        pending = [
            world.settlement(**(session | common | {"session": f"{session['session']} of batch {number}"}))
            for session in sessions
        ]
        header, body, rejected = world.propose(ledger, pending, slot=slot)
        assert len(rejected) + len(body.settlements) == len(pending)
        before = encode_ledger(ledger)
        after = world.apply(ledger, header, body)
        assert world.apply(ledger, header, body) == after
        assert encode_ledger(ledger) == before, "the old ledger is as it was"
        if after.day > ledger.day:
            for provider, share in fair_shares(ledger.day_credits, daily_budget(ledger.day) // 10).items():
                expected[provider] += share
        for made in after.outcomes:
            assert made.credited_wei == made.tokens * made.price_wei
            assert (made.credited_wei > 0) == (made.reason == "credited")
            expected[made.provider] = expected.get(made.provider, 0) + made.credited_wei
        assert {who: wei for who, wei in expected.items() if wei} == credits(after)
        assert after.total_credited == sum(credits(after).values()) >= ledger.total_credited
        assert all(account.credited_wei <= account.budget_wei for account in after.days.values())
        assert sum(after.day_credits.values()) <= sum(account.credited_wei for account in after.days.values())
        assert header.bootstrap_credited == after.bootstrap_credited <= reserve_until(after.day, world.terms)
        assert all(use.used <= use.allowance for uses in after.sessions.values() for use in uses.values())
        ledger = after
