"""The addresses of a native cluster, and commands for its network namespaces."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import tools

if TYPE_CHECKING:
    from collections.abc import Mapping

# One connection must be able to use a fast link over a long delay. Every network namespace has these settings instead
# of the machine's.
TCP_SETTINGS = {
    "net.ipv4.tcp_rmem": "4096 131072 33554432",
    "net.ipv4.tcp_wmem": "4096 65536 33554432",
}


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster; each cluster on a machine has an `index` of its own."""

    index: int

    @property
    def bridge(self) -> str:
        return f"rcache{self.index}"

    @property
    def base(self) -> str:
        return f"10.{180 + self.index}"

    @property
    def control_plane(self) -> str:
        return f"{self.base}.0.1"

    @property
    def upstream(self) -> str:
        return f"{self.base}.0.10"

    def node(self, number: int) -> str:
        return f"{self.base}.0.{10 + number}"

    def pods(self, number: int) -> str:
        return f"{self.base}.{number}.0/24"

    def link(self, address: str) -> str:
        """Return the name of the bridge's end of the link to an address."""
        return f"{self.bridge}-{address.rpartition('.')[2]}"

    @property
    def all_pods(self) -> str:
        return f"{self.base}.0.0/17"

    @property
    def services(self) -> str:
        return f"{self.base}.128.0/20"

    @property
    def api_service(self) -> str:
        return f"{self.base}.128.1"

    @property
    def dns(self) -> str:
        return f"{self.base}.128.10"


def enter_network(namespace: str) -> tuple[str, ...]:
    """Return the beginning of a command that runs in a network namespace."""
    return ("nsenter", f"--net=/run/netns/{namespace}")


def node_settings() -> dict[str, str]:
    """Return the settings of nodes and pods.

    What they send goes over a short path. BBR, which some machines use, takes the shortest round-trip time for the true
    one, so it sends little while the acknowledgements wait behind what an upstream sends. A network namespace may only
    use what the machine allows.
    """
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
    return TCP_SETTINGS | {"net.ipv4.tcp_congestion_control": "cubic" if "cubic" in allowed else "reno"}


def write_settings(settings: Mapping[str, str]) -> str:
    """Return a line of shell that writes settings of the kernel (man 8 sysctl)."""
    return "; ".join(f"echo '{value}' > /proc/sys/{name.replace('.', '/')}" for name, value in settings.items())


def run_ip(*arguments: str, check: bool = True) -> None:
    """Run `ip`.

    Raises:
        RuntimeError: It failed and `check` is set; the message has its output.
    """
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=False, env=tools.program_environment()
    )
    if check and done.returncode != 0:
        message = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        raise RuntimeError(message)
