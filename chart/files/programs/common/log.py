"""Writes the log of a pod."""

from __future__ import annotations

import sys


def log(line: str) -> None:
    """Write a line to the log of the pod, in one piece even if several threads write at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
