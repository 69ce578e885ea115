"""Put faults into the Vyper sources, one at a time, and see that the contracts' tests notice each.

``python -m tests.contracts.mutate`` runs the tests that touch a fault's line (tests.contracts.coverage finds them)
against each mutant, each in a process of its own, and exits with 1 where one survives that survivors.toml doesn't
explain, or where survivors.toml explains one that doesn't survive. What has been found is kept in ``--results``, so a
run that was stopped goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tomllib
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from contracts import artifacts
from contracts.artifacts import CONTRACT_NAMES, MODULE_NAMES, Artifact, load_artifact
from contracts.build import SOURCES_DIR
from tests.contracts import coverage
from tests.contracts.mutants import Mutant, mutants_of

SURVIVORS = Path(__file__).parent / "survivors.toml"
CACHE = coverage.ROOT / ".cache" / "mutation"
SOURCES = ("compute", "registry", "emission", "emission_source", "mor", "lens")
IMPORTERS = {"emission": ("emission_source", "compute")}
"""What is compiled anew when a module changes, the quicker to fail first."""

PATIENCE_S = 600
"""A mutant that keeps its tests busy for so long has been noticed."""

Tests = dict[str, list[str]]
"""By source and line, ``compute:12``: the tests that run it."""


def outcome_of(mutant: Mutant, tests: Tests) -> tuple[str, str]:
    """The mutant's name and ``killed``, ``survived``, ``same code`` or ``no code``, in a process of its own."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
    compiled = _compile(mutant)
    if compiled is None:
        return mutant.name, "no code"
    if not compiled:
        return mutant.name, "same code"
    chosen = tests.get(f"{mutant.contract}:{mutant.line}") or coverage.files_of(coverage.TESTS)
    with TemporaryDirectory() as folder:
        for name in CONTRACT_NAMES:
            made = compiled.get(name) or load_artifact(name)
            (Path(folder) / f"{name}.json").write_bytes(msgspec.json.encode(made))
        artifacts.ARTIFACTS_DIR = Path(folder)
        load_artifact.cache_clear()
        return mutant.name, _verdict(chosen)


def _compile(mutant: Mutant) -> dict[str, Artifact] | None:
    """The artifacts that differ; None where the mutant is no program."""
    from vyper.compiler import compile_code
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.exceptions import VyperException

    found: dict[str, Artifact] = {}
    with TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for name in (*CONTRACT_NAMES, *MODULE_NAMES):
            source = (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8")
            text = mutant.applied(source) if name == mutant.contract else source
            (folder / f"{name}.vy").write_text(text, encoding="utf-8")
        for name in IMPORTERS.get(mutant.contract, (mutant.contract,)):
            try:
                code = compile_code(
                    (folder / f"{name}.vy").read_text(encoding="utf-8"),
                    input_bundle=FilesystemInputBundle([folder]),
                    output_formats=["bytecode", "bytecode_runtime"],
                )
            except (VyperException, ArithmeticError, ValueError):
                return None
            old = load_artifact(name)
            made = msgspec.structs.replace(
                old, bytecode=code["bytecode"].removeprefix("0x"), runtime=code["bytecode_runtime"].removeprefix("0x")
            )
            if made != old:
                found[name] = made
    return found


def _verdict(tests: list[str]) -> str:
    import pytest
    from hypothesis import Phase, settings

    # a failure is enough: it need not be made small, nor be remembered
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None, derandomize=True)
    settings.load_profile("mutants")
    signal.alarm(PATIENCE_S)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        status = int(pytest.main([*coverage.PYTEST, "-x", "--tb=no", "--no-header", *tests]))
    signal.alarm(0)
    # a module whose first contract can't be deployed is no longer collected: that is noticed as well
    return {0: "survived", 1: "killed", 2: "killed"}.get(status, "broken")


def tests_by_line(path: Path) -> Tests:
    """What ``tests.contracts.coverage --map`` has written, the other way round; quick files first."""
    written = json.loads(path.read_text(encoding="utf-8"))
    everybodys = {f"{source}:{line}" for source, line in written["collected"]}
    found: Tests = {}
    for test, lines in written["tests"].items():
        for place in {f"{source}:{line}" for source, line in lines} - everybodys:
            found.setdefault(place, []).append(test)
    return found


def _in_a_child(mutant: Mutant, tests: Tests) -> tuple[str, str]:
    """:func:`outcome_of` in a fork: tests leave modules, caches and a broken contract behind."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(outcome_of(mutant, tests)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answered:
        said = answered.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if said:
        name, outcome = json.loads(said)
        return name, outcome
    return mutant.name, "killed" if code == 9 else "broken"


def run(mutants: list[Mutant], tests: Tests, results: Path, processes: int) -> dict[str, str]:
    """The outcome of each by name; those that ``results`` knows are not run again."""
    known: dict[str, str] = {}
    if results.exists():
        known = dict(json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())
    left = [mutant for mutant in mutants if mutant.name not in known]
    results.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("fork").Pool(processes) as pool, results.open("a", encoding="utf-8") as log:
        for number, found in enumerate(pool.imap_unordered(partial(_in_a_child, tests=tests), left), 1):
            known[found[0]] = found[1]
            print(json.dumps(found), file=log, flush=True)
            if found[1] not in {"killed", "no code", "same code"}:
                print(f"{number} of {len(left)}: {found[1]}: {found[0]}", flush=True)
    return {mutant.name: known[mutant.name] for mutant in mutants}


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
    if not options.lines.exists() and coverage.main(["--least", "0", "--map", str(options.lines)]):
        print("the tests fail on the contracts as they are", file=sys.stderr)
        return 2
    mutants = [
        mutant
        for name in options.sources
        for mutant in mutants_of(name, (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8"))
    ][:: options.limit]
    outcomes = run(mutants, tests_by_line(options.lines), options.results, options.processes)
    for name in options.sources:
        counts = Counter(found for mutant, found in outcomes.items() if mutant.startswith(f"{name}: "))
        print(f"{name}.vy: {dict(sorted(counts.items()))}")
    wrong = judge(outcomes, explained())
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    import boa  # noqa: F401 - before processes are forked
    import pytest  # noqa: F401 - as above

    sys.exit(main())
