"""Which proxy a request goes through, by the rules of Go programs such as containerd.

They are those of golang.org/x/net/http/httpproxy, proxy.go. The environment of this process is not used.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

from upstream.urls import Origin, Url

if TYPE_CHECKING:
    from collections.abc import Iterable

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CIDR = re.compile(r"([0-9a-f.:]+)/[0-9]{1,3}")
# What Go's net.SplitHostPort accepts.
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^\[\]:]*)")


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


class Proxies:
    """The proxies for http and https, and the hosts that are reached without one."""

    def __init__(self, http_proxy: str, https_proxy: str, no_proxy: Iterable[str]) -> None:
        """Take the URLs of the proxies, empty for none, and the entries of no_proxy.

        Raises:
            ValueError: The URL of a proxy is invalid.
        """
        self._proxies = {"http": _parse_proxy(http_proxy), "https": _parse_proxy(https_proxy)}
        entries = [entry.strip().lower() for text in no_proxy for entry in text.split(",")]
        self._is_off = "*" in entries
        self._exceptions = [exception for entry in entries if (exception := _parse_exception(entry))]

    def choose(self, origin: Origin) -> Origin | None:
        """Return the proxy for requests to a server, or None."""
        proxy = self._proxies[origin.scheme]
        host = origin.host.lower()
        ip = _parse_ip(host)
        if proxy is None or self._is_off or host == "localhost" or (ip is not None and ip.is_loopback):
            return None
        covered = any(exception.covers(host, origin.port, ip) for exception in self._exceptions)
        return None if covered else proxy


def _parse_proxy(text: str) -> Origin | None:
    if not text:
        return None
    url = Url.parse(text if "://" in text else f"http://{text}")
    return url.origin


def _parse_exception(entry: str) -> _Exception | None:
    """Return what an entry means, or None if it means nothing."""
    if _CIDR.fullmatch(entry):
        try:
            return _Exception(network=ipaddress.ip_network(entry, strict=False))
        except ValueError:
            return None
    split = _WITH_PORT.fullmatch(entry)
    host, port = (split[1] or split[2] or "", split[3]) if split else (entry, "")
    if ip := _parse_ip(host):
        return _Exception(ip=ip, port=port)
    host = host.removeprefix("*") if host.startswith("*.") else host
    if not host:
        return None
    includes_itself = not host.startswith(".")
    return _Exception(domain=f".{host}" if includes_itself else host, includes_itself=includes_itself, port=port)


def _parse_ip(text: str) -> IP | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # An IPv4 address may be written in more than one way.
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
