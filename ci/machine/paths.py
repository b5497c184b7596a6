"""Where things are kept: what was built, in the user's cache folder; what a cluster needs while it is up, below it."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "chart"
PROGRAMS = CHART / "files" / "programs"


def cache_folder() -> Path:
    """The user's cache folder for this project (XDG Base Directory Specification: XDG_CACHE_HOME, else ~/.cache)."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "registry-cache"


def cluster_folder(name: str) -> Path:
    """State, logs and data of the cluster `name`; removed when it goes down."""
    return cache_folder() / "clusters" / name
