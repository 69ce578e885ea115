"""The ledger itself against the Compute Contract; ``python -m tests.contracts.fuzz`` does the same for long."""

import random

from tests.contracts.fuzz import fuzz_ledger
from tests.contracts.ledger_side import LedgerSide

KINDS = ("session settled", "session rejected", "batch submitted", "batch kept back", "claim", "nothing to claim")


def test_the_contract_accepts_what_the_ledger_decides_and_refuses_the_forged() -> None:
    done = fuzz_ledger(600, seed=7)
    assert min(done[name] for name in KINDS) > 0
    refused = {name for name in done if name.startswith("refused: compute: ")}
    assert {"refused: compute: over budget", "refused: compute: over reserve"} <= refused


def test_a_ledger_without_batches_for_days_is_caught_up_with() -> None:
    side = LedgerSide(random.Random(3))
    for gap in (1, 45, 1, 250):
        side.batch(gap, 5)
    side.settle_up()
    assert side.ledger.day > 25
