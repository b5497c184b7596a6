"""The stacks of threads: their size depends on the C library, unless a program sets it."""

from __future__ import annotations

import threading

# musl gives a thread 128 KiB and the stock Python image 1 MiB, glibc as much as the limit of the process says, often
# 8 MiB. Only what a thread touches is taken from the memory.
STACK_BYTES = 4 << 20


def set_stack_size() -> None:
    """Give all threads that start from now on a stack of the same size everywhere."""
    threading.stack_size(STACK_BYTES)
