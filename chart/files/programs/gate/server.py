"""Listens for the front, and limits how many requests the gate has at once."""

from __future__ import annotations

import select
import socketserver
import sys
import threading
from contextlib import suppress
from socket import MSG_DONTWAIT, SHUT_WR
from typing import TYPE_CHECKING

from fetching.fair_slots import FairSlots

from gate.handler import Handler
from gate.metrics import OVERLOAD, REQUEST

if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from typing import Any

    from gate.parts import Parts

# Pulls that are answered at once. Each holds a thread, and most of them wait for the upstream: 500 nodes that request
# three layers each of an image that is not cached have 1,500. One address gets half of them at most.
MAX_PULLS = 2048
# The front keeps some connections open for later requests, and the kubelet's probes need one.
MAX_CONNECTIONS = MAX_PULLS + 512
OVERLOADED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
MAX_HEAD_BYTES = 64 << 10


class Server(socketserver.ThreadingUnixStreamServer):
    """An HTTP server on a Unix socket, with a thread for each connection of the front."""

    daemon_threads = True
    request_queue_size = 4096

    def __init__(self, path: Path, parts: Parts) -> None:
        """Listen on `path`, and replace a socket that an earlier process left there."""
        path.unlink(missing_ok=True)
        self.parts = parts
        self.pulls = FairSlots(MAX_PULLS)
        self._connections = 0
        self._lock = threading.Lock()
        super().__init__(str(path), Handler)

    @property
    def active_requests(self) -> int:
        """The number of pulls that are being answered."""
        return self.pulls.taken

    def verify_request(self, request: socket.socket | Any, _client_address: Any) -> bool:  # noqa: ANN401 - as the base
        """Return whether the front has not closed the connection yet, since its client hung up.

        Thousands of such connections may be before that of a node that waits, and a thread for each would take seconds.
        """
        state = select.poll()
        state.register(request, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in state.poll(0))

    def process_request(self, request: socket.socket | Any, client_address: Any) -> None:  # noqa: ANN401 - as the base
        """Answer the requests of a connection in a thread of its own, or refuse the connection at once."""
        with self._lock:
            is_accepted = self._connections < MAX_CONNECTIONS
            self._connections += is_accepted
        if is_accepted:
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # the container has as many threads as it may have
                self._note_closed()
            else:
                return
        self.parts.metrics.count_refused_request(OVERLOAD)
        with suppress(OSError):
            request.sendall(OVERLOADED)
            request.shutdown(SHUT_WR)
            # Closing a Unix socket with unread bytes would take the answer back.
            request.recv(MAX_HEAD_BYTES, MSG_DONTWAIT)
        self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket | Any, client_address: Any) -> None:  # noqa: ANN401 - as the base
        """Answer the requests of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._note_closed()

    def _note_closed(self) -> None:
        with self._lock:
            self._connections -= 1

    def handle_error(self, *_: object) -> None:
        """Log the traceback of a defect, and nothing for a client that hung up."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            self.parts.metrics.count_defect(REQUEST)
            sys.excepthook(*sys.exc_info())
