"""The gate answers the front on its socket, with a source that does what the test says."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from common.endpoint import Endpoint
from fetching.fetch import Fetch
from fetching.fetches import Fetches
from fetching.replica_first import HOLDINGS_TYPE, ReplicaFirst
from gate import handler
from gate.ahead import NEVER, Ahead
from gate.handler import Server
from gate.health import Health
from gate.manifests import Manifests
from gate.metrics import Metrics
from gate.parts import Parts, render_metrics
from gate.repeats import Repeats
from gate.replica_addresses import ReplicaAddresses
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, cut, whole
from made_stores import manifest_of, put_blob
from store.store import Store
from upstream.errors import NotFound
from upstreams import oci
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upstream.source import Source

TIMEOUT_SECONDS = 30.0
CONTENT = bytes(range(256)) * 1000
IMAGE_MANIFEST = manifest_of(b"{}", [CONTENT])

Serve = Callable[[MadeSource], Parts]
Ask = Callable[..., http.client.HTTPResponse]


class Front(http.client.HTTPConnection):
    """A connection like those of nginx."""

    def __init__(self, path: Path) -> None:
        """Connect at the first request."""
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    loaded = Store(tmp_path / "volume", 64 << 20)
    loaded.load()
    return loaded


@pytest.fixture
def serve(store: Store, tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(made_source: MadeSource) -> Parts:
            metrics = Metrics("docker.io")
            source = ReplicaFirst(cast("Source", made_source), {}, "x-0", "zone-a")
            fetches = Fetches(store, source, print)
            parts = Parts(
                store=store,
                source=source,
                replica_addresses=ReplicaAddresses([Endpoint("http", "localhost", 5000)]),
                fetches=fetches,
                ahead=Ahead(NEVER, store, fetches, print),
                manifests=Manifests(
                    store,
                    source,
                    tag_check_interval_seconds=5.0,
                    count_tag_lookup=metrics.count_tag_lookup,
                    log=print,
                ),
                repeats=Repeats(),
                verifying=threading.Lock(),
                metrics=metrics,
                health=Health(tmp_path / "volume", tmp_path / "distribution.sock"),
                is_upstream_away=lambda: False,
                count_refused_credentials=lambda: 3,
                count_upstream_connections=lambda: 4,
            )
            parts.health.is_loaded = True
            server = stack.enter_context(Server(tmp_path / "gate.sock", parts))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return parts

        yield start


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    with contextlib.ExitStack() as stack:

        def send(method: str, path: str, **headers: str) -> http.client.HTTPResponse:
            connection = stack.enter_context(contextlib.closing(Front(tmp_path / "gate.sock")))
            connection.request(method, path, headers=headers)
            response = stack.enter_context(contextlib.closing(connection.getresponse()))
            location = response.headers.get("X-Accel-Redirect", "")
            return send(method, location, **headers) if location.startswith(handler.INCOMING) else response

        yield send


def blob_path(content: bytes) -> str:
    return f"/v2/a/b/blobs/{digest(content)}"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_manifest_is_not_served_as_a_blob_unless_the_upstream_does(
    serve: Serve, ask: Ask, store: Store, method: str
) -> None:
    """A node that gets a manifest from blobs/ keeps it under the wrong media type."""
    name = store.put_manifest("a/b", IMAGE_MANIFEST, "v1")

    def refuse(asked: Asked) -> MadeAnswer:
        message = "the upstream has no such blob"
        raise NotFound(message)

    parts = serve(MadeSource(refuse))
    assert ask(method, blob_path(IMAGE_MANIFEST)).status == 404
    assert store.read_manifest("a/b", name) == IMAGE_MANIFEST
    put_blob(store, "a/b", CONTENT)
    response = ask(method, f"/v2/a/b/manifests/{digest(CONTENT)}")
    assert response.status == 404
    assert parts.fetches.count() == 0


def test_head_of_an_unknown_blob_has_the_length_from_the_upstream(serve: Serve, ask: Ask) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        assert asked.method == "HEAD"
        head = MadeAnswer([], 0)  # as http.client reads the response to a HEAD
        head.headers["Content-Length"] = "1234"
        return head

    parts = serve(MadeSource(answer))
    response = ask("HEAD", blob_path(CONTENT))
    assert (response.status, response.headers["Content-Length"]) == (200, "1234")
    assert parts.fetches.count() == 0


def test_long_blob_is_sent_while_it_comes_but_its_last_byte_only_after_it_was_verified(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMPLETE_BLOB_SECONDS", 0.05)
    more, last = threading.Event(), threading.Event()
    wrong = CONTENT[:-1] + b"?"
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, wrong[1000:], last], len(CONTENT))))
    response = ask("GET", blob_path(CONTENT))
    assert (response.status, response.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert response.read(1000) == CONTENT[:1000]
    more.set()
    assert response.read(len(CONTENT) - 1001) == CONTENT[1000:-1]
    last.set()
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert ask("GET", blob_path(CONTENT), Range=f"bytes={len(CONTENT) - 1}-").status == 503


def test_long_blob_with_the_right_digest_is_sent_to_its_end(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMPLETE_BLOB_SECONDS", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    response = ask("GET", blob_path(CONTENT))
    partial = ask("GET", blob_path(CONTENT), Range="bytes=500-100000")
    more.set()
    assert response.read() == CONTENT
    assert (partial.status, partial.headers["Content-Range"]) == (206, f"bytes 500-100000/{len(CONTENT)}")
    assert partial.read() == CONTENT[500:100001]


@pytest.mark.parametrize("agent", ["containerd/1.6.20~ds1", "containerd/v2.4.2", "registry-cache"])
def test_client_that_resumes_gets_a_blob_from_its_first_bytes_on(serve: Serve, ask: Ask, agent: str) -> None:
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    response = ask("GET", blob_path(CONTENT), **{"User-Agent": agent})
    assert response.read(1000) == CONTENT[:1000]
    more.set()
    assert response.read() == CONTENT[1000:]


@pytest.mark.parametrize("agent", ["docker/28.0", "skopeo/1.9", ""])
def test_other_clients_get_a_blob_that_was_verified_or_an_error(serve: Serve, ask: Ask, agent: str) -> None:
    wrong = CONTENT[:-1] + b"?"
    serve(MadeSource(lambda _: whole(wrong)))
    assert ask("GET", blob_path(CONTENT), **{"User-Agent": agent}).status == 503


def test_content_that_was_wrong_once_is_sent_only_after_it_was_verified(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each attempt of a node would break off at the last byte."""
    monkeypatch.setattr("fetching.fetches.FAILURE_MEMORY_SECONDS", 0.0)
    answers = [whole(CONTENT[:-1] + b"?"), whole(CONTENT[:-1] + b"!"), whole(CONTENT)]
    serve(MadeSource(lambda _: answers.pop(0)))
    agent = {"User-Agent": "containerd/v2.4.2"}
    with contextlib.suppress(http.client.IncompleteRead):
        ask("GET", blob_path(CONTENT), **agent).read()
    wait_for("the fetch to end", lambda: len(answers) == 2, TIMEOUT_SECONDS)
    assert ask("GET", blob_path(CONTENT), **agent).status == 503
    assert ask("GET", blob_path(CONTENT), **agent).headers["X-Accel-Redirect"].startswith("/blobs/")


def test_body_breaks_off_soon_after_the_upstream_fell_silent(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client then gets the rest from the upstream, while the cache still tries to resume."""
    monkeypatch.setattr("fetching.fetch.STALLED_AFTER_SECONDS", 0.1)
    fall_silent, again = threading.Event(), threading.Event()
    first = MadeAnswer([CONTENT[:1000], fall_silent, cut()], len(CONTENT))
    answers = [first, MadeAnswer([again, CONTENT[1000:]], len(CONTENT) - 1000, 1000)]
    serve(MadeSource(lambda _: answers.pop(0)))
    agent = {"User-Agent": "containerd/v2.4.2"}
    response = ask("GET", blob_path(CONTENT), **agent)
    fall_silent.set()
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert ask("GET", blob_path(CONTENT), Range="bytes=1000-", **agent).status == 503
    again.set()


def test_client_is_refused_soon_after_the_upstream_fell_silent_at_once(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fetching.fetch.STALLED_AFTER_SECONDS", 0.1)
    again = threading.Event()
    answers = [MadeAnswer([CONTENT[:1], cut()], len(CONTENT)), MadeAnswer([again, CONTENT[1:]], len(CONTENT) - 1, 1)]
    serve(MadeSource(lambda _: answers.pop(0)))
    began = time.monotonic()
    assert ask("GET", blob_path(CONTENT), **{"User-Agent": "containerd/v2.4.2"}).status == 503
    assert time.monotonic() - began < handler.FIRST_BYTE_SECONDS / 2
    again.set()


def test_last_byte_is_sent_before_the_disk_has_the_blob(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        assert flushed.wait(TIMEOUT_SECONDS)
        fsync(descriptor)

    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    monkeypatch.setattr(os, "fsync", slow_fsync)
    response = ask("GET", blob_path(CONTENT), **{"User-Agent": "containerd/v2.4.2"})
    more.set()
    assert response.read() == CONTENT
    flushed.set()


def test_blob_that_cannot_be_opened_is_refused_before_the_response_begins(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMPLETE_BLOB_SECONDS", 0.05)

    def fail(_: Fetch) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Fetch, "open", fail)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more], len(CONTENT))))
    assert ask("GET", blob_path(CONTENT)).status == 503
    more.set()


def test_range_beyond_the_end_of_an_incoming_blob_is_refused(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMPLETE_BLOB_SECONDS", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    assert ask("GET", blob_path(CONTENT), Range=f"bytes={len(CONTENT)}-").status == 416
    more.set()


def test_other_paths_are_passed_on_to_distribution(serve: Serve, ask: Ask) -> None:
    """The front passes on the original URI, with its query."""
    serve(MadeSource(lambda _: whole(b"")))
    for path in ("/v2/_catalog?n=1&last=a", "/v2/a/b/tags/list?n=1", "/v2/a/b/blobs/sha512:00", "/"):
        assert ask("GET", path).headers["X-Accel-Redirect"] == handler.DISTRIBUTION


def test_repository_with_an_overlong_name_is_not_fetched(serve: Serve, ask: Ask) -> None:
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source)
    name = "a" * 256
    for path in (f"/v2/{name}/manifests/1", f"/v2/{name}/blobs/{digest(CONTENT)}"):
        assert ask("GET", path).headers["X-Accel-Redirect"] == handler.DISTRIBUTION
    assert source.asked == []


def test_defect_in_one_request_breaks_off_its_connection_only(
    serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front then asks distribution."""
    tracebacks: list[object] = []
    monkeypatch.setattr("sys.excepthook", lambda *traceback: tracebacks.append(traceback))
    serve(MadeSource(lambda _: whole(CONTENT)))
    with monkeypatch.context() as defect:
        defect.setattr(store, "find_blob", lambda *_: 1 / 0)
        with pytest.raises(http.client.RemoteDisconnected):
            ask("GET", blob_path(CONTENT))
    assert len(tracebacks) == 1
    assert ask("GET", blob_path(CONTENT)).status == 200


@pytest.mark.parametrize(
    ("headers", "restarted"),
    [
        pytest.param({"Range": "bytes=10-"}, True, id="rest"),
        pytest.param({"X-Real-IP": "10.0.0.1"}, True, id="again"),
        pytest.param({"X-Real-IP": "10.0.0.1"}, False, id="again-without-a-restart"),
    ],
)
def test_damaged_blob_is_fetched_again_for_the_client_that_noticed(
    serve: Serve, ask: Ask, store: Store, *, headers: dict[str, str], restarted: bool
) -> None:
    put_blob(store, "a/b", CONTENT)
    store.blob_path(digest(CONTENT)).write_bytes(b"x" + CONTENT[1:])
    if restarted:
        store.load()
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source)
    for client in ("10.0.0.1", "10.0.0.2"):
        # A blob is not read as a whole before it is sent the first time.
        assert ask("GET", blob_path(CONTENT), **{"X-Real-IP": client}).headers["X-Accel-Redirect"]
    assert source.asked == []
    assert ask("GET", blob_path(CONTENT), **headers).headers["X-Accel-Redirect"]
    assert len(source.asked) == 1
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize("identifier", ["1", digest(IMAGE_MANIFEST)], ids=["tag", "digest"])
def test_manifest_is_sent_with_the_headers_of_distribution(serve: Serve, ask: Ask, identifier: str) -> None:
    source = MadeSource(lambda _: whole(IMAGE_MANIFEST))
    serve(source)
    path = f"/v2/a/b/manifests/{identifier}"
    for method, body in (("GET", IMAGE_MANIFEST), ("GET", IMAGE_MANIFEST), ("HEAD", b"")):
        response = ask(method, path)
        assert (response.status, response.read()) == (200, body)
        assert response.headers["Content-Type"] == oci.MANIFEST
        assert response.headers["Content-Length"] == str(len(IMAGE_MANIFEST))
        assert response.headers["Docker-Content-Digest"] == digest(IMAGE_MANIFEST)
        assert response.headers["ETag"] == f'"{digest(IMAGE_MANIFEST)}"'
        assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert len(source.asked) == 1


@pytest.mark.parametrize("quote", ["", '"'], ids=["bare", "quoted"])
def test_manifest_that_the_client_has_is_not_sent_again(serve: Serve, ask: Ask, quote: str) -> None:
    serve(MadeSource(lambda _: whole(IMAGE_MANIFEST)))
    etag = f"{quote}{digest(IMAGE_MANIFEST)}{quote}"
    response = ask("GET", "/v2/a/b/manifests/1", **{"If-None-Match": etag})
    assert (response.status, response.read()) == (304, b"")
    assert ask("GET", "/v2/a/b/manifests/1", **{"If-None-Match": '"sha256:0"'}).status == 200


def test_metrics_count_the_requests(serve: Serve, ask: Ask) -> None:
    parts = serve(MadeSource(lambda asked: whole(IMAGE_MANIFEST if asked.reference.kind == "manifest" else CONTENT)))
    ask("GET", "/v2/a/b/manifests/1")
    ask("HEAD", "/v2/a/b/manifests/1")
    text = render_metrics(parts)
    for line in (
        'registry_proxy_requests_total{upstream_host="docker.io",type="manifest"} 2',
        'registry_proxy_hits_total{upstream_host="docker.io",type="manifest"} 1',
        'registry_proxy_misses_total{upstream_host="docker.io",type="manifest"} 1',
        'registry_cache_upstream_credentials_refused_total{upstream_host="docker.io"} 3',
        'registry_cache_upstream_connections_total{upstream_host="docker.io"} 4',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("header", ["Content-Length: {length}", "Transfer-Encoding: chunked"])
def test_body_of_a_request_is_never_taken_for_the_next_request(serve: Serve, tmp_path: Path, header: str) -> None:
    source = MadeSource(lambda _: whole(CONTENT))
    parts = serve(source)
    inner = f"GET {blob_path(CONTENT)} HTTP/1.1\r\nHost: x\r\n\r\n"
    body = inner if "Length" in header else f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(tmp_path / "gate.sock"))
        head = f"GET /v2/ HTTP/1.1\r\nHost: x\r\n{header.format(length=len(inner))}\r\n\r\n"
        connection.sendall((head + body).encode())
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                received += part
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert parts.fetches.count() == 0
    assert source.asked == []


def test_upstream_is_not_asked_before_the_volume_was_read(serve: Serve, ask: Ask) -> None:
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source).health.is_loaded = False
    for path in (blob_path(CONTENT), "/v2/a/b/manifests/1"):
        assert ask("GET", path).status == 503
    assert source.asked == []


def test_failure_in_one_repository_is_not_the_response_for_another(serve: Serve, ask: Ask) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "not/here":
            is_asked.set()
            assert may_answer.wait(TIMEOUT_SECONDS)
            message = "no such blob"
            raise NotFound(message)
        return whole(CONTENT)

    serve(MadeSource(answer))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, "GET", f"/v2/not/here/blobs/{digest(CONTENT)}")
        assert is_asked.wait(TIMEOUT_SECONDS)
        second = pool.submit(ask, "GET", blob_path(CONTENT))
        time.sleep(0.1)  # so that it joins the fetch; without that, less is tested
        may_answer.set()
        assert first.result().status == 404
        assert second.result().status == 200


def test_head_prefers_the_size_in_a_stored_manifest(serve: Serve, ask: Ask, store: Store) -> None:
    def answer(_: Asked) -> MadeAnswer:
        head = MadeAnswer([], 0)
        head.headers["Content-Length"] = "17"
        return head

    store.put_manifest("a/b", IMAGE_MANIFEST)
    serve(MadeSource(answer))
    assert ask("HEAD", blob_path(CONTENT)).headers["Content-Length"] == str(len(CONTENT))


def test_range_of_a_long_blob_ends_when_the_whole_blob_was_verified(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "COMPLETE_BLOB_SECONDS", 0.1)
    wrong, over = b"x" + CONTENT[1:], threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([wrong[:-1], over, wrong[-1:]], len(wrong))))
    response = ask("GET", blob_path(CONTENT), Range="bytes=0-99")
    assert response.status == 206
    over.set()
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_replica_is_told_what_is_held_and_nothing_is_fetched(store: Store, serve: Serve, ask: Ask) -> None:
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source)
    manifest = digest(IMAGE_MANIFEST)

    def held(path: str) -> str | None:
        answer = ask("HEAD", path, Accept=HOLDINGS_TYPE)
        assert (answer.status, answer.headers["Registry-Cache-Zone"]) == (200, "zone-a")
        return answer.headers["Registry-Cache-Holdings"]

    paths = blob_path(CONTENT), f"/v2/a/b/manifests/{manifest}", "/v2/a/b/manifests/1"
    assert [held(path) for path in paths] == ["0", "0", "0"]
    put_blob(store, "a/b", CONTENT)
    store.put_manifest("a/b", IMAGE_MANIFEST, "1")
    assert [held(path) for path in paths] == ["all", "all", "0"], "only the upstream knows what a tag means now"
    assert source.asked == []


def test_replica_is_told_how_much_of_a_blob_has_come(serve: Serve, ask: Ask) -> None:
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(lambda: ask("GET", blob_path(CONTENT)).status)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while ask("HEAD", blob_path(CONTENT), Accept=HOLDINGS_TYPE).headers["Registry-Cache-Holdings"] != "1000":
            assert time.monotonic() < deadline
        more.set()
        assert pulling.result() == 200
    assert ask("HEAD", blob_path(CONTENT), Accept=HOLDINGS_TYPE).headers["Registry-Cache-Holdings"] == "all"


@pytest.mark.parametrize(
    ("name", "address", "reader"),
    [
        pytest.param("localhost", "127.0.0.1", "replica", id="replica"),
        pytest.param("localhost", "10.0.0.7", None, id="its-name-and-another-address"),
        pytest.param("x-9", "127.0.0.1", None, id="unknown-name"),
        pytest.param("", "127.0.0.1", None, id="no-name"),
    ],
)
def test_replica_is_recognized_by_its_name_and_its_address(
    name: str, address: str, reader: str | None, serve: Serve, ask: Ask
) -> None:
    parts = serve(MadeSource(lambda _: whole(CONTENT)))
    answer = ask("GET", blob_path(CONTENT), **{"Registry-Cache-Replica": name, "X-Real-IP": address})
    assert answer.status == 200
    assert answer.headers["Registry-Cache-Reader"] == reader
    requests = next(
        line for line in render_metrics(parts).splitlines() if line.startswith("registry_proxy_requests_total{")
    )
    assert requests.endswith("0" if reader else "1"), requests
