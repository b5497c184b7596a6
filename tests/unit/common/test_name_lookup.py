"""Look-ups that getaddrinfo cannot hold up."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from common import name_lookup
from common.name_lookup import NameLookup, describe_lookup_error

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS = 10.0
IN_A_POD = "nameserver 10.96.0.10\nsearch space.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"


def test_addresses_are_found() -> None:
    lookup = NameLookup("127.0.0.1", 5000)
    assert lookup.wait(TIMEOUT_SECONDS)
    assert lookup.addresses() == [(socket.AF_INET, ("127.0.0.1", 5000))]


def test_lookup_that_hangs_blocks_no_caller_and_ends_later(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> object:
        released.wait(TIMEOUT_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    lookup = NameLookup("cache", 5000)
    assert not lookup.wait(0.02)
    assert not lookup.wait(-1)
    released.set()
    assert lookup.wait(TIMEOUT_SECONDS)
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="try again") as raised:
            lookup.addresses()
    assert describe_lookup_error("cache", raised.value) == "cache has no address: try again"


def test_lack_of_threads_is_an_error_of_the_lookup() -> None:
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        lookup = NameLookup("cache", 5000)
    assert lookup.wait(0)
    with pytest.raises(OSError, match="can't start new thread") as raised:
        lookup.addresses()
    assert describe_lookup_error("cache", raised.value) == "cache has no address: can't start new thread"


def test_invalid_name_is_an_error() -> None:
    lookup = NameLookup("x" * 64, 5000)
    assert lookup.wait(TIMEOUT_SECONDS)
    with pytest.raises(UnicodeError) as raised:
        lookup.addresses()
    assert describe_lookup_error("x", raised.value).startswith("x has no address: ")


class Names:
    """A DNS with some names; it notes what is asked. Names without a dot at their end may be in a search domain."""

    def __init__(self, *names: str, error: int = socket.EAI_NONAME) -> None:
        """Know some names, and answer with an error for others."""
        self.names = names
        self.error = error
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[object]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(self.error, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.1.1", port))]


def look_up(monkeypatch: pytest.MonkeyPatch, names: Names, host: str) -> list[str]:
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    lookup = NameLookup(host, 443)
    assert lookup.wait(TIMEOUT_SECONDS)
    return [str(address[0]) for _, address in lookup.addresses()]


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the files of a pod."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "resolv.conf").write_text(IN_A_POD)
    monkeypatch.setattr(name_lookup, "HOSTS_FILE", tmp_path / "hosts")
    monkeypatch.setattr(name_lookup, "RESOLVER_FILE", tmp_path / "resolv.conf")
    return tmp_path


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("registry-1.docker.io", "registry-1.docker.io."),
        ("quay.io", "quay.io."),
        ("quay.io.", "quay.io."),
        ("cache.space.svc", "cache.space.svc.cluster.local."),
        ("x-0.x--peers.space.svc", "x-0.x--peers.space.svc.cluster.local."),
        ("cache.space.svc.cluster.local", "cache.space.svc.cluster.local."),
        ("registry", "registry"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_name_is_looked_up_outside_of_the_search_domains(
    monkeypatch: pytest.MonkeyPatch, host: str, asked: str
) -> None:
    names = Names(asked)
    assert look_up(monkeypatch, names, host) in ([], ["10.1.1.1"])
    assert names.asked == [asked]


@pytest.mark.parametrize("search", ["", "search example.com", "search svc.a.b\nsearch example.com"])
def test_service_is_looked_up_as_it_is_if_the_domain_of_the_cluster_is_unknown(
    monkeypatch: pytest.MonkeyPatch, pod: Path, search: str
) -> None:
    (pod / "resolv.conf").write_text(search)
    assert look_up(monkeypatch, Names("cache.space.svc"), "cache.space.svc") == ["10.1.1.1"]
    (pod / "resolv.conf").unlink()
    assert look_up(monkeypatch, Names("cache.space.svc"), "cache.space.svc") == ["10.1.1.1"]


@pytest.mark.usefixtures("pod")
def test_service_of_another_namespace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`registry.space` may be a host, or a Service; it is the latter only if DNS has no such host."""
    names = Names("registry.space")
    assert look_up(monkeypatch, names, "registry.space") == ["10.1.1.1"]
    assert names.asked == ["registry.space.", "registry.space"]
    names = Names("registry.space", error=socket.EAI_AGAIN)
    with pytest.raises(socket.gaierror):
        look_up(monkeypatch, names, "registry.space")
    names = Names("registry.example.com")
    with pytest.raises(socket.gaierror):
        look_up(monkeypatch, names, "registry.example.com")


def test_etc_hosts_comes_first(monkeypatch: pytest.MonkeyPatch, pod: Path) -> None:
    """The kubelet writes hostAliases into it."""
    hosts = (
        "# comment registry.example.com\n"
        "10.0.0.1\tother.example.com Registry.example.com # registry\n"
        "nonsense registry.example.com\n"
        "\n10.0.0.2 registry.example.com.evil\n"
        "fd00::1 registry.example.com\n10.0.0.1 registry.example.com\n"
    )
    (pod / "hosts").write_text(hosts)
    names = Names()
    assert look_up(monkeypatch, names, "registry.EXAMPLE.com") == ["10.0.0.1", "fd00::1"]
    assert names.asked == []
    (pod / "hosts").unlink()
    assert look_up(monkeypatch, Names("registry.example.com."), "registry.example.com") == ["10.1.1.1"]
