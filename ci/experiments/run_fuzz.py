"""`make fuzz`: gives odd input to everything that gets input from others, until something does not hold."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from machine import environment
from machine.paths import cache_folder

from experiments import fuzz_parsers, fuzz_upstream
from experiments.fuzz import run_target

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from experiments.fuzz import Target

HTTP = "http"
HTTP_WEIGHT = 5.0
MINUTES = 10.0
# A program that does not end by itself after its time hangs where Python cannot end it.
GRACE_SECONDS = 120.0


def main(arguments: list[str]) -> int:
    """Run each target in a program of its own, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all targets (default: {MINUTES:g})")
    parser.add_argument("--only", default="", help="a pattern of the targets")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.target:
        run_one(options.target, options.seconds)
        return 0
    weights = {name: target.weight for name, target in local_targets().items()} | {HTTP: HTTP_WEIGHT}
    chosen = {name: weight for name, weight in weights.items() if re.search(options.only, name)}
    return len(run_all(chosen, options.minutes * 60))


def run_all(weights: Mapping[str, float], seconds: float) -> list[str]:
    """Run targets one after the other, and return the names of those that failed."""
    failed = []
    for name, weight in weights.items():
        share = seconds * weight / sum(weights.values())
        command = [sys.executable, "-m", "experiments.run_fuzz", "--target", name, "--seconds", str(share)]
        begun = time.monotonic()
        try:
            code = subprocess.run(command, check=False, timeout=share + GRACE_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            failed.append(name)
        print(
            f"{time.monotonic() - begun:.0f} s  {name}: {f'FAILED, exit code {code}' if code else 'passed'}", flush=True
        )
    print(f"{len(failed)} of {len(weights)} targets failed; inputs are kept in {seeds()}")
    return failed


def run_one(name: str, seconds: float) -> None:
    """Run a target in this program."""
    environment.clean_process()
    with ExitStack() as stack:
        if name == HTTP:
            from experiments import fuzz_http  # noqa: PLC0415 - the others need no programs of the test bed

            target = stack.enter_context(fuzz_http.fuzzed_pod()).target
        else:
            target = local_targets()[name]
        print(f"{name}: {run_target(target, seconds, seeds())} inputs", flush=True)


def local_targets() -> dict[str, Target]:
    """Return the targets that need no other program."""
    return {target.name: target for target in (*fuzz_parsers.TARGETS, *fuzz_upstream.TARGETS)}


def seeds() -> Path:
    """Return the folder with the inputs that are tried first."""
    return cache_folder() / "fuzz"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
