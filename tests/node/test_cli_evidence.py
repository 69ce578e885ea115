"""What ``yellowstone evidence`` prints."""

from typing import Any

from typer.testing import CliRunner

from node import cli
from node.cli_evidence import lines_of

CASE: dict[str, Any] = {
    "id": "0x1d",
    "kind": "prevote",
    "offender": "0xbad",
    "height": 7,
    "round": 2,
    "first_seen_ms": 1_700_000_000_000,
    "punishable": True,
    "slashed": None,
    "fate": "open",
    "detail": "",
    "tx_hash": None,
    "reward_wei": 0,
    "evidence": "0x",
}
ABUSE = CASE | {"kind": "rfc_index", "punishable": False, "day": 4, "session_key": "0x5e", "issuer": "0x40"}


def test_nothing_known_is_said() -> None:
    assert lines_of([]) == ["no evidence against anybody"]


def test_who_what_where_and_when() -> None:
    assert lines_of([CASE]) == [
        "0xbad signed two prevotes",
        "  at height 7, round 2, first seen 2023-11-14 22:13:20+00:00, offence 0x1d",
        "  not slashed yet, as far as this node knows",
    ]
    assert lines_of([ABUSE])[1].startswith("  on day 4, session key 0x5e, pass by 0x40, first seen")
    assert lines_of([ABUSE])[2] == "  no stake to slash: the pass has ended"
    assert lines_of([ABUSE | {"kind": "access_pass"}])[2] == "  not slashed on chain"


def test_what_came_of_it() -> None:
    ours = CASE | {"fate": "slashed", "slashed": True, "tx_hash": "0x77", "reward_wei": 50}
    assert lines_of([ours])[2] == "  slashed by this node: 50 wei finder's share, transaction 0x77"
    late = CASE | {"fate": "punished", "slashed": True, "detail": "registry: already punished"}
    assert lines_of([late])[2] == "  slashed (registry: already punished)"
    assert lines_of([CASE | {"fate": "refused", "slashed": False, "detail": "why"}])[2] == "  not slashed (why)"


def test_the_command_asks_the_node(monkeypatch: Any) -> None:
    asked: list[str] = []

    def answer(_: object, __: object, path: str) -> Any:
        asked.append(path)
        return [CASE]

    monkeypatch.setattr(cli, "ask_control", answer)
    shown = CliRunner().invoke(cli.app, ["evidence"])
    assert (shown.exit_code, shown.output.splitlines()[0]) == (0, "0xbad signed two prevotes")
    assert '"offender": "0xbad"' in CliRunner().invoke(cli.app, ["evidence", "--json"]).output
    assert asked == ["/evidence"] * 2
