"""Listing orders in simulated committees (S8): what enough operators say comes true, and nothing else does."""

from typing import Any

import pytest
from msgspec.structs import replace

from contracts.signing import Key
from contracts.typed_data import Digest
from gossip.messages.base import sign
from gossip.messages.committee import CertifiedBatch
from gossip.messages.listing import ListingFrame, ListingOrder, ListModel
from testnet.simulator.byzantine import Liar
from testnet.simulator.errors import Violation
from testnet.simulator.faults import Byzantine, FaultPlan, Misdeed
from testnet.simulator.happenings import Arrives, OperatorSpeaks
from testnet.simulator.listing import MODELS, ListingOracle, Operator
from testnet.simulator.setting import PARAMS, make_setting
from testnet.simulator.simulation import Simulation, simulate
from testnet.simulator.trace import describe
from testnet.simulator.workload import MODEL

SETTING = make_setting(4)
DAY = PARAMS.day_slots
SLOTS = 20


def run(*operators: Operator, **faults: Any) -> Simulation:
    simulation = Simulation(SETTING, FaultPlan("listing", operators=operators, **faults), 1, SLOTS)
    result = simulation.run()
    assert result.violation is None, result.violation
    return simulation


def test_what_enough_operators_say_comes_true_on_the_next_day() -> None:
    simulation = run(*(Operator(key, 2 + key, 0, is_listed=True) for key in range(3)))
    listing = simulation.oracle.ledger.listing
    assert set(listing.on(0)) == {MODEL}
    assert set(listing.on(1)) == {MODEL, MODELS[0]}
    assert simulation.oracle.listing.taken == 1


def test_two_of_four_change_nothing() -> None:
    simulation = run(*(Operator(key, 2, 0, is_listed=True) for key in range(2)))
    assert simulation.oracle.listing.taken == 0


def test_under_all_faults_only_what_enough_ordered_is_decided() -> None:
    results = [simulate(plan, seed, 4, SLOTS) for plan in ("succession", "all") for seed in range(4)]
    assert [result.violation for result in results] == [None] * len(results)
    assert sum(result.listings for result in results) > 0


def test_a_proposer_that_forges_or_repeats_orders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liar, "_wrong_root", Liar._wrong_listing)
    monkeypatch.setattr(Liar, "_unfair_opening", Liar._wrong_listing)
    monkeypatch.setattr(Liar, "_slot_to_come", Liar._wrong_listing)
    told: list[ListingOrder] = []
    original = Liar._wrong_listing

    def note(liar: Liar, frame: Any) -> Any:
        wrong = original(liar, frame)
        told.extend(wrong.body.listings)
        return wrong

    monkeypatch.setattr(Liar, "_wrong_listing", note)
    liars = (Byzantine(3, (Misdeed.MISLEAD, Misdeed.FORGE), percent=90),)
    simulation = run(*(Operator(key, 2, 0, is_listed=True) for key in range(3)), byzantine=liars)
    assert simulation.oracle.listing.taken == 1
    assert {one.order.model_id for one in told} == {MODEL, MODELS[0]}, "it forged one and repeated the other"
    assert set(simulation.oracle.ledger.listing.on(9)) == {MODEL, MODELS[0]}


# The oracle.


def decided(order: ListModel, *signers: Key, slot: int = 3) -> CertifiedBatch:
    """The first batch of a run, as if it had told of an order."""
    batch = run().nodes[0].disk.batches[0]
    told = ListingOrder(order, tuple(key.sign(order, SETTING.terms.domain) for key in signers))
    return replace(batch, header=replace(batch.header, slot=slot), body=replace(batch.body, listings=(told,)))


@pytest.fixture
def oracle() -> ListingOracle:
    """One that has heard keys 0 to 2 give the order to list a model, on day 0."""
    made = ListingOracle(SETTING.terms, frozenset({MODEL}), frozenset())
    for key in SETTING.keys[:3]:
        made.on_given(key.address, ListModel(MODELS[0], True, 0))
    return made


@pytest.mark.parametrize(
    ("order", "signers", "slot", "expected"),
    [
        (ListModel(MODELS[0], True, 0), 2, 3, "too few"),
        (ListModel(MODELS[0], True, 0), 4, 3, "whose operator said no such thing"),
        (ListModel(MODELS[0], False, 0), 3, 3, "whose operator said no such thing"),
        (ListModel(MODELS[0], True, 1), 3, 3, "was taken on day 0"),
        (ListModel(MODELS[0], True, 0), 3, 7 * DAY, "was taken on day 7"),
    ],
)
def test_the_oracle_objects(oracle: ListingOracle, order: ListModel, signers: int, slot: int, expected: str) -> None:
    with pytest.raises(Violation, match=expected):
        oracle.on_decided(decided(order, *SETTING.keys[:signers], slot=slot), SETTING.committee)


def test_the_oracle_knows_the_list_of_every_day(oracle: ListingOracle) -> None:
    order = ListModel(MODELS[0], True, 0)
    oracle.on_decided(decided(order, *SETTING.keys[:3]), SETTING.committee)
    assert [oracle.listed(day) for day in (0, 1)] == [{MODEL}, {MODEL, MODELS[0]}]
    with pytest.raises(Violation, match="after a later one"):
        oracle.on_decided(decided(order, *SETTING.keys[:3]), SETTING.committee)


def test_orders_are_told_in_words() -> None:
    order, key = ListModel(Digest(b"\xab" * 32), False, 3), SETTING.keys[0]
    frame = ListingFrame(sign(order, key, SETTING.terms.domain))
    assert describe(Arrives(0, 1, frame)) == "1 -> 0  ListingFrame of day 3 to unlist 0xabababab"
    assert describe(OperatorSpeaks(2, 1, is_listed=True)) == "2  is told to list model 1"
