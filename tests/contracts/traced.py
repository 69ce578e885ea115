"""Which lines of the Vyper sources a test runs: program counters, read through the compiler's source maps.

Contracts are recognised by their code, which is the checked-in artifacts'; a constructor's code counts like the rest.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from boa.vm.py_evm import titanoboa_computation
from vyper.compiler import compile_code
from vyper.compiler.input_bundle import FilesystemInputBundle

from contracts.artifacts import CONTRACT_NAMES, load_artifact
from contracts.build import SOURCES_DIR

Line = tuple[str, int]
"""A source's name and a line of it, from 1."""


@dataclass(frozen=True)
class SourceMap:
    """A code and the line that each of its program counters comes from."""

    code: bytes
    lines: Mapping[int, Line]


def source_maps(names: Iterable[str] = CONTRACT_NAMES) -> list[SourceMap]:
    """Two for each contract, its constructor's and what then stands on chain."""
    found: list[SourceMap] = []
    for name in names:
        outputs = compile_code(
            (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8"),
            input_bundle=FilesystemInputBundle([SOURCES_DIR]),
            output_formats=["source_map", "source_map_runtime"],
        )
        artifact = load_artifact(name)
        for key, code in (("source_map", artifact.bytecode), ("source_map_runtime", artifact.runtime)):
            found.append(SourceMap(bytes.fromhex(code), dict(_lines(name, outputs[key]))))
    return found


def _lines(name: str, source_map: Mapping[str, Any]) -> Iterator[tuple[int, Line]]:
    """The contract's own file has the lowest source id; the one module that it may import is emission.vy."""
    places = source_map["pc_ast_map"]
    own = min((source for source, _ in places.values()), default=-1)
    for counter, position in source_map["pc_pos_map"].items():
        if position is not None and counter in places:
            yield int(counter), (name if places[counter][0] == own else "emission", int(position[0]))


@dataclass
class Trace:
    """What has been run so far."""

    maps: list[SourceMap] = field(default_factory=source_maps)
    _counters: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _known: dict[bytes, int | None] = field(default_factory=dict)

    def take(self) -> set[Line]:
        """The lines that were run since the last time this was asked."""
        lines = {
            self.maps[number].lines[counter]
            for number, counters in self._counters.items()
            for counter in counters
            if counter in self.maps[number].lines
        }
        self._counters.clear()
        return lines

    def executable(self) -> set[Line]:
        """All lines that any code comes from."""
        return {line for one in self.maps for line in one.lines.values()}

    @contextmanager
    def listening(self) -> Iterator["Trace"]:
        """Note what the EVM runs while the body runs."""
        original = titanoboa_computation.__dict__["apply_computation"]

        def apply(cls: Any, /, state: Any, message: Any, context: Any, **options: Any) -> Any:
            computation = original.__func__(cls, state, message, context, **options)
            self._note(bytes(message.code), computation.code._trace)
            return computation

        titanoboa_computation.apply_computation = classmethod(apply)
        try:
            yield self
        finally:
            titanoboa_computation.apply_computation = original

    def _note(self, code: bytes, counters: Iterable[int]) -> None:
        if code not in self._known:
            matching = (number for number, one in enumerate(self.maps) if one.code and code.startswith(one.code))
            self._known[code] = next(matching, None)
        number = self._known[code]
        if number is not None:
            self._counters[number].update(counters)
