"""A small HTTP server for Prometheus and the kubelet."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

from common.prometheus_text import CONTENT_TYPE

Wrap = Callable[[socket.socket], socket.socket]
# For the whole of a request, from its first byte to the last one of the response.
REQUEST_SECONDS = 5.0
MAX_HEAD_BYTES = 8192
# Prometheus and the kubelet need one or two. A further connection ends the oldest one, so nobody can hold them all.
MAX_CONNECTIONS = 8
# As socketserver has it, for datagrams too.
Request = socket.socket | tuple[bytes, socket.socket]
NOT_FOUND = "There are /metrics and /healthz.\n"


class StatusServer:
    """Serves /metrics, and /healthz for liveness probes."""

    def __init__(
        self,
        port: int,
        metrics: Callable[[], str],
        is_alive: Callable[[], bool] = lambda: True,
        wrap: Wrap = lambda connection: connection,
        *,
        address: str = "",
    ) -> None:
        """Serve the text that `metrics` returns; nothing is served before `listen`. No address means all of them.

        The liveness probe fails while `is_alive` returns false. `wrap` returns the socket to speak HTTP on for one that
        was accepted, for example with TLS, and raises a ConnectionError if that fails because of the client.
        """
        self._port = port
        self._address = address
        self._metrics = metrics
        self._is_alive = is_alive
        self._wrap = wrap
        self._thread: threading.Thread | None = None
        self._listener: _Listener | None = None

    def listen(self) -> None:
        """Serve in threads of its own from now on, unless it does already.

        Raises:
            OSError: The port cannot be used now; a later call may succeed.
        """
        if self._listener is None:
            self._listener = _Listener((self._address, self._port), self._metrics, self._is_alive, self._wrap)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._listener.serve_forever, daemon=True)
            self._thread.start()


class _Listener(socketserver.ThreadingTCPServer):
    """Listens on one address, or on every address, IPv4 and IPv6."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], metrics: Callable[[], str], is_alive: Callable[[], bool], wrap: Wrap
    ) -> None:
        is_ipv6 = ":" in address[0] or (not address[0] and socket.has_dualstack_ipv6())
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self.metrics = metrics
        self.is_alive = is_alive
        self.wrap = wrap
        # By the socket that was accepted, a second descriptor of the same connection: TLS takes the first one over.
        self._connections: dict[Request, socket.socket] = {}
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Request, client_address: object) -> None:
        """Serve a connection in a thread, and end the oldest one if there are too many."""
        if not self._slots.acquire(blocking=False):
            with self._lock:
                oldest = next(iter(self._connections.values()), None)
                if oldest is not None:
                    with suppress(OSError):  # the client has hung up
                        oldest.shutdown(socket.SHUT_RDWR)
            self._slots.acquire()
        try:
            with self._lock:
                self._connections[request] = cast("socket.socket", request).dup()
            super().process_request(request, client_address)
        except BaseException:  # no descriptor is free, or no thread can start
            self._release(request)
            raise

    def process_request_thread(self, request: Request, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def _release(self, request: Request) -> None:
        with self._lock:
            connection = self._connections.pop(request, None)
        if connection is not None:
            connection.close()
        self._slots.release()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up; anything else is a defect, whose traceback belongs into the log."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            sys.excepthook(*sys.exc_info())


class _Handler(socketserver.BaseRequestHandler):
    """Answers one request. http.server would take five more MB of memory: it brings all of the package email."""

    server: _Listener
    request: socket.socket

    def setup(self) -> None:
        self._accepted = self.request

    def handle(self) -> None:
        deadline = time.monotonic() + REQUEST_SECONDS
        # In the thread of the connection, since a client may take its time for a handshake.
        self.request.settimeout(REQUEST_SECONDS)
        self.request = self.server.wrap(self.request)
        with _errors_of_the_client():
            request = self._receive_head(deadline).split(b"\n", 1)[0].split()
        status, body, content_type = "200 OK", "ok\n", "text/plain"
        if request[:2] == [b"GET", b"/metrics"]:
            body, content_type = self.server.metrics(), CONTENT_TYPE
        elif request[:2] != [b"GET", b"/healthz"]:
            status, body = "404 Not Found", NOT_FOUND
        elif not self.server.is_alive():
            status, body = "500 Internal Server Error", "not alive\n"
        content = body.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
        with _errors_of_the_client():
            # The timeout of a socket is for all of sendall.
            self.request.settimeout(max(0.001, deadline - time.monotonic()))
            self.request.sendall(f"{head}Connection: close\r\n\r\n".encode() + content)

    def finish(self) -> None:
        """Close a connection that TLS took over; the server closes any other one."""
        if self.request is not self._accepted:
            self.request.close()

    def _receive_head(self, deadline: float) -> bytes:
        """Return the head of a request, or as much of it as comes in time and is not too long."""
        head = b""
        while len(head) < MAX_HEAD_BYTES and b"\n\r\n" not in head and b"\n\n" not in head:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise TimeoutError
            self.request.settimeout(seconds_left)
            part = self.request.recv(MAX_HEAD_BYTES - len(head))
            if not part:
                break
            head += part
        return head


@contextmanager
def _errors_of_the_client() -> Iterator[None]:
    """Raise a ConnectionError for each error of a connection, since TLS has errors of its own for clients that hang up.

    They are not imported here: programs without TLS need not have its library in memory.
    """
    try:
        yield
    except OSError as error:
        raise ConnectionError(*error.args) from error
