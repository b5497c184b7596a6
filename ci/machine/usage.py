"""Resource usage: processor time of control groups, and memory of processes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from machine.cgroups import Cgroup

PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
USED = re.compile(r"^usage_usec (\d+)", re.MULTILINE)


def cpu_seconds(cgroup: Cgroup) -> float:
    """Return the processor time of a group, including processes that have ended (cgroup v1 cpuacct, v2 cpu.stat).

    Raises:
        LookupError: No controller counts it.
    """
    for folder in cgroup.folders():
        if (folder / "cpuacct.usage").exists():
            return int((folder / "cpuacct.usage").read_text()) / 1e9
        if (folder / "cpu.stat").exists() and (match := USED.search((folder / "cpu.stat").read_text())):
            return int(match[1]) / 1e6
    message = f"no controller counts the time of {cgroup.name}"
    raise LookupError(message)


def busy_seconds() -> float:
    """Return how long all processors of the machine together have been busy (man 5 proc, /proc/stat)."""
    user, nice, system, _idle, _waiting, *others = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def resident_mib(processes: Iterable[int]) -> float:
    """Return the memory of processes, with their proportion of what they share with others (PSS, man 5 proc)."""
    total = 0
    for process in processes:
        match = PSS.search(Path(f"/proc/{process}/smaps_rollup").read_text())
        total += int(match[1]) if match else 0  # a process that is ending has none
    return total / 1024
