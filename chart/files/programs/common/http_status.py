"""A small HTTP server for Prometheus and the kubelet."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable

from common.prometheus_text import CONTENT_TYPE

Wrap = Callable[[socket.socket], socket.socket]
CLIENT_TIMEOUT_SECONDS = 5
MAX_LINE_BYTES = 4096
MAX_HEADERS = 100


class StatusServer:
    """Serves /metrics, and /healthz for liveness probes."""

    def __init__(
        self,
        port: int,
        metrics: Callable[[], str],
        is_alive: Callable[[], bool] = lambda: True,
        wrap: Wrap = lambda connection: connection,
    ) -> None:
        """Serve the text that `metrics` returns; nothing is served before `listen`.

        The liveness probe fails while `is_alive` returns false. `wrap` returns the socket to speak HTTP on for one that
        was accepted, for example with TLS.
        """
        self._port = port
        self._wrap = wrap
        self._metrics = metrics
        self._is_alive = is_alive
        self._listener: _Listener | None = None

    def listen(self) -> None:
        """Serve in threads of its own from now on, unless it does already.

        Raises:
            OSError: The port cannot be used now; a later call may succeed.
        """
        if self._listener is None:
            self._listener = _Listener(self._port, self._metrics, self._is_alive, self._wrap)
            threading.Thread(target=self._listener.serve_forever, daemon=True).start()


class _Listener(socketserver.ThreadingTCPServer):
    """Listens on every address, IPv4 and IPv6."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, metrics: Callable[[], str], is_alive: Callable[[], bool], wrap: Wrap) -> None:
        self.wrap = wrap
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self.metrics = metrics
        self.is_alive = is_alive
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up; anything else is a defect, whose traceback belongs into the log."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            sys.excepthook(*sys.exc_info())


class _Handler(socketserver.StreamRequestHandler):
    """Answers one request. http.server would take five more MB of memory: it brings all of the package email."""

    server: _Listener
    timeout = CLIENT_TIMEOUT_SECONDS

    def setup(self) -> None:
        # In the thread of the connection, since a client may take its time for a handshake.
        self.request.settimeout(CLIENT_TIMEOUT_SECONDS)
        self.request = self.server.wrap(self.request)
        super().setup()

    def handle(self) -> None:
        request = self.rfile.readline(MAX_LINE_BYTES).split()
        for _ in range(MAX_HEADERS):
            if self.rfile.readline(MAX_LINE_BYTES) in (b"\r\n", b"\n", b""):
                break
        if request[:2] == [b"GET", b"/metrics"]:
            self._send("200 OK", self.server.metrics(), CONTENT_TYPE)
        elif request[:2] == [b"GET", b"/healthz"]:
            is_alive = self.server.is_alive()
            self._send("200 OK" if is_alive else "500 Internal Server Error", "ok\n" if is_alive else "not alive\n")
        else:
            self._send("404 Not Found", "There are /metrics and /healthz.\n")

    def _send(self, status: str, body: str, content_type: str = "text/plain") -> None:
        content = body.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
        self.wfile.write(f"{head}Connection: close\r\n\r\n".encode() + content)
