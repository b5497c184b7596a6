"""Counts the bytes that the front sends.

The gate decides what is sent, but only the front knows how many bytes of it went out. nginx reports each response by a
datagram to the loopback address of the pod (nginx, "Logging to syslog"), and waits for nobody: a datagram is lost if
the socket has no room for it or the gate does not run, and no pull gets slower. The kernel counts those without room.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = ("127.0.0.1", 5003)
# Python has no name for this option of asm-generic/socket.h. With it the kernel reports how many datagrams it dropped.
SO_RXQ_OVFL = 40
# The kernel grants what it allows, at least 200 KB, which is enough for some hundred datagrams.
RECEIVE_BUFFER_BYTES = 4 << 20
MAX_DATAGRAM_BYTES = 1024
# The format is that of log_format in nginx.conf.
SENT = re.compile(rb".*: (blob|manifest) (\d+)")


class SentBytes:
    """A socket that receives the reports of the front."""

    def __init__(
        self,
        count_pushed_bytes: Callable[[str, int], None],
        count_uncounted_responses: Callable[[int], None],
    ) -> None:
        """Bind the socket.

        `count_pushed_bytes` gets the kind of content and the bytes of each report, `count_uncounted_responses` the
        number of reports that the kernel dropped.
        """
        self._count_pushed_bytes = count_pushed_bytes
        self._count_uncounted_responses = count_uncounted_responses
        self._dropped = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        self._socket.bind(ADDRESS)

    def receive_forever(self) -> None:
        """Receive reports until the program ends."""
        while True:
            datagram, ancillary, _, _ = self._socket.recvmsg(MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(4))
            for _, _, data in ancillary:
                (dropped,) = struct.unpack("I", data[:4])
                # The counter of the kernel wraps around at 2^32.
                self._count_uncounted_responses((dropped - self._dropped) % (1 << 32))
                self._dropped = dropped
            if match := SENT.fullmatch(datagram):
                self._count_pushed_bytes(match[1].decode(), int(match[2]))
