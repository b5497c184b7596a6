"""A client of the gate that connects as the front does."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS = 30.0


class Front(http.client.HTTPConnection):
    """A connection like those of nginx."""

    def __init__(self, path: Path) -> None:
        """Connect at the first request."""
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
