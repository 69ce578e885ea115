"""What calls cost, against the figures of gas.json: none may rise by more than 2 %.

``python -m tests.contracts.test_gas`` writes them anew, with ``--check`` it only prints them. Seven members, 1,000
providers, steady state: every word that is written held something else before.
"""

import json
import sys
from pathlib import Path

import pytest

from contracts.artifacts import load_artifact
from contracts.bindings import certificate
from contracts.merkle import merkle_proof
from contracts.typed_data import Address
from tests.contracts.local_chain import MOR, World

SNAPSHOT = Path(__file__).parent / "gas.json"
LIMITS = {"certificate and claim": 150_000, "claim": 63_000, "each further provider of claim_many": 45_000}
ROSE_PERCENT = 2
CROWD = [Address(bytes([1 + number % 251]) * 18 + number.to_bytes(2, "big")) for number in range(1_000)]


def gas(world: World, function: str, *arguments: object) -> int:
    """What a transaction of its own would cost: its own start, its data, and storage as the one before left it."""
    state = world.chain.env.evm.vm.state
    state.lock_changes()
    state._account_db._reset_access_counters()  # what py-evm itself does between transactions
    data = load_artifact("compute").encode_call(function, *arguments)
    used = world.compute.send(data).get_gas_used()
    return int(used) + 21_000 + sum(16 if byte else 4 for byte in data)


def measure() -> dict[str, int]:
    world = World([100] * 7, funds=90_000_000 * MOR)
    credits = {provider: 12_345_678_901_234_567 * (number + 7) for number, provider in enumerate(CROWD)}
    world.submit(world.header(1, credits, 8))
    for start in range(0, 200, 50):
        many = [(who, credits[who], merkle_proof(credits, who)) for who in CROWD[start : start + 50]]
        world.compute("claim_many", 1, many)
    found: dict[str, int] = {}

    def later(height: int, slot: int) -> tuple[object, dict[Address, int]]:
        grown = {provider: wei + height * 777_123_456_789_123_456 for provider, wei in credits.items()}
        return world.header(height, grown, slot), grown

    for height, slot, name in ((2, 9, "certificate and claim"), (3, 17, "certificate and claim on a new day")):
        header, grown = later(height, slot)
        who = CROWD[0]
        signed = certificate(header, 0, world.sign(header))  # type: ignore[arg-type]  # a BatchHeader
        found[name] = gas(world, "claim_with_certificate", *signed, who, grown[who], merkle_proof(grown, who))
    header, grown = later(4, 18)
    found["certificate"] = gas(world, "submit", *certificate(header, 0, world.sign(header)))  # type: ignore[arg-type]  # as above
    found["claim"] = gas(world, "claim", CROWD[1], grown[CROWD[1]], 4, merkle_proof(grown, CROWD[1]))
    one = [(CROWD[2], grown[CROWD[2]], merkle_proof(grown, CROWD[2]))]
    many = [(who, grown[who], merkle_proof(grown, who)) for who in CROWD[100:150]]
    alone = gas(world, "claim_many", 4, one)
    found["claim_many of one"] = alone
    found["each further provider of claim_many"] = (gas(world, "claim_many", 4, many) - alone) // 49
    newcomer = CROWD[500]
    found["a provider's first claim"] = gas(world, "claim", newcomer, grown[newcomer], 4, merkle_proof(grown, newcomer))
    return found


def per_inference(found: dict[str, int], inferences: int = 1_000_000, claimants: int = 100) -> float:
    """Gas an inference where every claimant of a day claims alone, and one of them with the certificate."""
    return (found["certificate and claim on a new day"] + (claimants - 1) * found["claim"]) / inferences


def per_inference_together(found: dict[str, int], inferences: int = 1_000_000, claimants: int = 100) -> float:
    """Gas an inference where one call pays them all after the day's certificate, 64 at most in each."""
    calls = -(-claimants // 64)
    each = found["each further provider of claim_many"]
    payments = calls * found["claim_many of one"] + (claimants - calls) * each
    new_day = found["certificate and claim on a new day"] - found["certificate and claim"]
    return (found["certificate"] + new_day + payments) / inferences


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    return measure()


def test_nothing_costs_two_percent_more_than_it_did(found: dict[str, int]) -> None:
    snapshot = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert set(found) == set(snapshot)
    assert {name: cost for name, cost in found.items() if cost * 100 > snapshot[name] * (100 + ROSE_PERCENT)} == {}


def test_the_limits_are_kept(found: dict[str, int]) -> None:
    assert {name: found[name] for name, limit in LIMITS.items() if found[name] > limit} == {}


def test_s5_an_inference_costs_ten_gas_at_most(found: dict[str, int]) -> None:
    assert per_inference(found) <= 10


if __name__ == "__main__":
    costs = measure()
    if "--check" not in sys.argv:
        SNAPSHOT.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(costs, indent=1))
    alone, together = per_inference(costs), per_inference_together(costs)
    print("A day of 1,000,000 inferences and 100 claimants, each paid before:")
    print(f"{alone:.2f} gas an inference where each claims alone, {together:.2f} where claim_many pays them")
