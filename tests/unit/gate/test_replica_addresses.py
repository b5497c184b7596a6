"""A replica is recognized by the addresses that DNS has for its name, and nobody else is."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from common import name_lookup
from common.endpoint import Endpoint
from gate import replica_addresses
from gate.replica_addresses import ReplicaAddresses

HOSTS = ("x-0.x--peers.space.svc", "x-1.x--peers.space.svc")


class Names:
    """A DNS of the test."""

    def __init__(self) -> None:
        """Know both replicas."""
        self.addresses: dict[str, list[str]] = {HOSTS[0]: ["10.0.0.1"], HOSTS[1]: ["10.0.0.2", "fd00::2"]}
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[Any]:
        self.asked.append(host)
        assert self.answers.wait(30)
        if not self.addresses[host]:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    # The domain of the cluster is not known.
    monkeypatch.setattr(name_lookup, "RESOLVER_FILE", Path(os.devnull))
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    return made


@pytest.fixture
def replicas(names: Names) -> ReplicaAddresses:
    return ReplicaAddresses([Endpoint("http", host, 5000) for host in HOSTS])


def test_each_replica_has_its_own_addresses(replicas: ReplicaAddresses) -> None:
    assert replicas.includes("x-0", "10.0.0.1")
    assert replicas.includes("x-1", "fd00:0::2")
    assert not replicas.includes("x-0", "10.0.0.2")
    assert not replicas.includes("x-2", "10.0.0.1")
    assert not replicas.includes("x-0", "")


def test_replica_is_looked_up_once_in_a_while(
    replicas: ReplicaAddresses, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        assert replicas.includes("x-0", "10.0.0.1")
        assert not replicas.includes("x-0", "10.0.0.9")
    assert names.asked == [HOSTS[0]], "others cannot make it ask DNS at each request"
    monkeypatch.setattr(replica_addresses, "VALID_SECONDS", 0.0)
    monkeypatch.setattr(replica_addresses, "RETRY_SECONDS", 0.0)
    names.addresses[HOSTS[0]] = ["10.0.0.9"]
    assert not replicas.includes("x-0", "10.0.0.1"), "the pod was replaced"
    assert replicas.includes("x-0", "10.0.0.9")


def test_last_known_addresses_count_while_dns_is_away(
    replicas: ReplicaAddresses, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_addresses, "VALID_SECONDS", 0.0)
    monkeypatch.setattr(replica_addresses, "RETRY_SECONDS", 0.0)
    assert replicas.includes("x-0", "10.0.0.1")
    names.addresses[HOSTS[0]] = []
    assert replicas.includes("x-0", "10.0.0.1")
    names.answers.clear()
    started = time.monotonic()
    assert replicas.includes("x-0", "10.0.0.1")
    assert not replicas.includes("x-1", "10.0.0.2")
    assert time.monotonic() - started < 5.0
    names.answers.set()
