"""Ranges of a blob, and the location to which the upstream redirected an earlier request for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from upstream.client import Client, Settings
from upstream.errors import NotFound, Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer, in_turn, redirect, reset, send, stay_silent

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from upstream.client import Answer
    from upstreams.scripted_server import Script

TIMEOUT_SECONDS = 10.0
BLOB = Reference("blob", "a", "sha256:0")
PART = send("HTTP/1.1 206 x\nContent-Range: bytes 2-4/9\nContent-Length: 3", body=b"234")


def client_of(server: ScriptedServer, credentials: Path | None = None) -> Client:
    return Client(Settings(server.url, credentials=credentials), observe=lambda *_: None, log=lambda _: None)


def body_of(answer: Answer) -> bytes:
    with answer:
        return answer.read(100)


@pytest.mark.parametrize(
    ("headers", "total_size"),
    [
        ("Content-Range: bytes 2-4/9\nContent-Length: 3", 9),
        ("Content-Range: bytes 2-4/*\nContent-Length: 3", None),
        ("Content-Range: bytes 2-4/5\nContent-Length: 3", 5),
        ("Content-Range: bytes 2-3/4\nContent-Length: 2", 4),
    ],
    ids=["part", "unknown-size", "end", "beyond-the-end"],
)
def test_range_with_both_ends_is_requested(headers: str, total_size: int | None) -> None:
    with ScriptedServer(send(f"HTTP/1.1 206 x\n{headers}", body=b"234")) as server:
        answer = client_of(server).open("GET", BLOB, offset=2, last_byte=4, timeout=TIMEOUT_SECONDS)
        assert body_of(answer) == b"234"[: answer.length]
    assert "Range: bytes=2-4\r\n" in server.heads[0]
    assert (answer.status, answer.offset, answer.total_size) == (206, 2, total_size)


def test_range_may_begin_with_the_first_byte() -> None:
    script = send("HTTP/1.1 206 x\nContent-Range: bytes 0-0/9\nContent-Length: 1", body=b"0")
    with ScriptedServer(script) as server:
        answer = client_of(server).open("GET", BLOB, last_byte=0, timeout=TIMEOUT_SECONDS)
        assert body_of(answer) == b"0"
    assert "Range: bytes=0-0\r\n" in server.heads[0]
    assert (answer.status, answer.offset, answer.total_size) == (206, 0, 9)


def test_upstream_without_ranges_sends_everything_and_says_so() -> None:
    with ScriptedServer(send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"012")) as server:
        answer = client_of(server).open("GET", BLOB, offset=1, last_byte=1, timeout=TIMEOUT_SECONDS)
        assert body_of(answer) == b"012"
    assert (answer.status, answer.offset, answer.total_size) == (200, 0, 3)


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Range: bytes 1-4/9\nContent-Length: 4",
        "Content-Range: bytes 2-3/9\nContent-Length: 2",
        "Content-Range: bytes 2-5/9\nContent-Length: 4",
        "Content-Range: bytes 2-4/*\nContent-Length: 4",
        "Content-Range: bytes 2-5/6\nContent-Length: 4",
        "Content-Length: 3",
    ],
)
def test_other_range_is_refused(headers: str) -> None:
    with ScriptedServer(send(f"HTTP/1.1 206 x\n{headers}", body=b"1234")) as server:
        with pytest.raises(Unavailable, match="sent another range than from byte 2") as raised:
            client_of(server).open("GET", BLOB, offset=2, last_byte=4, timeout=TIMEOUT_SECONDS)
        assert raised.value.kind == "malformed"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "username").write_text("user")
    (tmp_path / "password").write_text("password")
    return tmp_path


def test_location_is_requested_without_the_upstream_and_without_its_credentials(credentials: Path) -> None:
    with ScriptedServer(PART) as cdn:
        challenge = send("HTTP/1.1 401 x\nWWW-Authenticate: Basic\nContent-Length: 0")
        where = redirect(f"{cdn.url}/x?sig=y")

        def serve(connection: socket.socket, head: str) -> None:
            (where if "Authorization" in head else challenge)(connection, head)

        with ScriptedServer(serve) as server:
            client = client_of(server, credentials)
            first = client.open("GET", BLOB, offset=2, timeout=TIMEOUT_SECONDS)
            assert body_of(first) == b"234"
            requests = len(server.heads)
            answer = client.open("GET", BLOB, offset=2, last_byte=4, location=first.location, timeout=TIMEOUT_SECONDS)
            assert body_of(answer) == b"234"
            assert len(server.heads) == requests
            assert answer.location == first.location
    assert [head.split()[1] for head in cdn.heads] == ["/x?sig=y"] * 2
    assert "Range: bytes=2-4\r\n" in cdn.heads[1]
    assert all("authorization" not in head.lower() for head in cdn.heads)


@pytest.mark.parametrize(
    "script",
    [
        send("HTTP/1.1 403 expired\nContent-Length: 2", body=b"no"),
        send("HTTP/1.1 401 x\nWWW-Authenticate: Basic\nContent-Length: 0"),
        send("HTTP/1.1 404 x\nContent-Length: 0"),
        send("HTTP/1.1 503 x\nContent-Length: 0"),
        send("HTTP/1.1 206 x\nContent-Range: bytes 0-4/9\nContent-Length: 5"),
        redirect("/elsewhere"),
        reset,
        stay_silent,
    ],
    ids=["403", "401", "404", "503", "other-range", "redirect", "reset", "silent"],
)
def test_upstream_is_asked_again_if_the_location_is_of_no_use(script: Script) -> None:
    with (
        ScriptedServer(PART) as fresh,
        ScriptedServer(in_turn(PART, script)) as old,
        ScriptedServer(in_turn(redirect(f"{old.url}/x"), redirect(f"{fresh.url}/x"))) as server,
    ):
        client = client_of(server)
        first = client.open("GET", BLOB, offset=2, timeout=TIMEOUT_SECONDS)
        assert body_of(first) == b"234"
        timeout = 1.0 if script is stay_silent else TIMEOUT_SECONDS
        answer = client.open("GET", BLOB, offset=2, location=first.location, timeout=timeout)
        assert body_of(answer) == b"234"
        assert (len(old.heads), len(fresh.heads), len(server.heads)) == (2, 1, 2)
        assert str(answer.location) == f"{fresh.url}/x"


def test_upstream_says_that_a_blob_of_a_location_is_gone() -> None:
    with ScriptedServer(PART) as cdn:
        gone = send("HTTP/1.1 404 x\nContent-Length: 0")
        with ScriptedServer(in_turn(redirect(f"{cdn.url}/x"), gone)) as server:
            client = client_of(server)
            first = client.open("GET", BLOB, offset=2, timeout=TIMEOUT_SECONDS)
            assert body_of(first) == b"234"
            cdn.stop()
            with pytest.raises(NotFound):
                client.open("GET", BLOB, offset=2, location=first.location, timeout=TIMEOUT_SECONDS)


def test_answer_of_the_upstream_itself_has_no_location() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        (PART if "elsewhere" in head else redirect("elsewhere"))(connection, head)

    with ScriptedServer(serve) as server:
        answer = client_of(server).open("GET", BLOB, offset=2, timeout=TIMEOUT_SECONDS)
        assert body_of(answer) == b"234"
        assert answer.location is None


def test_client_knows_how_long_a_blob_takes_to_begin() -> None:
    manifest = Reference("manifest", "a", "1")
    with ScriptedServer(in_turn(PART, PART)) as server:
        client = client_of(server)
        body_of(client.open("GET", manifest, offset=2, last_byte=4, timeout=TIMEOUT_SECONDS))
        assert client.blob_wait == math.inf
        body_of(client.open("GET", BLOB, offset=2, last_byte=4, timeout=TIMEOUT_SECONDS))
        assert 0 < client.blob_wait < TIMEOUT_SECONDS
