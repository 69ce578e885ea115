"""One set of figures for both sides: the ledger's vectors against the bytecode, and the bytecode's against the file."""

import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from contracts.bindings import compute_arguments
from contracts.budget import Economics
from contracts.typed_data import ZERO_ADDRESS
from testnet.evm import Contract, LocalChain
from tests.consensus.market import economics_vectors
from tests.consensus.market.economics_vectors import ENDOWMENT_MOR, terms_of
from tests.contracts import contract_figures
from tests.contracts.local_chain import MOR
from tests.contracts.twin import PROVIDERS

LEDGERS: dict[str, list[dict[str, Any]]] = json.loads(economics_vectors.PATH.read_text(encoding="utf-8"))


def deployed(chain: LocalChain, economics: Economics) -> Contract:
    return chain.deploy("compute", *compute_arguments(PROVIDERS[0], PROVIDERS[1], economics, ZERO_ADDRESS, 0))


def disagreements(vectors: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Every figure of the ledger's vectors that the contract's views don't give."""
    chain = LocalChain()
    contracts = {
        policy: deployed(chain, terms_of(budget_policy=policy, endowment_mor=ENDOWMENT_MOR).economics)
        for policy in ("emission", "pool")
    }
    compute = contracts["emission"]
    for case in vectors["access"]:
        budget, price, supply, max_t = (
            int(case[name]) for name in ("budget_wei", "reference_price_wei", "supply_wei", "max_t")
        )
        if (compute("max_t", budget, price), compute("access_rate", max_t, supply)) != (
            max_t,
            int(case["access_rate"]),
        ):
            yield f"access: {case}"
        for holder in case["holders"]:
            if compute("user_max", max_t, supply, int(holder["balance_wei"])) != int(holder["user_max"]):
                yield f"holder: {holder}"
    for case in vectors["dollars"]:
        mor, per_1000 = (int(Fraction(case[name]) * MOR) for name in ("dollars_per_mor", "dollars_per_1000_t"))
        if compute("max_t_dollars", int(Fraction(case["budget_mor"]) * MOR), mor, per_1000) != int(case["max_t"]):
            yield f"dollars: {case}"
    for case in vectors["budget"]:
        if contracts[case["policy"]]("budget", case["day"], int(case["credited_wei"])) != int(case["budget_wei"]):
            yield f"budget: {case}"
    for case in sorted(vectors["bootstrap"], key=lambda case: int(case["day"])):
        start_s = case["day"] * 86_400
        reserved = deployed_at(start_s)("reserve")
        if reserved != int(case["reserve_before_wei"]):
            yield f"reserve: {case}"


def deployed_at(now_s: int) -> Contract:
    """A contract whose network began ``now_s`` seconds ago."""
    chain = LocalChain()
    chain.env.evm.patch.timestamp = now_s
    return deployed(chain, terms_of().economics)


def test_s38_s39_the_contract_gives_the_ledgers_vectors() -> None:
    assert list(disagreements(LEDGERS)) == []


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("access", "max_t"),
        ("access", "access_rate"),
        ("dollars", "max_t"),
        ("budget", "budget_wei"),
        ("bootstrap", "reserve_before_wei"),
    ],
)
def test_a_wrong_vector_would_be_noticed(section: str, name: str) -> None:
    first, *rest = LEDGERS[section]
    wrong = first | {name: str(int(first[name]) + 1)}
    empty: dict[str, list[dict[str, Any]]] = {other: [] for other in LEDGERS}
    assert list(disagreements(empty | {section: [wrong, *rest[:1]]}))


def test_the_figures_are_what_the_contract_answers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contract_figures.main(["--check"]) == 0, "written anew by python -m tests.contracts.contract_figures"
    wrong = contract_figures.PATH.read_text(encoding="utf-8").replace('"pool": "', '"pool": "1', 1)
    monkeypatch.setattr(contract_figures, "PATH", tmp_path / "contract_figures.json")
    contract_figures.PATH.write_text(wrong, encoding="utf-8")
    assert contract_figures.main(["--check"]) == 1
