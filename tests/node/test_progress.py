"""Progress: a bar on a terminal, a line for each tenth elsewhere."""

import io
from typing import Any, cast

import pytest
import structlog
import trio
import trio.testing
from rich.console import Console
from structlog.testing import CapturingLogger

from node import progress
from node.progress import in_log, on_console, still_loading

MIB = 1 << 20


def logger() -> tuple["structlog.stdlib.BoundLogger", CapturingLogger]:
    captured = CapturingLogger()
    return cast("structlog.stdlib.BoundLogger", structlog.wrap_logger(captured, processors=[])), captured


def test_a_log_hears_each_tenth_once_and_nothing_of_small_work() -> None:
    log, captured = logger()
    report = in_log(log)
    for done in range(0, 101):
        report("hashing x", done * MIB, 100 * MIB)
    report("hashing small", MIB, MIB)
    shown = [call.kwargs for call in captured.calls]
    assert [line["done_mib"] for line in shown] == list(range(10, 101, 10))
    assert {line["of_mib"] for line in shown} == {100}
    report("hashing x", 10 * MIB, 100 * MIB)
    assert len(captured.calls) == 11, "work that begins anew is told anew"


def test_work_of_unknown_size_is_told_by_the_gib() -> None:
    log, captured = logger()
    report = in_log(log)
    for done in range(0, 2_100, 100):
        report("fetching x", done * MIB, 0)
    assert [call.kwargs["done_mib"] for call in captured.calls] == [1_100]


def test_a_file_for_a_console_gets_lines() -> None:
    out = io.StringIO()
    with on_console(Console(file=out, width=100)) as report:
        report("hashing [x]", 50 * MIB, 100 * MIB)
        report("hashing [x]", 100 * MIB, 100 * MIB)
    assert out.getvalue().splitlines() == ["hashing [x]: 50 % of 100 MiB", "hashing [x]: 100 % of 100 MiB"]


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    with on_console(Console(file=out, width=100, force_terminal=True)) as report:
        report("hashing [x]", 50 * MIB, 100 * MIB)
    assert "hashing [x]" in out.getvalue()
    assert "52.4/104.9 MB" in out.getvalue()


async def test_loading_is_told_while_it_lasts(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, captured = logger()
    async with trio.open_nursery() as nursery:
        with still_loading(nursery, log, "big"):
            await trio.sleep(2.5 * progress.LOADING_EVERY_S)
    told: list[Any] = [(call.args or call.kwargs.get("event"), call.kwargs["seconds"]) for call in captured.calls]
    assert [seconds for _, seconds in told] == [5, 10, 12.5]
