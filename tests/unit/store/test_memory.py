"""The memory that the index takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from made_stores import small_disk
from upstreams.oci import digest

PROGRAMS = Path(__file__).parents[3] / "chart/files/programs"
MEASURE = """
import sys, time
from pathlib import Path
from store.store import Store

def resident() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

before = resident()
store = Store(Path(sys.argv[1]), 1 << 30)
store.load()
started = time.perf_counter()
for name in sys.argv[2:]:
    store.read_manifest("one", name)
    store.mark_used("one", name)
print(resident() - before, resident(), (time.perf_counter() - started) * 1000)
"""


def measure(disk: Path, *names: str) -> tuple[int, int, float]:
    """Return the MiB that a store takes to load a volume, those of the whole process, and the milliseconds of a use."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(disk), *names], cwd=PROGRAMS, capture_output=True, text=True, check=True
    )
    taken, whole, milliseconds = done.stdout.split()
    return int(taken), int(whole), float(milliseconds)


def write_manifest(disk: Path, content: bytes) -> str:
    """Write a manifest as the store does, without flushing it."""
    name = digest(content)
    digits = name.removeprefix("sha256:")
    base = disk / "docker/registry/v2"
    blob = base / "blobs/sha256" / digits[:2] / digits / "data"
    link = base / "repositories/one/_manifests/revisions/sha256" / digits / "link"
    for path, written in ((blob, content), (link, name.encode())):
        path.parent.mkdir(parents=True)
        path.write_bytes(written)
    return name


def test_manifests_that_name_many_blobs_take_little_memory(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=120m") as disk:
        images = {}
        for number in range(650):
            layers = [{"digest": digest(b"%d/%d" % (number, layer)), "size": layer} for layer in range(1000)]
            content = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
            images[write_manifest(disk, content)] = len(content)
        names = [{"digest": name, "size": size} for name, size in list(images.items())[:500]]
        index = write_manifest(disk, json.dumps({"schemaVersion": 2, "manifests": names}).encode())
        taken, whole, milliseconds = measure(disk, index)
        print(f"650 manifests of {len(content)} bytes: {taken} MiB of {whole}, {milliseconds:.1f} ms for the index")
        assert taken < 70
        assert milliseconds < 200
