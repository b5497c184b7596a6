"""`python -m cluster.prepare`: gets everything that the tests need, so that they build nothing while they run."""

from __future__ import annotations

import sys

from machine import SetupFailed, environment, shipped_python, tools
from upstreams import pki

from cluster import images


def main() -> int:
    """Get what is missing, and return the exit code."""
    environment.clean_process()
    try:
        tools.ensure_all()
        shipped_python.ensure()
        images.archives()
        pki.authority()
    except SetupFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
