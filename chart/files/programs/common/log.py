"""The log of a program, which is its standard output."""

from __future__ import annotations

import sys


def log(line: str) -> None:
    """Write a line to the log, in one piece even if several threads write at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def describe_oserror(error: OSError) -> str:
    """Return the system's words for an error, followed by the path that it is about, if there is one."""
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason
