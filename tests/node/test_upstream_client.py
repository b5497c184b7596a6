"""The client of upstreams with real registries, tokens, TLS and proxies, and with every fault of theirs."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import re
import select
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
import trustme
from cluster import images
from machine import tools
from machine.processes import free_port, wait_for
from upstream.client import Client, Settings
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference
from upstream.urls import Url
from upstreams import oci
from upstreams.scripted_server import ScriptedServer, redirect, reset, send, stay_silent
from upstreams.sites import PASSWORD, USERNAME
from upstreams.token_server import ISSUER, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upstream.client import Answer
    from upstreams.scripted_server import Script

# Far more than any of these responses needs.
LIMIT_SECONDS = 20.0
# By how much a deadline may be missed on a busy machine.
SLACK_SECONDS = 3.0
OTHER_PASSWORD = "s3cret-2"
ACCEPT = (oci.MANIFEST, oci.INDEX)
LAYER = oci.random_layer("upstream-client", 3_000_000)
IMAGE = images.busybox(LAYER, label="upstream-client")
LAYER_DIGEST = oci.digest(LAYER)
BLOB = f"blobs/{LAYER_DIGEST}"


@dataclass
class ObservedClient:
    """A client with its observations and log lines."""

    settings: Settings
    read_timeout: float = LIMIT_SECONDS
    seen: list[tuple[str, str]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Create the client."""
        self.client = Client(
            self.settings,
            observe=lambda method, outcome, seconds: self.seen.append(
                (method, outcome if seconds >= 0 else "negative")
            ),
            log=self.logged.append,
            read_timeout=self.read_timeout,
        )

    def open(self, path: str, repository: str = "public/a", method: str = "GET", **options: Any) -> Answer:
        kind, _, identifier = path.partition("/")
        reference = Reference("blob" if kind == "blobs" else "manifest", repository, identifier)
        return self.client.open(method, reference, **{"timeout": LIMIT_SECONDS, "accept": ACCEPT, **options})

    def body(self, path: str, repository: str = "public/a", **options: Any) -> bytes:
        with self.open(path, repository, **options) as answer:
            return whole(answer)

    def problem(self, path: str = "manifests/1", **options: Any) -> Unavailable:
        """Return the error of a request, or of reading its response."""
        with pytest.raises(Unavailable) as raised:
            self.body(path, **options)
        return raised.value


def whole(answer: Answer) -> bytes:
    parts = []
    while part := answer.read(1 << 16):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def program(command: list[object], port: int, log: Path) -> Iterator[None]:
    """Run a program, and wait until it listens."""
    environment = {**tools.program_environment(), "OTEL_TRACES_EXPORTER": "none"}
    with log.open("ab") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output, env=environment)
    try:
        wait_for(f"{command[0]} to listen", lambda: process.poll() is not None or listens(port), LIMIT_SECONDS)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(LIMIT_SECONDS)


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of the registries, with one image in two repositories (distribution, registry/storage/paths.go)."""
    tools.ensure_registry()
    root: Path = tmp_path_factory.mktemp("storage")
    below = root / "docker/registry/v2"

    def put(path: str, content: bytes) -> None:
        (below / path).parent.mkdir(parents=True, exist_ok=True)
        (below / path).write_bytes(content)

    for digest, content in {**IMAGE.blobs, IMAGE.digest: IMAGE.manifest}.items():
        hexadecimal = digest.removeprefix("sha256:")
        put(f"blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data", content)
        for repository in ("public/a", "private/a"):
            kind = "_manifests/revisions" if digest == IMAGE.digest else "_layers"
            put(f"repositories/{repository}/{kind}/sha256/{hexadecimal}/link", digest.encode())
            put(f"repositories/{repository}/_manifests/tags/1/current/link", IMAGE.digest.encode())
    return root


@contextlib.contextmanager
def registry(storage: Path, folder: Path, auth: dict[str, Any] | None = None) -> Iterator[str]:
    """Run a distribution, and return its URL."""
    port = free_port()
    configuration: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(storage)}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth:
        configuration["auth"] = auth
    path = folder / f"registry-{port}.yaml"
    path.write_text(json.dumps(configuration))
    command = [tools.go_binary("distribution", "registry"), "serve", path]
    with program(command, port, folder / f"registry-{port}.log"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def open_registry(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(storage, tmp_path_factory.mktemp("open")) as url:
        yield url


def secret(folder: Path, username: str = USERNAME, password: str = PASSWORD) -> Path:
    """Write a mounted Secret, whose values have the newline that tools add."""
    folder.mkdir(exist_ok=True)
    (folder / "username").write_text(f"{username}\n")
    (folder / "password").write_text(f"{password}\n")
    return folder


def assert_no_secret(*texts: object) -> None:
    """Check that no log line, message or traceback has a secret."""
    for text in texts:
        if isinstance(text, BaseException):
            assert_no_secret(f"{text!r} {text.args}", text.__cause__, text.__context__)
        for hidden in (PASSWORD, OTHER_PASSWORD, "s3cret"):
            login = base64.b64encode(f"{USERNAME}:{hidden}".encode()).decode()
            assert hidden not in str(text)
            assert repr(hidden)[1:-1] not in str(text)
            assert login not in str(text)


# A registry without authentication


def test_registry_without_authentication_gets_one_request_for_each_object(open_registry: str) -> None:
    asked = ObservedClient(Settings(open_registry))
    with asked.open("manifests/1") as manifest:
        assert whole(manifest) == IMAGE.manifest
        assert manifest.headers["Content-Type"] == oci.MANIFEST
        assert (manifest.status, manifest.offset, manifest.length) == (200, 0, len(IMAGE.manifest))
    with asked.open("manifests/1", method="HEAD") as head:
        assert head.headers["Docker-Content-Digest"] == IMAGE.digest
        assert head.headers["Content-Length"] == str(len(IMAGE.manifest))
        assert whole(head) == b""
    assert asked.body(BLOB) == LAYER
    assert asked.seen == [("GET", "2xx"), ("HEAD", "2xx"), ("GET", "2xx")]
    assert asked.logged == []


def test_rest_of_a_blob_is_requested_by_range(open_registry: str) -> None:
    asked = ObservedClient(Settings(open_registry))
    with asked.open(BLOB, offset=1_000_000) as answer:
        assert (answer.status, answer.offset, answer.length) == (206, 1_000_000, len(LAYER) - 1_000_000)
        assert whole(answer) == LAYER[1_000_000:]
    assert asked.problem(BLOB, offset=len(LAYER) + 1).kind == "4xx"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_missing_content_is_not_found(open_registry: str, method: str) -> None:
    asked = ObservedClient(Settings(open_registry + "/"))
    with pytest.raises(NotFound, match=r"^http://127\.0\.0\.1:[0-9]+ does not have public/a/manifests/2$"):
        asked.open("manifests/2", method=method)
    assert asked.seen == [(method, "404")]


def test_many_threads_send_requests_at_once(open_registry: str) -> None:
    asked = ObservedClient(Settings(open_registry))
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: asked.body(BLOB), range(32)))
    assert bodies == [LAYER] * 32


def test_proxies_of_the_environment_are_ignored(open_registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ObservedClient(Settings(open_registry)).body("manifests/1") == IMAGE.manifest


def test_unreadable_credentials_are_logged_and_not_sent(open_registry: str, tmp_path: Path) -> None:
    (tmp_path / "username").mkdir()
    asked = ObservedClient(Settings(open_registry, credentials=tmp_path))
    for _ in range(2):
        assert asked.body("manifests/1") == IMAGE.manifest
    assert asked.logged == ["the Secret cannot be read: Is a directory, continuing without it"]


def test_missing_secret_is_logged_at_the_start(open_registry: str, tmp_path: Path) -> None:
    (tmp_path / "user").write_text(PASSWORD)
    asked = ObservedClient(Settings(open_registry, credentials=tmp_path, credentials_source="the Secret creds"))
    expected = [
        (
            "the Secret creds has neither the keys username and password nor a key .dockerconfigjson or .dockercfg, "
            "continuing without it"
        )
    ]
    assert asked.logged == expected
    assert asked.body("manifests/1") == IMAGE.manifest
    assert asked.logged == expected


def test_first_request_that_fails_does_not_stop_the_others() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        (stay_silent if len(server.heads) == 1 else send("HTTP/1.1 200 OK\nContent-Length: 0"))(connection, head)

    with ScriptedServer(serve) as server, ThreadPoolExecutor(4) as pool:
        asked = ObservedClient(Settings(server.url))
        hangs = pool.submit(asked.problem, timeout=0.5)
        wait_for("the first request", lambda: server.heads, LIMIT_SECONDS, 0.01)
        assert list(pool.map(lambda _: asked.body("manifests/1"), range(3))) == [b""] * 3
        assert hangs.result(LIMIT_SECONDS).kind == "timeout"
        assert asked.seen[0] == ("GET", "timeout")


# Basic authentication


@pytest.fixture
def closed_registry(storage: Path, tmp_path: Path) -> Iterator[str]:
    """A registry for one user with the awkward password, whose file may change while it runs."""
    let_in(tmp_path, PASSWORD)
    with registry(storage, tmp_path, {"htpasswd": {"realm": "a, b", "path": str(tmp_path / "htpasswd")}}) as url:
        yield url


def let_in(folder: Path, password: str) -> None:
    line = USERNAME.encode() + b":" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)) + b"\n"
    (folder / "htpasswd").write_bytes(line)


def test_basic_credentials_of_any_bytes_are_accepted(closed_registry: str, tmp_path: Path) -> None:
    asked = ObservedClient(Settings(closed_registry, credentials=secret(tmp_path / "secret")))
    assert asked.body("manifests/1") == IMAGE.manifest
    assert asked.body(BLOB) == LAYER
    assert asked.seen == [("GET", "401"), ("GET", "2xx"), ("GET", "2xx")]
    assert asked.logged == []


def test_wrong_basic_credentials_are_logged_once_and_tried_again_when_they_change(
    closed_registry: str, tmp_path: Path
) -> None:
    asked = ObservedClient(Settings(closed_registry, credentials=secret(tmp_path / "secret", password=OTHER_PASSWORD)))
    for _ in range(3):
        with pytest.raises(
            Denied, match=r"^with the credentials, .* answered 401; without them, .* answered 401$"
        ) as raised:
            asked.open("manifests/1")
        assert_no_secret(raised.value)
    assert asked.client.credentials_refused == 1
    (line,) = asked.logged
    assert re.fullmatch(r"the credentials cannot be used: http://\S+ answered 401; trying public/a without them", line)
    assert_no_secret(line, asked.client)
    # Without credentials, with them, and without again; then only without.
    assert asked.seen == [("GET", "401")] * 5

    secret(tmp_path / "secret")
    assert asked.body("manifests/1") == IMAGE.manifest


def test_credentials_that_appear_later_are_used(closed_registry: str, tmp_path: Path) -> None:
    asked = ObservedClient(Settings(closed_registry, credentials=tmp_path / "secret"))
    with pytest.raises(Denied):
        asked.open("manifests/1")
    secret(tmp_path / "secret")
    assert asked.body("manifests/1") == IMAGE.manifest


# Tokens


@pytest.fixture
def token_server() -> Iterator[TokenServer]:
    tokens = TokenServer("service", f"{USERNAME}:{PASSWORD}")
    with tokens.listen("127.0.0.1", 0) as server:
        tokens.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield tokens
        server.shutdown()


@pytest.fixture
def token_registry(storage: Path, tmp_path: Path, token_server: TokenServer) -> Iterator[str]:
    jwks = token_server.save(tmp_path)
    realm = f"{token_server.url}/token?account=x"
    auth = {"token": {"realm": realm, "service": "service", "issuer": ISSUER, "jwks": str(jwks)}}
    with registry(storage, tmp_path, auth) as url:
        yield url


SCOPE = "repository:public/a:pull"


def test_token_is_fetched_after_the_first_401_and_reused(token_registry: str, token_server: TokenServer) -> None:
    asked = ObservedClient(Settings(token_registry))
    for _ in range(2):
        assert asked.body("manifests/1") == IMAGE.manifest
    assert asked.body(BLOB) == LAYER
    assert asked.seen == [("GET", "401"), ("token", "2xx"), *[("GET", "2xx")] * 3]
    assert token_server.requests == [(SCOPE, None)]
    with pytest.raises(Denied, match=r"^http://\S+ answered 401$"):
        asked.open("manifests/1", "private/a")
    # The challenge is known now, so the token is fetched first.
    assert asked.seen[5:] == [("token", "2xx"), ("GET", "401")]


def test_first_requests_of_many_threads_cause_one_401(
    token_registry: str, token_server: TokenServer, tmp_path: Path
) -> None:
    asked = ObservedClient(Settings(token_registry, credentials=secret(tmp_path / "secret")))
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(lambda _: asked.body("manifests/1"), range(12))) == {IMAGE.manifest}
    assert sorted(asked.seen) == [*[("GET", "2xx")] * 12, ("GET", "401"), ("token", "2xx")]


def test_many_threads_fetch_one_token(token_registry: str, token_server: TokenServer, tmp_path: Path) -> None:
    asked = ObservedClient(Settings(token_registry, credentials=secret(tmp_path / "secret")))
    asked.body("manifests/1")
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(lambda _: asked.body("manifests/1", "private/a"), range(24))) == {IMAGE.manifest}
    assert [scope for scope, _ in token_server.requests] == [SCOPE, "repository:private/a:pull"]
    assert asked.seen.count(("GET", "401")) == 1


def test_expired_token_is_replaced_before_it_is_refused(token_registry: str, token_server: TokenServer) -> None:
    token_server.announced_seconds = 1
    asked = ObservedClient(Settings(token_registry))
    asked.body("manifests/1")
    time.sleep(1.0)  # the token's lifetime
    asked.body("manifests/1")
    assert asked.seen == [("GET", "401"), *[("token", "2xx"), ("GET", "2xx")] * 2]


def test_refused_token_is_replaced_once(token_registry: str, token_server: TokenServer) -> None:
    asked = ObservedClient(Settings(token_registry))
    asked.body("manifests/1")
    # The registry accepts it for a minute longer.
    token_server.accepted_seconds = -3000
    key = next(iter(asked.client._authorizer._tokens._tokens))
    asked.client._authorizer._tokens._tokens[key] = asked.client._authorizer._tokens._tokens[key]._replace(
        value=token_server.token(SCOPE, opens=None)
    )
    token_server.accepted_seconds = 300
    assert asked.body("manifests/1") == IMAGE.manifest
    assert asked.seen[3:] == [("GET", "401"), ("token", "2xx"), ("GET", "2xx")]

    token_server.accepted_seconds = -3000
    asked.client._authorizer._tokens._tokens.clear()
    with pytest.raises(Denied):
        asked.body("manifests/1")
    assert asked.seen[6:] == [("token", "2xx"), ("GET", "401")]


def test_wrong_credentials_do_not_affect_public_images_and_are_read_again(
    token_registry: str, token_server: TokenServer, tmp_path: Path
) -> None:
    folder = secret(tmp_path / "secret", password=OTHER_PASSWORD)
    asked = ObservedClient(Settings(token_registry, credentials=folder))
    for _ in range(3):
        assert asked.body("manifests/1") == IMAGE.manifest
    assert [login is not None for _, login in token_server.requests] == [True, False]
    assert asked.client.credentials_refused == 1
    with pytest.raises(
        Denied, match=r"^with the credentials, the token server \S+ answered 401; without them, "
    ) as raised:
        asked.open("manifests/1", "private/a")
    (line,) = asked.logged
    assert re.fullmatch(
        r"the credentials cannot be used: the token server http://\S+ answered 401; trying public/a without them", line
    )
    assert_no_secret(line, raised.value)

    secret(folder)
    assert asked.body("manifests/1", "private/a") == IMAGE.manifest
    assert asked.logged == [line]


def test_secret_that_changes_during_its_refusal_is_tried_at_once(
    token_registry: str, token_server: TokenServer, tmp_path: Path
) -> None:
    folder = secret(tmp_path / "secret", password=OTHER_PASSWORD)
    asked = ObservedClient(Settings(token_registry, credentials=folder))
    token_server.silent = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(asked.body, "manifests/1", "private/a")
        wait_for("the token server to be asked", lambda: token_server.requests, LIMIT_SECONDS, 0.01)
        secret(folder)
        token_server.silent.set()
        assert pull.result(LIMIT_SECONDS) == IMAGE.manifest
    assert asked.logged == []


def test_replaced_secret_is_used_before_the_token_expires(
    token_registry: str, token_server: TokenServer, tmp_path: Path
) -> None:
    folder = secret(tmp_path / "secret")
    asked = ObservedClient(Settings(token_registry, credentials=folder))
    asked.body("manifests/1", "private/a")
    token_server.login = f"{USERNAME}:{OTHER_PASSWORD}"
    secret(folder, password=OTHER_PASSWORD)
    asked.body("manifests/1", "private/a")
    assert len(token_server.requests) == 2
    assert asked.logged == []


@pytest.mark.parametrize(("status", "kind"), [(429, "429"), (503, "5xx"), (404, "malformed"), (400, "4xx")])
def test_token_server_with_a_fault_is_asked_again(
    token_registry: str, token_server: TokenServer, status: int, kind: str
) -> None:
    asked = ObservedClient(Settings(token_registry))
    token_server.status = status
    problem = asked.problem()
    assert (problem.kind, problem.retry_after) == (kind, 7.0)
    assert problem.message == f"no token: {token_server.url} answered {status}"
    token_server.status = 0
    assert asked.body("manifests/1") == IMAGE.manifest


def test_silent_token_server_does_not_exceed_the_deadline(token_registry: str, token_server: TokenServer) -> None:
    asked = ObservedClient(Settings(token_registry))
    token_server.silent = threading.Event()
    begin = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        kinds = list(pool.map(lambda _: asked.problem(timeout=0.5).kind, range(4)))
    assert kinds == ["timeout"] * 4
    assert time.monotonic() - begin < 0.5 + SLACK_SECONDS
    token_server.silent.set()


def test_moved_token_server_is_found(
    storage: Path, tmp_path: Path, token_server: TokenServer, token_registry: str
) -> None:
    asked = ObservedClient(Settings(token_registry))
    asked.body("manifests/1")
    # As if there had been another token server, which does not exist any more.
    remembered = asked.client._authorizer._terms
    terms = remembered.find("public/a")
    assert terms is not None
    assert terms.demand is not None
    gone = terms._replace(demand=terms.demand._replace(realm=Url.parse("http://127.0.0.1:1/token")))
    remembered.learn("public/a", gone)
    assert asked.problem().kind == "refused"
    assert asked.body("manifests/1") == IMAGE.manifest


# Servers with faults


def drip(connection: socket.socket, _: str) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 80:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)  # it is slow


def hint_without_end(connection: socket.socket, _: str) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.05)  # it is slow


@pytest.mark.parametrize(
    ("serve", "kind", "message"),
    [
        pytest.param(stay_silent, "timeout", "did not answer in time", id="silent"),
        pytest.param(drip, "timeout", "did not answer in time", id="drips"),
        pytest.param(hint_without_end, "timeout", "did not answer in time", id="hints-without-end"),
        pytest.param(reset, "reset", "closed the connection before it answered", id="reset"),
        pytest.param(lambda *_: None, "reset", "closed the connection before it answered", id="hangs-up"),
        pytest.param(send("SSH-2.0-x"), "malformed", "is not HTTP", id="other-protocol"),
        pytest.param(send("HTTP/1.1 200 OK\n" + "X: y\n" * 200), "malformed", "is not HTTP", id="endless-head"),
        pytest.param(send("HTTP/1.1 500 x\nContent-Length: 0"), "5xx", "answered 500", id="500"),
        pytest.param(send("HTTP/1.1 400 x\nContent-Length: 0"), "4xx", "answered 400", id="400"),
        pytest.param(send("HTTP/1.1 204 x"), "malformed", "answered 204", id="204"),
        pytest.param(send("HTTP/1.1 304 x"), "malformed", "answered 304", id="304"),
        pytest.param(redirect(""), "redirects", "redirects to an invalid location", id="to-nowhere"),
        pytest.param(redirect("ftp://x/"), "redirects", "redirects to an invalid location", id="to-ftp"),
        pytest.param(redirect("/v2/"), "redirects", "redirects more than 5 times", id="loop"),
        pytest.param(
            redirect("http://127.0.0.1:1/?s3cret"), "refused", "127.0.0.1:1 refused the connection", id="to-none"
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_upstream_with_a_fault_is_unavailable_in_time(serve: Script, kind: str, message: str, method: str) -> None:
    begin = time.monotonic()
    with ScriptedServer(serve) as server:
        asked = ObservedClient(Settings(server.url))
        problem = asked.problem(method=method, timeout=0.7)
    assert problem.kind == kind
    assert message in problem.message
    assert "127.0.0.1" in problem.message
    assert_no_secret(problem)
    assert time.monotonic() - begin < 0.7 + SLACK_SECONDS
    assert asked.seen[-1][1] in (kind, "2xx", "3xx")


def test_missing_upstream_is_unavailable() -> None:
    assert ObservedClient(Settings("http://127.0.0.1:1")).problem().kind == "refused"
    assert ObservedClient(Settings("http://name.invalid")).problem().kind == "dns"


def test_connection_that_is_not_accepted_does_not_exceed_the_deadline() -> None:
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # They are not accepted, so the kernel drops all connections after the first two.
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        begin = time.monotonic()
        problem = ObservedClient(Settings(f"http://127.0.0.1:{listener.getsockname()[1]}")).problem(timeout=0.5)
        assert problem.kind == "timeout"
        assert time.monotonic() - begin < 0.5 + SLACK_SECONDS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Retry-After: 17", 17.0),
        ("Date: Tue, 01 Sep 2026 12:00:00 GMT\nRetry-After: Tue, 01 Sep 2026 12:01:00 GMT", 60.0),
        ("Date: Tue, 01 Sep 2026 12:00:00 GMT\nRetry-After: Tue, 01 Sep 2026 11:00:00 GMT", 0.0),
        ("Retry-After: soon", None),
        ("X: y", None),
    ],
)
@pytest.mark.parametrize(("status", "kind"), [(429, "429"), (503, "5xx")])
def test_retry_after_is_passed_on(header: str, seconds: float | None, status: int, kind: str) -> None:
    with ScriptedServer(send(f"HTTP/1.1 {status} x\n{header}")) as server:
        problem = ObservedClient(Settings(server.url)).problem()
    assert (problem.kind, problem.retry_after) == (kind, seconds)


def stops_in_the_middle(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    connection.recv(1)


@pytest.mark.parametrize(
    ("serve", "kind", "message"),
    [
        pytest.param(stops_in_the_middle, "timeout", "sent no content for 0.3 s in the middle of a body", id="silent"),
        pytest.param(
            send("HTTP/1.1 200 OK\nContent-Length: 10", body=b"12345"),
            "cut",
            "cut a body off after 5 of 10 bytes",
            id="cut",
        ),
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"5\r\n12345\r\n"),
            "cut",
            "after 5 bytes",
            id="chunks",
        ),
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"9\r\n12345"), "cut", "after 5 bytes", id="chunk"
        ),
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"5\r\n12345\r\nx\r\n"),
            "cut",
            "after 5",
            id="no-chunk",
        ),
    ],
)
def test_body_that_breaks_off_is_an_error(serve: Script, kind: str, message: str) -> None:
    with ScriptedServer(serve) as server:
        asked = ObservedClient(Settings(server.url), read_timeout=0.3)
        with asked.open("manifests/1") as answer:
            assert answer.read(100) == b"12345"
            with pytest.raises(Unavailable) as raised:
                answer.read(100)
    assert raised.value.kind == kind
    assert message in raised.value.message
    with pytest.raises(ValueError, match="the answer is closed"):
        answer.read(1)


def test_reset_body_is_cut() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        goes_on.wait(LIMIT_SECONDS)
        reset(connection, head)

    goes_on = threading.Event()
    with ScriptedServer(serve) as server, ObservedClient(Settings(server.url)).open("manifests/1") as answer:
        assert answer.read(100) == b"12345"
        goes_on.set()
        with pytest.raises(Unavailable) as raised:
            answer.read(100)
    assert raised.value.kind == "cut"


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(
            send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", body=b"5\r\n12345\r\n3;x=y\r\n678\r\n0\r\n\r\n"),
            id="chunks",
        ),
        pytest.param(send("HTTP/1.1 200 OK", body=b"12345678"), id="until-it-closes"),
        pytest.param(send("HTTP/1.0 200 OK", body=b"12345678"), id="http-1.0"),
    ],
)
def test_body_without_a_length_is_read_to_its_end(serve: Script) -> None:
    with ScriptedServer(serve) as server, ObservedClient(Settings(server.url)).open("manifests/1") as answer:
        assert answer.length is None
        assert whole(answer) == b"12345678"
        assert answer.read(1) == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_interim_responses_are_skipped(method: str) -> None:
    """RFC 9110, section 15.2: any number of 1xx responses may come before the final one."""
    before = "HTTP/1.1 103 Early Hints\nLink: </x>\nContent-Length: 5\n\nHTTP/1.1 100 Continue\n\nHTTP/1.1 102 x\n\n"
    with ScriptedServer(send(f"{before}HTTP/1.1 200 OK\nContent-Length: 3\nX: y", body=b"123")) as server:
        asked = ObservedClient(Settings(server.url))
        with asked.open("manifests/1", method=method) as answer:
            assert (answer.status, answer.headers["X"], answer.headers["Link"]) == (200, "y", None)
            assert whole(answer) == (b"123" if method == "GET" else b"")
    assert asked.seen == [(method, "2xx")]


def test_unrequested_protocol_is_refused() -> None:
    with ScriptedServer(
        send("HTTP/1.1 101 Switching Protocols\nUpgrade: x", body=b"HTTP/1.1 200 OK\r\n\r\n")
    ) as server:
        problem = ObservedClient(Settings(server.url)).problem()
    assert (problem.kind, "answered 101" in problem.message) == ("malformed", True)


@pytest.mark.parametrize("rest", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_body_ends_with_its_length_though_the_connection_stays_open(rest: bytes) -> None:
    """It carries the next request, unless the server has sent more than the body."""
    script = send("HTTP/1.1 200 OK\nConnection: keep-alive\nContent-Length: 8", body=b"12345678" + rest)
    with ScriptedServer(script, keeps_open=True) as server:
        asked = ObservedClient(Settings(server.url))
        begin = time.monotonic()
        for _ in range(2):
            with asked.open("manifests/1") as answer:
                assert whole(answer) == b"12345678"
        assert time.monotonic() - begin < LIMIT_SECONDS / 2
        assert server.accepted == (2 if rest else 1)


def test_slow_body_has_no_deadline_while_bytes_come() -> None:
    def serve(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for byte in b"x" * 20:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)  # it is slow

    with ScriptedServer(serve) as server:
        assert (
            ObservedClient(Settings(server.url), read_timeout=LIMIT_SECONDS).body("manifests/1", timeout=0.5)
            == b"x" * 20
        )


def test_upstream_without_ranges_sends_all_of_the_body() -> None:
    with ScriptedServer(send("HTTP/1.1 200 OK\nContent-Length: 3", body=b"123")) as server:
        with ObservedClient(Settings(server.url)).open("manifests/1", offset=2) as answer:
            assert (answer.offset, answer.length, whole(answer)) == (0, 3, b"123")
        assert "Range: bytes=2-\r\n" in server.heads[0]


@pytest.mark.parametrize("part", ["Content-Range: bytes 1-2/3", "Content-Range: 2", "X: y"])
def test_unrequested_range_is_refused(part: str) -> None:
    with ScriptedServer(send(f"HTTP/1.1 206 OK\n{part}\nContent-Length: 1", body=b"1")) as server:
        assert ObservedClient(Settings(server.url)).problem(offset=2).kind == "malformed"
        assert ObservedClient(Settings(server.url)).problem().kind == "malformed"


def test_request_has_no_unnecessary_headers(tmp_path: Path) -> None:
    with ScriptedServer(send("HTTP/1.1 200 OK\nContent-Length: 0")) as server:
        asked = ObservedClient(Settings(server.url, credentials=secret(tmp_path / "secret")))
        asked.body("manifests/1", "a\r\nX: y/ü?b", accept=("a/b", "c/d"))
    assert "".join(server.heads) == (
        "GET /v2/a%0D%0AX%3A%20y/%C3%BC%3Fb/manifests/1 HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{server.port}\r\n"
        "Accept: a/b, c/d\r\n"
        "Accept-Encoding: identity\r\n"
        "User-Agent: registry-cache\r\n\r\n"
    )


# Redirects


def challenged(then: Script) -> Script:
    """Return a script that asks for Basic credentials, and runs `then` for requests that have some."""
    ask = send('HTTP/1.1 401 x\nWWW-Authenticate: Negotiate, Basic realm="a, b"\nContent-Length: 0')
    return lambda connection, head: (then if "Authorization: Basic " in head else ask)(connection, head)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_redirect_to_another_host_carries_no_credentials(tmp_path: Path, status: int, method: str) -> None:
    length = "HTTP/1.1 206 OK\nContent-Range: bytes 2-4/5\nContent-Length: 3"
    body = b"123" if method == "GET" else b""
    with (
        ScriptedServer(send(length, body=body)) as cdn,
        ScriptedServer(challenged(redirect(f"{cdn.url}/x?sig=a%2Fb", status))) as server,
    ):
        asked = ObservedClient(Settings(server.url, credentials=secret(tmp_path / "secret")))
        with asked.open(BLOB, method=method, offset=2) as answer:
            assert whole(answer) == body
            assert answer.headers["Content-Length"] == "3"
    assert asked.seen == [(method, "401"), (method, "3xx"), (method, "2xx")]
    (head,) = cdn.heads
    assert head.startswith(f"{method} /x?sig=a%2Fb HTTP/1.1\r\nHost: 127.0.0.1:{cdn.port}\r\n")
    assert "Range: bytes=2-\r\n" in head
    assert "authorization" not in head.lower()


def test_relative_redirect_keeps_the_host_and_its_credentials(tmp_path: Path) -> None:
    def serve(connection: socket.socket, head: str) -> None:
        there = head.startswith("GET /v2/public/a/there%C3%BC?x=y ")
        (send("HTTP/1.1 200 OK\nContent-Length: 1", body=b"1") if there else redirect("../there\xc3\xbc?x=y#z"))(
            connection, head
        )

    with ScriptedServer(challenged(serve)) as server:
        asked = ObservedClient(Settings(server.url, credentials=secret(tmp_path / "secret")))
        assert asked.body("manifests/1") == b"1"


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_by_the_storage_is_not_one_by_the_upstream(tmp_path: Path, status: int) -> None:
    head = f'HTTP/1.1 {status} x\nWWW-Authenticate: Bearer realm="http://127.0.0.1:1"\nContent-Length: 0'
    with ScriptedServer(send(head)) as cdn, ScriptedServer(redirect(cdn.url)) as server:
        problem = ObservedClient(Settings(server.url, credentials=secret(tmp_path / "secret"))).problem()
    assert problem.kind == "redirects"
    assert "to which" in problem.message
    assert len(cdn.heads) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("WWW-Authenticate: Negotiate", "authentication scheme that is not supported"),
        ("X: y", "answered 401"),
    ],
)
def test_unknown_challenge_is_a_denial(tmp_path: Path, header: str, message: str) -> None:
    with ScriptedServer(send(f"HTTP/1.1 401 x\n{header}\nContent-Length: 0")) as server:
        asked = ObservedClient(Settings(server.url, credentials=secret(tmp_path / "secret")))
        with pytest.raises(Denied, match=message):
            asked.open("manifests/1")
    assert asked.client.credentials_refused == 0
    assert all("authorization" not in head.lower() for head in server.heads)


def test_scope_of_the_challenge_is_requested() -> None:
    """As with a registry whose repositories have other names inside."""

    def serve(connection: socket.socket, head: str) -> None:
        if "/token" in head:
            given = "good" if "scope=repository%3Ainner%2Fa%3Apull" in head else "bad"
            answer = send("HTTP/1.1 200 OK", body=json.dumps({"access_token": given}).encode())
        elif "Bearer good" in head:
            answer = send("HTTP/1.1 200 OK\nContent-Length: 0")
        else:
            realm = f'Bearer realm="{server.url}/token",scope="repository:inner/a:pull"'
            answer = send(f"HTTP/1.1 401 x\nWWW-Authenticate: {realm}\nContent-Length: 0")
        answer(connection, head)

    with ScriptedServer(serve) as server:
        asked = ObservedClient(Settings(server.url))
        for _ in range(2):
            asked.body("manifests/1")
    assert asked.seen == [("GET", "401"), ("token", "2xx"), ("GET", "2xx"), ("GET", "2xx")]


# TLS


@dataclass(frozen=True)
class Tls:
    """An nginx with TLS before a registry, at different ports: good, with an expired certificate, and with TLS 1.2."""

    folder: Path
    good: int
    expired: int
    old: int
    http: str

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"


NAME = "registry.test"


@pytest.fixture(scope="module")
def tls(open_registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    servers = []
    ports = {"good": free_port(), "expired": free_port(), "old": free_port()}
    for name, port in ports.items():
        options = {"not_before": past, "not_after": past + dt.timedelta(days=1)} if name == "expired" else {}
        issued = authority.issue_cert("localhost", NAME, **options)  # type: ignore[arg-type] # moments
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
        servers.append(
            f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/{name}.pem; "
            f"ssl_certificate_key {folder}/{name}.pem; ssl_protocols {'TLSv1.2' if name == 'old' else 'TLSv1.3'}; "
            f"add_header Resumed $ssl_session_reused; location / {{ proxy_pass {open_registry}; }} }}"
        )
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        f" http {{ access_log off; {temporary} {' '.join(servers)} }}"
    )
    nginx = tools.debian_program("nginx")
    command = [nginx, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    with program(command, ports["good"], folder / "nginx.log"):
        yield Tls(folder, **ports, http=open_registry)


def test_certificate_of_the_given_authority_is_accepted(tls: Tls) -> None:
    asked = ObservedClient(Settings(f"https://localhost:{tls.good}", ca_file=tls.ca))
    assert asked.body(BLOB) == LAYER
    with asked.open("manifests/1", method="HEAD") as head:
        assert head.headers["Docker-Content-Digest"] == IMAGE.digest


@pytest.mark.parametrize("port", ["old", "good"], ids=["tls-1.2", "tls-1.3"])
def test_connection_is_reused_and_its_session_resumed_by_the_next_one(tls: Tls, port: str) -> None:
    asked = ObservedClient(Settings(f"https://localhost:{getattr(tls, port)}", ca_file=tls.ca))
    assert asked.body("manifests/1") == IMAGE.manifest
    with asked.open(BLOB) as unfinished:
        assert unfinished.headers["Resumed"] == "."
        with asked.open("manifests/1") as other:
            assert other.headers["Resumed"] == "r"
            assert whole(other) == IMAGE.manifest
    assert asked.client.connections_opened == 2


@pytest.mark.parametrize(
    ("host", "port", "ca", "message"),
    [
        ("localhost", "expired", "ca.pem", "certificate has expired"),
        ("127.0.0.1", "good", "ca.pem", "IP address mismatch"),
        ("localhost", "good", "", "unable to get local issuer certificate"),
    ],
)
def test_wrong_certificate_is_refused(tls: Tls, host: str, port: str, ca: str, message: str) -> None:
    settings = Settings(f"https://{host}:{getattr(tls, port)}", ca_file=tls.folder / ca if ca else None)
    problem = ObservedClient(settings).problem()
    assert problem.kind == "tls"
    assert message in problem.message


def test_server_without_tls_is_refused(tls: Tls) -> None:
    asked = ObservedClient(Settings(tls.http.replace("http://", "https://"), ca_file=tls.ca))
    assert asked.problem().kind == "tls"
    with ScriptedServer(stay_silent) as server:
        begin = time.monotonic()
        problem = ObservedClient(Settings(server.url.replace("http://", "https://"))).problem(timeout=0.5)
        assert problem.kind == "timeout"
        assert time.monotonic() - begin < 0.5 + SLACK_SECONDS


def test_file_of_authorities_may_change_and_be_invalid(tls: Tls, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    bundle = 'the ConfigMap bundle (upstreamSettings["localhost"].caConfigMapName)'
    asked = ObservedClient(Settings(f"https://localhost:{tls.good}", ca_file=file, ca_source=bundle))
    missing = f"{bundle} does not exist or has no key ca.crt"
    assert asked.logged == [missing]
    problem = asked.problem()
    assert (problem.kind, problem.message) == ("tls", missing)
    file.write_text("nothing")
    problem = asked.problem()
    assert (problem.kind, problem.message.startswith(f"ca.crt of {bundle} cannot be read: ")) == ("tls", True)
    print(problem.message)
    assert asked.logged == [missing]
    file.write_bytes(tls.ca.read_bytes())
    assert asked.body("manifests/1") == IMAGE.manifest
    trustme.CA().cert_pem.write_to_path(str(file))
    assert asked.problem().kind == "tls"


def test_plain_http_gets_no_credentials_and_no_request_without_a_digest(tls: Tls, tmp_path: Path) -> None:
    """An upstream with https whose token server or storage has http."""
    answers: dict[str, str] = {}

    def serve(connection: socket.socket, head: str) -> None:
        send(answers[head.split()[1].split("/")[-2]])(connection, head)

    with secure(serve, tls) as (url, _), ScriptedServer(send("HTTP/1.1 200 OK", body=b'{"token": "t"}')) as plain:
        challenge = f'HTTP/1.1 401 x\nWWW-Authenticate: Bearer realm="{plain.url}"\nContent-Length: 0'
        settings = Settings(url, credentials=secret(tmp_path / "secret"), ca_file=tls.ca)
        asked = ObservedClient(settings)
        answers["manifests"] = challenge
        with pytest.raises(Denied, match="wants them to be sent by plain http") as raised:
            asked.open("manifests/1")
        assert_no_secret(raised.value, *asked.logged)
        assert len(plain.heads) == 1
        assert "authorization" not in plain.heads[0].lower()

        asked = ObservedClient(settings)
        answers["manifests"] = answers["blobs"] = f"HTTP/1.1 302 x\nLocation: {plain.url}\nContent-Length: 0"
        assert asked.problem().kind == "redirects"
        assert asked.body(BLOB) == b'{"token": "t"}'


@contextlib.contextmanager
def secure(serve: Script, tls: Tls) -> Iterator[tuple[str, ScriptedServer]]:
    """A server with TLS and the certificate of nginx."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.folder / "good.pem")
    with ScriptedServer(serve, lambda connection: context.wrap_socket(connection, server_side=True)) as server:
        yield f"https://localhost:{server.port}", server


def drip_record(connection: socket.socket) -> None:
    """Send the head of a TLS record, and then its content byte by byte."""
    connection.recv(1 << 16)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    for _ in range(100):
        connection.sendall(b"\x03")
        time.sleep(0.1)  # it is slow


@pytest.mark.parametrize("outer", ["", "http", "https"])
def test_slow_tls_does_not_exceed_the_deadline(tls: Tls, tmp_path: Path, outer: str) -> None:
    server = ScriptedServer(stay_silent, accept=drip_record)
    proxy = ForwardProxy()
    with server, ScriptedServer(proxy.serve) as plain, secure(proxy.serve, tls) as (encrypted, _):
        settings = Settings(
            f"https://{NAME if outer else '127.0.0.1'}:{server.port}",
            https_proxy={"": "", "http": plain.url, "https": encrypted}[outer],
            proxy_credentials=secret(tmp_path / "proxy"),
            ca_file=tls.ca,
        )
        begin = time.monotonic()
        assert ObservedClient(settings).problem(timeout=0.7).kind == "timeout"
        assert 0.6 < time.monotonic() - begin < 0.7 + SLACK_SECONDS


# Proxies


@dataclass
class ForwardProxy:
    """A proxy with a password that sends every request to 127.0.0.1; CONNECT and absolute URIs (RFC 9110)."""

    asked: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def serve(self, client: socket.socket, head: str) -> None:
        line, _, rest = head.partition("\r\n")
        method, target, _ = line.split(" ")
        self.asked.append(f"{method} {target}")
        self.seen.append(head)
        login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if f"Proxy-Authorization: Basic {login}\r\n" not in head:
            send('HTTP/1.1 407 x\nProxy-Authenticate: Basic realm="proxy"\nContent-Length: 0')(client, head)
            return
        url = urllib.parse.urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            server = socket.create_connection(("127.0.0.1", url.port or 80))
        except OSError:
            send("HTTP/1.1 502 x\nContent-Length: 0")(client, head)
            return
        with server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                kept = re.sub(r"Proxy-Authorization: .*\r\n", "", rest)
                server.sendall(f"{method} {url.path} HTTP/1.1\r\n{kept}".encode("latin-1"))
            copy(client, server)


def copy(one: socket.socket, other: socket.socket) -> None:
    """Copy in both directions until one side ends."""
    while True:
        # select does not know what TLS has read already.
        pending = [side for side in (one, other) if isinstance(side, ssl.SSLSocket) and side.pending()]
        for side in pending or select.select([one, other], [], [], LIMIT_SECONDS)[0]:
            if not (data := side.recv(1 << 16)):
                return
            (other if side is one else one).sendall(data)


@pytest.fixture
def forward_proxy() -> Iterator[tuple[str, ForwardProxy]]:
    forward = ForwardProxy()
    with ScriptedServer(forward.serve) as server:
        yield server.url, forward


def test_http_uses_the_proxy_with_its_credentials(
    open_registry: str, forward_proxy: tuple[str, ForwardProxy], tmp_path: Path
) -> None:
    proxy, seen = forward_proxy
    url = open_registry.replace("127.0.0.1", NAME)
    asked = ObservedClient(Settings(url, http_proxy=proxy, proxy_credentials=secret(tmp_path / "proxy")))
    assert asked.body(BLOB) == LAYER
    assert seen.asked == [f"GET {url}/v2/public/a/{BLOB}"]
    assert f"Host: {url.removeprefix('http://')}\r\n" in seen.seen[0]


def test_https_uses_the_proxy_and_reveals_only_the_host(
    tls: Tls, forward_proxy: tuple[str, ForwardProxy], tmp_path: Path
) -> None:
    proxy, seen = forward_proxy
    settings = Settings(
        f"https://{NAME}:{tls.good}", https_proxy=proxy, proxy_credentials=secret(tmp_path / "proxy"), ca_file=tls.ca
    )
    asked = ObservedClient(settings)
    assert asked.body(BLOB) == LAYER
    assert seen.asked == [f"CONNECT {NAME}:{tls.good}"]
    assert "/v2/" not in seen.seen[0]
    assert "refused the connection" not in asked.problem(BLOB, offset=len(LAYER) + 1).message
    # The certificate is that of the server, whose name is checked.
    other = ObservedClient(settings._replace(remote_url=f"https://other.test:{tls.good}")).problem()
    assert (other.kind, "Hostname mismatch" in other.message) == ("tls", True)


def test_proxy_with_https_is_used(tls: Tls, open_registry: str, tmp_path: Path) -> None:
    forward = ForwardProxy()
    with secure(forward.serve, tls) as (proxy, _):
        settings = Settings(
            f"https://{NAME}:{tls.good}",
            http_proxy=proxy,
            https_proxy=proxy,
            proxy_credentials=secret(tmp_path / "proxy"),
            ca_file=tls.ca,
        )
        assert ObservedClient(settings).body(BLOB) == LAYER
        assert (
            hashlib.sha256(ObservedClient(settings).body(BLOB, offset=1)).digest() == hashlib.sha256(LAYER[1:]).digest()
        )
        url = open_registry.replace("127.0.0.1", NAME)
        assert ObservedClient(settings._replace(remote_url=url)).body("manifests/1") == IMAGE.manifest
        expired = ObservedClient(settings._replace(remote_url=f"https://{NAME}:{tls.expired}")).problem()
        assert (expired.kind, "expired" in expired.message) == ("tls", True)
        with ScriptedServer(stay_silent) as server:
            begin = time.monotonic()
            hangs = ObservedClient(settings._replace(remote_url=f"https://{NAME}:{server.port}")).problem(timeout=0.5)
            assert hangs.kind == "timeout"
            assert time.monotonic() - begin < 0.5 + SLACK_SECONDS


@pytest.mark.parametrize("outer", ["http", "https"])
def test_tunnel_is_reused_until_the_credentials_of_the_proxy_change(tls: Tls, tmp_path: Path, outer: str) -> None:
    forward = ForwardProxy()
    with ScriptedServer(forward.serve) as plain, secure(forward.serve, tls) as (encrypted, _):
        settings = Settings(
            f"https://{NAME}:{tls.good}",
            https_proxy=plain.url if outer == "http" else encrypted,
            proxy_credentials=secret(tmp_path / "proxy"),
            ca_file=tls.ca,
        )
        asked = ObservedClient(settings)
        for _ in range(3):
            assert asked.body("manifests/1") == IMAGE.manifest
            with pytest.raises(NotFound):
                asked.open("manifests/2")
        with asked.open(BLOB) as unfinished, asked.open("manifests/1", method="HEAD") as resumed:
            assert [unfinished.headers["Resumed"], resumed.headers["Resumed"]] == [".", "r"]
        assert len(forward.asked) == asked.client.connections_opened == 2
        secret(tmp_path / "proxy", password=OTHER_PASSWORD)
        assert asked.problem().kind == "proxy"


@pytest.mark.parametrize(
    ("password", "message"),
    [(None, "requires credentials, and there are none"), (OTHER_PASSWORD, "does not accept the credentials")],
)
def test_refusal_by_the_proxy_is_reported_and_its_new_secret_used(
    tls: Tls, forward_proxy: tuple[str, ForwardProxy], tmp_path: Path, password: str | None, message: str
) -> None:
    proxy, _ = forward_proxy
    plain = tls.http.replace("127.0.0.1", NAME)
    for url in (f"https://{NAME}:{tls.good}", plain):
        folder = tmp_path / url.partition(":")[0]
        if password:
            secret(folder, password=password)
        settings = Settings(url, http_proxy=proxy, https_proxy=proxy, proxy_credentials=folder, ca_file=tls.ca)
        asked = ObservedClient(settings)
        problem = asked.problem()
        assert problem.kind == "proxy"
        assert message in problem.message
        assert_no_secret(problem, *asked.logged)
        secret(folder)
        assert asked.body("manifests/1") == IMAGE.manifest


def test_missing_proxy_and_missing_host_are_reported(forward_proxy: tuple[str, ForwardProxy], tmp_path: Path) -> None:
    gone = ObservedClient(Settings("https://registry.test", https_proxy="http://127.0.0.1:1")).problem()
    assert (gone.kind, gone.message) == ("proxy", "the proxy: http://127.0.0.1:1 refused the connection")
    folder = secret(tmp_path / "proxy")
    settings = Settings("https://registry.test:1", https_proxy=forward_proxy[0], proxy_credentials=folder)
    assert ObservedClient(settings).problem().kind == "proxy"
    with ScriptedServer(stay_silent) as server:
        assert ObservedClient(Settings("https://x.test", https_proxy=server.url)).problem(timeout=0.3).kind == "timeout"
    with ScriptedServer(send("garbage")) as server:
        assert ObservedClient(Settings("https://x.test", https_proxy=server.url)).problem().kind == "proxy"


def test_hosts_in_no_proxy_are_asked_directly(tls: Tls) -> None:
    dead = "http://127.0.0.1:1"
    settings = Settings(f"https://{NAME}:1", http_proxy=dead, https_proxy=dead, no_proxy=(".test",))
    assert ObservedClient(settings).problem().kind == "dns"
    assert ObservedClient(settings._replace(no_proxy=())).problem().kind == "proxy"


# Leaks


def test_no_connection_and_no_thread_is_leaked(open_registry: str, closed_registry: str, tmp_path: Path) -> None:
    asked = [
        ObservedClient(Settings(open_registry)),
        ObservedClient(Settings(closed_registry, credentials=secret(tmp_path / "secret", password=OTHER_PASSWORD))),
        ObservedClient(Settings("http://127.0.0.1:1")),
        ObservedClient(Settings(open_registry.replace("http://", "https://"))),
    ]

    def ask_all() -> None:
        for client in asked:
            for path in ("manifests/1", "manifests/2"):
                with contextlib.suppress(Unavailable, NotFound, Denied), client.open(path) as answer:
                    answer.read(1)  # and do not read the rest

    ask_all()
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(5):
        ask_all()
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
    assert {outcome for client in asked for _, outcome in client.seen} == {"2xx", "404", "401", Kind.REFUSED, Kind.TLS}
