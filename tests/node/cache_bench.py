"""What the tests of cache pods ask, as clients that look closely: whole or not, right or not, and how fast."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from experiments.pod_bench import UPSTREAM
from upstreams import oci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from upstreams.upstream import Request

# Nothing but a hang takes so long. Seconds.
HANG = 60.0
# What is refused has to be refused so fast that containerd goes on to the upstream at once. Seconds, bounds with room.
FAST = 20.0


@dataclass
class Got:
    """An answer; `whole` where its body has the length that its head announced."""

    status: int
    body: bytes
    whole: bool
    headers: http.client.HTTPMessage
    head_seconds: float

    @property
    def refused(self) -> bool:
        """Whether containerd goes on to the upstream: it does upon an error status, and upon nothing else."""
        return self.status >= 400 and self.whole


def connect(pod: CachePod) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(pod.url).netloc, timeout=HANG)


def ask(pod: CachePod, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Got:
    """Ask a cache as containerd does."""
    connection = connect(pod)
    begun = time.monotonic()
    try:
        connection.request(method, f"{path}?ns={UPSTREAM}", body=body, headers={"Accept": oci.MANIFEST, **headers})
        response = connection.getresponse()
        seconds = time.monotonic() - begun
        try:
            return Got(response.status, response.read(), whole=True, headers=response.headers, head_seconds=seconds)
        except http.client.IncompleteRead as error:
            return Got(response.status, error.partial, whole=False, headers=response.headers, head_seconds=seconds)
        except ConnectionError:
            return Got(response.status, b"", whole=False, headers=response.headers, head_seconds=seconds)
    finally:
        connection.close()


def get(pod: CachePod, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer that is whole.

    Raises:
        AssertionError: it is not.
    """
    got = ask(pod, path, method, **headers)
    assert got.whole, path
    return got.status, got.body


def blob_path(name: str, digest: str) -> str:
    return f"/v2/library/{name}/blobs/{digest}"


def manifest_path(name: str, reference: str = "1") -> str:
    return f"/v2/library/{name}/manifests/{reference}"


def is_right(got: Got, content: bytes) -> bool:
    """Whether it is all of it; an error is not, and neither may anything else be.

    Raises:
        AssertionError: it is something else, and looks as if it were all.
    """
    if got.status == 200 and got.whole:
        assert got.headers["Content-Length"] == str(len(content))
        assert hashlib.sha256(got.body).digest() == hashlib.sha256(content).digest(), "a wrong body looks whole"
        return True
    assert got.status >= 400 or not got.whole, got.status
    return False


def pull(pod: CachePod, name: str, image: oci.Image) -> None:
    """Fetch all of an image, by tag and by digest, and find that it is what was pushed."""
    for reference in ("1", image.digest):
        got = ask(pod, manifest_path(name, reference))
        assert got.status == 200, got.body
        assert is_right(got, image.manifest)
    for digest, content in image.blobs.items():
        got = ask(pod, blob_path(name, digest))
        assert got.status == 200, got.body
        assert is_right(got, content)


def pull_at_once(pod: CachePod, name: str, image: oci.Image, clients: int) -> None:
    """Let so many clients pull it at the same time."""
    together(lambda _: pull(pod, name, image), range(clients))


def together(action: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """Do it for each argument at the same time, and return what came of it, in order."""
    given = list(arguments)
    with ThreadPoolExecutor(len(given)) as pool:
        return [each.result(2 * HANG) for each in [pool.submit(action, argument) for argument in given]]


def sent(requests: list[Request]) -> list[str]:
    """The digests and tags that the upstream sent, sorted."""
    return sorted(request.digest for request in requests if request.method == "GET" and request.body_bytes)


def sent_bytes(requests: list[Request]) -> int:
    return sum(request.body_bytes for request in requests)


def data_file(pod: CachePod, digest: str) -> Path:
    """Where the content of a blob lies on the volume."""
    return oci.blob_file(pod.volume_folder, digest)


def files(pod: CachePod) -> list[str]:
    """All files on the volume."""
    root = pod.volume_folder
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def fill(pod: CachePod, leave: int = 0) -> Path:
    """Put a file of somebody else into a volume in memory, which leaves so many bytes of it free, and return it."""
    status = os.statvfs(pod.volume_folder)
    foreign = pod.volume_folder / "foreign"
    with foreign.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return foreign


def assert_no_defect(pod: CachePod) -> None:
    """Find no trace of an error that nobody expected in the gate's log."""
    log = pod.log("gate")
    assert "Traceback" not in log, log
