"""The ledger itself against the Compute Contract; ``python -m tests.contracts.fuzz`` does the same for long."""

import random

import pytest

from tests.contracts.fuzz import fuzz_ledger
from tests.contracts.ledger_side import DAY_SLOTS, LedgerSide

KINDS = ("session settled", "session rejected", "batch submitted", "batch kept back", "claim", "nothing to claim")


def test_the_contract_accepts_what_the_ledger_decides_and_refuses_the_forged() -> None:
    done = fuzz_ledger(600, seed=7)
    assert min(done[name] for name in KINDS) > 0
    refused = {name for name in done if name.startswith("refused: compute: ")}
    assert {"refused: compute: over budget", "refused: compute: over reserve"} <= refused


@pytest.mark.parametrize("policy", ["emission", "pool"])
def test_deposits_are_held_forfeited_and_paid_back_within_what_the_contract_allows(policy: str) -> None:
    params = {"audit_slots": 4, "audit_bps": 300, "deposit_tokens": 40, "deposit_slots": 16, "endowment_mor": 100_000}
    side = LedgerSide(random.Random(7), budget_policy=policy, **params)
    for sessions in (25, 25, 0, 0, 25, 3, 0, 25, 0):
        side.batch(2 if sessions else DAY_SLOTS, sessions)
    side.settle_up()
    assert side.most_at_stake > 0
    assert side.released_wei > 0


def test_a_ledger_without_batches_for_days_is_caught_up_with() -> None:
    side = LedgerSide(random.Random(3))
    for gap in (1, 45, 1, 250):
        side.batch(gap, 5)
    side.settle_up()
    assert side.ledger.day > 25
