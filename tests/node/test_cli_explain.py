"""What ``yellowstone explain`` asks, and the one line that answers what can't be meant."""

from typing import Any

import pytest
from typer.testing import CliRunner

from node import cli
from node.cli_explain import path_of
from node.errors import Unanswerable

ADDRESS = "0x" + "aB" * 20
RFC = "0x" + "07" * 32


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("day", None), "/explain/day"),
        (("day", "12"), "/explain/day/12"),
        (("allowance", ADDRESS), f"/explain/allowance/{ADDRESS}"),
        (("earnings", ADDRESS), f"/explain/earnings/{ADDRESS}"),
        ((RFC, None), f"/explain/rfc/{RFC}"),
        ((RFC.removeprefix("0x"), None), f"/explain/rfc/{RFC.removeprefix('0x')}"),
    ],
)
def test_what_is_asked(words: tuple[str, str | None], path: str) -> None:
    assert path_of(*words) == path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("day", "-1"), "'-1' is no day"),
        (("day", "today"), "'today' is no day"),
        (("allowance", None), "whose allowance?"),
        (("earnings", None), "whose earnings?"),
        (("allowance", ADDRESS + "0"), "is no address"),
        (("allowance", "0xzz" + "0" * 38), "is no address"),
        (("book", None), "'book' is neither"),
        ((RFC, "1"), "is neither"),
    ],
)
def test_what_can_not_be_meant_is_told_in_a_line(words: tuple[str, str | None], told: str) -> None:
    with pytest.raises(Unanswerable, match=told) as refused:
        path_of(*words)
    assert "\n" not in str(refused.value)


def test_the_command_prints_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(_: object, __: object, path: str) -> Any:
        asked.append(path)
        return {"explanation": ["one", "two"]}

    monkeypatch.setattr(cli, "ask_control", answer)
    shown = CliRunner().invoke(cli.app, ["explain", "day", "3"])
    assert (shown.exit_code, shown.output, asked) == (0, "one\ntwo\n", ["/explain/day/3"])
