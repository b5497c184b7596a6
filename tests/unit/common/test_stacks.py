"""The stacks of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[3] / "chart/files/programs"


@pytest.mark.parametrize("module", ["gate.__main__", "node_program.__main__", "helm_test.prove"])
def test_every_program_sets_the_stack_size_before_it_starts_a_thread(module: str) -> None:
    program = f"""
import importlib, inspect, sys, threading
main = importlib.import_module({module!r}).main
assert not threading.stack_size()
sys.argv[1:] = ["--config", "/nowhere"]
try:
    main(*[["/nowhere"]] * len(inspect.signature(main).parameters))
except (ValueError, SystemExit):
    pass
print(threading.stack_size())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=PROGRAMS, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(4 << 20), done.stderr
