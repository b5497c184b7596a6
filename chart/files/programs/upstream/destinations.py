"""Which addresses a client connects to when a server names another one, in a redirect or as a token server.

Otherwise, whoever has an upstream, or answers in its place, could have a cache send requests to this machine, to what a
cloud tells its machines, or to the Services of the cluster. The rule looks at the address of the connection and not at
a name, which could have another address a moment later.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import TYPE_CHECKING

from common.name_lookup import to_address

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.name_lookup import Address

    from upstream.urls import Origin

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Networks that carry an IPv4 address in their last 32 bits: RFC 6052, and the old RFC 4291, section 2.5.5.1.
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
# Where clouds keep what only the machine itself may read, besides link-local addresses: AWS, Google, Alibaba and Azure.
METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16")))
THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


class Area(Enum):
    """Where an address is, from the view of a pod."""

    MACHINE = "loopback"
    LINK = "link-local"
    PRIVATE = "private"
    PUBLIC = "public"


def area_of(address: IP) -> Area:
    """Return the area of an address; those of pods and Services are private, as those of all inner networks."""
    ip = _without_translation(address)
    if ip.is_loopback or ip.is_unspecified or ip in THIS_NETWORK:
        return Area.MACHINE
    if ip.is_link_local or ip in METADATA:
        return Area.LINK
    return Area.PUBLIC if ip.is_global and not ip.is_multicast else Area.PRIVATE


class Destinations:
    """The addresses that one client may connect to.

    The upstream and the hosts that the user names may have any address. Others may have a public one, one like the
    upstream's own, or one in a network that the user allows; if the upstream has no public address, they may have a
    private one.
    """

    def __init__(self, upstream: str, named: Iterable[str], allowed: Iterable[Network], value: str) -> None:
        """Take the host of the upstream, other hosts, and networks; `value` is the setting that allows more of them."""
        self._upstream = upstream.lower()
        self._named = frozenset(map(str.lower, named))
        self._allowed = tuple(allowed)
        self._value = value
        # That of the last connection to the upstream.
        self._own_area = Area.PUBLIC

    def choose(self, server: Origin, addresses: Iterable[Address]) -> list[Address]:
        """Return those addresses of a server that may be connected to, at least one.

        Raises:
            Unavailable: There are none.
        """
        found = list(addresses)
        host = server.host.lower()
        if host == self._upstream or host in self._named:
            return found
        chosen = [address for address in found if self._is_allowed(_ip_of(address))]
        if not chosen:
            ip = _ip_of(found[0])
            message = (
                f"the upstream leads to {server}, which has the {area_of(ip).value} address {ip}; "
                f"if that is right, add its network to {self._value}"
            )
            raise Unavailable(Kind.REDIRECTS, message)
        return chosen

    def check_host(self, server: Origin) -> None:
        """Check a server to which a proxy connects, as far as that is possible: if its host is an IP address.

        Raises:
            Unavailable: It may not be connected to.
        """
        try:
            address = to_address(server.host, server.port)
        except ValueError:
            return
        self.choose(server, [address])
        self.note_connection(server, address[1])

    def note_connection(self, server: Origin, address: tuple[object, ...]) -> None:
        """Note the address of a connection to a server."""
        if server.host.lower() == self._upstream:
            self._own_area = area_of(ipaddress.ip_address(str(address[0])))

    def _is_allowed(self, ip: IP) -> bool:
        area = area_of(ip)
        if area in (Area.PUBLIC, self._own_area) or any(ip in network for network in self._allowed):
            return True
        return area is Area.PRIVATE and self._own_area is not Area.PUBLIC


def _ip_of(address: Address) -> IP:
    return _without_translation(ipaddress.ip_address(str(address[1][0])))


def _without_translation(ip: IP) -> IP:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour or ip
    is_translated = any(ip in network for network in TRANSLATED) and not ip.is_loopback and not ip.is_unspecified
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if is_translated else ip
