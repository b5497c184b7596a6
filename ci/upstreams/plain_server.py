"""The HTTP server of the small programs beside the upstream registries."""

from __future__ import annotations

from socketserver import ThreadingTCPServer


class PlainServer(ThreadingTCPServer):
    """A server with a thread for each connection.

    http.server has one too, but that asks the DNS for its own name at its start, which may take 10 s.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024
