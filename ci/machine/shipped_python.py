"""The Python that the programs in the pods run on: its version, and tests on it with thread stacks of the same size.

The stock image has a newer Python than developers may have, on musl, whose threads get small stacks. What recurses
without bounds ends such a Python, while an older one with large stacks raises an exception. Debian's build of that
version stands in for the image's, with a limit of the stack that gives every thread the same size.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from machine import SetupFailed, environment
from machine.debian import LIBRARIES, PackageSet
from machine.paths import REPOSITORY, cache_folder
from machine.tools import Step, pinned, run_missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# The rungs that test the programs.
TESTS = tuple(
    f"tests/unit/{package}"
    for package in (
        "common",
        "store",
        "authentication",
        "upstream",
        "fetching",
        "access",
        "gate",
        "node_program",
        "helm_test",
    )
)
# What these tests import, in the versions that the developer's Python has.
DISTRIBUTIONS = ("hypothesis", "pytest", "pytest-cov", "pytest-timeout", "pytest-xdist", "pyyaml", "trustme")
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
# The name of the script is the program's name, so that programs that tests start run on the same Python.
SCRIPT = """#!/bin/sh
root=${{0%/usr/bin/*}}
ulimit -s {stack_kib}
exec "$root/{loader}" --argv0 "$0" --library-path {libraries} "$root/usr/bin/python{version}" "$@"
"""


def version() -> str:
    """Return the version of Python in the image that ships, with its minor part."""
    return str(_entry()["version"])


def python() -> Path:
    """Return that Python, as a script."""
    return _folder() / "usr/bin/python3"


def ensure() -> None:
    """Get that Python and what the tests import."""
    run_missing([Step(f"Python {version()}", _entry()["seconds"], _folder(), _make)])


def main(arguments: Sequence[str]) -> int:
    """Run the tests of the programs, or those that the arguments name."""
    ensure()
    print(f"The tests of the programs on Python {version()}, with stacks of {_entry()['stack_kib']} KiB:", flush=True)
    command = [str(python()), "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or ["-n2", *TESTS])]
    variables = {"PYTHONPATH": f"{_folder()}/site-packages", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **variables}, check=False).returncode


def _entry() -> dict[str, Any]:
    entry: dict[str, Any] = pinned()["shipped-python"]
    return entry


def _packages() -> PackageSet:
    entry = _entry()
    packages = tuple(name.format(version=entry["version"]) for name in entry["packages"])
    return PackageSet("shipped-python", packages, entry["seconds"], whole=True, suite=entry["suite"])


def _requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in DISTRIBUTIONS]


def _folder() -> Path:
    content = [SCRIPT, str(_entry()), *_requirements()]
    return cache_folder() / f"python-{version()}-{hashlib.sha256(''.join(content).encode()).hexdigest()[:12]}"


def _make(work: Path) -> None:
    _packages().unpack(work)
    out = work / "out"
    script = out / "usr/bin/python3"
    libraries = ":".join(f"$root/{folder}" for folder in LIBRARIES)
    script.write_text(
        SCRIPT.format(stack_kib=_entry()["stack_kib"], loader=LOADER, libraries=libraries, version=version())
    )
    script.chmod(0o755)
    options = ["--quiet", "--target", str(out / "site-packages"), "--only-binary=:all:", "--python-version", version()]
    command = [sys.executable, "-m", "pip", "install", *options, *_requirements()]
    done = subprocess.run(command, env=environment.for_downloads(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(command)} failed:\n{done.stderr[-2000:]}"
        raise SetupFailed(message)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
