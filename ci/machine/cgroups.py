"""Control groups: all processes of a cluster are in one group, so that exactly they can be ended.

Version 1, with one hierarchy for each controller, and version 2 are supported, also together (man 7 cgroups).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@cache
def hierarchies() -> tuple[Path, ...]:
    """Return the mount points of all cgroup hierarchies."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return tuple(Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2"))


@cache
def is_version_1() -> bool:
    """Return whether each controller has a hierarchy of its own."""
    return any((root / "cpuset.cpus").exists() and (root / "tasks").exists() for root in hierarchies())


@dataclass(frozen=True)
class Cgroup:
    """One group, which is in every hierarchy."""

    name: str

    def folders(self) -> list[Path]:
        return [root / self.name for root in hierarchies()]

    def create(self) -> None:
        """Create the group; in version 1, a cpuset accepts no process before it has processors and memory nodes."""
        for root in hierarchies():
            group = root
            for part in Path(self.name).parts:
                group = group / part
                group.mkdir(exist_ok=True)
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    value, inherited = group / setting, group.parent / setting
                    if is_version_1() and value.exists() and not value.read_text().strip():
                        value.write_text(inherited.read_text())

    def join_command(self) -> str:
        """Return a line of shell that moves the shell into the group."""
        return "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders())

    def processes(self) -> set[int]:
        """Return the ids of all processes in the group and below it."""
        processes: set[int] = set()
        for group in self._groups():
            # a group may be removed between listing and reading
            with suppress(OSError):
                processes.update(map(int, (group / "cgroup.procs").read_text().split()))
        return processes - {os.getpid()}

    def _groups(self) -> list[Path]:
        """Return the folders of the group and of those below it; `os.walk` passes over what is removed meanwhile."""
        return [Path(path) for folder in self.folders() for path, _, _ in os.walk(folder)]

    def kill(self, timeout: float = 30.0) -> None:
        """Kill all processes in the group.

        Raises:
            TimeoutError: Some are still there after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while processes := self.processes():
            for process in processes:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                message = f"processes {sorted(processes)} in {self.name} do not end"
                raise TimeoutError(message)
            time.sleep(0.02)

    def remove(self, timeout: float = 10.0) -> None:
        """Remove the group and those below it; the kernel needs a moment after the last process has ended.

        Raises:
            TimeoutError: A group is still busy after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        for group in sorted(self._groups(), key=lambda path: -len(path.parts)):
            while group.is_dir():
                try:
                    group.rmdir()
                except OSError as error:
                    if time.monotonic() > deadline:
                        message = f"{group} cannot be removed: {error}"
                        raise TimeoutError(message) from error
                    time.sleep(0.02)
