"""`python -m cluster.prepare`: gets everything that the tests need, so that they build nothing while they run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from machine import SetupFailed, environment, shipped_python, tools
from upstreams import pki

from cluster import images

if TYPE_CHECKING:
    from collections.abc import Callable


def prepare(*steps: Callable[[], object]) -> int:
    """Run steps that each get something that is missing, and return the exit code of the program."""
    environment.clean_process()
    try:
        for step in steps:
            step()
    except SetupFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(prepare(tools.ensure_all, shipped_python.ensure, images.archives, pki.authority))
