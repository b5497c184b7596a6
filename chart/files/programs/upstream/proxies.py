"""Whether a request goes through a proxy, and through which: as Go's programs decide, containerd among them.

The source is golang.org/x/net/http/httpproxy, proxy.go. The environment of this process says nothing here.
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
# As Go's net.SplitHostPort takes it.
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^\[\]:]*)")


class _Exception(NamedTuple):
    """One entry of no_proxy; of `network`, `ip` and `domain` one is set, and an empty port is any."""

    network: Network | None = None
    ip: IP | None = None
    # Begins with a dot.
    domain: str = ""
    also_itself: bool = False
    port: str = ""

    def covers(self, host: str, port: int, ip: IP | None) -> bool:
        if self.network is not None:
            return ip is not None and ip in self.network
        if self.port not in ("", str(port)):
            return False
        if self.ip is not None:
            return self.ip == ip
        return ip is None and (host.endswith(self.domain) or (self.also_itself and host == self.domain[1:]))


class Proxies:
    """The proxy for http, the one for https, and the hosts that are asked without."""

    def __init__(self, http_proxy: str, https_proxy: str, no_proxy: Iterable[str]) -> None:
        """Take the URLs, empty where there is none, and the entries of no_proxy.

        Raises:
            ValueError: a URL is none of a proxy.
        """
        self._proxies = {"http": _proxy(http_proxy), "https": _proxy(https_proxy)}
        entries = [entry.strip().lower() for text in no_proxy for entry in text.split(",")]
        self._none = "*" in entries
        self._exceptions = [made for entry in entries if (made := _exception(entry))]

    def choose(self, origin: Origin) -> Origin | None:
        """The proxy for requests to a server, or None."""
        proxy = self._proxies[origin.scheme]
        host = origin.host.lower()
        ip = _ip(host)
        if proxy is None or self._none or host == "localhost" or (ip is not None and ip.is_loopback):
            return None
        covered = any(exception.covers(host, origin.port, ip) for exception in self._exceptions)
        return None if covered else proxy


def _proxy(text: str) -> Origin | None:
    if not text:
        return None
    url = Url.parse(text if "://" in text else f"http://{text}")
    return url.origin


def _exception(entry: str) -> _Exception | None:
    """What an entry means; None where it means nothing."""
    if _CIDR.fullmatch(entry):
        try:
            return _Exception(network=ipaddress.ip_network(entry, strict=False))
        except ValueError:
            return None
    split = _WITH_PORT.fullmatch(entry)
    host, port = (split[1] or split[2] or "", split[3]) if split else (entry, "")
    if ip := _ip(host):
        return _Exception(ip=ip, port=port)
    host = host.removeprefix("*") if host.startswith("*.") else host
    if not host:
        return None
    itself = not host.startswith(".")
    return _Exception(domain=f".{host}" if itself else host, also_itself=itself, port=port)


def _ip(text: str) -> IP | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # One address of version 4, however it is written.
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
