"""What `helm test` reports about a cache, whatever the cache answers; the cluster tests pull through real caches."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from gate.metrics import REVALIDATED, STALE, Metrics
from helm_test import prove
from known_metrics import EMPTY_CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = b"{}"
DIGEST = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
MANIFEST = {"config": {"digest": DIGEST, "size": 2}, "layers": [{"digest": "sha256:layer", "size": 9}]}
BLOB = f"/v2/a/b/blobs/{DIGEST}"


@dataclass
class FakeCache:
    """A server that gives each path its answer, and counts a blob as a hit from the pull `stored_from` on.

    It takes the manifest from its volume until it was asked for it `away_for` times.
    """

    answers: dict[str, tuple[int, bytes]]
    stored_from: int = 2
    short_by: int = 0
    away_for: int = 0
    asks: bool = True
    metrics: str = ""
    pulls: int = 0
    manifests: int = 0
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("http", "127.0.0.1", 0))
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if path == "/metrics" and self.metrics:
            return 200, self.metrics.encode()
        if path == "/metrics":
            hits = max(0, self.pulls - self.stored_from + 1)
            asked = self.manifests * self.asks
            stale = min(self.manifests, self.away_for)
            return 200, (
                f'registry_proxy_hits_total{{upstream_host="docker.io",type="blob"}} {hits}\n'
                'registry_cache_tag_lookups_total{upstream_host="docker.io",result="revalidated"} 7\n'
                f'registry_cache_upstream_requests_total{{method="GET",outcome="2xx"}} {asked}\n'
                'registry_cache_upstream_requests_total{method="HEAD",outcome="2xx"} 3\n'
                f'registry_cache_tag_lookups_total{{upstream_host="docker.io",result="stale"}} {stale}\n'
            ).encode()
        self.pulls += path == BLOB
        self.manifests += path == "/v2/a/b/manifests/1"
        return self.answers.get(path, (404, b""))

    def described(self, image: str = "a/b:1", *more: Endpoint) -> prove.Cache:
        return prove.Cache("docker.io", self.endpoint, (*more, self.endpoint), image)


@pytest.fixture
def cache() -> Iterator[FakeCache]:
    fake = FakeCache(
        {"/v2/": (200, b"{}"), "/v2/a/b/manifests/1": (200, json.dumps(MANIFEST).encode()), BLOB: (200, CONFIG)}
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = fake.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + fake.short_by * (self.path == BLOB)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.endpoint = Endpoint("http", "127.0.0.1", server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


def nobody() -> Endpoint:
    """The address of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return Endpoint("http", "127.0.0.1", closed.getsockname()[1])


def result_of(cache: FakeCache, image: str = "a/b:1") -> str:
    return prove.check_cache(cache.described(image), pause_seconds=0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"errors": [{"code": "UNAVAILABLE", "message": "the volume is read-only"}]}',
            "503: the volume is read-only",
        ),
        (b"<html>", "503. If its pod is not ready, the log of the container gate says why"),
        (b'{"errors": []}', "503. If its pod is not ready"),
    ],
)
def test_cache_that_refuses_fails_with_its_reason(cache: FakeCache, body: bytes, words: str) -> None:
    cache.answers["/v2/"] = 503, body
    with pytest.raises(prove.CheckFailed, match=words):
        prove.check_cache(cache.described(), pause_seconds=0)


def test_cache_that_reports_a_problem_fails_with_its_words(cache: FakeCache) -> None:
    cache.answers["/v2/"] = 200, b'{"warning": "the Secret login does not exist or is empty"}'
    with pytest.raises(prove.CheckFailed, match="the cache answers, but the Secret login does not exist or is empty"):
        prove.check_cache(cache.described())


def test_second_pull_from_the_volume_passes(cache: FakeCache) -> None:
    assert "pulled a/b:1 through the cache, and again from its volume (1 blob hits" in result_of(cache)


def test_blob_that_is_stored_a_little_later_passes(cache: FakeCache) -> None:
    cache.stored_from = 4
    assert "again from its volume" in result_of(cache)


def test_blob_that_is_never_stored_fails(cache: FakeCache) -> None:
    cache.stored_from = 1000
    with pytest.raises(prove.CheckFailed, match="never comes from its volume"):
        result_of(cache)


def test_cache_without_an_image_is_only_probed(cache: FakeCache) -> None:
    assert "there is no image" in result_of(cache, image="")
    assert cache.asked == ["/v2/", "/metrics"]


def test_index_is_followed(cache: FakeCache) -> None:
    cache.answers["/v2/a/b/manifests/1"] = (200, b'{"manifests": [{"digest": "sha256:one"}]}')
    cache.answers["/v2/a/b/manifests/sha256:one"] = (200, json.dumps(MANIFEST).encode())
    assert "again from its volume" in result_of(cache)


@pytest.mark.parametrize(
    ("image", "asked"),
    [
        pytest.param("a/b", "latest", id="no-tag"),
        pytest.param("a/b:2", "2", id="tag"),
        pytest.param("a/b@sha256:x", "sha256:x", id="digest"),
        pytest.param("a/b:2@sha256:x", "sha256:x", id="tag-and-digest"),
    ],
)
def test_image_is_named_as_in_a_pod(cache: FakeCache, image: str, asked: str) -> None:
    cache.answers[f"/v2/a/b/manifests/{asked}"] = cache.answers["/v2/a/b/manifests/1"]
    assert image in result_of(cache, image)


@pytest.mark.parametrize("status", [401, 404, 500])
def test_upstream_that_refuses_is_distinguished_from_a_cache_that_does(cache: FakeCache, status: int) -> None:
    cache.answers["/v2/a/b/manifests/1"] = (status, b"")
    with pytest.raises(prove.CheckFailed, match=rf"the cache answers, but .* status {status}.*Its upstream"):
        result_of(cache)
    cache.answers["/v2/"] = (status, b"")
    with pytest.raises(prove.CheckFailed, match=rf"the cache does not answer as it should: .* status {status}\."):
        result_of(cache)


def test_upstream_that_cannot_be_asked_fails_though_the_image_is_stored(cache: FakeCache) -> None:
    cache.away_for = 1000
    with pytest.raises(prove.CheckFailed, match=r"a/b:1 comes from the volume only: .* upstream, which is down"):
        result_of(cache)
    assert cache.pulls == 0


def test_result_says_that_the_upstream_was_not_asked(cache: FakeCache) -> None:
    assert "not asked" not in result_of(cache)
    cache.asks = False
    assert result_of(cache).endswith("; the volume had all of it already, so that the upstream was not asked")


def test_upstream_that_is_slow_once_is_asked_again(cache: FakeCache) -> None:
    cache.away_for = 2
    assert "again from its volume" in result_of(cache)


def test_replica_that_is_down_does_not_fail_the_other(cache: FakeCache) -> None:
    described = cache.described("a/b:1", nobody())
    assert "again from its volume" in prove.check_cache(described, pause_seconds=0)


def test_counters_of_all_replicas_are_added_up(cache: FakeCache) -> None:
    """The Service leads to either of them, and either asks the upstream for the other."""
    cache.away_for = 1000
    described = cache.described("a/b:1", cache.endpoint)
    assert prove.read_counters(described)["upstream requests"] == 6
    with pytest.raises(prove.CheckFailed, match="which is down"):
        prove.check_cache(described, pause_seconds=0)


def test_counters_are_those_of_the_gate(cache: FakeCache) -> None:
    counted = Metrics("docker.io")
    for hit in (True, False, False):
        counted.count_request("blob", hit=hit)
    counted.count_request("manifest", hit=True)
    for outcome in ("2xx", "5xx"):
        counted.observe_upstream_request("HEAD", outcome, 0.1)
    counted.count_tag_lookup(REVALIDATED)
    counted.count_tag_lookup(STALE)
    cache.metrics = counted.render(EMPTY_CACHE)
    assert prove.read_counters(cache.described()) == {"hits": 1, "misses": 2, "stale": 1, "upstream requests": 2}


@pytest.mark.parametrize("manifest", [b"<html>", b"[]", b"3", b'{"manifests": []}', b'{"schemaVersion": 1}'])
def test_answer_that_is_not_a_manifest_fails(cache: FakeCache, manifest: bytes) -> None:
    cache.answers["/v2/a/b/manifests/1"] = (200, manifest)
    with pytest.raises(prove.CheckFailed, match="for the manifest of a/b:1 is not a manifest"):
        result_of(cache)


def test_incomplete_body_fails(cache: FakeCache) -> None:
    cache.short_by = 5
    with pytest.raises(prove.CheckFailed, match="did not return a complete answer"):
        result_of(cache)


def test_content_that_does_not_match_its_digest_fails(cache: FakeCache) -> None:
    cache.answers[BLOB] = (200, b"[]")
    with pytest.raises(prove.CheckFailed, match="does not match its digest"):
        result_of(cache)


def test_every_cache_has_a_line_and_one_failure_fails_all(
    cache: FakeCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away, good = (
        {"upstream": upstream, "endpoint": endpoint, "metrics": [endpoint], "image": image}
        for upstream, endpoint, image in (
            ("quay.io", nobody()._asdict(), ""),
            ("docker.io", cache.endpoint._asdict(), "a/b:1"),
        )
    )
    path = tmp_path / "caches.json"

    path.write_text(json.dumps({"caches": [away, good]}))
    assert prove.main([str(path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("quay.io: FAILED: the cache does not answer")
    assert second.startswith("docker.io: pulled a/b:1 through")

    path.write_text(json.dumps({"caches": [good]}))
    assert prove.main([str(path)]) == 0
