"""If two runs need the same program at once, one of them builds it, and the other one waits and prints that."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from machine.paths import REPOSITORY
from machine.tools import Step

if TYPE_CHECKING:
    from pathlib import Path

RUN = """
import sys, time
from pathlib import Path
from machine import tools
target = Path(sys.argv[1])
def make(work):
    (work / "out").mkdir()
    (work / "out" / "made").touch()
    (target.parent / "makers").open("a").write("one\\n")
    time.sleep(float(sys.argv[2]))
tools.run_missing([tools.Step("distribution v3", 120, target, make)])
"""


def start(target: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(target), str(seconds)]
    return subprocess.Popen(
        command,
        env={"PYTHONPATH": str(REPOSITORY / "ci"), "HOME": str(target.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_second_run_waits_and_uses_what_the_first_has_made(tmp_path: Path) -> None:
    target = tmp_path / "bin" / "distribution-v3"
    first = start(target, 2)
    while not (target.parent / "makers").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = start(target, 2)
    output = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], output
    assert "Waiting" not in output[0]
    assert "Waiting for another run, which is getting distribution v3\n" in output[1]
    assert "s of waiting" in output[1]
    assert (target.parent / "makers").read_text() == "one\n"
    assert [path.name for path in target.iterdir()] == ["made"]


def test_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    target = tmp_path / "bin" / "distribution-v3"
    killed = start(target, 60)
    while not (target.parent / "makers").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert not target.exists()

    def make(work: Path) -> None:
        (work / "out").mkdir()

    assert Step("distribution v3", 120, target, make).run()
    assert target.is_dir()
