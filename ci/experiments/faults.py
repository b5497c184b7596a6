"""The faults of a cache, and what each of them is known to do: to the node, to containerd and to the node program.

There are two back ends, which put a fault in place: `cluster_faults` for a cache pod in the test cluster, `bare_faults`
for a distribution before bare containerds, without Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Flag, auto

from upstreams.fault_server import Fault

HEALTHY = "status 200, 2 of 2 bytes"
# The releases of containerd that have no limit for the head of a response.
UNLIMITED_RELEASES = frozenset({"1.6", "1.7"})
ALL_RELEASES = frozenset({*UNLIMITED_RELEASES, "2.x"})


class BackEnd(Flag):
    """Where a fault can be put in place."""

    CLUSTER = auto()
    BARE = auto()
    BOTH = CLUSTER | BARE


@dataclass(frozen=True)
class CacheFault:
    """A fault of a cache.

    Where `answers` is set, a server with that fault answers in the cache's place. The back ends know the others by
    their titles.
    """

    title: str
    answers: Fault | None = None
    back_ends: BackEnd = BackEnd.BOTH
    # Patterns of what the pulling node gets in the cluster for /v2/ and for a manifest: they prove that it is in place.
    symptom: str = re.escape(HEALTHY)
    contents: str | None = None
    # The node program notices it, and withdraws the cache.
    noticed: bool = True
    # No response begins: containerd waits 30 s for a head (core/remotes/docker/registry.go).
    silent: bool = False
    # containerd goes on to the upstream by itself; otherwise a pull fails or hangs until the cache is withdrawn.
    falls_back: bool = True
    # The releases of containerd whose pull lasts as long as the connection to the cache.
    held: frozenset[str] = frozenset()
    # It begins while a layer is being sent.
    under_way: bool = False
    # A pull can be made between its beginning and the withdrawal of the cache.
    before: bool = True


def _of_contents(title: str, answers: Fault, contents: str, *, falls_back: bool = False) -> CacheFault:
    """Return a fault of manifests and blobs in the cluster; the node program does not notice it, because /v2/ works."""
    return CacheFault(
        f"manifests and blobs: {title}",
        answers,
        BackEnd.CLUSTER,
        contents=contents,
        noticed=False,
        falls_back=falls_back,
    )


def _of_kind(
    kind: str, title: str, *, falls_back: bool = False, held: frozenset[str] = frozenset(), **answers: object
) -> CacheFault:
    """Return a fault of manifests or of blobs alone, without Kubernetes; /v2/ works."""
    fault = Fault(kinds=(kind,), **answers)  # type: ignore[arg-type] # as given below
    return CacheFault(f"{kind}: {title}", fault, BackEnd.BARE, noticed=False, falls_back=falls_back, held=held)


CONTENTS = ("manifests", "blobs")
STATUSES = (404, 429, 500, 503)
FAULTS = (
    CacheFault("nothing listens", symptom="connection refused"),
    CacheFault("scaled to zero", back_ends=BackEnd.CLUSTER, symptom="connection refused"),
    CacheFault("Service deleted", back_ends=BackEnd.CLUSTER, symptom="no connection|.*unreachable|connection refused"),
    CacheFault("packets dropped", symptom="no connection"),
    CacheFault("node of the cache lost", back_ends=BackEnd.CLUSTER, symptom="no connection|no route to host"),
    CacheFault("backlog full, connections are not accepted", back_ends=BackEnd.BARE),
    CacheFault(
        "processes stopped: connections are accepted, requests are not answered",
        symptom="0 bytes of a head",
        silent=True,
        held=UNLIMITED_RELEASES,
    ),
    CacheFault(
        "one byte per second",
        Fault(drips="response"),
        symptom="[12] bytes of a head",
        silent=True,
        held=UNLIMITED_RELEASES,
    ),
    *(CacheFault(f"status {status}", Fault(status=status), symptom=f"status {status}.*") for status in STATUSES),
    CacheFault("every body breaks off", Fault(share=0.5), symptom="status 200, 1 of 2 bytes", falls_back=False),
    CacheFault("announced bodies do not arrive", Fault(share=0.0), BackEnd.BARE, falls_back=False),
    CacheFault("every body is empty", Fault(empty=True), symptom="status 200, 0 of 0 bytes", falls_back=False),
    CacheFault(
        "node program killed, nothing listens", back_ends=BackEnd.CLUSTER, symptom="connection refused", before=False
    ),
    CacheFault("node program killed", back_ends=BackEnd.CLUSTER, noticed=False),
    *(
        _of_contents(f"status {status}", Fault(CONTENTS, status=status), f"status {status}.*", falls_back=True)
        for status in STATUSES
    ),
    _of_contents("bodies break off", Fault(CONTENTS, share=0.5), r"status 200, \d+ of \d+ bytes"),
    _of_contents("bodies are empty", Fault(CONTENTS, empty=True), "status 200, 0 of 0 bytes"),
    _of_contents("one byte per second", Fault(CONTENTS, drips="body"), r"status 200, [12] of \d+ bytes"),
    CacheFault(
        "cache pod killed while a layer is sent",
        back_ends=BackEnd.CLUSTER,
        symptom="connection refused|no connection|no route to host",
        noticed=False,
        under_way=True,
    ),
    CacheFault(
        "processes stopped while a layer is sent",
        back_ends=BackEnd.CLUSTER,
        symptom="0 bytes of a head",
        silent=True,
        under_way=True,
    ),
    *(
        fault
        for kind in CONTENTS
        for fault in (
            _of_kind(kind, "status 404", falls_back=True, status=404),
            _of_kind(kind, "status 500", falls_back=True, status=500),
            _of_kind(kind, "bodies break off", share=0.5),
            _of_kind(kind, "announced bodies do not arrive", share=0.0),
            _of_kind(kind, "bodies are empty", empty=True),
        )
    ),
    _of_kind("blobs", "connections are reset halfway", share=0.5, ending="reset"),
    _of_kind(
        "blobs",
        "bodies stop halfway, the connection stays open",
        falls_back=True,
        held=ALL_RELEASES,
        share=0.5,
        ending="silence",
    ),
)
IN_CLUSTER = tuple(fault for fault in FAULTS if BackEnd.CLUSTER in fault.back_ends)
BARE = tuple(fault for fault in FAULTS if BackEnd.BARE in fault.back_ends)
