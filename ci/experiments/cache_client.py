"""Requests to a cache pod as containerd makes them, and what came of each: its status, its body, and how fast."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upstreams import oci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.cache_pod import CachePod

# Only what hangs takes this long.
HANG_SECONDS = 60.0


@dataclass
class Response:
    """A response; it is `whole` if its body has the length that its head announced."""

    status: int
    body: bytes
    whole: bool
    headers: http.client.HTTPMessage
    head_seconds: float

    @property
    def refused(self) -> bool:
        """Whether containerd goes on to the upstream, which it does only after an error status."""
        return self.status >= http.client.BAD_REQUEST and self.whole


def connect(pod: CachePod) -> http.client.HTTPConnection:
    """Return a connection to a cache pod, which connects with its first request."""
    return http.client.HTTPConnection(urlsplit(pod.url).netloc, timeout=HANG_SECONDS)


def send_request(pod: CachePod, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Response:
    """Send a request to a cache pod, and read all of the response."""
    connection = connect(pod)
    begun = time.monotonic()
    try:
        query = "" if "?" in path else f"?ns={pod.cache['upstream']}"
        connection.request(method, f"{path}{query}", body=body, headers={"Accept": oci.MANIFEST, **headers})
        response = connection.getresponse()
        seconds = time.monotonic() - begun
        whole = True
        try:
            content = response.read()
        except http.client.IncompleteRead as error:
            content, whole = error.partial, False
        except ConnectionError:
            content, whole = b"", False
        return Response(response.status, content, whole, response.headers, seconds)
    finally:
        connection.close()


def blob_path(name: str, digest: str) -> str:
    """Return the path of a blob of an image that was pushed as `library/<name>`."""
    return f"/v2/library/{name}/blobs/{digest}"


def manifest_path(name: str, reference: str = "1") -> str:
    """Return the path of a manifest of such an image."""
    return f"/v2/library/{name}/manifests/{reference}"


def run_together(action: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """Call `action` with each argument at the same time, and return the results in the order of the arguments."""
    given = list(arguments)
    with ThreadPoolExecutor(len(given)) as pool:
        return [each.result(2 * HANG_SECONDS) for each in [pool.submit(action, argument) for argument in given]]
