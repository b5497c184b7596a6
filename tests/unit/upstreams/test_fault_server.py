"""The fault server passes requests on as they are."""

from __future__ import annotations

import socket

from upstreams.fault_server import FaultServer
from upstreams.scripted_server import ScriptedServer, send


def test_header_that_comes_several_times_is_passed_on_as_a_list() -> None:
    with ScriptedServer(send("HTTP/1.1 200 OK\nContent-Length: 0")) as registry:
        server = FaultServer(("127.0.0.1", 0), ("127.0.0.1", registry.port))
        server.start()
        try:
            with socket.create_connection(server.address, timeout=30) as client:
                client.sendall(
                    b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAccept: one\r\nAccept: two\r\nConnection: close\r\n\r\n"
                )
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        finally:
            server.stop()
    assert "accept: one, two\r\n" in registry.heads[0].lower()
