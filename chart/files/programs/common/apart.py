"""Calls a function with large content in a process of its own, so that it holds up nothing else.

Python's JSON parser lets no other thread run until it has ended. With a few megabytes of a hostile document, that takes
as long as several pulls. The process has the lowest priority and little memory, and there is one at a time.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# What is smaller takes less time than a process does.
MAX_DIRECT_BYTES = 256 << 10
MAX_SECONDS = 20.0
# The largest document that json_reader accepts takes 60 MB.
MAX_MEMORY_BYTES = 96 << 20
LOWEST_PRIORITY = 19

Result = TypeVar("Result")

_one_at_a_time = threading.Lock()


def call_apart(function: Callable[[bytes], Result], content: bytes) -> Result:
    """Call a function of a module with some content, and return its result, which must be a value of JSON.

    Raises:
        OSError: The content is large, and the process could not be started, or needed too much time or memory.
    """
    if len(content) <= MAX_DIRECT_BYTES:
        return function(content)
    programs = str(Path(__file__).parents[1])
    command = [sys.executable, "-B", "-S", "-m", __name__, function.__module__, function.__name__]
    with _one_at_a_time:
        try:
            ended = subprocess.run(
                command,
                input=content,
                capture_output=True,
                timeout=MAX_SECONDS,
                check=True,
                env={**os.environ, "PYTHONPATH": programs},
            )
        except subprocess.SubprocessError as error:
            message = f"a document of {len(content)} bytes takes too much time or memory"
            raise OSError(message) from error
    result: Result = json.loads(ended.stdout)
    return result


def main(arguments: list[str]) -> None:
    """Call the function of the module for what comes on the standard input, and print the result."""
    os.nice(LOWEST_PRIORITY)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    module, function = arguments
    json.dump(getattr(importlib.import_module(module), function)(sys.stdin.buffer.read()), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
