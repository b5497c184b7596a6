"""The port of the metrics with TLS, and clients that break it off."""

from __future__ import annotations

import socket
import ssl
import struct
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme
from common.http_status import StatusServer
from gate.certificate import Certificate
from machine.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_SECONDS = 10.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def port(authority: trustme.CA, tmp_path: Path) -> int:
    """The port of a server with a certificate of the authority."""
    issued = authority.issue_cert("localhost")
    (tmp_path / "tls.key").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "tls.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    port = free_port()
    StatusServer(port, lambda: "up 1\n" * 100_000, lambda: True, Certificate(tmp_path).wrap).listen()
    return port


def context_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def scrape(port: int, authority: trustme.CA) -> bytes:
    url = f"https://localhost:{port}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context_of(authority)) as answer:
        content: bytes = answer.read()
    return content


def ask_without_tls(port: int, _authority: trustme.CA) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not connection.recv(4096)


def do_not_trust(port: int, _authority: trustme.CA) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")


def hang_up_in_the_handshake(port: int, _authority: trustme.CA) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(b"\x16\x03\x01")


def hang_up_in_the_answer(port: int, authority: trustme.CA) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        secure = context_of(authority).wrap_socket(connection, server_hostname="localhost")
        secure.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert secure.recv(1)
        secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        secure.close()


@pytest.mark.parametrize("client", [ask_without_tls, do_not_trust, hang_up_in_the_handshake, hang_up_in_the_answer])
def test_client_that_breaks_tls_off_is_not_logged(
    client: Callable[[int, trustme.CA], None], port: int, authority: trustme.CA, capfd: pytest.CaptureFixture[str]
) -> None:
    client(port, authority)
    assert scrape(port, authority).startswith(b"up 1\n")
    assert capfd.readouterr() == ("", "")


def test_old_certificate_stays_while_the_new_one_cannot_be_used(
    port: int, authority: trustme.CA, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert scrape(port, authority)
    issued = authority.issue_cert("localhost")
    (tmp_path / "tls.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    for _ in range(2):
        assert scrape(port, authority)
    logged = capfd.readouterr()
    assert logged.out.startswith("the new certificate of the cache cannot be used: ")
    assert (logged.out.count("\n"), logged.err) == (1, "")
    (tmp_path / "tls.key").write_bytes(issued.private_key_pem.bytes())
    sent = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection,
        context_of(authority).wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        assert secure.getpeercert(binary_form=True) == sent


def test_files_that_cannot_be_used_are_logged(port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tls.crt").unlink()
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        assert connection.recv(1) == b""
    assert "No such file or directory" in capfd.readouterr().err
