"""The compiler's optimiser, told not to look again at what it has found to be as good as it gets.

vyper 0.4.3 goes over a whole subtree once more wherever anything below has changed, which is more than half of a
compilation's time. Leaving an optimisation out never changes what a program does; that nothing is left out of the
contracts themselves is seen by comparing them with the checked-in artifacts.
"""

from vyper.codegen.ir_node import IRnode
from vyper.ir import optimizer


def remember_what_is_optimal() -> None:
    """For the rest of this process, which compiles one contract and keeps all its nodes."""
    original = optimizer._optimize
    done: dict[tuple[int, object], IRnode] = {}

    def optimize(node: IRnode, parent: IRnode | None) -> tuple[bool, IRnode]:
        above = None if parent is None else parent.value
        if (id(node), above) in done:
            return False, node
        changed, found = original(node, parent)
        done[id(found), above] = found
        return changed, found

    optimizer._optimize = optimize
