"""Put faults into the Vyper sources, one at a time, and see that the contracts' tests notice each.

``python -m tests.contracts.mutate`` runs the tests that touch a fault's line (tests.contracts.coverage finds them)
against each mutant, each in a process of its own, and exits with 1 where one survives that survivors.toml doesn't
explain, or where survivors.toml explains one that doesn't survive. What has been found is kept in ``--results``, so a
run that was stopped goes on where it was.
"""

import argparse
import gc
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import boa  # noqa: F401 - before processes are forked
import msgspec
import pytest
from hypothesis import Phase, settings

from contracts import artifacts
from contracts.artifacts import CONTRACT_NAMES, MODULE_NAMES, Artifact, load_artifact
from contracts.build import SOURCES_DIR
from tests.contracts import coverage
from tests.contracts.mutants import Mutant, mutants_of
from tests.contracts.quicker_vyper import remember_what_is_optimal

SURVIVORS = Path(__file__).parent / "survivors.toml"
CACHE = coverage.ROOT / ".cache" / "mutation"
SOURCES = ("compute", "registry", "emission", "emission_source", "mor", "lens")
IMPORTERS = {"emission": ("emission_source", "compute")}
"""What is compiled anew when a module changes, one after the other, the quicker to fail first."""

PATIENCE_S = 600
"""A mutant that keeps its tests busy for so long has been noticed."""

FAVOURITES = 8
"""So many of the tests that have noticed the most faults of a source come before the quick ones."""

EDGES = ("bounds", "events")
"""Files that hold what no other test comes near."""

SLOW, SLOW_S = "slow", 3.0
"""Tests that take more than so many seconds are only asked about lines whose reason to revert they name, and about
constants: they would hold up every mutant that survives."""

REASON = re.compile(r'"(\w+: [^"]+)"')

Tests = dict[str, list[str]]
"""The tests that run a source, ``compute``, or a line of it, ``compute:12``; the quickest first."""


Outcome = tuple[str, str]
"""``killed``, ``survived``, ``same code``, ``no code`` or ``broken``, and which test noticed."""


class Known:
    """What earlier runs and this one have found: a line of JSON for each mutant, name, outcome and test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        """All that is known now; other processes write on."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def ordered(self, mutant: Mutant, tests: list[str]) -> list[str]:
        """``tests``, the likeliest to notice first.

        Those that have noticed a fault of the same line, those that name the line's reason to revert, those that have
        noticed the most of the source's faults, and those that look for edges.
        """
        lines = [line for line in self.lines() if line[2:]]
        here = [line[2] for line in lines if line[0].startswith(f"{mutant.contract}: {mutant.text} | ")]
        named = [test for test in tests if _is_named(mutant, test)]
        killers = Counter(line[2] for line in lines if line[0].startswith(f"{mutant.contract}: "))
        favourites = [test for test, _ in killers.most_common() if test in tests][:FAVOURITES]
        edges = [test for test in tests if any(f"/test_{name}.py" in test for name in EDGES)]
        quick = set(tests[: -max(1, len(tests) // 20)])  # the slowest stay last
        first = dict.fromkeys(test for test in (*here, *named, *favourites, *edges) if test in quick)
        return list(dict.fromkeys([*first, *tests]))


def _is_named(mutant: Mutant, test: str) -> bool:
    """Whether a test expects the reason to revert that is in the mutant's line."""
    file, name = test.split("::")[:2]
    own = [part for part in _parts(file) if f"def {name.split('[')[0]}(" in part]
    return any(reason in part for reason in REASON.findall(mutant.text) for part in own)


@cache
def _parts(file: str) -> list[str]:
    """A test file's functions, each with what decorates it."""
    return (coverage.ROOT / file).read_text(encoding="utf-8").split("\n\n\n")


class Collected:
    """A pytest plugin: the tests are collected, and ``work`` is done in place of running them."""

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self.work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All tests are known."""
        self.work(session)
        return True


class Witness:
    """A pytest plugin: which test failed first."""

    def __init__(self) -> None:
        self.noticed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's setup, call or teardown is over."""
        if report.failed:
            self.noticed = self.noticed or report.nodeid


@dataclass(frozen=True)
class Bench:
    """What every mutant is judged with, handed to processes by forking."""

    session: pytest.Session
    tests: Tests
    known: Known


def outcome_of(mutant: Mutant, importer: str, bench: Bench) -> Outcome:
    """What becomes of a mutant, in a process of its own.

    ``importer`` is the one contract that has the fault; the others stay as they are.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for place in (1, 2):
        os.dup2(nowhere, place)
    gc.disable()  # the compiler's syntax trees are needed until it is done
    remember_what_is_optimal()
    compiled = _compile(mutant, importer)
    gc.enable()
    if compiled is None:
        return "no code", ""
    if not compiled:
        return "same code", ""
    # a line that no single test runs is a constant, or is run by all that deploy the contract
    chosen = bench.tests.get(f"{mutant.contract}:{mutant.line}") or bench.tests[importer]
    chosen = [test for test in chosen if test in bench.tests[importer]]  # what a module's other importers do is sound
    chosen = chosen + [test for test in bench.tests[SLOW] if _is_named(mutant, test) and test not in chosen]
    with TemporaryDirectory() as folder:
        for name in CONTRACT_NAMES:
            made = compiled.get(name) or load_artifact(name)
            (Path(folder) / f"{name}.json").write_bytes(msgspec.json.encode(made))
        artifacts.ARTIFACTS_DIR = Path(folder)
        load_artifact.cache_clear()
        return _verdict(bench.session, bench.known.ordered(mutant, chosen))


def _compile(mutant: Mutant, importer: str) -> dict[str, Artifact] | None:
    """The artifact of ``importer``, by its name, where it differs; None where the mutant is no program."""
    from vyper.compiler import compile_code
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.exceptions import VyperException, VyperInternalException

    with TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for name in (*CONTRACT_NAMES, *MODULE_NAMES):
            source = (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8")
            text = mutant.applied(source) if name == mutant.contract else source
            (folder / f"{name}.vy").write_text(text, encoding="utf-8")
        try:
            code = compile_code(
                (folder / f"{importer}.vy").read_text(encoding="utf-8"),
                input_bundle=FilesystemInputBundle([folder]),
                output_formats=["bytecode", "bytecode_runtime"],
            )
        except (VyperException, VyperInternalException, ArithmeticError, ValueError):
            return None
    old = load_artifact(importer)
    made = msgspec.structs.replace(
        old, bytecode=code["bytecode"].removeprefix("0x"), runtime=code["bytecode_runtime"].removeprefix("0x")
    )
    return {} if made == old else {importer: made}


def _verdict(session: pytest.Session, tests: list[str]) -> Outcome:
    witness = Witness()
    session.config.pluginmanager.register(witness)
    items = {item.nodeid: item for item in session.items}
    chosen = [items[test] for test in tests]
    signal.alarm(PATIENCE_S)
    for item, following in zip_longest(chosen, chosen[1:]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if witness.noticed:
            return "killed", witness.noticed
    return "survived", ""


def tests_by_line(path: Path) -> Tests:
    """What ``tests.contracts.coverage --map`` has written, the other way round; the quickest test first."""
    written = json.loads(path.read_text(encoding="utf-8"))
    everybodys = {f"{source}:{line}" for source, line in written["collected"]}
    found: Tests = {SLOW: []}
    for test in sorted(written["tests"], key=written["seconds"].__getitem__):
        places = {f"{source}:{line}" for source, line in written["tests"][test]}
        sources = {place.split(":")[0] for place in places}
        if written["seconds"][test] > SLOW_S:
            found[SLOW].append(test)
            places = sources
        for place in (places - everybodys) | sources:
            found.setdefault(place, []).append(test)
    return found


_benches: list[Bench] = []
"""The one of this process, once it is forked."""


def _judged(mutant: Mutant) -> list[str]:
    """The mutant's line of results; a module's fault is put into each contract that imports the module."""
    outcomes: list[Outcome] = []
    for importer in IMPORTERS.get(mutant.contract, (mutant.contract,)):
        outcomes.append(_in_a_child(mutant, importer, _benches[-1]))
        if outcomes[-1][0] in {"killed", "broken"}:
            return [mutant.name, *outcomes[-1]]
    return [mutant.name, *max(outcomes, key=lambda outcome: outcome[0] == "survived")]


def _in_a_child(mutant: Mutant, importer: str, bench: Bench) -> Outcome:
    """:func:`outcome_of` in a fork: tests leave modules, caches and a broken contract behind."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(outcome_of(mutant, importer, bench)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answered:
        said = answered.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if said:
        outcome, test = json.loads(said)
        return outcome, test
    return ("killed", f"busy for {PATIENCE_S} s") if code == 9 else ("broken", "")


def run(mutants: list[Mutant], tests: Tests, known: Known, processes: int) -> dict[str, str]:
    """The outcome of each by name; those that are known are not run again."""
    outcomes = {name: outcome for name, outcome, *_ in known.lines()}
    left = [mutant for mutant in mutants if mutant.name not in outcomes]

    def work(session: pytest.Session) -> None:
        gc.collect()
        gc.freeze()
        bench = Bench(session, tests, known)
        context = multiprocessing.get_context("fork")
        with context.Pool(processes, _benches.append, (bench,)) as pool, known.path.open("a", encoding="utf-8") as log:
            for number, line in enumerate(pool.imap_unordered(_judged, left), 1):
                name, outcome, _ = line
                outcomes[name] = outcome
                print(json.dumps(line), file=log, flush=True)
                if outcome not in {"killed", "no code", "same code"}:
                    print(f"{number} of {len(left)}: {outcome}: {name}", flush=True)

    if left:
        known.path.parent.mkdir(parents=True, exist_ok=True)
        # a failure is enough: it need not be made small, nor be remembered
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", phases=phases, database=None, derandomize=True)
        settings.load_profile("mutants")
        options = (*coverage.PYTEST, "-qq", "-s", "--tb=no", "--no-header", "--no-summary")
        pytest.main([*options, *coverage.files_of(coverage.TESTS)], plugins=[Collected(work)])
    return {mutant.name: outcomes[mutant.name] for mutant in mutants}


def judge(outcomes: dict[str, str], reasons: dict[str, str]) -> list[str]:
    """What is wrong: survivors without a reason, and reasons for what doesn't survive."""
    wrong = [f"{outcome}: {name}" for name, outcome in outcomes.items() if outcome in {"survived", "broken"}]
    unexplained = [line for line in wrong if line.split(": ", 1)[1] not in reasons]
    stale = [f"explained, but killed: {name}" for name in reasons if outcomes.get(name, "survived") != "survived"]
    return unexplained + stale


def explained() -> dict[str, str]:
    """Why each known survivor is none of the tests' business, by its name."""
    entries = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivor"]
    return {mutant: entry["reason"] for entry in entries for mutant in entry["mutants"]}


def _mapped(lines: Path) -> bool:
    """Whether the tests pass on the contracts as they are; writes which lines each runs.

    In a process of its own: a network that the tests deploy here would be the one that they ask in every fork.
    """
    command = [sys.executable, "-m", "tests.contracts.coverage", "--least", "0", "--map", str(lines)]
    return subprocess.run(command, cwd=coverage.ROOT, check=False).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.contracts.mutate", description=__doc__)
    parser.add_argument("sources", nargs="*", default=list(SOURCES), help="without .vy; all without any")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lines", type=Path, default=coverage.ROOT / ".cache" / "contract-lines.json")
    parser.add_argument("--results", type=Path, default=CACHE / "results.jsonl")
    parser.add_argument("--limit", type=int, help="look at every so many-th mutant only", default=1)
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    options = parser.parse_args(arguments)
    if options.fresh:
        options.results.unlink(missing_ok=True)
    if not options.lines.exists() and not _mapped(options.lines):
        print("the tests fail on the contracts as they are", file=sys.stderr)
        return 2
    mutants = [
        mutant
        for name in options.sources
        for mutant in mutants_of(name, (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8"))
    ][:: options.limit]
    outcomes = run(mutants, tests_by_line(options.lines), Known(options.results), options.processes)
    for name in options.sources:
        counts = Counter(found for mutant, found in outcomes.items() if mutant.startswith(f"{name}: "))
        print(f"{name}.vy: {dict(sorted(counts.items()))}")
    wrong = judge(outcomes, explained())
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
