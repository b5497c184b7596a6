"""Probing a cache: only a complete, short answer in time with status 200 is a success."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from node_program import cache_probe
from node_program.cache_probe import ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = b"Docker-Distribution-Api-Version: registry/2.0\r\n"
GOOD = b"HTTP/1.1 200 OK\r\n" + VERSION + b"Content-Length: 2\r\n\r\n{}"
# Far more than any of these answers needs.
TIMEOUT_SECONDS = 10.0
STATUS = "the cache answered with status"
TOO_LATE = r"^the cache did not answer in time$"


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which one connection is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()


def reply(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        try:
            connection.sendall(answer)
        except OSError:
            return  # it was too long for the probe, which hung up

    return serve


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GOOD, id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + VERSION.lower() + b"content-length:1\r\nX: y\r\n\r\n ", id="lower-case"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + VERSION + b"\r\n2\r\n{}\r\n0\r\n\r\n", id="chunked"
        ),
    ],
)
def test_complete_answer_is_a_success(answer: bytes) -> None:
    with server(reply(answer)) as port:
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        *[
            pytest.param(
                f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n".encode(),
                f"the cache answered with status {code}",
                id=code,
            )
            for code in ("301", "401", "404", "429", "500", "503")
        ],
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "the answer of the cache is incomplete", id="cut-off-body"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "the answer of the cache is incomplete", id="no-body"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", "the answer of the cache is incomplete", id="cut-off-head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "the answer of the cache is incomplete",
            id="cut-off-chunk",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, "the answer of the cache is too long", id="long"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "the answer of the cache is not that of a registry",
            id="no-registry",
        ),
        pytest.param(GOOD.replace(b"2\r\n\r\n{}", b"0\r\n\r\n"), "the answer of the cache is empty", id="empty"),
        pytest.param(b"SSH-2.0-x\r\n", "the answer of the cache is not HTTP", id="other-protocol"),
        pytest.param(b"", "the answer of the cache is not HTTP", id="hangs-up"),
    ],
)
def test_any_other_answer_is_a_failure(answer: bytes, message: str) -> None:
    with server(reply(answer)) as port, pytest.raises(ProbeFailed, match=f"^{message}$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS)


def test_probe_does_not_wait_for_a_server_that_keeps_the_connection_open() -> None:
    def serve(connection: socket.socket) -> None:
        reply(GOOD)(connection)
        connection.recv(1)  # until the probe hangs up

    with server(serve) as port:
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS)


@pytest.mark.parametrize("left", [0.0, -0.04])
def test_probe_without_time_left_fails_at_once(left: float) -> None:
    """A busy node may not run the program for a while between two of its lines."""
    with pytest.raises(ProbeFailed, match=TOO_LATE):
        cache_probe.probe(Endpoint("http", "127.0.0.1", 1), left)


def test_single_bytes_do_not_prolong_the_deadline() -> None:
    def serve(connection: socket.socket) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            return  # the probe hung up

    begun = time.monotonic()
    with server(serve) as port, pytest.raises(ProbeFailed, match=TOO_LATE):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), 0.3)
    assert time.monotonic() - begun < 2


def test_silent_cache_fails_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ProbeFailed, match=TOO_LATE):
        cache_probe.probe(Endpoint("http", "127.0.0.1", listener.getsockname()[1]), 0.2)


def test_refused_connection_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProbeFailed, match=r"^the cache did not answer: connection refused$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS)


LINE = b"\r\nregistry-cache-upstream: docker.io\r\n"
STATED = GOOD.replace(VERSION, VERSION + LINE[2:])


def test_cache_that_states_its_upstream_is_a_success() -> None:
    with server(reply(STATED)) as port:
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS, "docker.io")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GOOD, id="another-registry"),
        pytest.param(STATED.replace(b"docker.io", b"quay.io"), id="another-cache"),
        pytest.param(STATED.replace(b"docker.io", b"docker.io.evil.example"), id="longer"),
        pytest.param(STATED.replace(b"docker.io", b""), id="empty"),
        pytest.param(STATED.replace(VERSION, VERSION + b"Registry-Cache-Upstream: quay.io\r\n"), id="both"),
        pytest.param(GOOD.replace(b"2\r\n\r\n{}", b"38\r\n\r\n" + LINE), id="in-the-body"),
    ],
)
def test_registry_that_is_not_the_cache_is_a_failure(answer: bytes) -> None:
    with (
        server(reply(answer)) as port,
        pytest.raises(ProbeFailed, match=r"^the answer is not that of the cache"),
    ):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), TIMEOUT_SECONDS, "docker.io")


@pytest.mark.parametrize("status", [400, 403])
def test_refused_certificate_of_the_node_is_named(status: int, tmp_path: Path) -> None:
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    for client, kind, message in (
        (tmp_path, "certificate", rf"does not accept the certificate of the nodes \(status {status}\)"),
        (None, "status", f"answered with status {status}"),
    ):
        with server(reply(answer)) as port, pytest.raises(ProbeFailed, match=message) as failed:
            cache_probe.probe(Endpoint("https", "127.0.0.1", port, client=client), TIMEOUT_SECONDS)
        assert failed.value.kind == kind
