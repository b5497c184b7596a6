"""Which addresses redirects and token servers may lead to."""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from upstream.client import Client, Settings
from upstream.destinations import Area, Destinations, area_of
from upstream.errors import Kind, Unavailable
from upstream.reference import Reference
from upstream.urls import Url
from upstreams.scripted_server import ScriptedServer, redirect, send

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upstream.urls import Origin

TIMEOUT_SECONDS = 20.0
BLOB = Reference("blob", "a", "sha256:0")
ADDRESSES = {
    Area.MACHINE: ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],  # noqa: S104 - nothing listens
    Area.LINK: [
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
    ],
    Area.PRIVATE: [
        "10.96.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "240.0.0.1",
        "224.0.0.1",
        "ff02::1",
        "fd00::1",
        "64:ff9b::a00:1",
    ],
    Area.PUBLIC: ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"],
}


@pytest.mark.parametrize(("area", "address"), [(area, one) for area, several in ADDRESSES.items() for one in several])
def test_address_is_in_its_area_however_it_is_written(area: Area, address: str) -> None:
    assert area_of(ipaddress.ip_address(address)) is area


def origin(host: str) -> Origin:
    return Url.parse(f"https://{host}/").origin


def to(*addresses: str) -> list[Any]:
    return [(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, 443)) for address in addresses]


def reachable(own: str, *, allowed: Iterable[str] = ()) -> set[Area]:
    """Return the areas that an upstream with an address may lead to."""
    networks = [ipaddress.ip_network(network) for network in allowed]
    destinations = Destinations("registry.example.com", ["auth.example.org"], networks, "allowedNetworks")
    upstream = origin("Registry.example.com")
    assert destinations.choose(upstream, to(own)) == to(own)
    destinations.note_connection(upstream, (own, 443))
    found = set()
    for area, addresses in ADDRESSES.items():
        for address in addresses:
            assert destinations.choose(origin("auth.example.org"), to(address)) == to(address)
            with suppress(Unavailable):
                assert destinations.choose(origin("cdn.example.com"), to(address)) == to(address)
                found.add(area)
    return found


def test_upstream_leads_to_public_addresses_and_those_like_its_own() -> None:
    assert reachable("1.1.1.1") == {Area.PUBLIC}
    assert reachable("10.0.0.1") == {Area.PUBLIC, Area.PRIVATE}
    assert reachable("127.0.0.1") == {Area.PUBLIC, Area.PRIVATE, Area.MACHINE}
    assert reachable("169.254.20.10") == {Area.PUBLIC, Area.PRIVATE, Area.LINK}
    assert reachable("1.1.1.1", allowed=["10.0.0.0/8"]) == {Area.PUBLIC, Area.PRIVATE}


def test_only_allowed_addresses_of_a_name_are_used() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16")]
    destinations = Destinations("registry.example.com", [], allowed, 'upstreamSettings["x"].allowedNetworks')
    server = origin("cdn.example.com")
    mixed = to("169.254.169.254", "1.1.1.1", "10.1.0.1", "10.2.0.1")
    assert destinations.choose(server, mixed) == to("1.1.1.1", "10.1.0.1")
    with pytest.raises(Unavailable) as raised:
        destinations.choose(server, to("10.2.0.1"))
    assert raised.value.message == (
        "the upstream leads to https://cdn.example.com, which has the private address 10.2.0.1; "
        'if that is right, add its network to upstreamSettings["x"].allowedNetworks'
    )


class Dns:
    """Replaces getaddrinfo and the dial: names have the addresses of the test, and all of them are this machine."""

    def __init__(self, patch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
        """Send all connections to a server."""
        self.names: dict[str, list[str]] = {}
        self.connected: list[str] = []
        self._server = server
        patch.setattr(socket, "getaddrinfo", self.find)
        patch.setattr("upstream.connections.dial", self.dial)

    def find(self, host: str, port: int, **_: Any) -> list[Any]:
        names = self.names[host.rstrip(".")]
        # The next look-up finds the next address, as in an attack by DNS.
        address = names.pop(0) if len(names) > 1 else names[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def dial(self, addresses: list[Any], deadline: float) -> object:
        self.connected.append(addresses[0][1][0])
        return Connected(self._server, addresses[0][1], deadline - time.monotonic())


class Connected(socket.socket):
    """A connection to a server that seems to be one to another address."""

    def __init__(self, server: ScriptedServer, address: tuple[str, int], seconds: float) -> None:
        """Connect."""
        super().__init__()
        self.settimeout(seconds)
        self.connect(server.address)
        self._seems = address

    def getpeername(self) -> tuple[str, int]:
        return self._seems


def get(client: Client) -> bytes:
    with client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read(10)


def test_address_of_the_connection_counts_and_not_one_of_an_earlier_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(connection: socket.socket, head: str) -> None:
        good = send("HTTP/1.1 200 OK\nContent-Length: 1", body=b"x")
        (good if "cdn" in head else redirect("http://cdn.example.com/blob"))(connection, head)

    with ScriptedServer(serve) as server:
        dns = Dns(monkeypatch, server)
        dns.names = {"registry.example.com": ["1.1.1.1"], "cdn.example.com": ["1.1.1.2", "169.254.169.254"]}
        client = Client(Settings("http://registry.example.com"), observe=lambda *_: None, log=print)
        assert get(client) == b"x"
        with pytest.raises(Unavailable, match=r"which has the link-local address 169\.254\.169\.254"):
            get(client)
        # The upstream is well, so nothing marks it as away.
        dns.names["cdn.example.com"] = ["1.1.1.2"]
        assert get(client) == b"x"
        assert "169.254.169.254" not in dns.connected


def test_token_server_at_an_inner_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    challenge = 'Bearer realm="http://auth.example.com/token"'
    with ScriptedServer(send(f"HTTP/1.1 401 x\nWWW-Authenticate: {challenge}\nContent-Length: 0")) as server:
        dns = Dns(monkeypatch, server)
        dns.names = {"registry.example.com": ["1.1.1.1"], "auth.example.com": ["10.96.0.1"]}
        client = Client(Settings("http://registry.example.com"), observe=lambda *_: None, log=print)
        with pytest.raises(Unavailable, match=r"^no token: the upstream leads to .* the private address 10\.96\.0\.1"):
            get(client)
        assert dns.connected == ["1.1.1.1"]


@pytest.mark.parametrize("target", ["http://169.254.169.254/x", "http://[::ffff:a9fe:a9fe]/x", "http://127.0.0.1:1/x"])
def test_proxy_is_not_asked_for_inner_addresses(target: str) -> None:
    """A proxy looks names up itself, so a name cannot be checked."""
    with ScriptedServer(redirect(target), keeps_open=True) as proxy:
        settings = Settings("http://registry.example.com", http_proxy=proxy.url)
        client = Client(settings, observe=lambda *_: None, log=print)
        with pytest.raises(Unavailable) as raised:
            get(client)
        assert raised.value.kind in (Kind.REDIRECTS, Kind.REFUSED)
        assert [head.split(" ")[1] for head in proxy.heads] == ["http://registry.example.com/v2/a/blobs/sha256:0"]
