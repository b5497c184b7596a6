"""Attacks on the volume and on the node program."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.node_program import UNPRIVILEGED_COMMAND, cache_entry, write_configuration
from cluster.pod_volumes import Tmpfs
from machine import own_network
from machine.processes import wait_for
from upstreams import oci

from experiments.attack_bed import HOSTILE_URL, MIB, ask
from experiments.attacks import attack
from experiments.attacks_by_clients import SECONDS
from experiments.flood import Flood
from experiments.pod_bench import UPSTREAM

if TYPE_CHECKING:
    from experiments.attack_bed import Scene

METRICS_PORT = 9253
MAX_THREADS = 64
# Of 24 blobs of 1 MiB, eight make the room that is missing, and nine more go since the volume is above its high-water
# mark afterwards.
MIN_KEPT = 5
MAX_SCRAPE_SECONDS = 2.0
START_SECONDS = 60.0


@attack("a second gate starts on the volume of a running one")
def two_gates(scene: Scene) -> None:
    """The second pod must wait, and say why; it may take over once the first one has ended."""
    second = scene.bed.bench.new_pod({"upstream": UPSTREAM, "remoteURL": HOSTILE_URL}, volume=scene.pod.volume_folder)
    try:
        second.start(wait=False)
        time.sleep(SECONDS)
        scene.require(not second.is_ready(), "the second pod is ready")
        log = second.log("gate")
        scene.require("volume" in log and "wait" in log, f"the second gate does not say why it waits: {log[-200:]!r}")
    finally:
        second.close()


@attack("a client reads an old blob slowly, and a new one would need its room", volume=Tmpfs("64m"))
def slow_reader(scene: Scene) -> None:
    """The room of a file that is open is not free: as much as the new blob needs is evicted of other content."""
    old, kept = scene.bed.push("old", 1, 24 * MIB), scene.bed.push("kept", 24, MIB)
    for name, image in (("old", old), ("kept", kept)):
        for digest in image.blobs:
            assert scene.get(f"/v2/library/{name}/blobs/{digest}").status == http.client.OK
    scene.flood(f"/v2/library/old/blobs/{oci.digest(old.layers[0])}", at_once=3, total=3, max_read=1000)
    time.sleep(1)
    for digest in kept.blobs:
        scene.get(f"/v2/library/kept/blobs/{digest}")
    needed = scene.bed.push("needed", 1, 20 * MIB)
    answer = scene.get(f"/v2/library/needed/blobs/{oci.digest(needed.layers[0])}")
    scene.require(answer.status == http.client.OK and answer.whole, f"the new blob was answered with {answer.status}")
    stored = scene.stored(kept)
    scene.require(stored >= MIN_KEPT, f"{stored} of {len(kept.blobs)} blobs are left")


@attack("2,500 connections to the node program's metrics, each with a byte a second")
def slow_scrapes(scene: Scene) -> None:
    folder = scene.bed.bench.folder / "node-program"
    folder.mkdir()
    containerd = folder / "containerd.toml"
    containerd.write_text("version = 2\n")
    (folder / "certs").mkdir()
    path = write_configuration(
        folder / "node.json",
        certs=folder / "certs",
        state=folder / "state",
        containerd=containerd,
        caches=[cache_entry(UPSTREAM, f"https://{UPSTREAM}", scene.pod.address, 5000)],
        metricsPort=METRICS_PORT,
    )
    programs = scene.bed.programs
    process = programs.start("node-program", [*UNPRIVILEGED_COMMAND, "--config", path])
    url = f"http://{own_network.ADDRESS}:{METRICS_PORT}/metrics"
    try:
        wait_for("the metrics of the node program", lambda: ask(url).status == http.client.OK, START_SECONDS)
        flood = Flood(own_network.ADDRESS, METRICS_PORT, "/metrics", at_once=2500, drips=True)
        name = scene.bed.start_flood(flood)
        time.sleep(SECONDS)
        answer = ask(url)
        scene.require(answer.status == http.client.OK, f"a scrape was answered with {answer.status}")
        scene.require(answer.seconds < MAX_SCRAPE_SECONDS, f"a scrape took {answer.seconds:.1f} s")
        scene.require((count := _threads(process)) <= MAX_THREADS, f"the node program has {count} threads")
        scene.end_flood(name)
    finally:
        programs.stop("node-program")


def _threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))
