"""A fuzz target for what clients send to a cache pod: the front, the gate and distribution as the chart runs them."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from upstreams import oci

from experiments.cache_client import blob_path, manifest_path, send_request
from experiments.fuzz import Target, mutated
from experiments.pod_bench import UPSTREAM, pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.cache_pod import CachePod

NAME = "fuzzed"
# A request for a body that does not come ends when the client has sent everything.
SILENCE_SECONDS = 1.0
END_SECONDS = 3.0
# Completes whatever was sent before, and lets the front close the connection.
LAST_REQUEST = b"\r\n\r\nGET /-/front HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n(.*?)\r\n\r\n", re.DOTALL)
CONTENT_RANGE = re.compile(rb"^content-range: bytes (\d+)-(\d+)/(\d+)\r?$", re.IGNORECASE | re.MULTILINE)
DIGEST = re.compile(rb"^docker-content-digest: (sha256:[0-9a-f]{64})\r?$", re.IGNORECASE | re.MULTILINE)
LENGTH = re.compile(rb"^content-length: (\d+)\r?$", re.IGNORECASE | re.MULTILINE)
STATUS_OK, STATUS_PARTIAL = b"200", b"206"


@dataclass(frozen=True)
class FuzzedPod:
    """A pod that has an image, and the process of its gate."""

    pod: CachePod
    image: oci.Image
    gate: int

    @property
    def target(self) -> Target:
        digest = oci.digest(self.image.layers[-1])
        paths = (blob_path(NAME, digest), manifest_path(NAME), manifest_path(NAME, self.image.digest), "/v2/")
        requests = [f"GET {path}?ns={UPSTREAM} HTTP/1.1\r\nHost: x\r\nAccept: {oci.MANIFEST}" for path in paths]
        requests += [f"{requests[0]}\r\nRange: bytes=5-99", f"{requests[0]}\r\nUser-Agent: containerd/v2.4.2"]
        requests += [f"HEAD {paths[1]} HTTP/1.1\r\nHost: x", "GET /v2/_catalog HTTP/1.1\r\nHost: x"]
        requests += [f"POST {paths[0]} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"]
        requests += [f"GET /incoming{paths[0]} HTTP/1.1\r\nHost: x\r\nX-Real-IP: 1.2.3.4\r\nConnection: upgrade"]
        return Target("http", mutated([request.encode() for request in requests]), self.check, weight=5.0)

    def check(self, request: bytes) -> None:
        """Send bytes, and check the responses; the programs must be alive, and the image whole."""
        received = self._send(request + LAST_REQUEST)
        for status, head, body in _responses(received):
            self._check_response(status, head, body)
        assert self.pod.process("gate") == self.gate, "the gate ended"
        log = self.pod.log("gate")
        assert "Traceback" not in log, log[-2000:]

    def check_image(self) -> None:
        """Check that the image is sent as it was pushed."""
        for digest, content in self.image.blobs.items():
            response = send_request(self.pod, blob_path(NAME, digest))
            assert (response.status, response.body) == (http.client.OK, content), digest

    def _send(self, request: bytes) -> bytes:
        parts = urlsplit(self.pod.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=SILENCE_SECONDS) as connection:
            received = b""
            try:
                connection.sendall(request)
                while part := connection.recv(1 << 16):
                    received += part
            except TimeoutError:
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(END_SECONDS)
                while part := connection.recv(1 << 16):
                    received += part
            except ConnectionError:
                pass  # the front may reset what it does not want
            return received

    def _check_response(self, status: bytes, head: bytes, body: bytes) -> None:
        digest, part = DIGEST.search(head), CONTENT_RANGE.search(head)
        if digest is None or not body:
            return
        contents = {**self.image.blobs, self.image.digest: self.image.manifest}
        content = contents[digest[1].decode()]
        if status == STATUS_OK:
            assert hashlib.sha256(body).digest() == hashlib.sha256(content).digest(), "wrong bytes"
        elif status == STATUS_PARTIAL and part is not None:
            assert body == content[int(part[1]) : int(part[2]) + 1], "wrong bytes of a range"


def _responses(received: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Return status, headers and body of each response that has a length, up to the first one that is not whole."""
    while (match := HEAD.match(received)) is not None:
        length = LENGTH.search(match[2])
        if length is None:
            return
        body = received[match.end() :]
        if len(body) < int(length[1]) or HEAD.match(body):
            return  # cut off, or the response to HEAD
        yield match[1], match[2], body[: int(length[1])]
        received = body[int(length[1]) :]


@contextmanager
def fuzzed_pod() -> Iterator[FuzzedPod]:
    """Start a pod that has an image, and check it at the end."""
    with tempfile.TemporaryDirectory() as folder, pod_bench(Path(folder)) as bench:
        image = bench.push(NAME)
        with bench.pod() as pod:
            assert send_request(pod, manifest_path(NAME)).status == http.client.OK
            fuzzed = FuzzedPod(pod, image, pod.process("gate"))
            fuzzed.check_image()
            yield fuzzed
            fuzzed.check_image()
