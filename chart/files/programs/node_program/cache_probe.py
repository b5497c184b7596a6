"""Asks a cache whether it answers, the way containerd will: from the node's network, at the Service's address."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

from common.name_lookup import NameLookup, describe_lookup_error

if TYPE_CHECKING:
    from common.endpoint import Endpoint

LARGEST_ANSWER = 64 * 1024
# How long the address of a Service that answers is used before it is looked up again.
FRESH_SECONDS = 600.0
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?:\r\n|$)", re.IGNORECASE)
# distribution's registry/handlers/app.go sends it with each answer; something else that answers 200 is no cache.
REGISTRY = re.compile(rb"\r\ndocker-distribution-api-version:[ \t]*registry/2\.0[ \t]*(?:\r\n|$)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?:\r\n|$)", re.IGNORECASE)


class NoAnswer(Exception):
    """The cache did not answer as a registry does; the message says how, and `kind` in one word of a few."""

    def __init__(self, message: str, kind: str) -> None:
        """`kind` is no_address, no_connection, timeout, status or wrong_answer."""
        super().__init__(message)
        self.kind = kind


class ServiceAddress:
    """The IP address of a Service, looked up at first, after a failed probe, and else seldom.

    A look-up is several requests to the cluster's DNS, one for each search domain and address family. One before each
    probe would be most of what the nodes of a large cluster ask DNS for. A known address is kept while DNS is away.
    """

    def __init__(self, service: str, port: int) -> None:
        """Take the name of the Service; nothing is looked up yet."""
        self._service = service
        self._port = port
        self._known: str | None = None
        self._fresh_until = 0.0
        self._problem = f"the address of {service} is not known yet"
        self._is_unknown_to_dns = False
        self._lookup: NameLookup | None = None

    def current(self, timeout: float) -> str:
        """Return the IP address; the last known one if DNS does not answer within `timeout` seconds.

        Raises:
            NoAnswer: No address is known.
        """
        self._use_ended_lookup()
        if self._known is None or time.monotonic() >= self._fresh_until:
            self._lookup = self._lookup or NameLookup(self._service, self._port)
            self._lookup.wait(timeout)
            self._use_ended_lookup()
        if self._known is None:
            raise NoAnswer(self._problem, "no_address")
        return self._known

    def note_failed_probe(self) -> None:
        """Look the address up again; forget it if DNS says that the Service is gone, since it may get another's."""
        self._fresh_until = 0.0
        if self._is_unknown_to_dns:
            self._known = None

    def _use_ended_lookup(self) -> None:
        if self._lookup is None or not self._lookup.has_ended:
            return
        lookup, self._lookup = self._lookup, None
        try:
            addresses = {str(address[0]) for _, address in lookup.addresses()}
        except (OSError, UnicodeError) as error:
            self._problem = describe_lookup_error(self._service, error)
            self._is_unknown_to_dns = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            return
        # Each of several is as good as the others; always the same one leaves hosts.toml as it is.
        self._known = min(addresses, key=lambda address: (":" in address, address))
        self._is_unknown_to_dns = False
        self._fresh_until = time.monotonic() + FRESH_SECONDS


def probe(endpoint: Endpoint, timeout: float) -> None:
    """Ask for /v2/, which every registry answers (distribution-spec, end-1), and have it all in `timeout` seconds.

    Raises:
        NoAnswer: no connection, no whole and short answer in time, or another status than 200.
    """
    late = "no answer in time"
    if timeout <= 0:
        # What came before took all of it, or the node had no time for this program.
        raise NoAnswer(late, "timeout")
    deadline = time.monotonic() + timeout
    head = f"GET /v2/ HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
    request = f"{head}User-Agent: registry-cache-node\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout) as connection:
            connection.sendall(request.encode())
            answer = _receive(connection, deadline)
    except TimeoutError:
        raise NoAnswer(late, "timeout") from None
    except OSError as error:
        message = f"{error.strerror or error}".lower()
        raise NoAnswer(message, "no_connection") from None
    kind = "wrong_answer"
    status = answer.partition(b"\r\n")[0].split(b" ", 2)
    if len(status) < 2 or not status[0].startswith(b"HTTP/"):  # noqa: PLR2004 - version and status
        message = "the answer is not HTTP"
    elif status[1] != b"200":
        message, kind = f"status {status[1].decode('ascii', errors='replace')}", "status"
    elif len(answer) >= LARGEST_ANSWER:
        message = "the answer is too long"
    elif not _is_whole(answer):
        message = "the answer breaks off"
    elif not REGISTRY.search(answer.partition(b"\r\n\r\n")[0]):
        message = "the answer is no registry's"
    elif not answer.partition(b"\r\n\r\n")[2]:
        # distribution sends {}: who empties its answers empties manifests and blobs as well.
        message = "the answer is empty"
    else:
        return
    raise NoAnswer(message, kind)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    """The answer, as far as it comes; each byte on its own would not prolong the deadline."""
    received = b""
    while len(received) < LARGEST_ANSWER and not _is_whole(received):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received


def _is_whole(answer: bytes) -> bool:
    """Whether all is there that the head announces. Without a length none can tell, and containerd neither."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    if not end or not (length or CHUNKED.search(head)):
        return False
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
