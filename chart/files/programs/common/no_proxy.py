"""Which hosts are reached without a proxy, by the rules of Go programs such as containerd.

They are those of golang.org/x/net/http/httpproxy, proxy.go, as Go 1.26 has them.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CIDR = re.compile(r"([0-9a-f.:]+)/[0-9]{1,3}")
# What Go's net.SplitHostPort accepts.
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^\[\]:]*)")
# The bits of an IPv6 address before an IPv4 address in it (::ffff:0:0/96).
_MAPPED_BITS = 96


class _Exception(NamedTuple):
    """An entry of no_proxy, with one of `network`, `ip` and `domain`; an empty port means any port."""

    network: Network | None = None
    ip: IP | None = None
    # It begins with a dot.
    domain: str = ""
    includes_itself: bool = False
    port: str = ""

    def covers(self, host: str, port: int, ip: IP | None) -> bool:
        if self.network is not None:
            return ip is not None and ip in self.network
        if self.port not in ("", str(port)):
            return False
        if self.ip is not None:
            return self.ip == ip
        return ip is None and (host.endswith(self.domain) or (self.includes_itself and host == self.domain[1:]))


class NoProxy:
    """The hosts that are reached without a proxy."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take texts as in NO_PROXY, which is a list with commas. Entries that mean nothing are left out, as in Go."""
        entries = [entry.strip().lower() for text in texts for entry in text.split(",")]
        self._covers_all = "*" in entries
        self._exceptions = [exception for entry in entries if (exception := _parse_exception(entry))]

    def covers(self, host: str, port: int) -> bool:
        """Whether a host, which is a name or an IP address, is reached without a proxy at this port."""
        host = host.lower()
        ip = _parse_ip(host)
        if self._covers_all or host == "localhost" or (ip is not None and ip.is_loopback):
            return True
        return any(exception.covers(host, port, ip) for exception in self._exceptions)


def _parse_exception(entry: str) -> _Exception | None:
    """Return what an entry means, or None if it means nothing."""
    if _CIDR.fullmatch(entry):
        return _parse_network(entry)
    split = _WITH_PORT.fullmatch(entry)
    host, port = (split[1] or split[2] or "", split[3]) if split else (entry, "")
    if ip := _parse_ip(host):
        return _Exception(ip=ip, port=port)
    host = host.removeprefix("*") if host.startswith("*.") else host
    if not host:
        return None
    includes_itself = not host.startswith(".")
    return _Exception(domain=f".{host}" if includes_itself else host, includes_itself=includes_itself, port=port)


def _parse_network(entry: str) -> _Exception | None:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))
    return _Exception(network=network)


def _parse_ip(text: str) -> IP | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # An IPv4 address may be written in more than one way.
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
