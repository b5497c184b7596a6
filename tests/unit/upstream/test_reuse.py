"""The client sends a request on a connection that an earlier one has left, if that is safe."""

from __future__ import annotations

import array
import contextlib
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trustme
from machine.processes import wait_for
from upstream import connections
from upstream.client import Client, Settings
from upstream.errors import Denied, NotFound, Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer, in_turn, redirect, reset, send, stay_silent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upstreams.scripted_server import Script

TIMEOUT_SECONDS = 10.0
# Linux, asm-generic/socket.h and linux/bpf_common.h. The socket module of Python does not have them.
SO_ATTACH_FILTER = 26
BPF_RETURN = 6
BLOB = Reference("blob", "a", "sha256:0")
TAG = Reference("manifest", "a", "1")
GOOD = send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"123")


@dataclass
class Requests:
    """A client, and the outcomes of its requests."""

    settings: Settings
    outcomes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Create the client."""
        self.client = Client(
            self.settings, observe=lambda _, outcome, __: self.outcomes.append(outcome), log=lambda _: None
        )

    def get(self, reference: Reference = BLOB, method: str = "GET", timeout: float = TIMEOUT_SECONDS) -> bytes:
        with self.client.open(method, reference, timeout=timeout) as answer:
            body = b""
            while part := answer.read(1 << 16):
                body += part
            return body


def requests_to(server: ScriptedServer) -> Requests:
    return Requests(Settings(server.url))


@pytest.mark.parametrize(
    ("script", "connections_opened"),
    [
        pytest.param(GOOD, 1, id="length"),
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"3\r\n123\r\n0\r\n\r\n"), 1, id="chunks"
        ),
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"3\r\n123\r\n0\r\nX: y\r\n\r\n"), 1, id="trailers"
        ),
        pytest.param(send("HTTP/1.0 200 OK\nContent-Length: 3", body=b"123"), 2, id="http-1.0"),
        pytest.param(
            send("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 3", body=b"123"), 2, id="http-1.0-keep-alive"
        ),
        pytest.param(send("HTTP/1.1 200 OK\nConnection: Close\nContent-Length: 3", body=b"123"), 2, id="close"),
        pytest.param(
            send("HTTP/1.1 200 OK\nConnection: x\nConnection: y, close\nContent-Length: 3", body=b"123"),
            2,
            id="close-in-a-second-header",
        ),
        pytest.param(send("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4", body=b"123"), 2, id="two-lengths"),
        pytest.param(
            send("HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked", body=b"3\r\n123\r\n0\r\n\r\n"),
            2,
            id="length-and-chunks",
        ),
        pytest.param(send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"123HTTP/1.1 200 OK\r\n"), 2, id="leftover"),
    ],
)
def test_connection_is_reused_if_the_end_of_the_body_is_certain(script: Script, connections_opened: int) -> None:
    with ScriptedServer(script, keeps_open=True) as server:
        requests = requests_to(server)
        assert [requests.get(), requests.get()] == [b"123", b"123"]
        assert requests.client.connections_opened == server.accepted == connections_opened


def test_answers_without_a_body_leave_the_connection() -> None:
    script = in_turn(send("HTTP/1.1 200 OK\nContent-Length: 300"), send("HTTP/1.1 204 x"), send("HTTP/1.1 304 x"), GOOD)
    with ScriptedServer(script, keeps_open=True) as server:
        requests = requests_to(server)
        requests.get(method="HEAD")
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"answered [23]04$"):
                requests.get()
        assert requests.get() == b"123"
        assert server.accepted == 1


def test_body_that_ends_with_the_connection_is_complete() -> None:
    with ScriptedServer(send("HTTP/1.1 200 OK", body=b"123")) as server:
        requests = requests_to(server)
        assert [requests.get(), requests.get()] == [b"123", b"123"]
        assert server.accepted == 2


def test_blob_that_is_not_read_to_its_end_closes_its_connection() -> None:
    with ScriptedServer(
        in_turn(send("HTTP/1.1 200 OK\nContent-Length: 10", body=b"1"), GOOD), keeps_open=True
    ) as server:
        requests = requests_to(server)
        with requests.client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
            assert answer.read(10) == b"1"
        wait_for("the connection to be closed", lambda: server.open == 0, TIMEOUT_SECONDS, 0.01)
        assert requests.get() == b"123"


def test_connection_is_free_once_the_last_byte_is_read() -> None:
    """A caller may take long until it closes the answer."""
    with ScriptedServer(GOOD, keeps_open=True) as server:
        requests = requests_to(server)
        with requests.client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
            assert answer.read(10) == b"123"
            assert requests.get() == b"123"
            assert answer.read(10) == b""
        assert requests.get() == b"123"
        assert server.accepted == 1


# Answers that are not used


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(("size", "accepted"), [(0, 1), (60_000, 1), (70_000, 2)])
def test_short_body_of_an_error_is_read_for_the_sake_of_the_connection(framing: str, size: int, accepted: int) -> None:
    body = bytes(size)
    head = f"HTTP/1.1 404 x\nContent-Length: {size}"
    if framing == "chunks":
        chunks = [body[start : start + 9999] for start in range(0, size, 9999)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
        head = "HTTP/1.1 404 x\nTransfer-Encoding: chunked"
    with ScriptedServer(in_turn(send(head, body=body), GOOD), keeps_open=True) as server:
        requests = requests_to(server)
        with pytest.raises(NotFound):
            requests.get()
        assert requests.get() == b"123"
        assert server.accepted == accepted


@pytest.mark.parametrize("head", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_slow_body_of_an_error_is_not_waited_for(head: str) -> None:
    def drip(connection: socket.socket, _: str) -> None:
        connection.sendall(f"HTTP/1.1 404 x\r\n{head}\r\n\r\n".encode())
        for _ in range(100):
            connection.sendall(b"1")
            time.sleep(0.05)  # it is slow

    with ScriptedServer(drip, keeps_open=True) as server:
        begin = time.monotonic()
        with pytest.raises(NotFound):
            requests_to(server).get()
        assert time.monotonic() - begin < 1.0
        wait_for("the connection to be closed", lambda: server.open == 0, TIMEOUT_SECONDS, 0.01)


def test_challenge_token_and_request_share_a_connection() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        challenge = f'HTTP/1.1 401 x\nWWW-Authenticate: Bearer realm="{server.url}/token"\nContent-Length: 4'
        if "/token" in head:
            send("HTTP/1.1 200 OK\nContent-Length: 14", body=b'{"token": "t"}')(connection, head)
        else:
            (GOOD if "Bearer t" in head else send(challenge, body=b"null"))(connection, head)

    with ScriptedServer(serve, keeps_open=True) as server:
        requests = requests_to(server)
        assert requests.get() == b"123"
        assert requests.outcomes == ["401", "2xx", "2xx"]
        assert server.accepted == 1


def test_refusal_leaves_the_connection() -> None:
    with ScriptedServer(send("HTTP/1.1 403 x\nContent-Length: 2", body=b"{}"), keeps_open=True) as server:
        requests = requests_to(server)
        for _ in range(2):
            with pytest.raises(Denied):
                requests.get()
        assert server.accepted == 1


# Connections that break while they are idle


def test_connection_that_the_server_closed_is_replaced() -> None:
    with ScriptedServer(GOOD) as server:
        requests = requests_to(server)
        for _ in range(3):
            assert requests.get() == b"123"
            wait_for("the server to close the connection", lambda: server.open == 0, TIMEOUT_SECONDS, 0.01)
        assert requests.outcomes == ["2xx"] * 3
        assert len(server.heads) == 3


@pytest.mark.parametrize("closes", [reset, lambda connection, _: connection.shutdown(socket.SHUT_RDWR)])
def test_request_is_sent_again_if_the_server_closes_the_connection_at_that_moment(closes: Script) -> None:
    def serve(connection: socket.socket, head: str) -> None:
        (GOOD if len(server.heads) != 2 else closes)(connection, head)
        if len(server.heads) == 2:
            connection.close()

    with ScriptedServer(serve, keeps_open=True) as server:
        requests = requests_to(server)
        assert [requests.get(), requests.get()] == [b"123", b"123"]
        assert server.accepted == 2
        assert len(server.heads) == 3
        assert server.heads[1] == server.heads[2]
        assert requests.outcomes == ["2xx", "2xx"]


def test_request_is_sent_again_if_the_server_says_that_the_connection_was_idle_for_too_long() -> None:
    script = in_turn(GOOD, send("HTTP/1.1 408 x\nConnection: close\nContent-Length: 0"))
    with ScriptedServer(script, keeps_open=True) as server:
        requests = requests_to(server)
        assert requests.get() == b"123"
        with pytest.raises(Unavailable, match="answered 408"):
            requests.get()
        assert server.accepted == 2
        assert len(server.heads) == 3


def test_request_is_sent_again_only_once_and_only_if_nothing_was_answered() -> None:
    for answer, heads in ((b"", 3), (b"HTTP/1.1 2", 2)):

        def serve(connection: socket.socket, head: str, answer: bytes = answer) -> None:
            if len(server.heads) == 1:
                GOOD(connection, head)
            else:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_RDWR)

        with ScriptedServer(serve, keeps_open=True) as server:
            requests = requests_to(server)
            assert requests.get() == b"123"
            with pytest.raises(Unavailable):
                requests.get()
            assert len(server.heads) == heads
            assert len(requests.outcomes) == 2


def drop_arriving_packets(connection: socket.socket) -> None:
    """Have the kernel drop all packets to a connection, as if a firewall had forgotten it (man 7 socket)."""
    instruction = array.array("B", struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    address, _ = instruction.buffer_info()
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, address))


def test_connection_that_was_silently_dropped_leaves_time_for_a_new_one() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        if len(server.heads) == 1:
            drop_arriving_packets(connection)
        GOOD(connection, head)

    with ScriptedServer(serve, keeps_open=True) as server:
        requests = requests_to(server)
        assert requests.get() == b"123"
        begin = time.monotonic()
        assert requests.get() == b"123"
        assert 0.5 < time.monotonic() - begin < TIMEOUT_SECONDS / 2
        assert (server.accepted, len(server.heads)) == (2, 2)


def test_slow_answer_on_a_reused_connection_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server acknowledges the request, so the connection works."""
    monkeypatch.setattr(connections, "ACKNOWLEDGE_SECONDS", 0.1)

    def serve(connection: socket.socket, head: str) -> None:
        if len(server.heads) == 2:
            time.sleep(0.5)  # it is slow
        GOOD(connection, head)

    with ScriptedServer(serve, keeps_open=True) as server:
        requests = requests_to(server)
        assert [requests.get(), requests.get(timeout=1.0)] == [b"123", b"123"]
        assert len(server.heads) == 2


def test_silent_connection_through_a_proxy_leaves_time_for_a_new_one() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        (stay_silent if len(proxy.heads) == 2 else GOOD)(connection, head)

    with ScriptedServer(serve, keeps_open=True) as proxy:
        requests = Requests(Settings("http://registry.test", http_proxy=proxy.url))
        assert [requests.get(), requests.get(timeout=1.0)] == [b"123", b"123"]
        assert proxy.accepted == 2


# Proxies


def test_connections_through_a_proxy_are_used_for_one_server_only() -> None:
    script = in_turn(GOOD, redirect("http://cdn.test/x"), GOOD)
    with ScriptedServer(script, keeps_open=True) as proxy:
        requests = Requests(Settings("http://registry.test", http_proxy=proxy.url))
        for _ in range(3):
            assert requests.get() == b"123"
        targets = [head.split()[1] for head in proxy.heads]
        registry = "http://registry.test/v2/a/blobs/sha256:0"
        assert targets == [registry, registry, "http://cdn.test/x", registry]
        assert proxy.accepted == 2


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@contextlib.contextmanager
def secure(
    authority: trustme.CA, script: Script, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, keeps_open: bool = True
) -> Iterator[tuple[ScriptedServer, list[bool]]]:
    """A server with TLS, and for each of its connections whether it resumed a session."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert("localhost").configure_cert(context)
    resumed: list[bool] = []

    def accept(connection: socket.socket) -> socket.socket:
        encrypted = context.wrap_socket(connection, server_side=True)
        resumed.append(bool(encrypted.session_reused))
        return encrypted

    with ScriptedServer(script, accept, keeps_open=keeps_open) as server:
        yield server, resumed


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_connection_with_tls_is_reused(authority: trustme.CA, ca_file: Path, version: ssl.TLSVersion) -> None:
    """The session tickets of TLS 1.3, which come at any time, are no answer that nobody asked for."""
    with secure(authority, GOOD, version) as (server, _):
        requests = Requests(Settings(f"https://localhost:{server.port}", ca_file=ca_file))
        requests.client.prepare_connections(1)
        for _ in range(3):
            assert requests.get() == b"123"
        assert server.accepted == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_resumed(authority: trustme.CA, ca_file: Path, version: ssl.TLSVersion) -> None:
    with secure(authority, GOOD, version, keeps_open=False) as (server, resumed):
        requests = Requests(Settings(f"https://localhost:{server.port}", ca_file=ca_file))
        for _ in range(3):
            assert requests.get() == b"123"
        assert resumed == [False, True, True]


def test_changed_authorities_apply_to_idle_connections_and_sessions(
    authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    with secure(authority, GOOD) as (server, resumed):
        requests = Requests(Settings(f"https://localhost:{server.port}", ca_file=ca_file))
        assert requests.get() == b"123"
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "new.pem"))
        (tmp_path / "new.pem").replace(ca_file)
        with pytest.raises(Unavailable, match="certificate"):
            requests.get()
        wait_for("the connection to be closed", lambda: server.open == 0, TIMEOUT_SECONDS, 0.01)
        assert resumed == [False]


# Connections in advance


def test_connections_are_opened_in_advance() -> None:
    with (
        ScriptedServer(GOOD, keeps_open=True) as cdn,
        ScriptedServer(redirect(f"{cdn.url}/x"), keeps_open=True) as server,
    ):
        requests = requests_to(server)
        requests.client.prepare_connections(2)
        assert requests.get() == b"123"
        requests.client.prepare_connections(3)
        wait_for("the connections", lambda: (server.accepted, cdn.accepted) == (3, 3), TIMEOUT_SECONDS, 0.01)
        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(lambda _: requests.get(), range(9))) == {b"123"}
        assert (server.accepted, cdn.accepted) == (3, 3)
        assert requests.client.connections_opened == 6


def test_threads_open_connections_together() -> None:
    with ScriptedServer(GOOD, keeps_open=True) as server:
        requests = requests_to(server)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: requests.client.prepare_connections(4), range(4)))
        wait_for("the connections", lambda: server.accepted == 4, TIMEOUT_SECONDS, 0.01)
        assert requests.client.connections_opened == 4


def test_connection_that_cannot_be_opened_in_advance_is_not_reported() -> None:
    requests = Requests(Settings("http://127.0.0.1:1"))
    requests.client.prepare_connections(3)
    assert requests.outcomes == []
    assert requests.client.connections_opened == 0


# All together


def test_first_pull_opens_no_more_connections_than_requests_are_sent_at_once() -> None:
    parallel = 3
    at_once = threading.Barrier(parallel)

    def serve_blob(connection: socket.socket, head: str) -> None:
        if head.startswith("GET /layers/"):
            at_once.wait(TIMEOUT_SECONDS)
        GOOD(connection, head)

    def serve(connection: socket.socket, head: str) -> None:
        method, path, _ = head.split(maxsplit=2)
        manifest = send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"" if method == "HEAD" else b"123")
        digest = path.rpartition("/")[2]
        where = f"{cdn.url}/{'layers' if digest.startswith('sha256:layer') else 'config'}/{digest}"
        (manifest if "/manifests/" in path else redirect(where))(connection, head)

    with ScriptedServer(serve_blob, keeps_open=True) as cdn, ScriptedServer(serve, keeps_open=True) as server:
        requests = requests_to(server)
        requests.get(TAG, "HEAD")
        assert requests.get(TAG) == b"123"
        assert requests.get(BLOB) == b"123"
        assert (server.accepted, cdn.accepted) == (1, 1)
        layers = [BLOB._replace(identifier=f"sha256:layer{number}") for number in range(4 * parallel)]
        with ThreadPoolExecutor(parallel) as pool:
            assert list(pool.map(requests.get, layers)) == [b"123"] * len(layers)
        assert len(server.heads) == 3 + len(layers)
        assert len(cdn.heads) == 1 + len(layers)
        assert server.accepted <= parallel
        assert cdn.accepted == parallel
