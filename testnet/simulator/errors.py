"""Errors of the simulator.

::

    SimulationError
    ├── PlanUnknown   no fault plan has this name
    ├── Violation     the oracle saw something that must never happen; carries its rule and the virtual time
    ├── Unreadable    a log on a simulated disk is broken where no crash can have torn it
    └── PowerLost     a simulated crash, in the middle of what a node was doing
"""


class SimulationError(Exception):
    """Root of this folder's errors."""


class PlanUnknown(SimulationError):
    """``name`` is no fault plan."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        super().__init__(f"{name!r} is no fault plan; there are {', '.join(known)}")


class Violation(SimulationError):
    """``rule`` does not hold. ``detail`` says what was seen, for people."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        self.detail = detail
        super().__init__(f"{rule}: {detail}")


class Unreadable(SimulationError):
    """The record at ``offset`` (bytes) of a log is broken, and more records follow it."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        super().__init__(f"the log's record at byte {offset} is broken and not the last")


class PowerLost(SimulationError):
    """Node ``node`` crashed at its operation number ``operation``."""

    def __init__(self, node: int, operation: int) -> None:
        self.node = node
        self.operation = operation
        super().__init__(f"node {node} crashed at operation {operation}")
