"""A network of a test's own: a loopback device, pods that join it, and no way to anything else."""

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
# What listens here can be reached from the pods.
ADDRESS = "10.88.0.1"


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and what it starts from here on, a network with a loopback device alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _succeeded(libc.unshare(CLONE_NEWNET))
        try:
            run("ip", "link", "set", "lo", "up")
            run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
            yield
        finally:
            _succeeded(libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


def pod_address(number: int) -> str:
    """The address of a pod, of which `number` is 1 or more."""
    return f"10.88.0.{10 + number}"


def join(process: int, number: int) -> None:
    """Lead from this network to that of a process, a pod's."""
    address = pod_address(number)
    link = f"pod-{number}"
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process))
    run("ip", "link", "set", link, "up")
    run("ip", "route", "add", f"{address}/32", "dev", link, "src", ADDRESS)
    # From one pod to another the way is through here.
    run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for arguments in (
        ["link", "set", "lo", "up"],
        ["link", "set", "eth0", "up"],
        ["address", "add", f"{address}/32", "dev", "eth0"],
        ["route", "add", f"{ADDRESS}/32", "dev", "eth0"],
        ["route", "add", "default", "via", ADDRESS],
    ):
        run("nsenter", "--target", str(process), "--net", "ip", *arguments)


def run(*command: str) -> None:
    """Run one of the unpacked tools to its end."""
    subprocess.run(command, check=True, env=tools.program_environment())


def _succeeded(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
