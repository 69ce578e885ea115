"""``yellowstone committee list``: what is shown before anything is signed, and what is signed then."""

from typing import Any

import pytest
from typer.testing import CliRunner

from node import cli_committee

MODEL = "0x" + "07" * 32
BIDS = [
    {
        "provider": "0x" + "01" * 20,
        "price_wei": 90,
        "slots": 2,
        "scores": True,
        "has_proven": True,
        "balance_wei": 2 * 10**18,
    },
    {
        "provider": "0x" + "02" * 20,
        "price_wei": 95,
        "slots": 2,
        "scores": False,
        "has_proven": False,
        "balance_wei": None,
    },
]
SEEN = {
    "model_id": MODEL,
    "name": "small",
    "is_listed": False,
    "bids": BIDS,
    "orders": [{"model_id": MODEL, "is_listed": True, "day": 3, "members": [], "stake_percent": 25.0}],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Method and path of everything that was asked of the node."""
    made: list[tuple[str, str]] = []

    def answer(_: object, __: object, path: str, method: str = "GET") -> Any:
        made.append((method, path))
        return SEEN if method == "GET" else {"model_id": MODEL, "is_listed": True, "day": 3, "in_force": 4}

    monkeypatch.setattr(cli_committee, "ask_control", answer)
    return made


def test_who_bids_is_shown_before_it_is_signed(asked: list[tuple[str, str]]) -> None:
    shown = CliRunner().invoke(cli_committee.app, ["list", MODEL], input="y\n")
    assert shown.exit_code == 0
    before, after = shown.output.split("sign the order")
    assert f"bid           {BIDS[0]['provider']}  90 wei per T  2.00 MOR  scores, proven" in before
    assert f"bid           {BIDS[1]['provider']}  95 wei per T  MOR unknown  does not score, not proven here" in before
    assert "2 addresses" in before
    assert "to list, of day 3: 25.0 % of voting power" in before
    assert "from day 4 on" in after
    assert asked == [("GET", f"/committee/listing/{MODEL}"), ("POST", f"/committee/list/{MODEL}")]


def test_nothing_is_signed_that_is_not_confirmed(asked: list[tuple[str, str]]) -> None:
    shown = CliRunner().invoke(cli_committee.app, ["unlist", MODEL], input="n\n")
    assert shown.exit_code == 1
    assert [method for method, _ in asked] == ["GET"]
    assert CliRunner().invoke(cli_committee.app, ["unlist", MODEL, "--yes"]).exit_code == 0
    assert asked[-1] == ("POST", f"/committee/unlist/{MODEL}")
