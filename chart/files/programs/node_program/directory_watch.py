"""Whether the registry directory of the node is still the one that is mounted into the pod.

A mount follows the directory itself and not its path. If something on the node replaces the directory, as Bottlerocket
and some configuration management do, the pod goes on to write into one that containerd does not read any more. A new
container gets the new directory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from node_program.configuration import Containerd


class DirectoryWatch:
    """Compares the mounted registry directory with the one at its path, as far as the pod sees a parent of it."""

    def __init__(self, mounted: Path, containerd: Containerd) -> None:
        """Note whether both are the same now. If the path leads elsewhere from the start, it tells nothing."""
        self._mounted = mounted
        path = containerd.registry_directory.rstrip("/")
        parents = [parent for parent in containerd.mounts if path.startswith(f"{parent}/")]
        self._at_path = [containerd.mounts[parent] / path[len(parent) + 1 :] for parent in parents]
        self._at_path = [path for path in self._at_path if self._is_mounted(path)]

    def is_replaced(self) -> bool:
        """Whether the mounted directory was removed from the node, or another one is at its path."""
        try:
            if self._mounted.stat().st_nlink == 0:
                return True
        except OSError:
            return False  # the disk fails; keepers report that
        return not all(map(self._is_mounted, self._at_path))

    def _is_mounted(self, path: Path) -> bool:
        try:
            return os.path.samestat(path.stat(), self._mounted.stat())
        except FileNotFoundError:
            return False
        except OSError:
            return True
