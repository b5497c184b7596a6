"""`python -m programs`: has everything that tests run, so that they can run side by side; nothing is got twice."""

from __future__ import annotations

import sys

from testcluster import images, pki, tools
from testcluster.gobuild import BuildFailed


def main() -> int:
    """Get what is missing and return the exit code."""
    try:
        tools.ensure_all()
        images.archives()
        pki.authority()
    except (BuildFailed, tools.ToolMissing) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
