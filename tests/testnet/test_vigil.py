"""Which ends of processes a network survives."""

import io
from pathlib import Path

import pytest
import trio
from rich.console import Console

from testnet.errors import ProcessDied
from testnet.network import Vigil
from testnet.plan import TestnetOptions, compute_plan
from testnet.processes import Process
from testnet.progress import Progress


class Dead(Process):
    """A process that was killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = Path("/nowhere") / f"{name}.log"

    @property
    def code(self) -> int:
        return -9


def after(*names: str, is_up: bool = True, members: int = 4) -> tuple[Vigil, str]:
    """A vigil that saw ``names`` end, and what it told."""
    console = Console(file=io.StringIO(), width=120)
    vigil = Vigil(compute_plan(TestnetOptions(members=members)), Progress(console))
    vigil.is_up = is_up
    for name in names:
        vigil.note_end(Dead(name))
    assert isinstance(console.file, io.StringIO)
    return vigil, console.file.getvalue()


async def test_one_member_of_four_may_go() -> None:
    vigil, told = after("member-3")
    vigil.check()
    assert not vigil.scope.cancel_called
    assert "member-3 has ended; the network goes on with 3 members" in told


@pytest.mark.parametrize(
    "names",
    [("member-3", "member-1"), ("provider-1", "provider-2"), ("user",)],
    ids=" and ".join,
)
async def test_without_these_it_ends(names: tuple[str, ...]) -> None:
    vigil, _ = after(*names)
    assert vigil.scope.cancel_called
    with pytest.raises(ProcessDied, match=f"{names[-1]} was killed by signal 9"):
        vigil.check()


async def test_the_plain_full_node_may_go() -> None:
    vigil, told = after("full")
    vigil.check()
    assert not vigil.scope.cancel_called
    assert "full has ended; the network goes on\n" in told


async def test_everything_is_needed_until_all_are_up() -> None:
    vigil, _ = after("member-3", is_up=False)
    with pytest.raises(ProcessDied, match="member-3"):
        vigil.check()


async def test_the_first_end_is_the_one_that_is_told() -> None:
    vigil, _ = after("user", "provider-1", "provider-2")
    with pytest.raises(ProcessDied, match="user"):
        vigil.check()


async def test_a_committee_of_three_can_spare_nobody() -> None:
    vigil, _ = after("member-1", members=3)
    with trio.move_on_after(1), vigil.scope:
        await trio.sleep_forever()
    assert vigil.scope.cancelled_caught
