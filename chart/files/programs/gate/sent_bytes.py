"""What the front sends, to the byte: gate decides what is sent, and only the front knows how much of it went out.

nginx tells of each answer by a datagram to this pod's own address (nginx, "Logging to syslog"). It waits for nobody: a
datagram that finds no room, or no gate, is lost, and no pull is slower for it. Those that found no room are counted.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = ("127.0.0.1", 5003)
# asm-generic/socket.h; Python has no name for it. With it the kernel says how many datagrams it has dropped so far.
SO_RXQ_OVFL = 40
# Bytes of room for datagrams: the kernel gives what it allows, 200 KB or more, which is some hundred of them.
ROOM = 4 << 20
LONGEST = 1024
# As log_format in nginx.conf has it.
SENT = re.compile(rb".*: (blob|manifest) (\d+)")


class SentBytes:
    """Hears what the front sends."""

    def __init__(self, pushed: Callable[[str, int], None], untold: Callable[[int], None]) -> None:
        """`pushed` is told what was sent and how many bytes, `untold` of how many answers the word was lost."""
        self._pushed = pushed
        self._untold = untold
        self._dropped = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        self._socket.bind(ADDRESS)

    def listen(self) -> None:
        """Hear for ever."""
        while True:
            message, ancillary, _, _ = self._socket.recvmsg(LONGEST, socket.CMSG_SPACE(4))
            for _, _, data in ancillary:
                (dropped,) = struct.unpack("I", data[:4])
                # The kernel's number begins anew after 2^32.
                self._untold((dropped - self._dropped) % (1 << 32))
                self._dropped = dropped
            if found := SENT.fullmatch(message):
                self._pushed(found[1].decode(), int(found[2]))
