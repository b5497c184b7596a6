"""`make bench`: how long the commands and a rendering take, as medians. docs/benchmarks.md holds what came out."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from testcluster import tools
from testcluster.paths import CHART, REPOSITORY

CACHES = 100
RUNS = 11


def main() -> int:
    """Measure, print the table and return the exit code."""
    tools.ensure_client()
    with tempfile.TemporaryDirectory() as work:
        document = Path(work) / "values.yaml"
        document.write_text("caches:\n" + "".join(f"  - upstream: r{n}.example.com\n" for n in range(CACHES)))
        command = [sys.executable, "-m", "registry_cache"]
        rows = {
            "registry-cache validate": [*command, "validate", document],
            "registry-cache generate": [*command, "generate", document, "--output", Path(work) / "chart"],
            "registry-cache plan": [*command, "plan", document, document],
            "helm template": [tools.helm(), "template", "x", CHART, "--values", document],
        }
        print(f"{CACHES} caches, {RUNS} runs each, {os.cpu_count()} cores\n")
        print(f"{'command':<24}{'median':>9}{'slowest':>9}")
        for name, arguments in rows.items():
            times = [seconds([str(argument) for argument in arguments]) for _ in range(RUNS)]
            print(f"{name:<24}{statistics.median(times):>7.2f} s{max(times):>7.2f} s")
    return 0


def seconds(command: list[str]) -> float:
    """How long a command takes, its start included."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY / "generator")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
