"""Storage and token servers that themselves want something, as the servers to which an upstream leads may do."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest
from upstream.client import Client, Settings
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer, redirect, send

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from upstreams.scripted_server import Script

BLOB = Reference("blob", "team/app", "sha256:0")
TIMEOUT_SECONDS = 20.0
AT_ONCE_SECONDS = 5.0
GOOD = send("HTTP/1.1 200 OK\nContent-Length: 4", body=b"blob")
LOGIN = base64.b64encode(b"user:s3cret").decode()


def challenge(text: str, status: int = 401) -> Script:
    return send(f"HTTP/1.1 {status} x\nWWW-Authenticate: {text}\nContent-Length: 0")


def asking_for(scheme: str, accepts: str) -> Script:
    """Return a script that sends the blob to requests with an authorization, and asks others for one."""

    def serve(connection: socket.socket, head: str) -> None:
        (GOOD if f"Authorization: {accepts}" in head else challenge(scheme))(connection, head)

    return serve


def give_token(connection: socket.socket, head: str) -> None:
    body = json.dumps({"token": "anybody"}).encode()
    send(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body=body)(connection, head)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "username").write_text("user")
    (tmp_path / "password").write_text("s3cret")
    return tmp_path


def client_of(server: ScriptedServer, secret: Path | None = None) -> Client:
    return Client(Settings(server.url, secret), observe=lambda *_: None, log=print)


def get(client: Client) -> bytes:
    with client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read(10)


@pytest.mark.parametrize("has_secret", [False, True])
def test_blob_behind_a_redirect_comes_with_a_token_that_anybody_gets(secret: Path, has_secret: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with ScriptedServer(give_token) as tokens:
        realm = f'Bearer realm="{tokens.url}/token",service="storage",scope="blobs"'
        with (
            ScriptedServer(asking_for(realm, "Bearer anybody")) as storage,
            ScriptedServer(redirect(f"{storage.url}/blob")) as other,
            ScriptedServer(redirect(f"{other.url}/blob")) as upstream,
        ):
            client = client_of(upstream, secret if has_secret else None)
            assert [get(client), get(client)] == [b"blob", b"blob"]
            assert [head.split(" ")[1] for head in tokens.heads] == ["/token?service=storage&scope=blobs"]
            assert not any(LOGIN in head for server in (tokens, storage, other) for head in server.heads)


def refusals() -> dict[str, tuple[Script, type[Exception]]]:
    """What storage answers, and what comes of it."""
    return {
        "Basic": (challenge('Basic realm="x"'), Unavailable),
        "an unknown scheme": (challenge("Negotiate"), Unavailable),
        "a token that it refuses": (challenge('Bearer realm="URL/token"'), Unavailable),
        "nothing": (send("HTTP/1.1 403 x\nContent-Length: 0"), Unavailable),
        "404": (send("HTTP/1.1 404 x\nContent-Length: 0"), NotFound),
        "a circle": (redirect("/again"), Unavailable),
        "no URL": (redirect("ftp://x/"), Unavailable),
    }


@pytest.mark.parametrize("name", refusals())
def test_storage_that_refuses_is_reported_at_once(secret: Path, name: str) -> None:
    script, problem = refusals()[name]
    with ScriptedServer(script) as storage, ScriptedServer(redirect(f"{storage.url}/blob")) as upstream:
        begin = time.monotonic()
        with pytest.raises(problem) as raised:
            get(client_of(upstream, secret))
        assert time.monotonic() - begin < AT_ONCE_SECONDS
        if isinstance(raised.value, Unavailable):
            assert raised.value.kind == Kind.REDIRECTS
        assert not any(LOGIN in head for head in storage.heads)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        pytest.param(challenge('Bearer realm="http://127.0.0.1:1/"'), Denied, id="a token for the token"),
        pytest.param(challenge('Basic realm="x"'), Denied, id="a password"),
        pytest.param(send("HTTP/1.1 403 x\nContent-Length: 0"), Denied, id="nothing"),
        pytest.param(redirect("/again"), Unavailable, id="a circle"),
        pytest.param(redirect("http://127.0.0.1:1/"), Unavailable, id="nobody"),
        pytest.param(send("HTTP/1.1 404 x\nContent-Length: 0"), Unavailable, id="404"),
    ],
)
def test_token_server_that_wants_something_is_reported_at_once(script: Script, problem: type[Exception]) -> None:
    with ScriptedServer(script) as tokens, ScriptedServer(challenge(f'Bearer realm="{tokens.url}/"')) as upstream:
        begin = time.monotonic()
        with pytest.raises(problem):
            get(client_of(upstream))
        assert time.monotonic() - begin < AT_ONCE_SECONDS


def test_token_of_a_server_behind_redirects_is_used() -> None:
    with (
        ScriptedServer(give_token) as tokens,
        ScriptedServer(redirect(f"{tokens.url}/token")) as old,
        ScriptedServer(asking_for(f'Bearer realm="{old.url}/"', "Bearer anybody")) as upstream,
    ):
        assert get(client_of(upstream)) == b"blob"
