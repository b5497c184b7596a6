"""A network of its own for a test: a loopback device, the pods that join it, and no route to anything else."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from machine import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
# The pods can reach programs that listen here.
ADDRESS = "10.88.0.1"


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and the programs that it starts, a network with only a loopback device."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            run("ip", "link", "set", "lo", "up")
            run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
            yield
        finally:
            _check(libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


def pod_address(number: int) -> str:
    """Return the address of a pod, whose `number` is 1 or more."""
    return f"10.88.0.{10 + number}"


def join(process: int, number: int) -> None:
    """Connect this network to that of a pod, given by one of its processes."""
    address = pod_address(number)
    link = f"pod-{number}"
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process))
    run("ip", "link", "set", link, "up")
    run("ip", "route", "add", f"{address}/32", "dev", link, "src", ADDRESS)
    # Packets between pods are forwarded by this network.
    run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for arguments in (
        ["link", "set", "lo", "up"],
        ["link", "set", "eth0", "up"],
        ["address", "add", f"{address}/32", "dev", "eth0"],
        ["route", "add", f"{ADDRESS}/32", "dev", "eth0"],
        ["route", "add", "default", "via", ADDRESS],
    ):
        run("nsenter", "--target", str(process), "--net", "ip", *arguments)


def enter(process: int) -> None:
    """Move this thread, and the threads and programs that it starts, into the network of a process."""
    network = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    try:
        _check(ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET))
    finally:
        os.close(network)


def run(*command: str) -> None:
    """Run a command with the programs of the test bed."""
    subprocess.run(command, check=True, env=tools.program_environment())


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
