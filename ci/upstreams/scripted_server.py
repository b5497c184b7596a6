"""A server that sends what a test gives it, byte for byte, also what is not HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from upstreams.listener import Listener, read_head, reset_on_close

# Gets the connection and the head of a request.
Script = Callable[[socket.socket, str], None]


class ScriptedServer(Listener):
    """Runs `script` for the first request of each connection, or for all of them, and keeps the heads of all requests.

    With `accept`, that is called with each connection before anything is read from it, and returns the one to use, for
    example with TLS, or None to send nothing more.
    """

    def __init__(
        self,
        script: Script,
        accept: Callable[[socket.socket], socket.socket | None] = lambda connection: connection,
        *,
        keeps_open: bool = False,
    ) -> None:
        """Set it up for a free port; entering the block begins to listen."""
        super().__init__(("127.0.0.1", 0), self._answer)
        self.heads: list[str] = []
        # How many connections there were, and how many there are.
        self.accepted = self.open = 0
        self._keeps_open = keeps_open
        self._lock = threading.Lock()
        self._script = script
        self._accept_as = accept

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answer(self, plain: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
            self.open += 1
        try:
            connection = self._accept_as(plain)
            if connection is None:
                return
            with connection:
                while head := read_head(connection):
                    self.heads.append(head.decode("latin-1"))
                    self._script(connection, self.heads[-1])
                    if not self._keeps_open:
                        return
        finally:
            with self._lock:
                self.open -= 1


def send(text: str, *, body: bytes = b"") -> Script:
    """Return a script that sends the lines of a head, and a body."""
    answer = text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body
    return lambda connection, _: connection.sendall(answer)


def redirect(to: str, status: int = 307) -> Script:
    """Return a script that redirects the client."""
    return send(f"HTTP/1.1 {status} x\nLocation: {to}\nContent-Length: 0")


def in_turn(*scripts: Script) -> Script:
    """Return a script that runs one of `scripts` for each request, and the last one for all that follow."""
    left = list(scripts)

    def serve(connection: socket.socket, head: str) -> None:
        script = left.pop(0) if len(left) > 1 else left[0]
        script(connection, head)

    return serve


def stay_silent(connection: socket.socket, _: str) -> None:
    """Send nothing until the client goes away."""
    connection.recv(1)


def reset(connection: socket.socket, _: str) -> None:
    """Reset the connection."""
    reset_on_close(connection)
