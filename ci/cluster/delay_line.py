"""Delays the packets that leave a network namespace: `python -m cluster.delay_line SECONDS`, in that namespace.

The namespace routes packets to a TUN device (Linux, networking/tuntap.rst). The program reads them, waits, and writes
them to the same device, from which the namespace forwards them to the real link. Large packets are not split
(IFF_VNET_HDR and TUNSETOFFLOAD), so Python is fast enough for 2 Gbit/s. The device disappears when the program ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

DEVICE = "delay0"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
# More than the largest packet and its header.
PACKET_BYTES = 70_000
# How many packets are read before the ones that are due are written.
BATCH = 64
# Packets that do not fit are dropped; 10 Gbit/s over a delay of 100 ms need 125 MB.
MAX_QUEUE_BYTES = 256_000_000
NICENESS = -10


@dataclass
class DelayLine:
    """The packets that wait, in the order of their arrival."""

    seconds: float
    max_bytes: int = MAX_QUEUE_BYTES
    _packets: deque[tuple[float, bytes]] = field(default_factory=deque)
    _bytes: int = 0

    def put(self, packet: bytes, now: float) -> bool:
        """Add a packet that arrived at `now`, and return whether there was room for it."""
        if self._bytes + len(packet) > self.max_bytes:
            return False
        self._packets.append((now + self.seconds, packet))
        self._bytes += len(packet)
        return True

    def take(self, now: float) -> bytes | None:
        """Remove and return the next packet if it is due."""
        if not self._packets or self._packets[0][0] > now:
            return None
        packet = self._packets.popleft()[1]
        self._bytes -= len(packet)
        return packet

    def wait_seconds(self, now: float) -> float | None:
        """Return how long it is until the next packet is due, or None if no packet waits."""
        return max(0.0, self._packets[0][0] - now) if self._packets else None


def open_device() -> int:
    """Create the TUN device, and return its file descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return device


def run(device: int, line: DelayLine) -> None:
    """Delay packets until the process ends."""
    while True:
        while packet := line.take(time.monotonic()):
            _write(device, packet)
        # The timeouts of poll() and epoll() are in milliseconds, which is too coarse.
        readable, _, _ = select.select([device], [], [], line.wait_seconds(time.monotonic()))
        if readable:
            _read(device, line)


def _read(device: int, line: DelayLine) -> None:
    for _ in range(BATCH):
        try:
            packet = os.read(device, PACKET_BYTES)
        except BlockingIOError:
            return
        line.put(packet, time.monotonic())


def _write(device: int, packet: bytes) -> None:
    try:
        os.write(device, packet)
    except OSError as error:  # a packet that the kernel does not accept is lost, as on any link
        print(error, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Create the device, and run until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.nice(NICENESS)
    run(open_device(), DelayLine(float(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
