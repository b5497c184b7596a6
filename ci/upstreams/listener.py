"""A TCP server for servers with faults: it gives each connection to a thread, and can cut all of them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

Address = tuple[str, int]
MAX_HEAD_BYTES = 64 * 1024
BACKLOG = 1024


class Listener:
    """Calls `serve` with each connection, in a thread of its own, and closes the connection afterwards."""

    def __init__(self, address: Address, serve: Callable[[socket.socket], None]) -> None:
        """Set it up; `start` begins to listen."""
        self.address = address
        self._serve = serve
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        # Set when the connections of the moment are cut.
        self.cut = threading.Event()

    def __enter__(self) -> Self:
        """Listen."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening, and cut all connections."""
        self.stop()

    def start(self) -> None:
        """Begin to listen; port 0 is replaced by a free port."""
        self._listener = socket.create_server(self.address, backlog=BACKLOG)
        self.address = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and cut all connections."""
        if self._listener:
            with suppress(OSError):  # shutting down ends `accept`, also where no client ever connected
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut_connections()

    def cut_connections(self) -> None:
        """Cut all connections, and wake the threads that wait for `cut`."""
        ended, self.cut = self.cut, threading.Event()
        ended.set()
        for connection in list(self._connections):
            with suppress(OSError):  # the client has closed it in the meantime
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # stopped
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        try:
            # Either side may go away at any moment: faults make them do so.
            with connection, suppress(OSError):
                self._serve(connection)
        finally:
            self._connections.discard(connection)


def read_head(connection: socket.socket) -> bytes:
    """Return the head of an HTTP message with its empty line, or nothing where the connection ends before that."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < MAX_HEAD_BYTES:
        # Byte by byte: what comes after the head is somebody else's.
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def reset_on_close(connection: socket.socket) -> None:
    """Have a connection end with a reset when it is closed (man 7 socket, SO_LINGER)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4))
