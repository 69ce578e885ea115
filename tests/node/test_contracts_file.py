"""contracts.toml and the address file: what is wrong is named with its key and value."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.deployment_file import Deployed, DeploymentFile, read_deployment, write_deployment
from contracts.errors import DeploymentFileInvalid
from node.cli_contracts import app
from node.contracts_file import load_contracts
from node.errors import ConfigInvalid, ExtraMissing

GOOD = 'name = "n"\nchain_id = 5\n[registry]\nunbonding_s = 60\n'
ADDRESS = "0x" + "ab" * 20


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "contracts.toml"
    path.write_text(text)
    return load_contracts(path)


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "contracts.toml").write_text(GOOD)
    file = load_contracts(tmp_path / "contracts.toml")
    assert file.registry_terms.unbonding_s == 60
    assert (file.token_address, file.source_address, any(file.governor)) == (None, None, False)
    assert file.economics(1_000).genesis_s == 1_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name: is missing"),
        ("name = ", "is not TOML"),
        (GOOD + "surprise = 1\n", "registry.surprise: unknown key"),
        (GOOD.replace("60", "0"), "registry.unbonding_s: 0 is not from 1"),
        (GOOD.replace("60", '"long"'), "registry.unbonding_s: Expected `int`, got `str`"),
        (GOOD.replace("= 5", "= 0"), "chain_id: 0 is not from 1"),
        (GOOD + "slash_percent = 101\n", "registry.slash_percent: 101 is not from 1 to 100"),
        (GOOD + "finder_percent = -1\n", "registry.finder_percent: -1 is not from 0 to 100"),
        (GOOD + "[governance]\ndelay_s = 3600\n", "governance.delay_s: 3600 is not from 86400"),
        (GOOD + '[governance]\ngovernor = "0x12"\n', "governance.governor: '0x12' is not an address"),
        (GOOD + "[governance]\ngovernor = 12\n", "governance.governor: 12 is not an address"),
        (GOOD + f'[token]\naddress = "0x{"0" * 40}"\n', "token.address: '0x0000"),
        (GOOD + '[source]\nkind = "magic"\n', "source.kind: Invalid enum value 'magic'"),
        (GOOD + '[source]\nkind = "existing"\n', "source.address: belongs to kind = 'existing'"),
        (
            GOOD + f'[source]\naddress = "{ADDRESS}"\n',
            "source.address: belongs to kind = 'existing', not to 'transfer'",
        ),
        (GOOD + f'[token]\naddress = "{ADDRESS}"\n[source]\nkind = "deploy"\n', "source.kind: 'deploy' is for a test"),
        (GOOD + "[params]\nslot_ms = 0\n", "params.slot_ms: 0 is not from 1"),
        (GOOD + "[params]\nslot_ms = 333\nday_slots = 10\n", "a day of 3330 ms is not a whole number of seconds"),
        (GOOD + "[params]\nendowment_mor = 77000001\n", "params.endowment_mor: 77000001 is not from 0"),
        (GOOD + "[params]\nbootstrap_days = 366\n", "params.bootstrap_days: 366 is above 365"),
        (GOOD + '[params]\nbudget_policy = "all"\n', "params.budget_policy: Invalid enum value 'all'"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="there is no such file"):
        load_contracts(tmp_path / "nowhere.toml")
    with pytest.raises(DeploymentFileInvalid, match="there is no such file"):
        read_deployment(tmp_path / "nowhere.json")


def test_an_address_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = DeploymentFile(5, ADDRESS, 7, None, {"mor": Deployed(ADDRESS, "0x", 3)})
    write_deployment(tmp_path / "a.json", file)
    assert read_deployment(tmp_path / "a.json") == file
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(DeploymentFileInvalid, match=r"contracts\.registry: is not deployed yet"):
        file.address_of("registry")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deployer": "0x12"}, "deployer: '0x12' is not 0x and 20 bytes of hex"),
        ({"token": "ab" * 20}, "token: 'abab"),
        (
            {"contracts": {"mor": {"address": ADDRESS, "arguments": "0xzz", "block": 1}}},
            "contracts.mor.arguments: '0xzz'",
        ),
        ({"chain_id": "five"}, "is no address file"),
        ({"more": 1}, "is no address file"),
    ],
)
def test_a_bad_address_file_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"chain_id": 5, "deployer": ADDRESS} | change))
    with pytest.raises(DeploymentFileInvalid) as caught:
        read_deployment(path)
    assert words in str(caught.value)


# simulate


def test_a_forecast_is_printed_written_and_drawn(tmp_path: Path) -> None:
    png, csv = tmp_path / "f.png", tmp_path / "f.csv"
    options = ["simulate", "--days", "40", "--rows", "5", "--png", str(png), "--csv", str(csv)]
    said = CliRunner().invoke(app, options, catch_exceptions=False).output.splitlines()
    assert [line.split()[0] for line in said[1:6]] == ["0", "9", "19", "29", "39"]
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(csv.read_text().splitlines()) == 41


def test_a_forecast_without_matplotlib_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'yellowstone-router\[plot\]'"):
        CliRunner().invoke(app, ["simulate", "--png", str(tmp_path / "f.png")], catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--days", "0"], "days of 0"),
        (["--price", "0"], "price_wei of 0"),
        (["--growth", "nan"], "nan is no percentage"),
        (["--tokens", "-1"], "tokens of -1"),
    ],
)
def test_a_demand_that_makes_no_market_is_named(options: list[str], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        CliRunner().invoke(app, ["simulate", *options], catch_exceptions=False)
