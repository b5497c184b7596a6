"""Clients that pull from a cache as containerd does, as cheaply as Python can, and see that what they get is right."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from upstreams import oci

from experiments.pod_bench import UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Iterator

# containerd's max_concurrent_downloads (docs/cri/config.md).
AT_ONCE = 3
BUFFER = 256 * 1024
# More than containerd waits for a head (core/remotes/docker/registry.go): what is slow is to be seen as slow. Seconds.
PATIENCE = 120.0


class WrongBody(Exception):
    """A body came whole and has another digest; the message is the one that was asked for."""


@dataclass
class Herd:
    """What so many clients at once got: seconds for each that was done, and what was wrong for the others."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Connection:
    """One connection that is kept open, for one request after the other."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet."""
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        self._buffer = memoryview(bytearray(BUFFER))

    def __enter__(self) -> Self:
        """Connect with the first request."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._connection.close()

    def manifest(self, repository: str, tag: str) -> bytes:
        """What the tag means, asked for by HEAD and then by digest, as containerd does.

        Raises:
            OSError, http.client.HTTPException: there is none.
        """
        digest = self._ask("HEAD", f"/v2/{repository}/manifests/{tag}").getheader("Docker-Content-Digest")
        return self._ask("GET", f"/v2/{repository}/manifests/{digest}").read()

    def blob(self, repository: str, digest: str, code: int | None = None) -> int:
        """Read a blob, check it, and return its length.

        By SHA-256 as containerd does: a client that does nothing sleeps between any two parts of a body, and waking it
        is then most of what it costs to send one. `code` is the CRC-32 to check instead, which takes a third of the
        time: many clients that share one machine are not to be what is measured.

        Raises:
            WrongBody: it is not what was asked for.
            OSError, http.client.HTTPException: it did not come, or not whole.
        """
        response = self._ask("GET", f"/v2/{repository}/blobs/{digest}")
        expected = int(response.headers["Content-Length"])
        length, found, sha256 = 0, 0, hashlib.sha256()
        while count := response.readinto(self._buffer):
            length += count
            if code is None:
                sha256.update(self._buffer[:count])
            else:
                found = zlib.crc32(self._buffer[:count], found)
        if length != expected:
            message = f"{length} of {expected} bytes of {digest}"
            raise ConnectionError(message)
        if found != code if code is not None else f"sha256:{sha256.hexdigest()}" != digest:
            raise WrongBody(digest)
        return length

    def _ask(self, method: str, path: str) -> http.client.HTTPResponse:
        self._connection.request(method, f"{path}?ns={UPSTREAM}", headers={"Accept": oci.MANIFEST})
        response = self._connection.getresponse()
        if method == "HEAD" or response.status != http.client.OK:
            response.read()
        if response.status != http.client.OK:
            message = f"{method} {path}: status {response.status}"
            raise ConnectionError(message)
        return response


def herd(url: str, repository: str, image: oci.Image, clients: int) -> Herd:
    """Let so many clients pull an image at once, each once and without a second try."""
    found = Herd()
    codes = {digest: zlib.crc32(blob) for digest, blob in image.blobs.items()}
    begin = threading.Barrier(clients)
    lock = threading.Lock()

    def pull() -> None:
        begin.wait()
        begun = time.monotonic()
        try:
            _pull(url, repository, image, codes)
        except WrongBody as error:
            with lock:
                found.wrong.append(str(error))
        except (OSError, http.client.HTTPException) as error:
            with lock:
                found.failed.append(str(error) or repr(error))
        else:
            took = time.monotonic() - begun
            with lock:
                found.seconds.append(took)

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(pull) for _ in range(clients)]:
            done.result()
    return found


def _pull(url: str, repository: str, image: oci.Image, codes: dict[str, int]) -> None:
    with Connection(url) as connection:
        content = connection.manifest(repository, "1")
    if content != image.manifest:
        raise WrongBody(image.digest)
    manifest = json.loads(content)
    left = iter([manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])])
    lock = threading.Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for worker in [pool.submit(_fetch, url, repository, left, lock, codes) for _ in range(AT_ONCE)]:
            worker.result()


def _fetch(url: str, repository: str, left: Iterator[str], lock: threading.Lock, codes: dict[str, int]) -> None:
    with Connection(url) as connection:
        while True:
            with lock:
                digest = next(left, None)
            if digest is None:
                return
            connection.blob(repository, digest, codes[digest])
