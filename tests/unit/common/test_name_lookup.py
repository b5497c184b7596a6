"""Look-ups that getaddrinfo cannot hold up."""

from __future__ import annotations

import socket
import threading

import pytest
from common.name_lookup import NameLookup, describe_lookup_error

TIMEOUT_SECONDS = 10.0


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


def test_invalid_name_is_an_error() -> None:
    lookup = NameLookup("x" * 64, 5000)
    assert lookup.wait(TIMEOUT_SECONDS)
    with pytest.raises(UnicodeError) as raised:
        lookup.addresses()
    assert describe_lookup_error("x", raised.value).startswith("x has no address: ")
