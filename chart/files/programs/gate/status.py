"""Serves metrics to Prometheus, and the liveness probe to the kubelet."""

from __future__ import annotations

import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from gate.metrics import CONTENT_TYPE, Snapshot

if TYPE_CHECKING:
    from gate.parts import Parts

PORT = 5001


class StatusServer(socketserver.ThreadingTCPServer):
    """An HTTP server for /metrics and /healthz."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, parts: Parts) -> None:
        """Listen on every address of the pod."""
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self.parts = parts
        super().__init__(("", port), StatusHandler)

    def server_bind(self) -> None:
        """Listen for IPv4 and IPv6 if the pod has both."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class StatusHandler(BaseHTTPRequestHandler):
    """Answers Prometheus and the kubelet."""

    server: StatusServer
    timeout = 5

    def do_GET(self) -> None:
        """Answer a GET."""
        if self.path == "/metrics":
            self._send(200, render_metrics(self.server.parts), CONTENT_TYPE)
        elif self.path == "/healthz":
            self._send(200, "ok\n")
        else:
            self._send(404, "")

    def log_message(self, *_: object) -> None:
        """Log no requests: probes and scrapes come every few seconds."""

    def _send(self, status: int, text: str, media_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.end_headers()
        self.wfile.write(text.encode())


def render_metrics(parts: Parts) -> str:
    """Return all metrics in the text format of Prometheus."""
    return parts.metrics.render(
        Snapshot(
            store=parts.store.statistics(),
            is_ready=parts.health.problem is None,
            is_upstream_away=parts.is_upstream_away(),
            active_fetches=parts.fetches.count(),
            credentials_refused=parts.count_refused_credentials(),
        )
    )
