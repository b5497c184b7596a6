"""`python -m machine.check_workflows`: checks GitHub's workflows with actionlint."""

from __future__ import annotations

import subprocess
import sys

from machine import SetupFailed, environment, tools
from machine.paths import REPOSITORY


def main() -> int:
    """Check the workflows, and return the exit code."""
    environment.clean_process()
    try:
        program = tools.actionlint()
    except SetupFailed as error:
        print(error, file=sys.stderr)
        return 1
    # It would run these programs where they are installed, and report more there.
    options = ["-shellcheck=", "-pyflakes="]
    return subprocess.run([program, *options], cwd=REPOSITORY, env=tools.program_environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
