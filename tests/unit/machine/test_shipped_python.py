"""The Python of the image that ships, on which the tests of the programs run too."""

from __future__ import annotations

import subprocess

import yaml
from machine import shipped_python
from machine.paths import REPOSITORY


def test_charts_image_has_the_version_on_which_the_tests_run() -> None:
    values = yaml.safe_load((REPOSITORY / "chart/values.yaml").read_text())
    assert values["images"]["python"]["tag"].partition("@")[0] == f"{shipped_python.version()}-alpine"


def test_it_has_that_version_and_the_stack_size_of_the_image() -> None:
    shipped_python.ensure()
    program = "import sys, resource; print(sys.version_info[:2], sys.executable, resource.getrlimit(3)[0])"
    done = subprocess.run([str(shipped_python.python()), "-c", program], capture_output=True, text=True, check=True)
    major, minor = map(int, shipped_python.version().split("."))
    assert done.stdout.strip() == f"{(major, minor)} {shipped_python.python()} {1024 << 10}"


def test_lane_has_all_tests_of_the_programs() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "chart/files/programs").glob("*/__init__.py")}
    assert {path.rpartition("/")[2] for path in shipped_python.TESTS} == packages
