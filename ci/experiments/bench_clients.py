"""Clients that pull from a cache as containerd does, and check what they get with as little work as possible."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from upstreams import oci, pki
from upstreams.sites import find_site

from experiments.pod_bench import UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The gate sends a blob while it comes only to a client that is known to resume a body that breaks off.
HEADERS = {"Accept": oci.MANIFEST, "User-Agent": "containerd/v2.4.2"}
# containerd's max_concurrent_downloads (docs/cri/config.md).
AT_ONCE = 3
BUFFER_BYTES = 256 * 1024
# Longer than containerd waits for a head (core/remotes/docker/registry.go), so that slowness is measured.
LIMIT_SECONDS = 120.0


class WrongBody(Exception):
    """A complete body has another digest; the message is the requested one."""


@dataclass
class Herd:
    """The results of many clients at once: the seconds of those that succeeded, and the problems of the others."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Connection:
    """A connection that is kept open for one request after the other."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        """Set it up; the first request connects. An https URL without `tls` is that of the upstreams' address."""
        parts = urlsplit(url)
        self._headers = dict(HEADERS)
        if tls is not None:
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.netloc, timeout=LIMIT_SECONDS, context=tls
            )
        elif parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(pki.authority_file()))
            context.check_hostname = False
            self._headers["Host"] = find_site(UPSTREAM).server_name
            self._connection = http.client.HTTPSConnection(parts.netloc, timeout=LIMIT_SECONDS, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.netloc, timeout=LIMIT_SECONDS)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def __enter__(self) -> Self:
        """Do nothing; the first request connects."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._connection.close()

    def manifest(self, repository: str, tag: str) -> bytes:
        """Return the manifest of a tag, which is resolved with HEAD and then fetched by digest, as containerd does.

        Raises:
            OSError, http.client.HTTPException: It did not come.
        """
        digest = self._send("HEAD", f"/v2/{repository}/manifests/{tag}").getheader("Docker-Content-Digest")
        return self._send("GET", f"/v2/{repository}/manifests/{digest}").read()

    def blob(self, repository: str, digest: str, code: int | None = None) -> int:
        """Read a blob, check it, and return its length.

        The check is SHA-256 as in containerd: an idle client would sleep after each part of a body, and most of the
        cost of sending would be to wake it. With `code`, CRC-32 is checked instead, which takes a third of the time, so
        that many clients on one machine are not what is measured.

        Raises:
            WrongBody: The content is wrong.
            OSError, http.client.HTTPException: It did not come, or is incomplete.
        """
        response = self._send("GET", f"/v2/{repository}/blobs/{digest}")
        expected = int(response.headers["Content-Length"])
        length, crc, sha256 = 0, 0, hashlib.sha256()
        while count := response.readinto(self._buffer):
            length += count
            if code is None:
                sha256.update(self._buffer[:count])
            else:
                crc = zlib.crc32(self._buffer[:count], crc)
        if length != expected:
            message = f"{length} of {expected} bytes of {digest}"
            raise ConnectionError(message)
        if crc != code if code is not None else f"sha256:{sha256.hexdigest()}" != digest:
            raise WrongBody(digest)
        return length

    def _send(self, method: str, path: str) -> http.client.HTTPResponse:
        self._connection.request(method, f"{path}?ns={UPSTREAM}", headers=self._headers)
        response = self._connection.getresponse()
        if method == "HEAD" or response.status != http.client.OK:
            response.read()
        if response.status != http.client.OK:
            message = f"{method} {path}: status {response.status}"
            raise ConnectionError(message)
        return response


def herd(
    url: str, repository: str, image: oci.Image, clients: int, enter: Callable[[int], None] = lambda _: None
) -> Herd:
    """Let clients pull an image at once, each one time and without a second try.

    Each client is a thread, which first calls `enter` with its number.
    """
    result = Herd()
    codes = {digest: zlib.crc32(blob) for digest, blob in image.blobs.items()}
    barrier = threading.Barrier(clients)
    lock = threading.Lock()

    def pull(number: int) -> None:
        enter(number)
        barrier.wait()
        begun = time.monotonic()
        try:
            _pull(url, repository, image, codes)
        except WrongBody as error:
            with lock:
                result.wrong.append(str(error))
        except (OSError, http.client.HTTPException) as error:
            with lock:
                result.failed.append(str(error) or repr(error))
        else:
            took = time.monotonic() - begun
            with lock:
                result.seconds.append(took)

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(pull, number) for number in range(clients)]:
            done.result()
    return result


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
