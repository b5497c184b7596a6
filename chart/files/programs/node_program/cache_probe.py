"""Probes a cache in the way that containerd will use it: from the node's network, at the address of the Service."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

from common.identity import UPSTREAM_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.endpoint import Endpoint

    # Starts TLS on a connection to a host.
    Secure = Callable[[socket.socket, str], socket.socket]

# With these, a cache refuses who shows no certificate or a wrong one (front/nginx.conf, front/nodes-only.conf).
REFUSED_CERTIFICATE = (b"400", b"403")

MAX_ANSWER_BYTES = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?:\r\n|$)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?:\r\n|$)", re.IGNORECASE)
# Every registry sends it (distribution, registry/handlers/app.go); a server that answers 200 without it is not a cache.
_REGISTRY = re.compile(rb"\r\ndocker-distribution-api-version:[ \t]*registry/2\.0[ \t]*(?:\r\n|$)", re.IGNORECASE)
_UPSTREAM = re.compile(rb"\r\n%s:[ \t]*([^\r\n]*)" % UPSTREAM_HEADER.encode(), re.IGNORECASE)


class ProbeFailed(Exception):
    """The cache did not answer as a registry does; the message says what happened."""

    def __init__(self, message: str, kind: str) -> None:
        """`kind` is one of no_address, no_connection, timeout, certificate, status and wrong_answer."""
        super().__init__(message)
        self.kind = kind


def probe(endpoint: Endpoint, timeout: float, identity: str | None = None, secure: Secure | None = None) -> None:
    """Request /v2/, which every registry answers (distribution-spec, end-1).

    `identity` is what the cache has to state, so that no other registry at its address passes for it. With `secure`,
    the certificate of the cache is checked first, and that of the node is shown if the endpoint has one.

    Raises:
        ProbeFailed: There is no connection, no complete and short answer within `timeout` seconds, or another status
            than 200; or containerd would not accept the certificate.
    """
    too_late = "the cache did not answer in time"
    if timeout <= 0:
        # The look-up of the address used up all of it, or the node was too busy to run this program.
        raise ProbeFailed(too_late, "timeout")
    deadline = time.monotonic() + timeout
    head = f"GET /v2/ HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
    request = f"{head}User-Agent: registry-cache-node\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout) as connection:
            stream = secure(connection, endpoint.host) if secure else connection
            stream.sendall(request.encode())
            answer = _receive(stream, deadline)
    except TimeoutError:
        raise ProbeFailed(too_late, "timeout") from None
    except OSError as error:
        message = f"the cache did not answer: {error.strerror or error}".lower()
        raise ProbeFailed(message, "no_connection") from None
    _check_answer(answer, identity, shows_certificate=endpoint.client is not None)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    """Return as much of the answer as arrives before the deadline, which single bytes do not prolong."""
    received = b""
    while len(received) < MAX_ANSWER_BYTES and not _is_complete(received):
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError
        connection.settimeout(seconds_left)
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received


def _is_complete(answer: bytes) -> bool:
    """Whether all that the head announces is there. Without a length nobody can tell, including containerd."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not end or not (length or _CHUNKED.search(head)):
        return False
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def _check_answer(answer: bytes, identity: str | None, *, shows_certificate: bool) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    version, status, *_ = [*head.partition(b"\r\n")[0].split(b" ", 2), b"", b""]
    kind = "wrong_answer"
    if not version.startswith(b"HTTP/") or not status:
        message = "the answer of the cache is not HTTP"
    elif shows_certificate and status in REFUSED_CERTIFICATE:
        message = f"the cache does not accept the certificate of the nodes (status {status.decode()})"
        kind = "certificate"
    elif status != b"200":
        message, kind = f"the cache answered with status {status.decode('ascii', errors='replace')}", "status"
    elif len(answer) >= MAX_ANSWER_BYTES:
        message = "the answer of the cache is too long"
    elif not _is_complete(answer):
        message = "the answer of the cache is incomplete"
    elif not _REGISTRY.search(head):
        message = "the answer of the cache is not that of a registry"
    elif identity is not None and _UPSTREAM.findall(head) != [identity.encode()]:
        message = f"the answer is not that of the cache of {identity}; another server may have its address"
    elif not body:
        # distribution sends {}. Whatever empties this answer on the way does so with manifests and blobs as well.
        message = "the answer of the cache is empty"
    else:
        return
    raise ProbeFailed(message, kind)
