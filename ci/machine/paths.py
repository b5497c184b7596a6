"""Where files are kept: built programs in the user's cache folder, the state of a running cluster below it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "chart"
PROGRAMS = CHART / "files" / "programs"


def user_home() -> Path:
    """Return the user's home folder, also where HOME is unset or empty."""
    return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def cache_folder() -> Path:
    """Return the user's cache folder for this project.

    XDG Base Directory Specification: XDG_CACHE_HOME, or ~/.cache where that is unset or not an absolute path.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root.startswith("/") else user_home() / ".cache") / "registry-cache"


def cluster_folder(name: str) -> Path:
    """Return the folder for state, logs and data of the cluster `name`, which is removed when it goes down."""
    return cache_folder() / "clusters" / name
