"""Whatever the server of one repository does, another repository of the upstream is served as without it."""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from upstream.availability_guard import AvailabilityGuard
from upstream.client import Client, Settings
from upstream.errors import Denied, NotFound, Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer, redirect, reset, send, stay_silent

if TYPE_CHECKING:
    from upstreams.scripted_server import Script

ODD_TIMEOUT_SECONDS = 0.15
# A token that is tried because of another repository may take half a second; the rest is for a busy machine.
HONEST_SECONDS = 2.0
BODY = b"honest"
GOOD = send("HTTP/1.1 200 OK\nContent-Length: 6", body=BODY)
LOGIN = base64.b64encode(b"user:password").decode()


def challenge(text: str, status: int = 401) -> Script:
    return send(f"HTTP/1.1 {status} x\nWWW-Authenticate: {text}\nContent-Length: 0")


def break_off(content: bytes = b"") -> Script:
    """Return a script that sends something, and ends the connection."""

    def serve(connection: socket.socket, _: str) -> None:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_RDWR)

    return serve


def send_endlessly(beginning: bytes, part: bytes) -> Script:
    """Return a script that sends a part again and again."""

    def serve(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + beginning)
        while True:
            connection.sendall(part)

    return serve


# What the server of the odd repository does; URL stands for the upstream.
ODD: dict[str, str | Script] = {
    "open": GOOD,
    "silent": stay_silent,
    "reset": reset,
    "hangs up": break_off(),
    "half a head": break_off(b"HTTP/1.1 200 OK\r\nContent-"),
    "not HTTP": break_off(b"SSH-2.0-x\r\n\r\n"),
    "too many headers": send("HTTP/1.1 200 OK\n" + "X: y\n" * 200),
    "no reason": challenge("Nothing"),
    "Negotiate": challenge("Negotiate"),
    "Basic": challenge('Basic realm="x"'),
    "Basic, and then none": challenge('Basic realm="x"', 403),
    "no token server": challenge("Bearer x"),
    "relative token server": challenge('Bearer realm="/odd"'),
    "token server of its own": 'Bearer realm="URL/odd-token",service="odd"',
    "silent token server": 'Bearer realm="URL/silent-token"',
    "missing token server": 'Bearer realm="http://127.0.0.1:1/token"',
    "token server that refuses": 'Bearer realm="URL/refusing-token"',
    "scope of the other one": 'Bearer realm="URL/token",service="s",scope="repository:honest/b:pull"',
    "refused token": 'Bearer realm="URL/token",service="s"',
    "trailers without an end": send_endlessly(b"0\r\n", b"X: y\r\n"),
    "size of a chunk without an end": send_endlessly(b"", b"0"),
    "403": send("HTTP/1.1 403 x\nContent-Length: 0"),
    "404": send("HTTP/1.1 404 x\nContent-Length: 0"),
    "405": send("HTTP/1.1 405 x\nContent-Length: 0"),
    "429": send("HTTP/1.1 429 x\nRetry-After: 60\nContent-Length: 0"),
    "503": send("HTTP/1.1 503 x\nRetry-After: 60\nContent-Length: 0"),
    "link-local token server": 'Bearer realm="http://169.254.169.254/token"',
    "foreign token server": 'Bearer realm="http://127.0.0.2:1/token"',
    "redirect to a link-local address": redirect("http://169.254.169.254/"),
    "redirect to nobody": redirect("http://127.0.0.1:1/"),
    "redirect to no name": redirect("http://x.invalid/"),
    "redirect in a circle": redirect("/v2/odd/a/manifests/1"),
    "redirect to silence": redirect("/silent-token"),
    "redirect to the token server": redirect("/token?scope=repository:honest/b:pull"),
}


class TwoRepositories(RuleBasedStateMachine):
    """An upstream with an odd repository, and an honest one that is open or asks for a token or a password."""

    def __init__(self) -> None:
        """Begin to listen."""
        super().__init__()
        self.behaviour: str | Script = GOOD
        self.honest = ""
        self.server = ScriptedServer(self.serve, keeps_open=True)
        self.server.__enter__()
        self.folder = tempfile.TemporaryDirectory()

    @initialize(honest=st.sampled_from(["open", "token", "password"]), has_credentials=st.booleans())
    def start(self, honest: str, *, has_credentials: bool) -> None:
        self.honest = honest
        credentials = None
        if has_credentials or honest == "password":
            credentials = Path(self.folder.name)
            (credentials / "username").write_text("user")
            (credentials / "password").write_text("password")
        client = Client(Settings(self.server.url, credentials), observe=lambda *_: None, log=lambda _: None)
        self.source = AvailabilityGuard(client, "the upstream", lambda _: None)

    def serve(self, connection: socket.socket, head: str) -> None:
        with suppress(OSError):
            self.choose(head)(connection, head)

    def choose(self, head: str) -> Script:
        path = head.split(" ")[1]
        if path.startswith("/v2/honest/"):
            return self.answer_honestly(head)
        if path.startswith("/v2/odd/"):
            if not isinstance(self.behaviour, str):
                return self.behaviour
            is_let_in = "Bearer odd" in head
            return GOOD if is_let_in else challenge(self.behaviour.replace("URL", self.server.url))
        if path.startswith("/silent-token") or (path.startswith("/odd-token") and "honest" in path):
            return stay_silent
        if path.startswith("/refusing-token"):
            return challenge('Bearer realm="x"')
        token = "odd" if path.startswith("/odd-token") else "honest" if "honest" in path else "another"
        content = json.dumps({"token": token}).encode()
        return send(f"HTTP/1.1 200 OK\nContent-Length: {len(content)}", body=content)

    def answer_honestly(self, head: str) -> Script:
        if self.honest == "token" and "Bearer honest" not in head:
            return challenge(f'Bearer realm="{self.server.url}/token",service="s",scope="repository:honest/b:pull"')
        if self.honest == "password" and f"Basic {LOGIN}" not in head:
            return challenge('Basic realm="y"')
        if self.honest == "open" and "Authorization: Bearer odd" in head:
            # Some servers refuse a token that they do not know, although they need none.
            return send("HTTP/1.1 401 x\nContent-Length: 0")
        return GOOD

    @rule(name=st.sampled_from(sorted(ODD)), repository=st.sampled_from(["odd/a", "odd/c"]))
    def pull_from_the_odd_one(self, name: str, repository: str) -> None:
        self.get_oddly(name, repository, ODD_TIMEOUT_SECONDS)

    @rule()
    def pull_from_the_honest_one(self) -> None:
        begin = time.monotonic()
        assert self.get("honest/b", 10.0) == BODY
        assert time.monotonic() - begin < HONEST_SECONDS

    def get_oddly(self, name: str, repository: str, timeout: float) -> None:
        self.behaviour = ODD[name]
        with suppress(Unavailable, NotFound, Denied):
            self.get(repository, timeout)

    def get(self, repository: str, timeout: float) -> bytes:
        with self.source.open("GET", Reference("manifest", repository, "1"), timeout=timeout) as answer:
            return answer.read(100)

    def teardown(self) -> None:
        self.server.__exit__()
        self.folder.cleanup()


TestTwoRepositories = TwoRepositories.TestCase
TestTwoRepositories.settings = settings(max_examples=40, stateful_step_count=8, deadline=None)


def test_first_request_of_a_slow_repository_delays_no_other_one() -> None:
    machine = TwoRepositories()
    machine.start("open", has_credentials=False)
    begin = time.monotonic()
    slow = threading.Thread(target=machine.get_oddly, args=("silent", "odd/a", 3.0))
    slow.start()
    time.sleep(0.1)
    machine.pull_from_the_honest_one()
    assert time.monotonic() - begin < HONEST_SECONDS
    slow.join()
    machine.teardown()


@pytest.mark.parametrize("count", [1, 3])
def test_new_repository_costs_no_round_trip_more(count: int) -> None:
    """What the repositories before it asked for is tried, unless they disagree."""
    machine = TwoRepositories()
    machine.start("token", has_credentials=False)
    for number in range(count):
        machine.get(f"honest/{number}", 10.0)
    before = len(machine.server.heads)
    machine.pull_from_the_honest_one()
    assert [head.split(" ")[1].partition("?")[0] for head in machine.server.heads[before:]] == [
        "/token",
        "/v2/honest/b/manifests/1",
    ]
    machine.teardown()
