"""What processes take: time of the processors by control group, memory by process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from machine.cgroups import Cgroup

PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
USED = re.compile(r"^usage_usec (\d+)", re.MULTILINE)


def cpu_seconds(cgroup: Cgroup) -> float:
    """What all processes of a group used so far, those that have ended included (cgroup v1 cpuacct, v2 cpu.stat).

    Raises:
        LookupError: nothing counts it.
    """
    for folder in cgroup.folders():
        if (folder / "cpuacct.usage").exists():
            return int((folder / "cpuacct.usage").read_text()) / 1e9
        if (folder / "cpu.stat").exists() and (found := USED.search((folder / "cpu.stat").read_text())):
            return int(found[1]) / 1e6
    message = f"no controller counts the time of {cgroup.name}"
    raise LookupError(message)


def resident_mib(processes: Iterable[int]) -> float:
    """The memory of processes, what they share with others in proportion (PSS, man 5 proc)."""
    total = 0
    for process in processes:
        found = PSS.search(Path(f"/proc/{process}/smaps_rollup").read_text())
        total += int(found[1]) if found else 0  # none of a process that is ending
    return total / 1024
