"""The last line against processes left behind: ends every registered process group once the launcher is gone.

The launcher starts it as a process of its own and writes ``+PGID`` for each group that it starts and ``-PGID`` for
each that it has seen end. When the pipe closes, whether the launcher finished or was killed, what is still
registered gets SIGTERM, then SIGKILL. Standard library only: it stays small and starts at once.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

GRACE_S = 3.0
"""How long a group has between SIGTERM and SIGKILL."""


def read_groups(lines: Iterable[str]) -> set[int]:
    """The process groups that are registered when ``lines`` end."""
    groups: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if not number.isdecimal() or int(number) <= 1:
            continue  # a torn last line of a launcher that was killed while writing it
        (groups.add if sign == "+" else groups.discard)(int(number))
    return groups


def is_alive(group: int) -> bool:
    """Whether any process of ``group`` is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group that holds only zombies
        return False
    return True


def end_groups(groups: set[int], grace_s: float) -> None:
    """End all groups, first politely."""
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(map(is_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Wait for the launcher's end, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(read_groups(sys.stdin), GRACE_S)


if __name__ == "__main__":
    main()
