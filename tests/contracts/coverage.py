"""Line coverage of the Vyper sources by their tests.

``python -m tests.contracts.coverage`` prints a figure per file and the lines that no test runs, and exits with 1 where
a file is below ``--least`` percent. ``--map FILE`` writes which test runs which lines and for how long, for
tests.contracts.mutate.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contracts.artifacts import CONTRACT_NAMES, MODULE_NAMES
from tests.contracts.traced import Line, Trace

ROOT = Path(__file__).parents[2]
TESTS = (
    "bounds",
    "events",
    "economics",
    "compute_contract",
    "registry_contract",
    "hand_over",
    "rescue",
    "slashing",
    "emission_source",
    "mor_contract",
    "contract_views",
)
"""The tests that call contracts on an EVM in this process, the telling ones first."""

SLOW = ("evidence_agrees", "certificate_vectors", "ledger_contract", "twin", "registry_solvency")
"""State machines and whole sets of vectors, which would hold up every mutant that survives."""


PYTEST = ("-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Tests in their order; what has been imported before pytest is not rewritten, and need not be."""


class Recorder:
    """A pytest plugin: which test runs which lines. What is run while tests are collected is every test's."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.by_test: dict[str, set[Line]] = {}
        self.seconds: dict[str, float] = {}
        """How long each test took, in seconds of wall time."""
        self.collected: set[Line] = set()

    def pytest_collection_finish(self) -> None:
        """Modules have been imported."""
        self.collected = self.trace.take()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """One test from setup to teardown."""
        started = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = round(time.monotonic() - started, 4)
        self.by_test[item.nodeid] = self.trace.take()
        return result


def files_of(names: Sequence[str]) -> list[str]:
    """The tests' files."""
    return [str(ROOT / "tests/contracts" / f"test_{name}.py") for name in names]


def record(files: list[str]) -> tuple[int, Recorder]:
    """Run the tests of ``files``; pytest's exit status and what was run."""
    with Trace().listening() as trace:
        recorder = Recorder(trace)
        status = pytest.main(["-q", *PYTEST, *files], plugins=[recorder])
    return int(status), recorder


def report(recorder: Recorder, least: float) -> bool:
    """Print a line per source and say whether each is covered enough."""
    run = recorder.collected.union(*recorder.by_test.values())
    wanted = recorder.trace.executable()
    is_enough = True
    for name in (*CONTRACT_NAMES, *MODULE_NAMES):
        lines = {line for source, line in wanted if source == name}
        missed = sorted(lines - {line for source, line in run if source == name})
        percent = 100 * (len(lines) - len(missed)) / len(lines)
        is_enough &= percent >= least
        print(f"{name + '.vy':20} {percent:6.2f} %  {len(lines) - len(missed)} of {len(lines)} lines", end="")
        print(f"  missed: {', '.join(map(str, missed))}" if missed else "")
    return is_enough


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.contracts.coverage", description=__doc__)
    parser.add_argument("--least", type=float, default=98.0, help="percent of lines, of every file")
    parser.add_argument("--map", type=Path, help="write there which of the quick tests runs which lines")
    options = parser.parse_args(arguments)
    status, recorder = record(files_of(TESTS if options.map is not None else (*TESTS, *SLOW)))
    if options.map is not None:
        everywhere = sorted(recorder.collected)
        by_test = {test: sorted(lines) for test, lines in recorder.by_test.items()}
        written = {"collected": everywhere, "tests": by_test, "seconds": recorder.seconds}
        options.map.parent.mkdir(parents=True, exist_ok=True)
        options.map.write_text(json.dumps(written), encoding="utf-8")
    is_enough = report(recorder, options.least)
    return 0 if status == 0 and is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
