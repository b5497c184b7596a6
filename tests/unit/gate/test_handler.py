"""The gate answers the front on its socket, with a source that does what the test says."""

from __future__ import annotations

import contextlib
import gc
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast
from unittest import mock

import pytest
from fetching.fair_slots import FairSlots
from fetching.fetch import Fetch
from fetching.fetches import Fetches
from fetching.replica_first import HOLDINGS_TYPE, ReplicaFirst
from gate import cold_blobs, handler, server
from gate.metrics import Metrics
from gate.parts import Parts, render_metrics
from gate.server import Server
from known_metrics import EMPTY_CACHE
from machine.processes import wait_for
from made_front import TIMEOUT_SECONDS, Front
from made_gate import made_parts, serving
from made_sources import Asked, MadeAnswer, MadeSource, cut, whole
from made_stores import manifest_of, put_blob
from store.store import Store
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB, Reference
from upstreams import oci
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upstream.source import Source

CONTENT = bytes(range(256)) * 1000
IMAGE_MANIFEST = manifest_of(b"{}", [CONTENT])

Serve = Callable[..., Parts]
Ask = Callable[..., http.client.HTTPResponse]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    loaded = Store(tmp_path / "volume", 64 << 20)
    loaded.load()
    return loaded


@pytest.fixture
def serve(store: Store, tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(made_source: MadeSource, allowed_repositories: frozenset[str] = frozenset()) -> Parts:
            source = ReplicaFirst(cast("Source", made_source), {}, "x-0", "zone-a")
            parts = made_parts(tmp_path, store, source, source, Metrics("docker.io"))._replace(
                allowed_repositories=allowed_repositories
            )
            stack.enter_context(serving(tmp_path, parts))
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
            return send(method, location, **headers) if location.startswith(cold_blobs.INCOMING) else response

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


HEAD_PROBLEMS: dict[str, Exception] = {
    "405": Unavailable(Kind.CLIENT_ERROR, "the upstream answered 405"),
    "500": Unavailable(Kind.SERVER_ERROR, "the upstream answered 500"),
    "403": Denied(),
    "404": NotFound(),
}


@pytest.mark.parametrize("status", HEAD_PROBLEMS)
def test_wrong_response_to_a_head_of_a_blob_proves_nothing(serve: Serve, ask: Ask, status: str) -> None:
    """Some registries answer HEAD wrongly, and a first byte by GET says the same."""

    def answer(asked: Asked) -> MadeAnswer:
        if asked.method == "HEAD":
            raise HEAD_PROBLEMS[status]
        assert (asked.offset, asked.last_byte) == (0, 0)
        return MadeAnswer([b"1"], 1, total_size=1234)

    source = MadeSource(answer)
    parts = serve(source)
    response = ask("HEAD", blob_path(CONTENT))
    assert (response.status, response.headers["Content-Length"]) == (200, "1234")
    assert parts.fetches.count() == 0
    assert len(source.asked) == 2


def test_head_of_a_blob_is_asked_once_if_the_upstream_is_away(serve: Serve, ask: Ask) -> None:
    def refuse(_: Asked) -> MadeAnswer:
        raise Unavailable(Kind.REFUSED, "away")

    source = MadeSource(refuse)
    serve(source)
    assert ask("HEAD", blob_path(CONTENT)).status == 503
    assert len(source.asked) == 1


def test_long_blob_is_sent_while_it_comes_but_its_last_byte_only_after_it_was_verified(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_blobs, "COMPLETE_BLOB_SECONDS", 0.05)
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
    monkeypatch.setattr(cold_blobs, "COMPLETE_BLOB_SECONDS", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    response = ask("GET", blob_path(CONTENT))
    partial = ask("GET", blob_path(CONTENT), Range="bytes=500-")
    more.set()
    assert response.read() == CONTENT
    assert (partial.status, partial.headers["Content-Range"]) == (206, f"bytes 500-{len(CONTENT) - 1}/{len(CONTENT)}")
    assert partial.read() == CONTENT[500:]


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
    assert time.monotonic() - began < cold_blobs.FIRST_BYTE_SECONDS / 2
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


def test_blob_that_was_stored_since_the_front_was_told_that_it_comes_is_sent(
    serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fetch ends between the look at the volume and the one at the fetches."""

    def end(*_: object) -> None:
        put_blob(store, "a/b", CONTENT)

    serve(MadeSource(lambda _: whole(CONTENT)))
    monkeypatch.setattr(Fetches, "find", end)
    response = ask("GET", f"{cold_blobs.INCOMING}{blob_path(CONTENT)}")
    assert response.status == 200
    assert response.headers["X-Accel-Redirect"].startswith("/blobs/")


def test_blob_that_cannot_be_opened_is_refused_before_the_response_begins(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_blobs, "COMPLETE_BLOB_SECONDS", 0.05)

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
    monkeypatch.setattr(cold_blobs, "COMPLETE_BLOB_SECONDS", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    assert ask("GET", blob_path(CONTENT), Range=f"bytes={len(CONTENT)}-").status == 416
    more.set()


def test_other_paths_are_refused_and_nothing_is_fetched(serve: Serve, ask: Ask) -> None:
    """Lists of repositories and tags would name what is private; escaped names are other names for the same."""
    source = MadeSource(lambda _: whole(CONTENT))
    parts = serve(source)
    paths = (
        *("/v2/_catalog?n=1&last=a", "/v2/a/b/tags/list?n=1", "/v2/a/b/referrers/" + digest(CONTENT), "/", "/v2"),
        *("/v2/a/b/blobs/sha512:00", f"/v2/a%2Fb/blobs/{digest(CONTENT)}", "/v2/a/b/manifests/%31", "/metrics"),
        *(f"/v2/{'a' * 256}/manifests/1", f"/v2/{'a' * 256}/blobs/{digest(CONTENT)}", "/v2/a/../b/manifests/1"),
    )
    for path in paths:
        response = ask("GET", path)
        assert (response.status, response.headers["X-Accel-Redirect"]) == (404, None), path
    assert source.asked == []
    assert f'refused_requests_total{{upstream_host="docker.io",reason="unknown"}} {len(paths)}' in render_metrics(parts)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *(("", 200), ("ns=docker.io", 200), ("ns=Docker.IO", 200), ("ns=registry-1.docker.io", 200), ("x=1", 200)),
        *(("ns=quay.io", 404), ("ns=", 404), ("ns=docker.io&ns=quay.io", 404), ("ns=docker.io.example.com", 404)),
    ],
)
def test_request_for_another_registry_is_refused(serve: Serve, ask: Ask, query: str, status: int) -> None:
    source = MadeSource(lambda asked: whole(IMAGE_MANIFEST if asked.reference.kind == "manifest" else CONTENT))
    serve(source).health.problem = None
    for path in (blob_path(CONTENT), "/v2/a/b/manifests/1", "/v2/"):
        assert ask("GET", f"{path}?{query}").status == status
    assert bool(source.asked) is (status == 200)


def test_other_repositories_than_the_allowed_ones_are_refused(serve: Serve, ask: Ask) -> None:
    source = MadeSource(lambda _: whole(IMAGE_MANIFEST))
    serve(source, frozenset({"library/nginx", "team/*"}))
    for repository in ("library/nginx", "team/app", "team/deep/app"):
        assert ask("GET", f"/v2/{repository}/manifests/1").status == 200
    asked = len(source.asked)
    for repository in ("library/redis", "library/nginx/x", "team", "teams/app", "x/team/app"):
        assert ask("GET", f"/v2/{repository}/manifests/1").status == 404
        assert ask("GET", f"/v2/{repository}/blobs/{digest(CONTENT)}").status == 404
    assert len(source.asked) == asked


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


def send_part(content: bytes, asked: Asked) -> MadeAnswer:
    """Answer as an upstream that has ranges."""
    end = len(content) if asked.last_byte is None else asked.last_byte + 1
    part = content[asked.offset : end]
    return MadeAnswer([part], len(part), asked.offset, total_size=len(content))


def test_range_of_a_cold_blob_is_fetched_on_its_own(serve: Serve, ask: Ask, store: Store) -> None:
    source = MadeSource(lambda asked: send_part(CONTENT, asked))
    parts = serve(source)
    response = ask("GET", blob_path(CONTENT), Range="bytes=500-100000")
    assert (response.status, response.headers["Content-Range"]) == (206, f"bytes 500-100000/{len(CONTENT)}")
    assert response.read() == CONTENT[500:100001]
    over_the_end = ask("GET", blob_path(CONTENT), Range=f"bytes=500-{2 * len(CONTENT)}")
    assert over_the_end.headers["Content-Range"] == f"bytes 500-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert over_the_end.read() == CONTENT[500:]
    assert [(asked.offset, asked.last_byte) for asked in source.asked] == [(500, 100000), (500, 2 * len(CONTENT))]
    assert (parts.fetches.count(), store.find_blob(digest(CONTENT))) == (0, None)


def test_range_that_breaks_off_is_completed_or_refused(serve: Serve, ask: Ask) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        part = send_part(CONTENT, asked)
        return MadeAnswer([part.body[0][:5000], cut()], part.length, part.offset)  # type: ignore[index]

    serve(MadeSource(answer))
    complete = ask("GET", blob_path(CONTENT), Range="bytes=100-14999")
    assert (complete.status, complete.read()) == (206, CONTENT[100:15000])
    assert ask("GET", blob_path(CONTENT), Range="bytes=100-15100").status == 503


def test_range_is_refused_at_once_if_the_upstream_has_no_ranges(serve: Serve, ask: Ask) -> None:
    serve(MadeSource(lambda _: whole(CONTENT)))
    assert ask("GET", blob_path(CONTENT), Range="bytes=500-999").status == 503
    first = ask("GET", blob_path(CONTENT), Range="bytes=0-999")
    assert (first.status, first.read()) == (206, CONTENT[:1000])


def test_range_that_has_come_is_sent_although_the_blob_is_not_complete(serve: Serve, ask: Ask) -> None:
    more = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:9000], more, CONTENT[9000:]], len(CONTENT)))
    serve(source)
    response = ask("GET", blob_path(CONTENT), **{"User-Agent": "containerd/v2.4.2"})
    assert response.read(9000) == CONTENT[:9000]
    part = ask("GET", blob_path(CONTENT), Range="bytes=500-8999")
    assert (part.status, part.headers["Content-Range"]) == (206, f"bytes 500-8999/{len(CONTENT)}")
    assert part.read() == CONTENT[500:9000]
    more.set()
    assert response.read() == CONTENT[9000:]
    assert len(source.asked) == 1


def test_long_range_is_refused_while_the_blob_is_fetched_for_it(
    serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_blobs, "MAX_RANGE_BYTES", 1000)
    serve(MadeSource(lambda _: whole(CONTENT)))
    response = ask("GET", blob_path(CONTENT), Range="bytes=500-100000")
    assert response.status in (206, 503)
    wait_for("the blob", lambda: store.find_blob(digest(CONTENT)), TIMEOUT_SECONDS, 0.01)
    assert ask("GET", blob_path(CONTENT), Range="bytes=500-100000").headers["X-Accel-Redirect"].startswith("/blobs/")


@pytest.mark.parametrize("case", [(8999, 206), (9000, 503), (len(CONTENT), 416)])
def test_rest_is_sent_only_if_its_first_byte_comes_in_time(
    serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch, case: tuple[int, int]
) -> None:
    """A fetch that began anew may be far behind, and containerd gives up after four bodies without a byte."""
    first_byte, status = case
    monkeypatch.setattr(handler, "FIRST_BYTE_SECONDS", 0.2)
    monkeypatch.setattr(cold_blobs, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr("fetching.fetch.DESERTED_SECONDS", 0.1)
    store.put_manifest("a/b", IMAGE_MANIFEST)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:9000], more, CONTENT[9000:]], len(CONTENT))))
    agent = {"User-Agent": "containerd/v2.4.2"}
    assert ask("GET", blob_path(CONTENT), Range=f"bytes={first_byte}-", **agent).status == status
    time.sleep(0.2 if status == 503 else 0.0)
    more.set()
    wait_for("the blob", lambda: store.find_blob(digest(CONTENT)), TIMEOUT_SECONDS, 0.01)


def test_range_up_to_the_known_end_is_a_request_for_the_rest(serve: Serve, ask: Ask, store: Store) -> None:
    store.put_manifest("a/b", IMAGE_MANIFEST)
    serve(MadeSource(lambda _: whole(CONTENT)))
    assert ask("GET", blob_path(CONTENT), Range=f"bytes=5-{len(CONTENT) - 1}").status == 200
    assert store.find_blob(digest(CONTENT)) is not None


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


def test_replica_that_asks_what_is_held_does_not_wait_for_it(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a replica waits for is not asked of the other ones, so it would be fetched from the upstream."""
    parts = serve(MadeSource(lambda _: whole(CONTENT)))
    awaited: list[str | None] = []
    answering = parts.source.answering
    monkeypatch.setattr(parts.source, "answering", lambda *given: (awaited.append(given[1]), answering(*given))[1])
    replica = {"Registry-Cache-Replica": "localhost", "X-Real-IP": "127.0.0.1"}
    assert ask("HEAD", blob_path(CONTENT), Accept=HOLDINGS_TYPE, **replica).status == 200
    assert awaited == []
    assert ask("GET", blob_path(CONTENT), **replica).status == 200
    assert awaited == [""]


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


class RunningGate:
    """Counts the connections of clients that wait."""

    def __init__(self, path: Path) -> None:
        """Connect to nothing yet."""
        self._path = path
        self.waiting: list[socket.socket] = []

    def request(self, path: str, client: str = "10.0.0.1") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(self._path))
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: containerd/v2.4.2\r\nX-Real-IP: {client}\r\n\r\n"
        connection.sendall(head.encode())
        self.waiting.append(connection)
        return connection


@pytest.fixture
def silent(serve: Serve, tmp_path: Path) -> Iterator[tuple[Parts, RunningGate]]:
    """A gate whose upstream answers only at the end of the test."""
    over = threading.Event()

    def answer(_: Asked) -> MadeAnswer:
        assert over.wait(TIMEOUT_SECONDS)
        raise NotFound

    parts, gate = serve(MadeSource(answer)), RunningGate(tmp_path / "gate.sock")
    yield parts, gate
    over.set()
    for connection in gate.waiting:
        connection.close()


def running_server(parts: Parts) -> Server:
    """Return the server that has these parts."""
    return next(each for each in gc.get_objects() if isinstance(each, Server) and each.parts is parts)


def test_client_with_many_requests_is_refused_at_once_and_the_others_are_served(
    silent: tuple[Parts, RunningGate], ask: Ask, store: Store
) -> None:
    parts, gate = silent
    put_blob(store, "a/b", CONTENT)
    running = running_server(parts)
    running.pulls = FairSlots(8)
    for number in range(4):
        gate.request(f"/v2/a/b/blobs/{digest(bytes([number]))}")
    wait_for("them to wait", lambda: running.active_requests == 4, TIMEOUT_SECONDS, 0.01)
    began = time.monotonic()
    refused = ask("GET", f"/v2/a/b/blobs/{digest(b'x')}", **{"X-Real-IP": "10.0.0.1"})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert time.monotonic() - began < 5
    for client in ("10.0.0.2", "10.0.0.3"):
        assert ask("GET", blob_path(CONTENT), **{"X-Real-IP": client}).headers["X-Accel-Redirect"]
    parts.health.problem = None
    assert ask("GET", "/v2/").status == 200
    assert 'reason="overload"} 1' in render_metrics(parts)


def test_no_thread_is_started_for_too_many_connections(
    silent: tuple[Parts, RunningGate], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 6)
    parts, gate = silent
    for number in range(6):
        gate.request(f"/v2/a/b/blobs/{digest(bytes([number]))}", f"10.0.0.{number}")
    running = running_server(parts)
    wait_for("them to wait", lambda: running.active_requests == parts.fetches.count() == 6, TIMEOUT_SECONDS, 0.01)
    threads = threading.active_count()
    for _ in range(20):
        with contextlib.suppress(ConnectionError):  # the front then asks distribution
            answer = ask("GET", blob_path(CONTENT), **{"X-Real-IP": "10.0.1.1"})
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert threading.active_count() <= threads
    gate.waiting.pop().close()
    parts.health.problem = None

    def is_served() -> bool:
        with contextlib.suppress(ConnectionError):
            return ask("GET", "/v2/").status == 200
        return False

    wait_for("a place", is_served, TIMEOUT_SECONDS, 0.1)


def test_connections_that_the_front_has_closed_already_start_no_thread(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with Server(path, serve(MadeSource(lambda _: whole(CONTENT)))) as full, contextlib.closing(Front(path)) as last:
        for _ in range(3):
            with contextlib.closing(Front(path)) as hung_up:
                hung_up.request("GET", blob_path(CONTENT))
        last.request("GET", "/v2/other")
        with mock.patch.object(full, "process_request", wraps=full.process_request) as started:
            for _ in range(4):
                full.handle_request()
        assert last.getresponse().status == 404
        assert started.call_count == 1


def test_client_that_hung_up_is_noticed(silent: tuple[Parts, RunningGate]) -> None:
    parts, gate = silent
    connection = gate.request(blob_path(CONTENT))
    running = running_server(parts)
    wait_for("the request", lambda: running.active_requests == 1, TIMEOUT_SECONDS, 0.01)
    connection.close()
    wait_for("its end", lambda: running.active_requests == 0, 4 * cold_blobs.WAIT_SECONDS, 0.01)


@pytest.mark.parametrize(
    "problem",
    [
        *(Unavailable(Kind.REFUSED, "https://10.1.2.3 refused the connection"), NotFound("https://10.1.2.3 has none")),
        Denied("https://10.1.2.3 refuses access"),
    ],
    ids=["unavailable", "not-found", "denied"],
)
def test_refusals_tell_clients_nothing_about_servers(
    serve: Serve, ask: Ask, capsys: pytest.CaptureFixture[str], problem: Exception
) -> None:
    def answer(_: Asked) -> MadeAnswer:
        raise problem

    serve(MadeSource(answer))
    for method, path in (("GET", "/v2/a/b/manifests/1"), ("GET", blob_path(CONTENT)), ("GET", blob_path(b"x"))):
        response = ask(method, path, **({"Range": "bytes=1-2"} if path == blob_path(b"x") else {}))
        body = response.read().decode()
        assert response.status in (403, 404, 503)
        assert "10.1.2.3" not in body
        assert "10.1.2.3" not in str(response.headers)
    assert isinstance(problem, NotFound) or "10.1.2.3" in capsys.readouterr().out


def test_large_manifest_is_sent_by_the_front(serve: Serve, ask: Ask) -> None:
    large = IMAGE_MANIFEST + b" " * (100 << 10)
    serve(MadeSource(lambda _: whole(large)))
    for _ in range(2):
        response = ask("GET", "/v2/a/b/manifests/1")
        assert response.headers["X-Accel-Redirect"].endswith(f"{digest(large).removeprefix('sha256:')}/data")
        assert response.headers["Content-Type"] == oci.MANIFEST
        assert response.headers["Docker-Content-Digest"] == digest(large)


def test_bytes_from_the_upstream_are_counted_by_few_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate.metrics.MAX_PREFIXES", 2)
    metrics = Metrics("docker.io")
    for repository in ("library/nginx", "library/redis", "team", "made/up", "other/one"):
        metrics.count_pulled_bytes(Reference(BLOB, repository, "sha256:0"), 10)
    lines = metrics.render(EMPTY_CACHE).splitlines()
    counted = [line.rpartition('prefix="')[2] for line in lines if line.startswith("registry_cache_repository_pulled_")]
    assert counted == ['OTHER"} 20', 'library"} 20', 'team"} 10']


def test_cache_states_its_upstream(serve: Serve, ask: Ask) -> None:
    serve(MadeSource(lambda *_: None)).health.problem = None
    answer = ask("GET", "/v2/")
    assert (answer.status, answer.headers["Registry-Cache-Upstream"]) == (200, "docker.io")
