"""Assertions about cache pods: what they send, what is on their volumes, and what the upstream sent."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from experiments.cache_client import Response, blob_path, manifest_path, run_together, send_request
from upstreams import oci

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from upstreams.access_log import Request

# Refusals must be so fast that containerd goes on to the upstream at once; this bound has room for a busy machine.
FAST_SECONDS = 20.0


def get(pod: CachePod, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Return the status and the body of a response, which must be whole."""
    response = send_request(pod, path, method, **headers)
    assert response.whole, path
    return response.status, response.body


def is_right(response: Response, content: bytes) -> bool:
    """Return whether a response is all of the content; otherwise it must be an error, or be seen to be incomplete."""
    if response.status == 200 and response.whole:
        assert response.headers["Content-Length"] == str(len(content))
        expected = hashlib.sha256(content).digest()
        assert hashlib.sha256(response.body).digest() == expected, "a wrong body looks whole"
        return True
    assert response.status >= 400 or not response.whole, response.status
    return False


def pull(pod: CachePod, name: str, image: oci.Image) -> None:
    """Fetch all of an image, by tag and by digest; it must be what was pushed."""
    for reference in ("1", image.digest):
        response = send_request(pod, manifest_path(name, reference))
        assert response.status == 200, response.body
        assert is_right(response, image.manifest)
    for digest, content in image.blobs.items():
        response = send_request(pod, blob_path(name, digest))
        assert response.status == 200, response.body
        assert is_right(response, content)


def pull_together(pod: CachePod, name: str, image: oci.Image, clients: int) -> None:
    """Pull an image by this many clients at the same time."""
    run_together(lambda _: pull(pod, name, image), range(clients))


def sent_references(requests: list[Request]) -> list[str]:
    """Return the digests and tags that the upstream sent, sorted."""
    return sorted(request.digest for request in requests if request.method == "GET" and request.body_bytes)


def sent_bytes(requests: list[Request]) -> int:
    return sum(request.body_bytes for request in requests)


def data_file(pod: CachePod, digest: str) -> Path:
    """Return the file of a blob's content on the volume."""
    return oci.blob_file(pod.volume_folder, digest)


def list_files(pod: CachePod) -> list[str]:
    """Return the paths of all files on the volume."""
    root = pod.volume_folder
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def fill(pod: CachePod, leave: int = 0) -> Path:
    """Write a foreign file to a volume in memory, so that this many bytes are free, and return its path."""
    status = os.statvfs(pod.volume_folder)
    foreign = pod.volume_folder / "foreign"
    with foreign.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return foreign


def assert_no_defect(pod: CachePod) -> None:
    """The gate's log has no unexpected error."""
    log = pod.log("gate")
    assert "Traceback" not in log, log
