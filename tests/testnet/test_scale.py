"""The scale model's arithmetic, on constants that are easy to reckon with; and the matching bench on a small book."""

from dataclasses import replace

import pytest

from consensus.params import NetworkParams
from testnet.bench.matching import BookSize, Market, measure_core, measure_router
from testnet.scale.constants import Constants
from testnet.scale.model import BASE_BYTES, Cost, Design, ceiling_rate, costs, frame_tokens, members, users
from testnet.scale.nodes import node_plan

MS = 1e-3
OF = Constants(
    recover=0.1 * MS,
    rfc_check=0.2 * MS,
    route=1 * MS,
    verify=1 * MS,
    settle=0.1 * MS,
    certificate=0.1 * MS,
    store=0.1 * MS,
    frame=0.1 * MS,
    host=2 * MS,
    repeats=4.0,
    token=0.02 * MS,
    frame_out=0.1 * MS,
    rfc_bytes=300,
    overhead_bytes=250,
    settlement_bytes=1_000,
    bid_bytes=150,
    pass_bytes=400,
    page_bytes=300,
    pair_bytes=200,
    ticket_bytes=600,
)


def by_role(nodes: int, rate: float, design: Design) -> dict[str, Cost]:
    return {cost.role: cost for cost in costs(nodes, rate, OF, design)}


def test_a_part_is_what_its_formula_says() -> None:
    assert dict(by_role(1_000, 100, Design())["full node"].parts)["rfc gossip"] == 0
    full = dict(by_role(1_000, 100, Design(node_shards=16))["full node"].parts)
    assert full["rfc gossip"] == pytest.approx(100 * 5 * 0.1 * MS)
    assert full["rfc checks"] == pytest.approx(100 * 0.2 * MS)
    assert full["settlement checks"] == pytest.approx(100 * 1 * MS)
    assert full["book"] == pytest.approx(3 * 100 / 60 * 0.6 * MS)
    provider = dict(by_role(1_000, 100, Design())["provider"].parts)
    assert provider["streams"] == pytest.approx(100 / 100 * 500 * 0.12 * MS)  # ten answers at once: a frame for each T
    member = dict(by_role(1_000, 64, Design())["member"].parts)
    assert member["routing"] == pytest.approx(1.1 * MS)


def test_a_busy_provider_sends_frames_of_many_t_and_no_more_than_a_voucher_window() -> None:
    assert [round(frame_tokens(answers), 1) for answers in (1, 64, 128, 256, 700, 10_000)] == [1, 1, 3.2, 12.8, 25, 32]
    busy = dict(by_role(100, 700, Design())["provider"].parts)["streams"]
    assert busy == pytest.approx(35_000 * (0.02 + 0.1 / 25) * MS)
    assert dict(by_role(100, 700, Design(paced=False))["provider"].parts)["streams"] == pytest.approx(
        35_000 * 0.12 * MS
    )


def test_what_the_ledger_holds_is_told_by_passes_and_pairs() -> None:
    seen = by_role(10_000, 700, Design())["full node"].memory - BASE_BYTES
    kept = by_role(10_000, 700, Design(keeps_tickets=True))["full node"].memory - BASE_BYTES
    assert kept - seen == pytest.approx(700 * 86_400 * 600)
    passes = 2 * users(10_000)
    wanted = passes * 400 + (passes + 700 * 86_400 / 1_024) * 300 + (passes * 1_000 + 700 * 7_200) * 200
    assert seen == pytest.approx(wanted)


def test_sharing_topics_out_spares_members_and_nothing_is_free() -> None:
    every, shared = (by_role(10_000, 700, Design(followers=count))["member"] for count in (64, 8))
    assert dict(shared.parts)["rfc gossip"] == pytest.approx(dict(every.parts)["rfc gossip"] / 8)
    assert shared.messages < every.messages
    small = by_role(20, 1, Design(followers=8))["member"]
    assert dict(small.parts)["rfc gossip"] == dict(by_role(20, 1, Design(followers=64))["member"].parts)["rfc gossip"]
    for design in (Design(), Design(node_shards=16, checks_batches=False)):
        for role, cost in by_role(100, 10, design).items():
            more = by_role(100, 700, design)[role]
            assert more.cpu > cost.cpu > 0
            assert more.memory > cost.memory > BASE_BYTES


def test_a_batch_bounds_what_can_be_settled() -> None:
    per_batch = NetworkParams().batch_settlements
    assert ceiling_rate(Design()) == per_batch / 12 == 700
    assert ceiling_rate(replace(Design(), batch_settlements=1_200)) == 100
    assert [members(nodes) for nodes in (5, 30, 1_000)] == [4, 10, 64]


def test_the_matching_bench_books_what_it_draws() -> None:
    size = BookSize(providers=12, models=3, bids=2)
    market = Market(size)
    rfc = market.rfc(0, signed=False)
    market.admit(rfc, rfc.id(market.terms.domain))
    drawn = market.draw_next()
    assert drawn.winner in drawn.band
    assert set(drawn.band) <= set(drawn.field)
    before = market.desk.slots_left(drawn.winner.bid)
    market.place(drawn, hashed=True, signed=False)
    assert market.desk.slots_left(drawn.winner.bid) == before - 1
    assert measure_core(size, 40, hashed=True).rate > 0
    assert measure_router(size, 20).rfcs == 20


def test_the_real_network_has_the_models_proportions() -> None:
    plan = node_plan(20)
    counts = [len(plan.of_kind(kind)) for kind in ("member", "provider", "full", "user")]
    assert counts == [6, 2, 4, 8]
    assert len({node.name for node in plan.nodes}) == len(plan.nodes) == 21  # a guest has keys and isn't started
