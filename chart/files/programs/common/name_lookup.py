"""Look-ups of host names that nobody has to wait for: getaddrinfo takes no timeout and cannot be interrupted."""

from __future__ import annotations

import socket
import threading

# What socket.connect takes, and the family of the socket to call it on.
Address = tuple[socket.AddressFamily, tuple[object, ...]]


class NameLookup:
    """A look-up in a thread of its own, which is left behind if it takes too long."""

    def __init__(self, host: str, port: int) -> None:
        """Start to look up the addresses of a host."""
        self._host = host
        self._port = port
        self._addresses: list[Address] = []
        self._error: OSError | UnicodeError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until the look-up has ended, and return whether it has."""
        self._thread.join(max(0.0, seconds))
        return self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether there is a result."""
        return not self._thread.is_alive()

    def addresses(self) -> list[Address]:
        """Return the result of a look-up that has ended: at least one address, in the order in which to try them.

        Raises:
            OSError, UnicodeError: The host has no address, or DNS could not be asked.
        """
        if self._error is not None:
            raise self._error
        return self._addresses

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._error = error
        else:
            self._addresses = [(entry[0], entry[4]) for entry in found]


def describe_lookup_error(host: str, error: OSError | UnicodeError) -> str:
    """Return a sentence about a host whose look-up failed."""
    return f"{host} has no address: {getattr(error, 'strerror', None) or error}"
