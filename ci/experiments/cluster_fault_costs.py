"""Measures in the test cluster what a fault of a cache costs pulls, and how soon the node program notices it."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from cluster.pulls import RUN, Pod, Pull, PullFailed, new_image
from machine.processes import wait_for

from experiments.cluster_faults import CONTENT, UPSTREAM, keep_hosts_file, put_in_place
from experiments.faults import HEALTHY

if TYPE_CHECKING:
    from collections.abc import Callable

    from experiments.cluster_faults import Scene
    from experiments.faults import CacheFault

# An upstream that has no cache in the scene's release.
DIRECT = "quay.io"
# A layer that is being sent when the fault begins takes 20 s; the cache begins to send it after 10 s.
SLOW_BYTES = 600_000
SLOW_LAYER = 12_000_000
UNDER_WAY = "find /var/lib/containerd/io.containerd.content.v1.content/ingest -name data -size +400k -mmin -0.1"
# Ten times the 15 s in which a cache must be withdrawn and used again.
NOTICE_SECONDS = 150.0
PULL_SECONDS = 240.0
# How long a pull that containerd does not end by itself is given before the fault is ended.
HANG_SECONDS = 15.0

_number = count()


@dataclass(frozen=True)
class Timed:
    """A pull.

    `seconds` is None where the pull ended only after the fault, and then `freed` is how much later.
    """

    seconds: float | None
    failed_tries: list[str]
    served_by: str
    freed: float | None = None


@dataclass
class Row:
    """The figures of a fault, in seconds; None where there is nothing to measure.

    `before` and `after` are pulls while the fault is in place: before and after the cache is withdrawn.
    """

    fault: CacheFault
    direct: float
    symptom: str = ""
    before: Timed | None = None
    withdrawn: float | None = None
    after: Timed | None = None
    back: float | None = None


def measure(scene: Scene, fault: CacheFault) -> Row:
    """Put a fault in place, pull, and end the fault.

    hosts.toml is kept until the first pull, so that the node asks the cache. Where that takes longer than the node
    program needs to withdraw the cache, `withdrawn` is too long, and never too short.

    Raises:
        TimeoutError: The fault does not have its symptom, or the cache is not withdrawn or not used again.
        PullFailed: A pull failed after the fault was ended.
    """
    scene.find_cache()
    if fault.under_way:
        return _measure_under_way(scene, fault)
    row = Row(fault, _direct_seconds(scene))
    with ExitStack() as faults, keep_hosts_file(scene) as release:
        faults.enter_context(put_in_place(scene, fault))
        begun = time.monotonic()
        row.symptom = _symptom(scene, fault)

        def leave() -> None:
            release()
            if fault.noticed:
                wait_for("the cache to be withdrawn", lambda: not scene.is_in_use(), NOTICE_SECONDS)
                row.withdrawn = time.monotonic() - begun

        if not fault.before:
            leave()
        else:
            assert scene.is_in_use(), "the node uses the cache when the pull begins"
            if fault.falls_back and not fault.silent:
                row.before = pull(scene, UPSTREAM)
                leave()
            elif fault.noticed:
                row.before = pull(scene, UPSTREAM, begun=leave)  # the withdrawal frees it
            else:
                row.before = pull(scene, UPSTREAM, timeout=HANG_SECONDS, rescue=faults.close)
        if fault.noticed:
            row.after = pull(scene, UPSTREAM)
    back = _seconds_until_used(scene)
    if fault.noticed:
        row.back = back
    return row


def _measure_under_way(scene: Scene, fault: CacheFault) -> Row:
    """Measure a fault that begins while a layer is being sent."""
    upstream = scene.cluster.upstream
    try:
        for name in (UPSTREAM, DIRECT):
            upstream.slow(name, SLOW_BYTES)
        row = Row(fault, _direct_seconds(scene, SLOW_LAYER))
        with ExitStack() as faults:

            def begin() -> None:
                wait_for("the layer to be under way", lambda: scene.node.run("sh", "-c", UNDER_WAY), timeout=60)
                faults.enter_context(put_in_place(scene, fault))
                row.symptom = _symptom(scene, fault)

            row.before = pull(scene, UPSTREAM, begun=begin, layer_bytes=SLOW_LAYER)
    finally:
        upstream.resume()
    _seconds_until_used(scene)
    return row


def pull(  # noqa: PLR0913 - each is for one of the faults
    scene: Scene,
    upstream: str,
    *,
    begun: Callable[[], None] = lambda: None,
    timeout: float = PULL_SECONDS,
    rescue: Callable[[], None] | None = None,
    layer_bytes: int | None = None,
) -> Timed:
    """Pull a new image on the scene's node; `begun` is called when the pull has begun.

    Where the pull takes longer than `timeout` seconds, `rescue` is called, and the pull is waited for once more.

    Raises:
        PullFailed: The pull failed.
    """
    reference = f"{upstream}/library/fault-{RUN[:8]}-{next(_number)}:1"
    size = {} if layer_bytes is None else {"layers": 1, "layer_bytes": layer_bytes}
    image, _ = new_image(scene.cluster, reference, **size)
    mark = scene.cluster.upstream.mark()
    freed = None
    with Pod(scene.cluster.kubeconfig, image, scene.node) as pod:
        pod.wait_until_begun()
        start = time.monotonic()
        begun()
        try:
            seconds: float | None = pod.wait_until_pulled(timeout)
        except PullFailed:
            if rescue is None:
                raise
            seconds = None
            rescue()
            rescued = time.monotonic()
            pod.wait_until_pulled(PULL_SECONDS)
            freed = time.monotonic() - rescued
        failed_tries = pod.failed_tries()
        if failed_tries and seconds is not None:
            seconds = time.monotonic() - start  # the kubelet's figure is that of the last try only
    served_by = Pull(image, scene.node, seconds or 0, scene.cluster.upstream.requests(mark)).served_by
    return Timed(seconds, failed_tries, served_by, freed)


def _direct_seconds(scene: Scene, layer_bytes: int | None = None) -> float:
    timed = pull(scene, DIRECT, layer_bytes=layer_bytes)
    assert timed.seconds is not None
    assert timed.served_by == "upstream"
    return timed.seconds


def _symptom(scene: Scene, fault: CacheFault) -> str:
    """Wait until the pulling node sees the symptom of the fault, and return it."""
    seen = ""

    def is_seen() -> bool:
        nonlocal seen
        seen = scene.ask()
        if re.fullmatch(fault.symptom, seen) is None:
            return False
        if fault.contents is None:
            return True
        seen = scene.ask(CONTENT)
        return re.fullmatch(fault.contents, seen) is not None

    try:
        wait_for(f"{fault.title} to be in place", is_seen, timeout=30)
    except TimeoutError as error:
        error.add_note(f"the node saw: {seen}")
        raise
    return seen


def _seconds_until_used(scene: Scene) -> float:
    """Wait until the cache answers and then until the node uses it, and return the seconds of the latter."""
    wait_for("the cache to answer", lambda: scene.ask() == HEALTHY, NOTICE_SECONDS)
    start = time.monotonic()
    wait_for("the node to use the cache", lambda: scene.release.uses_cache(scene.node, UPSTREAM), NOTICE_SECONDS)
    return time.monotonic() - start
