"""Small faults, one at a time, put into a Vyper source: what the contracts' tests must notice.

Pure but for the parser. Operators: a comparison that is off by its boundary, another arithmetic operator, a constant
one more and one less, an assertion removed, branches swapped, `and` for `or`, min for max, a statement removed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vyper.ast import nodes, parse_to_ast

COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COUNTED = {"+": "-", "-": "+", "*": "//", "//": "*", "%": "//", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "**": "*"}
EXTREMES = {"min": "max", "max": "min"}
REMOVED = (nodes.Assign, nodes.AugAssign, nodes.Expr, nodes.Log)

SEEN = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: ``before`` at ``start`` of the source reads ``after``."""

    contract: str
    line: int
    text: str
    """The line as it was, without indentation: with the change it names a mutant for good, whatever moves it."""
    start: int
    before: str
    after: str
    place: int = 0
    """Which of several that read alike."""

    @property
    def name(self) -> str:
        """The same from run to run, as long as the line reads the same."""
        again = f" #{self.place}" if self.place else ""
        return f"{self.contract}: {self.text} | {_flat(self.before)} -> {_flat(self.after) or 'nothing'}{again}"

    def applied(self, source: str) -> str:
        """``source`` with the fault in it."""
        return source[: self.start] + self.after + source[self.start + len(self.before) :]


def mutants_of(contract: str, source: str) -> list[Mutant]:
    """Every mutant of a source, in the order of its lines, each with a name of its own."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    counts: dict[str, int] = {}
    for start, before, after in sorted(set(_changes(source, starts))):
        number = next(index for index, first in enumerate(starts) if first > start)
        text = _flat(lines[number - 1])
        plain = Mutant(contract, number, text, start, before, after)
        place = counts[plain.name] = counts.get(plain.name, -1) + 1
        found.append(Mutant(contract, number, text, start, before, after, place))
    return found


def _changes(source: str, starts: list[int]) -> Iterator[tuple[int, str, str]]:
    tree = parse_to_ast(source)

    def at(node: nodes.VyperNode) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def between(left: nodes.VyperNode, right: nodes.VyperNode, swaps: dict[str, str]) -> Iterator[tuple[int, str, str]]:
        first, last = at(left)[1], at(right)[0]
        operator = source[first:last].strip(" ()\n")
        if operator in swaps:
            yield first + source[first:last].index(operator), operator, swaps[operator]

    for node in tree.get_descendants((nodes.Compare, nodes.BinOp)):
        yield from between(node.left, node.right, COMPARED if isinstance(node, nodes.Compare) else COUNTED)
    for node in tree.get_descendants(nodes.BoolOp):
        swaps = {"and": "or", "or": "and"}
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from between(left, right, swaps)
    for node in tree.get_descendants(nodes.Int):
        if not _is_type(node):
            first, last = at(node)
            yield first, source[first:last], str(node.value + 1)
            if node.value:
                yield first, source[first:last], str(node.value - 1)
    for node in tree.get_descendants(nodes.Call):
        if isinstance(node.func, nodes.Name) and node.func.id in EXTREMES:
            yield at(node.func)[0], node.func.id, EXTREMES[node.func.id]
    for node in tree.get_descendants(nodes.If):
        first, last = at(node.test)
        yield first, source[first:last], f"not ({source[first:last]})"
    for node in tree.get_descendants((nodes.Assert, *REMOVED)):
        if _is_in_a_body(node):
            first, last = at(node)
            yield first, source[first:last], "pass"


def _is_type(node: nodes.VyperNode) -> bool:
    """Whether an integer is a size in a type, or a loop's bound: no rule of the contract's."""
    inside: nodes.VyperNode = node
    while (above := inside.get_ancestor()) is not None:
        if isinstance(above, nodes.VariableDecl | nodes.AnnAssign):
            return above.value is not inside
        if isinstance(above, nodes.keyword) and above.arg == "bound":
            return True
        if isinstance(above, nodes.arg | nodes.InterfaceDef | nodes.StructDef | nodes.EventDef):
            return True
        if isinstance(above, nodes.FunctionDef):
            return above.returns is inside
        inside = above
    return False


def _is_in_a_body(node: nodes.VyperNode) -> bool:
    """Whether a statement does something: interfaces and docstrings hold expressions that don't."""
    if isinstance(node, nodes.Expr) and isinstance(node.value, nodes.Str | nodes.DocStr):
        return False
    return node.get_ancestor(nodes.FunctionDef) is not None and node.get_ancestor(nodes.InterfaceDef) is None


def _flat(text: str) -> str:
    return SEEN.sub(" ", text).strip()
