"""The address of a Service: DNS that hangs or fails takes no known address away."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from node_program import service_address
from node_program.cache_probe import ProbeFailed
from node_program.service_address import ServiceAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

# Far more than any look-up here needs.
TIMEOUT_SECONDS = 10.0


@pytest.mark.parametrize("service", ["127.0.0.1", "localhost"])
def test_ip_address_and_localhost_are_found(service: str) -> None:
    assert ServiceAddress(service, 5000).get(TIMEOUT_SECONDS) == "127.0.0.1"


class Resolver:
    """Replaces getaddrinfo; tests set what it does."""

    def __init__(self) -> None:
        """Answer at once, with one address."""
        self.addresses = ["10.0.0.1"]
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.asked = 0

    def __call__(self, _: str, port: int, **__: Any) -> list[Any]:
        self.asked += 1
        self.open.wait()
        if self.error:
            raise self.error
        return [(None, None, None, "", (address, port)) for address in self.addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(service_address, "FRESH_SECONDS", 0.0)
    yield resolver
    resolver.open.set()


def test_one_of_several_addresses_is_chosen_and_always_the_same(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    for addresses in (["fd00::1", "10.0.0.2", "10.0.0.1"], ["10.0.0.1", "fd00::1", "10.0.0.2"]):
        resolver.addresses = addresses
        assert address.get(TIMEOUT_SECONDS) == "10.0.0.1"


def test_address_that_answers_is_looked_up_seldom_and_another_at_once(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_address, "FRESH_SECONDS", 60.0)
    address = ServiceAddress("cache", 5000)
    for _ in range(5):
        assert address.get(TIMEOUT_SECONDS) == "10.0.0.1"
    assert resolver.asked == 1
    resolver.addresses = ["10.0.0.2"]
    address.note_failed_probe()
    assert address.get(TIMEOUT_SECONDS) == "10.0.0.2"
    now = time.monotonic()
    monkeypatch.setattr(service_address.time, "monotonic", lambda: now + 61)
    address.get(TIMEOUT_SECONDS)
    assert resolver.asked == 3


def test_changed_address_is_noticed(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    for number in ("10.0.0.1", "10.0.0.2"):
        resolver.addresses = [number]
        assert address.get(TIMEOUT_SECONDS) == number


def test_resolver_that_hangs_is_asked_once_and_the_last_address_is_kept(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    address.get(TIMEOUT_SECONDS)
    resolver.open.clear()
    threads = threading.active_count()
    for _ in range(5):
        assert address.get(0.02) == "10.0.0.1"
    assert resolver.asked == 2
    assert threading.active_count() == threads + 1
    resolver.addresses = ["10.0.0.2"]
    resolver.open.set()
    assert address.get(TIMEOUT_SECONDS) == "10.0.0.2"


def test_resolver_that_never_answered_is_reported(resolver: Resolver) -> None:
    resolver.open.clear()
    with pytest.raises(ProbeFailed, match="the address of cache is not known yet"):
        ServiceAddress("cache", 5000).get(0.02)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "try again"), id="down"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, "no such name"), id="no-such-name"),
        pytest.param(UnicodeError("label too long"), id="not-a-name"),
    ],
)
def test_known_address_is_kept_while_the_resolver_fails(resolver: Resolver, error: Exception) -> None:
    address = ServiceAddress("cache", 5000)
    address.get(TIMEOUT_SECONDS)
    resolver.error = error
    assert address.get(TIMEOUT_SECONDS) == "10.0.0.1"


def test_address_of_a_deleted_service_is_forgotten_after_a_failed_probe(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    address.get(TIMEOUT_SECONDS)
    resolver.error = socket.gaierror(socket.EAI_AGAIN, "try again")
    address.get(TIMEOUT_SECONDS)
    address.note_failed_probe()
    assert address.get(TIMEOUT_SECONDS) == "10.0.0.1", "nobody knows, since the resolver is down"
    resolver.error = socket.gaierror(socket.EAI_NONAME, "no such name")
    address.get(TIMEOUT_SECONDS)
    address.note_failed_probe()
    with pytest.raises(ProbeFailed, match="cache has no address: no such name"):
        address.get(TIMEOUT_SECONDS)
