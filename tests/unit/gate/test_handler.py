"""The gate alone: answers on its socket, before a source that does what a test says."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from gate import handler as gate
from gate.fetches import Fetch, Fetches
from gate.handler import Cache, Health, Server
from gate.manifests import Manifests
from gate.metrics import Metrics
from gate.repeats import Repeats
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, whole
from made_stores import manifest_of, put_blob
from store.store import Store
from upstream.client import NotFound
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upstream.sources import Source

PATIENCE = 30.0
CONTENT = bytes(range(256)) * 1000


Serve = Callable[[MadeSource], Cache]
Ask = Callable[..., http.client.HTTPResponse]


class Front(http.client.HTTPConnection):
    """Asks as nginx does."""

    def __init__(self, path: Path) -> None:
        """Connect when something is asked."""
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "volume", 64 << 20)
    made.load()
    return made


@pytest.fixture
def serve(store: Store, tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def served(source: MadeSource) -> Cache:
            metrics = Metrics("docker.io")
            made = cast("Source", source)
            cache = Cache(
                store=store,
                fetches=Fetches(store, made, print),
                manifests=Manifests(store, made, window=5.0, observe=metrics.tag, log=print),
                source=source,
                metrics=metrics,
                health=Health(tmp_path / "volume", tmp_path / "registry.sock"),
                verifying=threading.Lock(),
                repeats=Repeats(),
                refused_credentials=lambda: 3,
                upstream_away=lambda: False,
            )
            cache.health.loaded = True
            server = stack.enter_context(Server(tmp_path / "gate.sock", cache))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return cache

        yield served


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    with contextlib.ExitStack() as stack:

        def asked(method: str, path: str, **headers: str) -> http.client.HTTPResponse:
            connection = stack.enter_context(contextlib.closing(Front(tmp_path / "gate.sock")))
            connection.request(method, path, headers=headers)
            return stack.enter_context(contextlib.closing(connection.getresponse()))

        yield asked


def path_of(content: bytes) -> str:
    return f"/v2/a/b/blobs/{digest(content)}"


def test_head_of_a_blob_that_is_not_there_says_the_upstreams_length(serve: Serve, ask: Ask) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        assert asked.method == "HEAD"
        found = MadeAnswer([], 0)  # what http.client makes of an answer to HEAD
        found.headers["Content-Length"] = "1234"
        return found

    cache = serve(MadeSource(answer))
    response = ask("HEAD", path_of(CONTENT))
    assert (response.status, response.headers["Content-Length"]) == (200, "1234")
    assert cache.fetches.count() == 0


def test_long_blob_is_sent_while_it_comes_and_never_whole_before_it_was_checked(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAIT_FOR_WHOLE", 0.05)
    more, last = threading.Event(), threading.Event()
    wrong = CONTENT[:-1] + b"?"
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, wrong[1000:], last], len(CONTENT))))
    response = ask("GET", path_of(CONTENT))
    assert (response.status, response.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert response.read(1000) == CONTENT[:1000]
    more.set()
    assert response.read(len(CONTENT) - 1001) == CONTENT[1000:-1]
    last.set()
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert ask("GET", path_of(CONTENT), Range=f"bytes={len(CONTENT) - 1}-").status == 503


def test_long_blob_is_ended_when_it_is_right(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WAIT_FOR_WHOLE", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    response = ask("GET", path_of(CONTENT))
    part = ask("GET", path_of(CONTENT), Range="bytes=500-100000")
    more.set()
    assert response.read() == CONTENT
    assert (part.status, part.headers["Content-Range"]) == (206, f"bytes 500-100000/{len(CONTENT)}")
    assert part.read() == CONTENT[500:100001]


def test_blob_that_cannot_be_opened_is_refused_and_not_begun(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAIT_FOR_WHOLE", 0.05)

    def fail(_: Fetch) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Fetch, "open", fail)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more], len(CONTENT))))
    assert ask("GET", path_of(CONTENT)).status == 503
    more.set()


def test_range_beyond_the_end_of_a_blob_that_comes_is_refused(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAIT_FOR_WHOLE", 0.05)
    more = threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([CONTENT[:1000], more, CONTENT[1000:]], len(CONTENT))))
    assert ask("GET", path_of(CONTENT), Range=f"bytes={len(CONTENT)}-").status == 416
    more.set()


def test_what_is_neither_blob_nor_manifest_is_distributions_with_its_query(serve: Serve, ask: Ask) -> None:
    serve(MadeSource(lambda _: whole(b"")))
    for path in ("/v2/_catalog?n=1&last=a", "/v2/a/b/tags/list?n=1", "/v2/a/b/blobs/sha512:00", "/"):
        assert ask("GET", path).headers["X-Accel-Redirect"] == f"/registry{path}"


def test_name_that_no_registry_takes_is_asked_of_nobody(serve: Serve, ask: Ask) -> None:
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source)
    name = "a" * 256
    for path in (f"/v2/{name}/manifests/1", f"/v2/{name}/blobs/{digest(CONTENT)}"):
        assert ask("GET", path).headers["X-Accel-Redirect"] == f"/registry{path}"
    assert source.asked == []


def test_defect_of_one_request_breaks_off_its_connection_alone(
    serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upon which the front asks distribution."""
    traces: list[object] = []
    monkeypatch.setattr("sys.excepthook", lambda *trace: traces.append(trace))
    serve(MadeSource(lambda _: whole(CONTENT)))
    with monkeypatch.context() as broken:
        broken.setattr(store, "find_blob", lambda *_: 1 / 0)
        with pytest.raises(http.client.RemoteDisconnected):
            ask("GET", path_of(CONTENT))
    assert len(traces) == 1
    assert ask("GET", path_of(CONTENT)).status == 200


@pytest.mark.parametrize(
    ("headers", "restarted"),
    [
        pytest.param({"Range": "bytes=10-"}, True, id="rest"),
        pytest.param({"X-Real-IP": "10.0.0.1"}, True, id="again"),
        pytest.param({"X-Real-IP": "10.0.0.1"}, False, id="again-without-a-restart"),
    ],
)
def test_blob_that_was_changed_on_the_volume_is_fetched_anew_for_who_found_out(
    serve: Serve, ask: Ask, store: Store, *, headers: dict[str, str], restarted: bool
) -> None:
    put_blob(store, "a/b", CONTENT)
    store.blob_path(digest(CONTENT)).write_bytes(b"x" + CONTENT[1:])
    if restarted:
        store.load()
    source = MadeSource(lambda _: whole(CONTENT))
    serve(source)
    for client in ("10.0.0.1", "10.0.0.2"):
        # Nobody reads all of a blob before it is sent.
        assert ask("GET", path_of(CONTENT), **{"X-Real-IP": client}).headers["X-Accel-Redirect"]
    assert source.asked == []
    assert ask("GET", path_of(CONTENT), **headers).headers["X-Accel-Redirect"]
    assert len(source.asked) == 1
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_room_that_cannot_be_read_holds_up_housekeeping_and_does_not_end_it(
    serve: Serve, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOUSEKEEPING", 0.01)
    cache = serve(MadeSource(lambda _: whole(CONTENT)))
    name = put_blob(store, "a/b", CONTENT)
    room = tmp_path / "room.json"
    room.write_text("{")
    stop = threading.Event()
    said: list[str] = []
    monkeypatch.setattr(gate, "log", said.append)
    keeper = threading.Thread(target=gate.keep_house, args=(cache, tmp_path, stop), daemon=True)
    keeper.start()
    wait_for("a line in the log", lambda: said, PATIENCE, 0.01)
    assert store.find_blob(name) is not None
    (tmp_path / "new.json").write_text(
        json.dumps({"capacity": 64 << 20, "highWaterMarkPercent": 85, "ttl": "10ms", "version": "1"})
    )
    (tmp_path / "new.json").rename(room)
    wait_for("the blob to go", lambda: store.find_blob(name) is None, PATIENCE, 0.01)
    stop.set()
    keeper.join(PATIENCE)
    assert len([line for line in said if line.startswith("nothing is removed: ")]) == 1


def test_metrics_say_what_was_asked_for(serve: Serve, ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    content = manifest_of(b"{}", [CONTENT])
    cache = serve(MadeSource(lambda asked: whole(content if asked.reference.kind == "manifest" else CONTENT)))
    ask("GET", "/v2/a/b/manifests/1")
    ask("HEAD", "/v2/a/b/manifests/1")
    text = gate._metrics(cache)
    for line in (
        'registry_proxy_requests_total{upstream_host="docker.io",type="manifest"} 2',
        'registry_proxy_hits_total{upstream_host="docker.io",type="manifest"} 1',
        'registry_proxy_misses_total{upstream_host="docker.io",type="manifest"} 1',
        'registry_cache_refused_credentials_total{upstream_host="docker.io"} 3',
    ):
        assert line in text.splitlines()
    assert hashlib.sha256(content).hexdigest() in str(store.blob_path(digest(content)))


@pytest.mark.parametrize("head", ["Content-Length: {length}", "Transfer-Encoding: chunked"])
def test_body_of_a_pull_is_never_taken_for_the_next_question(serve: Serve, tmp_path: Path, head: str) -> None:
    cache = serve(MadeSource(lambda _: whole(CONTENT)))
    inner = f"GET {path_of(CONTENT)} HTTP/1.1\r\nHost: x\r\n\r\n"
    body = inner if "Length" in head else f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(tmp_path / "gate.sock"))
        lines = f"GET /v2/ HTTP/1.1\r\nHost: x\r\n{head.format(length=len(inner))}\r\n\r\n"
        connection.sendall((lines + body).encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert cache.fetches.count() == 0
    assert cache.source.asked == []


def test_nothing_is_asked_for_before_the_volume_was_read(serve: Serve, ask: Ask) -> None:
    cache = serve(MadeSource(lambda _: whole(CONTENT)))
    cache.health.loaded = False
    for path in (path_of(CONTENT), "/v2/a/b/manifests/1"):
        assert ask("GET", path).status == 503
    assert cache.source.asked == []


def test_what_is_said_of_one_repository_is_not_the_answer_of_another(serve: Serve, ask: Ask) -> None:
    asked_first, over = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "not/here":
            asked_first.set()
            assert over.wait(PATIENCE)
            message = "no such blob"
            raise NotFound(message)
        return whole(CONTENT)

    serve(MadeSource(answer))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, "GET", f"/v2/not/here/blobs/{digest(CONTENT)}")
        assert asked_first.wait(PATIENCE)
        second = pool.submit(ask, "GET", path_of(CONTENT))
        time.sleep(0.1)  # for it to join; without that, less is tested
        over.set()
        assert first.result().status == 404
        assert second.result().status == 200


def test_head_says_what_a_manifest_says(serve: Serve, ask: Ask, store: Store) -> None:
    def answer(_: Asked) -> MadeAnswer:
        found = MadeAnswer([], 0)
        found.headers["Content-Length"] = "17"
        return found

    store.put_manifest("a/b", manifest_of(b"{}", [CONTENT]))
    serve(MadeSource(answer))
    assert ask("HEAD", path_of(CONTENT)).headers["Content-Length"] == str(len(CONTENT))


def test_part_of_a_long_blob_ends_when_all_of_it_was_checked(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAIT_FOR_WHOLE", 0.1)
    wrong, over = b"x" + CONTENT[1:], threading.Event()
    serve(MadeSource(lambda _: MadeAnswer([wrong[:-1], over, wrong[-1:]], len(wrong))))
    answer = ask("GET", path_of(CONTENT), Range="bytes=0-99")
    assert answer.status == 206
    over.set()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
