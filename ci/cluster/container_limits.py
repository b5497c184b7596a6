"""What the kubelet does about containers that need too much memory or end: control groups, and a new start."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from machine.cgroups import Cgroup, hierarchies
from machine.processes import ProgramDied

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from machine.processes import Place

    from cluster.pod_manifest import Object

RESTART_SECONDS = 1.0
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
KILLS = re.compile(r"^oom_kill (\d+)", re.MULTILINE)
# Pages of files, which the kernel takes back when memory is short.
FILES = {"total_active_file", "total_inactive_file", "active_file", "inactive_file"}


def memory_limit(container: Object) -> int:
    """Return the memory limit of a container of a rendered manifest, in bytes.

    Raises:
        ValueError: It has none, or one with another unit than Ki, Mi and Gi.
    """
    text = str(container["resources"].get("limits", {}).get("memory", ""))
    number, unit = text[:-2], text[-2:]
    if unit not in UNITS or not number.isdigit():
        message = f"{container['name']}: the memory limit {text!r} is not a number of Ki, Mi or Gi"
        raise ValueError(message)
    return int(number) * UNITS[unit]


@dataclass
class Memory:
    """The memory of the processes of a control group, with the limit that the kernel enforces."""

    cgroup: Cgroup
    peak_bytes: int = 0

    def limit(self, limit_bytes: int) -> None:
        """Limit it; the kernel ends processes that would need more.

        Raises:
            LookupError: The machine has no memory controller.
        """
        # In version 2, a group has a controller only if all groups above it pass it on.
        for root in hierarchies():
            for group in (root, *((root / self.cgroup.name).parents)):
                control = group / "cgroup.subtree_control"
                if group.is_relative_to(root) and "memory" in _read(group / "cgroup.controllers") and control.exists():
                    with suppress(OSError):  # it may have the controller in version 1
                        control.write_text("+memory")
        self._file("memory.limit_in_bytes", "memory.max").write_text(str(limit_bytes))

    def sample(self) -> int:
        """Return the memory in use, without files, and remember the highest value in `peak_bytes`."""
        used = int(_read(self._file("memory.usage_in_bytes", "memory.current")) or 0)
        lines = [line.split() for line in _read(self._file("memory.stat")).splitlines()]
        counts = {name: int(count) for name, count in lines}
        # Version 1 has the counts of the group alone too.
        names = [name for name in FILES if name.startswith("total_")] if "total_active_file" in counts else FILES
        used = max(0, used - sum(counts.get(name, 0) for name in names))
        self.peak_bytes = max(self.peak_bytes, used)
        return used

    def count_kills(self) -> int:
        """Return how many processes the kernel ended because memory was short."""
        match = KILLS.search(_read(self._file("memory.oom_control", "memory.events")))
        return int(match[1]) if match else 0

    def _file(self, *names: str) -> Path:
        for folder in self.cgroup.folders():
            for name in names:
                if (folder / name).exists():
                    return folder / name
        message = f"no memory controller limits {self.cgroup.name}"
        raise LookupError(message)


@dataclass
class Limits:
    """The control groups of the containers of a pod, and how often each container was started again."""

    pod_place: Place
    pod: str
    memory: dict[str, Memory] = field(init=False, default_factory=dict)
    restarts: Counter[str] = field(init=False, default_factory=Counter)
    _closing: threading.Event = field(init=False, default_factory=threading.Event)
    _keeper: threading.Thread | None = field(init=False, default=None)

    def place(self, container: Object) -> Place:
        """Return the place of a container, whose memory is limited."""
        name = container["name"]
        cgroup = Cgroup(f"{self.pod_place.cgroup.name}/{self.pod}-{name}")
        if name not in self.memory:
            cgroup.create()
            self.memory[name] = Memory(cgroup)
            self.memory[name].limit(memory_limit(container))
        return replace(self.pod_place, cgroup=cgroup)

    def keep_running(self, is_running: Callable[[str], bool], start: Callable[[str], None]) -> None:
        """Start containers again that end, until `close`."""
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, args=(is_running, start), daemon=True)
            self._keeper.start()

    def close(self) -> None:
        """Start no containers again."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()

    def _keep(self, is_running: Callable[[str], bool], start: Callable[[str], None]) -> None:
        while not self._closing.wait(0.1):
            for name in self.memory:
                if not is_running(name):
                    self.restarts[name] += 1
                    if not self._closing.wait(RESTART_SECONDS):
                        with suppress(ProgramDied, TimeoutError):  # the next round tries again
                            start(name)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
