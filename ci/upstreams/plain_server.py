"""The server under the small programs that stand beside the upstream registries."""

from __future__ import annotations

from socketserver import ThreadingTCPServer


class PlainServer(ThreadingTCPServer):
    """A thread for each connection; not http.server's own, which first asks DNS for its name: here that takes 10 s."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024
