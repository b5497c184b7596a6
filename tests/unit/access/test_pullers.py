"""A cache for which each puller shows credentials of their own, with an upstream that does what the test says."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from access import attempts
from access.public import PublicRepositories
from access.pullers import Pullers
from access.rights import ForPullers, Rights, WatchedUpstream
from fetching.replica_first import HOLDINGS_TYPE, REPLICA_HEADER, ReplicaFirst
from gate import cold_blobs
from gate.cold_blobs import FIRST_BYTE_SECONDS, ColdBlobs
from gate.manifests import ask_for
from gate.metrics import Metrics
from gate.pull_request import parse_pull_request
from machine.processes import wait_for
from made_front import Front
from made_gate import made_parts, serving
from made_sources import Asked, MadeAnswer, MadeSource, whole
from made_stores import manifest_of
from store.store import Store
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import MANIFEST
from upstream.terms import BASIC, Demand, Terms
from upstream.urls import Url
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gate.parts import Parts
    from upstream.source import Source

CONTENT = bytes(range(256)) * 1000
SECRET_CONTENT = CONTENT[::-1]
PUBLIC, PRIVATE, OTHER = "public/app", "team/app", "other/app"
MANIFESTS = {PUBLIC: manifest_of(b"{}", [CONTENT]), PRIVATE: manifest_of(b"{ }", [SECRET_CONTENT])}
CONTENTS = {PUBLIC: [CONTENT], PRIVATE: [SECRET_CONTENT], OTHER: []}
REALM = "https://auth.example.org/token"
CHALLENGE = f'Bearer realm="{REALM}",service="registry",scope="repository:{PRIVATE}:pull"'
RIGHT, WRONG = "Bearer right", "Bearer wrong"
HOUR = 3600.0


@dataclass
class MadeUpstream:
    """An upstream with a public and two private repositories."""

    allowed: dict[str, set[str]] = field(default_factory=lambda: {PRIVATE: {RIGHT}, OTHER: {"Bearer other"}})
    is_away: bool = False
    hold: threading.Event | None = None
    sending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Answer through a source that remembers what it was asked."""
        self.source = MadeSource(self.answer)

    def answer(self, asked: Asked) -> MadeAnswer:
        if self.is_away:
            raise Unavailable(Kind.REFUSED, "the upstream is away")
        repository, _, identifier = asked.reference[1], asked.reference[0], asked.reference[2]
        shown = asked.authorization.header if asked.authorization else None
        if repository in self.allowed and shown not in self.allowed[repository]:
            raise Denied(status=401)
        manifest = MANIFESTS.get(repository)
        if asked.reference.kind == MANIFEST and manifest is not None and identifier in ("1", digest(manifest)):
            made = whole(manifest)
            made.headers["Docker-Content-Digest"] = digest(manifest)
            return made if asked.method == "GET" else MadeAnswer([], 0, headers=made.headers)
        for content in CONTENTS.get(repository, []):
            if identifier == digest(content):
                if asked.method == "HEAD":
                    return MadeAnswer([], 0)
                self.sending.set()
                return MadeAnswer([content[:1000], *([self.hold] if self.hold else []), content[1000:]], len(content))
        raise NotFound

    def requests(self) -> list[tuple[str, str, str | None]]:
        """Return and forget what was asked: the method, the kind, and the header."""
        asked, self.source.asked = self.source.asked, []
        return [(one.method, one.reference.kind, one.authorization and one.authorization.header) for one in asked]


@dataclass
class Gate:
    """A gate for pullers, and what its clients do."""

    folder: Path
    upstream: MadeUpstream
    parts: Parts
    logged: list[str]
    stack: contextlib.ExitStack

    def ask(self, path: str, shown: str | None = None, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = self.stack.enter_context(contextlib.closing(Front(self.folder / "gate.sock")))
        given = {"X-Real-IP": "10.0.0.1", **({"Authorization": shown} if shown else {}), **headers}
        connection.request(method, path, headers=given)
        response = self.stack.enter_context(contextlib.closing(connection.getresponse()))
        location = response.headers.get("X-Accel-Redirect", "")
        return self.ask(location, shown, method, **headers) if location.startswith(cold_blobs.INCOMING) else response

    def status(self, path: str, shown: str | None = None, **headers: str) -> int:
        response = self.ask(path, shown, **headers)
        response.read()
        return response.status


def tag_path(repository: str) -> str:
    return f"/v2/{repository}/manifests/1"


def digest_path(repository: str, of: str = "") -> str:
    return f"/v2/{repository}/manifests/{digest(MANIFESTS[of or repository])}"


def blob_path(repository: str, content: bytes) -> str:
    return f"/v2/{repository}/blobs/{digest(content)}"


BEARER = Demand("bearer", Url.parse(REALM), "registry")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def build(
            upstream: MadeUpstream | None = None,
            *,
            check_seconds: float = HOUR,
            grace_seconds: float = HOUR,
            demand: Demand = BEARER,
            has_tls: bool = True,
        ) -> Gate:
            made = upstream or MadeUpstream()
            logged: list[str] = []
            metrics = Metrics("docker.io")
            store = Store(tmp_path / "volume", 64 << 20, links_need_proof=True)
            store.load()
            public = PublicRepositories(tmp_path / "volume" / "public", logged.append)
            public.load()
            rights = Rights(public, check_seconds=check_seconds, grace_seconds=grace_seconds)
            watched = WatchedUpstream(cast("Source", made.source), rights)
            checks = Pullers(
                partial(ask_for, watched),
                store,
                rights,
                find_terms=lambda repository: Terms(demand, f"repository:{repository}:pull"),
                has_tls=has_tls,
                count_check=metrics.count_puller_check,
            )
            replicas = ReplicaFirst(watched, {}, "x-0")
            source = ForPullers(replicas, rights)
            parts = made_parts(
                tmp_path,
                store,
                source,
                replicas,
                metrics,
                tag_check_interval_seconds=0.0,
                may_read=checks.may_read,
                log=logged.append,
            )._replace(replica_addresses=cast("Any", Replicas()), pullers=checks, public=public)
            stack.enter_context(serving(tmp_path, parts))
            return Gate(tmp_path, made, parts, logged, stack)

        yield build


class Replicas:
    """Takes every address for that of a replica which says so."""

    def includes(self, _name: str, _address: str) -> bool:
        return True


def test_what_is_public_is_served_to_anyone_without_a_request_more(start: Any) -> None:
    gate = start()
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.upstream.requests() == [("GET", "manifest", None)]
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 200
    assert gate.upstream.requests() == [("GET", "blob", None)]
    for path in (digest_path(PUBLIC), blob_path(PUBLIC, CONTENT)):
        assert gate.status(path) == 200
    assert gate.upstream.requests() == []
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.upstream.requests() == [("HEAD", "manifest", None)], "the check of the tag is all"


@pytest.mark.parametrize("path", [tag_path(PRIVATE), digest_path(PRIVATE), blob_path(PRIVATE, SECRET_CONTENT)])
def test_private_repository_is_answered_with_the_challenge_of_the_upstream(start: Any, path: str) -> None:
    gate = start()
    for _ in range(2):
        response = gate.ask(path)
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, CHALLENGE)
        assert json.loads(response.read())["errors"][0]["code"] == "UNAUTHORIZED"
    assert len(gate.upstream.requests()) == 1, "the second time, the cache knows it"
    assert gate.status(path, RIGHT) == 200
    assert gate.ask(path).status == 401
    assert not gate.logged


def test_each_puller_gets_what_the_upstream_lets_them_have(start: Any) -> None:
    gate = start()
    paths = tag_path(PRIVATE), digest_path(PRIVATE), blob_path(PRIVATE, SECRET_CONTENT)
    assert [gate.status(path, RIGHT) for path in paths] == [200] * 3
    asked = gate.upstream.requests()
    assert {shown for _, _, shown in asked} == {RIGHT}
    assert [entry[:2] for entry in asked] == [("HEAD", "manifest"), ("GET", "manifest"), ("GET", "blob")]
    for path in paths[1:]:
        assert gate.status(path, RIGHT) == 200
    assert gate.upstream.requests() == [], "the answer counts for a while"
    for path in paths:
        response = gate.ask(path, WRONG)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == f'{CHALLENGE},error="invalid_token"'
        assert b"refused" not in response.read()
    assert len(gate.upstream.requests()) == 1, "a refusal counts for a while too"
    gate.upstream.allowed[PRIVATE].add("Bearer second")
    assert [gate.status(path, "Bearer second") for path in paths] == [200] * 3
    assert not any(secret in line for line in gate.logged for secret in ("right", "wrong", "second"))


def test_token_and_tag_are_checked_by_one_request(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = start()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    gate.upstream.allowed[PRIVATE] |= {"Bearer second", "Bearer third"}
    gate.upstream.requests()
    assert gate.status(tag_path(PRIVATE), "Bearer second") == 200
    assert gate.upstream.requests() == [("HEAD", "manifest", "Bearer second")]
    # The tag has moved to a manifest that the volume does not have.
    moved = manifest_of(b"{  }", [SECRET_CONTENT])
    monkeypatch.setitem(MANIFESTS, PRIVATE, moved)
    response = gate.ask(tag_path(PRIVATE), "Bearer third")
    assert (response.status, response.read()) == (200, moved)
    assert gate.upstream.requests() == [
        ("HEAD", "manifest", "Bearer third"),
        ("GET", "manifest", "Bearer third"),
    ]


def test_credentials_that_count_once_are_checked_once_in_a_request(start: Any) -> None:
    gate = start(check_seconds=0.0)
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    gate.upstream.requests()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    assert gate.upstream.requests() == [("HEAD", "manifest", RIGHT)]
    gate.upstream.allowed[PRIVATE].clear()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 401


@pytest.mark.parametrize("is_current", [True, False])
def test_challenge_of_a_stored_tag_costs_one_request(start: Any, *, is_current: bool) -> None:
    """Nothing is asked for with what the last puller showed, for a node that has shown nothing yet."""
    gate = start()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    rights = gate.parts.pullers._rights
    if not is_current:
        rights._current.clear()
    assert not rights.is_private(PRIVATE), "nobody asked without credentials"
    gate.upstream.requests()
    assert gate.ask(tag_path(PRIVATE)).headers["WWW-Authenticate"] == CHALLENGE
    assert gate.upstream.requests() == [("HEAD", "manifest", None)]


def test_tag_of_a_repository_that_became_public_is_served_after_one_request(start: Any) -> None:
    gate = start()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    del gate.upstream.allowed[PRIVATE]
    gate.upstream.requests()
    assert gate.status(tag_path(PRIVATE)) == 200
    assert gate.upstream.requests() == [("HEAD", "manifest", None)]


def test_manifest_is_not_fetched_with_what_another_puller_showed_for_a_node_that_shows_nothing(start: Any) -> None:
    gate = start()
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    gate.upstream.requests()
    assert gate.status(tag_path(PRIVATE)) == 401
    assert gate.upstream.requests() == [("HEAD", "manifest", None)]


def test_upstream_that_names_no_digest_is_asked_about_the_tag_as_before(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = start()
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    gate.upstream.allowed[PRIVATE].add("Bearer second")
    answer = gate.upstream.source.answer

    def answer_without_a_digest(asked: Asked) -> MadeAnswer:
        made = answer(asked)
        del made.headers["Docker-Content-Digest"]
        return made

    monkeypatch.setattr(gate.upstream.source, "answer", answer_without_a_digest)
    gate.upstream.requests()
    assert gate.status(tag_path(PRIVATE), "Bearer second") == 200
    assert [entry[:2] for entry in gate.upstream.requests()] == [
        ("HEAD", "manifest"),
        ("HEAD", "manifest"),
        ("GET", "manifest"),
    ]


def test_stored_blob_is_sent_only_for_a_repository_in_which_the_upstream_has_it(start: Any) -> None:
    gate = start()
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    assert gate.status(digest_path(PRIVATE), RIGHT) == 200
    gate.upstream.requests()
    assert gate.status(blob_path(PUBLIC, SECRET_CONTENT)) == 404
    assert gate.status(blob_path(OTHER, SECRET_CONTENT), "Bearer other") == 404
    assert gate.status(digest_path(PUBLIC, of=PRIVATE)) == 404
    assert gate.status(digest_path(PUBLIC, of=PRIVATE), "Bearer other") == 404
    assert gate.ask(blob_path(PUBLIC, SECRET_CONTENT), method="HEAD").status == 404
    assert gate.status(blob_path(PUBLIC, SECRET_CONTENT), Range="bytes=0-9") == 404
    # If the upstream has it there too, a HEAD is enough, once.
    gate.upstream.allowed[OTHER].add(RIGHT)
    CONTENTS[OTHER].append(SECRET_CONTENT)
    gate.upstream.requests()
    try:
        assert gate.status(blob_path(OTHER, SECRET_CONTENT), RIGHT) == 200
        assert {method for method, _, _ in gate.upstream.requests()} == {"HEAD"}
        assert gate.status(blob_path(OTHER, SECRET_CONTENT), RIGHT) == 200
        assert gate.upstream.requests() == []
    finally:
        CONTENTS[OTHER].clear()
    # What anyone can have in one repository, anyone can have.
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 200
    gate.upstream.requests()
    assert gate.status(blob_path(OTHER, CONTENT), RIGHT) == 200
    assert gate.upstream.requests() == []


def test_upstream_that_answers_head_wrongly_shows_by_get_what_it_has(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = start()
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    gate.upstream.allowed[OTHER].add(RIGHT)
    monkeypatch.setitem(CONTENTS, OTHER, [SECRET_CONTENT])
    answer = gate.upstream.source.answer

    def answer_wrongly(asked: Asked) -> MadeAnswer:
        if asked.method == "HEAD" and asked.reference.repository == OTHER:
            raise NotFound
        return answer(asked)

    monkeypatch.setattr(gate.upstream.source, "answer", answer_wrongly)
    gate.upstream.requests()
    assert gate.status(blob_path(OTHER, SECRET_CONTENT), RIGHT) == 200
    assert [entry[:2] for entry in gate.upstream.requests()] == [("HEAD", "blob"), ("GET", "blob")]


def test_manifest_that_names_a_private_blob_gives_no_right_to_it(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = start()
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    monkeypatch.setitem(MANIFESTS, PUBLIC, manifest_of(b"{}", [SECRET_CONTENT]))
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.status(blob_path(PUBLIC, SECRET_CONTENT)) == 404


def test_blob_in_flight_is_not_joined_by_who_may_not_have_it(start: Any) -> None:
    upstream = MadeUpstream(hold=threading.Event())
    gate = start(upstream)
    statuses: list[int] = []
    puller = threading.Thread(
        target=lambda: statuses.append(gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT)), daemon=True
    )
    puller.start()
    assert upstream.sending.wait(30)
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.status(blob_path(PUBLIC, SECRET_CONTENT)) == 404
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), WRONG) == 401
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT)) == 401
    assert upstream.hold is not None
    upstream.hold.set()
    puller.join(30)
    assert statuses == [200]


def test_blob_that_one_puller_was_refused_is_fetched_for_the_next_one(start: Any) -> None:
    """A token may end between its check and the fetch. The node then gets another one."""
    gate = start()
    path = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    gate.upstream.allowed[PRIVATE] = {"Bearer next"}
    assert gate.ask(path, RIGHT).headers["WWW-Authenticate"] == f'{CHALLENGE},error="invalid_token"'
    assert gate.status(path, "Bearer next") == 200


def test_time_for_the_check_of_a_puller_is_a_part_of_the_time_for_the_blob(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = start()
    check, wait = gate.parts.pullers.check, ColdBlobs._wait_for_fetch
    checked_at: list[float] = []
    deadlines: list[float] = []

    def check_slowly(request: Any) -> str:
        checked_at.append(time.monotonic())
        time.sleep(0.1)
        return cast("str", check(request))

    def note_deadline(self: ColdBlobs, fetch: Any, request: Any, deadline: float) -> int | None:
        deadlines.append(deadline)
        return wait(self, fetch, request, deadline)

    monkeypatch.setattr(gate.parts.pullers, "check", check_slowly)
    monkeypatch.setattr(ColdBlobs, "_wait_for_fetch", note_deadline)
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    assert deadlines[0] <= checked_at[0] + FIRST_BYTE_SECONDS


def test_revoked_credentials_stop_working_when_their_time_is_over(start: Any) -> None:
    gate = start(check_seconds=0.0)
    path = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(path, RIGHT) == 200
    assert gate.status(path, RIGHT) == 200
    gate.upstream.allowed[PRIVATE].clear()
    assert gate.status(path, RIGHT) == 401


@pytest.mark.parametrize(("grace_seconds", "status"), [(HOUR, 200), (0.0, 503)])
def test_checked_credentials_count_for_a_longer_time_while_the_upstream_is_away(
    start: Any, grace_seconds: float, status: int
) -> None:
    gate = start(check_seconds=0.0, grace_seconds=grace_seconds)
    path = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(path, RIGHT) == 200
    gate.upstream.is_away = True
    assert gate.status(path, RIGHT) == status
    assert gate.status(path, "Bearer never-seen") == 503
    assert gate.status(path) in (401, 503)


def test_token_counts_no_longer_than_it_says(start: Any) -> None:
    def token(end: float) -> str:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": end}).encode()).decode().rstrip("=")
        return f"Bearer header.{claims}.signature"

    ended, running = token(time.time() - 1), token(time.time() + HOUR)
    gate = start(MadeUpstream(allowed={PRIVATE: {ended, running}}))
    path = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(path, running) == gate.status(path, running) == 200
    assert len(gate.upstream.requests()) == 2
    assert gate.status(path, ended) == gate.status(path, ended) == 200
    assert len(gate.upstream.requests()) == 2, "it is shown each time"


def test_public_images_are_served_after_a_restart_while_the_upstream_is_away(start: Any) -> None:
    gate = start()
    assert gate.status(tag_path(PUBLIC)) == gate.status(blob_path(PUBLIC, CONTENT)) == 200
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    gate.parts.public.record()
    upstream = MadeUpstream(is_away=True)
    after = start(upstream)
    for path in (tag_path(PUBLIC), digest_path(PUBLIC), blob_path(PUBLIC, CONTENT)):
        assert after.status(path) == 200
    assert after.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 503, "nobody knows who may have it"
    assert after.status(blob_path(PRIVATE, SECRET_CONTENT)) == 503


def test_repository_that_is_no_longer_public_is_closed(start: Any) -> None:
    gate = start(check_seconds=0.0, grace_seconds=0.0)
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 200
    gate.parts.public.record()
    gate.upstream.allowed[PUBLIC] = {RIGHT}
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 401
    assert gate.status(blob_path(PUBLIC, CONTENT), RIGHT) == 200
    gate.parts.public.record()
    assert PUBLIC not in (gate.folder / "volume" / "public").read_text()


def test_repository_is_asked_in_the_background_whether_it_is_still_public(start: Any) -> None:
    gate = start(check_seconds=0.0)
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 200
    gate.upstream.allowed[PUBLIC] = {RIGHT}
    assert gate.status(blob_path(PUBLIC, CONTENT)) == 200, "it is served at once"
    wait_for("the repository to be closed", lambda: gate.status(blob_path(PUBLIC, CONTENT)) == 401, 30)


def test_client_that_shows_many_wrong_credentials_is_refused(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_REFUSALS", 3)
    gate = start()
    path = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(path, RIGHT) == 200
    assert [gate.status(path, f"Bearer guess-{number}") for number in range(5)] == [401, 401, 401, 503, 503]
    assert gate.status(path, RIGHT) == 200, "what was allowed before is served"
    gate.upstream.requests()
    assert gate.ask(path, "Bearer guess-9", **{"X-Real-IP": "10.0.0.2"}).status == 401, "others are not limited"


def test_client_that_shows_many_right_credentials_is_refused_for_a_while(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MAX_ASKED", 3)
    gate = start(MadeUpstream(allowed={PRIVATE: {f"Bearer right-{number}" for number in range(9)}}))
    path = tag_path(PRIVATE)
    assert [gate.status(path, f"Bearer right-{number}") for number in range(5)] == [200, 200, 200, 503, 503]
    assert sum(method == "HEAD" for method, _, _ in gate.upstream.requests()) == 3
    blob = blob_path(PRIVATE, SECRET_CONTENT)
    assert gate.status(blob, "Bearer right-0") == 200, "a pull that has begun goes on"
    others = {"X-Real-IP": "10.0.0.2"}
    assert gate.ask(path, "Bearer right-5", **others).status == 200, "others are not limited"
    monkeypatch.setattr(attempts, "WINDOW_SECONDS", 0.0)
    assert gate.status(path, "Bearer right-6") == 200


def test_basic_is_passed_on_with_tls_alone(start: Any) -> None:
    shown = "Basic " + base64.b64encode(b"name:password").decode()
    path = blob_path(PRIVATE, SECRET_CONTENT)
    gate = start(MadeUpstream(allowed={PRIVATE: {shown}}), demand=Demand(BASIC))
    assert gate.ask(path).headers["WWW-Authenticate"] == 'Basic realm="registry"'
    assert gate.status(path, shown) == 200
    refused = gate.ask(path, "Basic d3Jvbmc6d3Jvbmc=")
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (403, None), "the node has no other password"
    plain = start(MadeUpstream(allowed={PRIVATE: {shown}}), demand=Demand(BASIC), has_tls=False)
    assert (plain.ask(path).status, plain.ask(path).headers["WWW-Authenticate"]) == (403, None)


def test_upstream_that_hides_what_is_private_is_asked_with_credentials(start: Any) -> None:
    """Some registries answer 404 to who may not see a repository."""
    gate = start()
    hidden = "/v2/hidden/app/manifests/1"
    response = gate.ask(hidden)
    assert response.status == 401
    assert "repository:hidden/app:pull" in response.headers["WWW-Authenticate"]
    assert gate.status(hidden, RIGHT) == 404
    assert gate.status(tag_path(PUBLIC)) == 200
    assert gate.status("/v2/public/app/manifests/2") == 404, "a public repository does not have the tag"


def test_who_may_not_see_a_repository_makes_the_cache_forget_nothing(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry answers 404 to who may not see a repository, and the tag stays known to who may."""
    gate = start(check_seconds=0.0)
    assert gate.status(tag_path(PRIVATE), RIGHT) == 200
    answer = gate.upstream.source.answer

    def hide(asked: Asked) -> MadeAnswer:
        if asked.authorization is None:
            raise NotFound
        return answer(asked)

    monkeypatch.setattr(gate.upstream.source, "answer", hide)
    monkeypatch.setattr(gate.parts.pullers._rights, "authorization_for", lambda _: None)
    assert gate.status(tag_path(PRIVATE)) == 401
    assert gate.parts.store.resolve_tag(PRIVATE, "1") is not None


def test_other_replicas_are_checked_as_nodes_are(start: Any) -> None:
    gate = start()
    path, replica = blob_path(PRIVATE, SECRET_CONTENT), {REPLICA_HEADER: "x-1"}
    refused = gate.ask(path, **replica)
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (403, None)
    assert gate.status(path, WRONG, **replica) == 403
    assert gate.status(path, RIGHT, **replica) == 200
    assert gate.ask(path, method="HEAD", Accept=HOLDINGS_TYPE, **replica).status == 200
    assert gate.ask(path, method="HEAD", Accept=HOLDINGS_TYPE).status == 401, "a node asks for no holdings"


def test_what_a_puller_shows_is_never_printed() -> None:
    headers = http.client.HTTPMessage()
    headers["Authorization"] = RIGHT
    request = parse_pull_request("GET", tag_path(PRIVATE), headers, lambda *_: False)
    assert request is not None
    assert request.authorization is not None
    assert request.authorization.header == RIGHT
    assert "right" not in repr(request)
    assert "right" not in str(request.authorization)


@pytest.mark.parametrize(
    "header", ["Digest x", "Bearer", "Bearer a b", "Bearer x\tY", "Bearer ü", f"Basic {'x' * 20000}"]
)
def test_headers_that_carry_no_token_or_password_count_as_none(header: str) -> None:
    headers = http.client.HTTPMessage()
    headers["Authorization"] = header
    request = parse_pull_request("GET", tag_path(PRIVATE), headers, lambda *_: False)
    assert request is not None
    assert request.authorization is None


def test_memory_of_answers_is_bounded(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_REFUSALS", 10**9)
    gate = start()
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200
    rights = gate.parts.pullers._rights
    for number in range(5000):
        rights.note_denied(PRIVATE, parse_authorization(f"Bearer {number}"), 401)
    assert len(rights._refused) < 5000
    assert gate.status(blob_path(PRIVATE, SECRET_CONTENT), RIGHT) == 200, "refusals push nothing out that was allowed"


def parse_authorization(header: str) -> Any:
    headers = http.client.HTTPMessage()
    headers["Authorization"] = header
    request = parse_pull_request("GET", tag_path(PRIVATE), headers, lambda *_: False)
    assert request is not None
    return request.authorization


def test_damaged_record_of_public_repositories_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    record = tmp_path / "public"
    record.write_bytes(b"library/nginx\n../../etc\n\xff\xfe\nteam/app\nteam/a")
    public = PublicRepositories(record, pytest.fail)
    public.load()
    assert all(name in public for name in ("library/nginx", "team/app"))
    assert "../../etc" not in public


def test_record_of_public_repositories_is_written_as_soon_as_the_volume_takes_it(tmp_path: Path) -> None:
    logged: list[str] = []
    public = PublicRepositories(tmp_path / "volume" / "public", logged.append)
    public.note(PUBLIC)
    for _ in range(2):
        public.record()
    assert len(logged) == 1
    assert "No such file or directory" in logged[0]
    (tmp_path / "volume").mkdir()
    public.record()
    assert (tmp_path / "volume" / "public").read_text() == f"{PUBLIC}\n"
