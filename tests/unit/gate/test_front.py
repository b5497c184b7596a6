"""The timeouts of the front fit those of the gate."""

from __future__ import annotations

import re

from fetching.fetch import STALLED_AFTER_SECONDS
from fetching.ranges import RANGE_SECONDS
from gate.cold_blobs import COMPLETE_BLOB_SECONDS, FIRST_BYTE_SECONDS
from machine.paths import REPOSITORY
from upstream.client import READ_TIMEOUT_SECONDS

# How long containerd waits for the head of an answer (since 2.3, core/remotes/docker/registry.go).
CONTAINERD_SECONDS = 30.0


def read_timeout(begin: str) -> float:
    """Return the seconds of the first read timeout after some text of nginx.conf."""
    configuration = (REPOSITORY / "chart/files/front/nginx.conf").read_text()
    match = re.search(r"\sproxy_read_timeout (\d+)s;", configuration[configuration.index(begin) :])
    assert match is not None
    return float(match[1])


def test_front_waits_longer_than_the_gate_but_not_longer_than_containerd() -> None:
    head, body = read_timeout("http {"), read_timeout("location /incoming/ {")
    assert head > max(FIRST_BYTE_SECONDS, COMPLETE_BLOB_SECONDS, RANGE_SECONDS)
    assert body > READ_TIMEOUT_SECONDS + STALLED_AFTER_SECONDS
    # A body that ends because the gate hangs is followed by a request for the rest.
    assert body + head <= CONTAINERD_SECONDS
