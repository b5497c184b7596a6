"""Connects to one of several addresses of a server, so that an address that does not answer costs little (RFC 8305)."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.name_lookup import Address

# How long an address may take before the next one is tried beside it (RFC 8305, section 5).
ATTEMPT_SECONDS = 0.25
MAX_ATTEMPTS = 16


def dial(addresses: Iterable[Address], deadline: float) -> socket.socket:
    """Connect to the address that answers first; each one that follows starts a moment later than the one before it.

    Raises:
        TimeoutError: An address did not answer by the deadline, and no other one could be connected to.
        OSError: The first problem with an address.
    """
    attempts = _Attempts()
    try:
        for family, address in interleave(addresses)[:MAX_ATTEMPTS]:
            attempts.start(family, address)
            if (connected := attempts.wait(min(deadline, time.monotonic() + ATTEMPT_SECONDS))) is not None:
                return connected
            if time.monotonic() >= deadline:
                break
        while attempts.pending and time.monotonic() < deadline:
            if (connected := attempts.wait(deadline)) is not None:
                return connected
        if attempts.pending or attempts.first_error is None:
            raise TimeoutError
        raise attempts.first_error
    finally:
        attempts.close()


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with their families in turn, since often all of one family do not answer."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    return [address for address in chain(*zip_longest(*by_family.values())) if address is not None]


class _Attempts:
    """Sockets that are connecting."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.pending: dict[int, socket.socket] = {}
        self.first_error: OSError | None = None

    def start(self, family: int, address: tuple[object, ...]) -> None:
        try:
            connecting = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            # The kernel may lack IPv6.
            self._note(error)
            return
        connecting.settimeout(0.0)
        code = connecting.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            connecting.close()
            self._note(OSError(code, os.strerror(code)))
            return
        self.pending[connecting.fileno()] = connecting
        self._poll.register(connecting, select.POLLOUT)

    def wait(self, until: float) -> socket.socket | None:
        """Wait until an address is connected or has failed, or for the time; return the socket in the first case."""
        left = until - time.monotonic()
        if not self.pending or left <= 0:
            return None
        for descriptor, _ in self._poll.poll(math.ceil(left * 1000)):
            self._poll.unregister(descriptor)
            connecting = self.pending.pop(descriptor)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                connecting.settimeout(None)
                # Without it, the first request waits until the server has acknowledged the end of the TLS handshake.
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connecting
            connecting.close()
            self._note(OSError(code, os.strerror(code)))
        return None

    def close(self) -> None:
        for connecting in self.pending.values():
            connecting.close()

    def _note(self, error: OSError) -> None:
        self.first_error = self.first_error or error
