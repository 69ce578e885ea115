"""Resident memory and CPU time of processes, from /proc."""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Resident:
    """One process: its id, the group it is in, its resident memory in KiB, and the clock ticks of CPU it has had."""

    pid: int
    group: int
    rss_kib: int
    command: str
    cpu_ticks: int


def read_resident(pid: int, proc: Path = PROC) -> Resident | None:
    """A process's memory and CPU time; None where it has gone, or is a zombie and holds nothing."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
        status = (proc / str(pid) / "status").read_text()
        command = (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    # the program's name, in parentheses, may itself hold spaces and parentheses
    told = stat.rpartition(")")[2].split()
    rss = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), None)
    return None if rss is None else Resident(pid, int(told[2]), int(rss), command, int(told[11]) + int(told[12]))


def read_groups(groups: set[int], proc: Path = PROC) -> dict[int, list[Resident]]:
    """Every process of some process groups, by group."""
    found: dict[int, list[Resident]] = {group: [] for group in groups}
    for entry in proc.iterdir():
        if entry.name.isdecimal() and (resident := read_resident(int(entry.name), proc)) and resident.group in groups:
            found[resident.group].append(resident)
    return found
