"""What belongs to no content, such as trailers and the sizes of chunks, takes a bounded number of bytes and seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from upstream.client import Client, Settings
from upstream.errors import Kind, Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer, in_turn, send

if TYPE_CHECKING:
    import socket

    from upstream.client import Answer
    from upstreams.scripted_server import Script

READ_SECONDS = 0.3
TIMEOUT_SECONDS = 20.0
BLOB = Reference("blob", "a", "sha256:0")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def endlessly(beginning: bytes, part: bytes, pause: float) -> Script:
    """Return a script that sends a part again and again."""

    def serve(connection: socket.socket, _: str) -> None:
        connection.sendall(CHUNKED + beginning)
        while True:
            connection.sendall(part)
            time.sleep(pause)  # it is slow

    return serve


def read_all(answer: Answer) -> bytes:
    return b"".join(iter(lambda: answer.read(1 << 16), b""))


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["fast", "slow"])
@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        pytest.param(b"3\r\n123\r\n0\r\n", b"X-Trailer: x\r\n", id="trailers"),
        pytest.param(b"3\r\n123\r\n0\r\n", b"x", id="trailer without an end"),
        pytest.param(b"3\r\n123\r\n", b"0", id="size of a chunk"),
        pytest.param(b"3\r\n123\r\n3;", b"x", id="extension of a chunk"),
        pytest.param(b"3\r\n123", b"x", id="end of a chunk"),
    ],
)
def test_body_with_something_endless_ends(beginning: bytes, part: bytes, pause: float) -> None:
    honest = send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"123")
    with ScriptedServer(in_turn(endlessly(beginning, part, pause), honest)) as server:
        client = Client(Settings(server.url), observe=lambda *_: None, log=print, read_timeout=READ_SECONDS)
        begin = time.monotonic()
        answer = client.open("GET", BLOB, timeout=TIMEOUT_SECONDS)
        with pytest.raises(Unavailable) as raised:
            read_all(answer)
        assert raised.value.kind in (Kind.TIMEOUT, Kind.CUT)
        assert time.monotonic() - begin < TIMEOUT_SECONDS / 2
        with client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as good:
            assert good.read(10) == b"123"


def test_chunks_with_long_extensions_are_read() -> None:
    chunk = b"3;%b\r\n123\r\n" % (b"x" * 30_000)
    with ScriptedServer(send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=chunk * 20 + b"0\r\n\r\n")) as server:
        client = Client(Settings(server.url), observe=lambda *_: None, log=print)
        with client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
            assert read_all(answer) == b"123" * 20
