"""The faults of the test bed's upstreams have the effects that their descriptions promise, and can be ended."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cluster import images
from machine import tools
from machine.cgroups import Cgroup
from machine.own_network import own_network
from machine.processes import Place
from upstreams import oci, pki, sites
from upstreams.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

SIZE = 1_000_000
AFTER = 300_000
HOSTS = {name: host for name, (host, _) in sites.HOSTS.items()}
SITE, TOKENS, CONTENT = "lscr.example.com", "auth.example.org", "cdn.example.org"


@dataclass(frozen=True)
class Answer:
    """A response; `error` says how its body broke off, if it did."""

    status: int
    headers: Message
    body: bytes
    error: str = ""


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """All upstreams, in a network of their own."""
    tools.ensure_registry()
    place = Place(tmp_path_factory.mktemp("upstream"), Cgroup(f"rcache-upstream-tests-{os.getpid()}"))
    place.cgroup.create()
    try:
        with own_network():
            upstream = Upstream(place, "127.0.0.1")
            upstream.start()
            yield upstream
    finally:
        place.cgroup.kill()
        place.cgroup.remove()


@pytest.fixture
def registry(registries: Upstream) -> Iterator[Upstream]:
    yield registries
    registries.resume()


@pytest.fixture(scope="module")
def image(registries: Upstream) -> oci.Image:
    """An image in two of the registries."""
    pushed = images.busybox(oci.random_layer("faults", SIZE), label="faults")
    for name in ("docker.io", SITE):
        registries.push(f"{name}/library/faults:1", pushed)
    registries.push(f"{SITE}/private/faults:1", pushed)
    return pushed


@pytest.fixture(scope="module")
def blob(image: oci.Image) -> bytes:
    return image.layers[1]


def _blob_path(content: bytes, name: str = "library/faults") -> str:
    return f"/v2/{name}/blobs/{oci.digest(content)}"


def ask(
    name: str, path: str = "/v2/", headers: dict[str, str] | None = None, timeout: float = 20.0, method: str = "GET"
) -> Answer:
    """Send a request to the upstream of a name."""
    context = ssl.create_default_context(cafile=str(pki.authority_file()))
    with (
        socket.create_connection(("127.0.0.1", 443), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=HOSTS[name]) as line,
    ):
        connection = http.client.HTTPSConnection(HOSTS[name], context=context)
        connection.sock = line
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body, error = b"", ""
        try:
            while part := response.read1(65536):
                body += part
        except (http.client.IncompleteRead, ConnectionError, TimeoutError, ssl.SSLError) as caught:
            error = type(caught).__name__
        if response.length:
            error = error or "IncompleteRead"
        response.close()
        return Answer(response.status, response.headers, body, error)


def token(names: str = "library/faults", authorization: str = "") -> dict[str, Any]:
    """Return the response of the token server to a request for a right to pull."""
    headers = {"Authorization": authorization} if authorization else {}
    answer = ask(TOKENS, f"/token?service={SITE}&scope=repository:{names}:pull", headers)
    return {"status": answer.status, **json.loads(answer.body)}


def bearer(name: str = "library/faults") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(name)['token']}"}


def test_bodies_break_off(registry: Upstream, blob: bytes) -> None:
    registry.break_off("docker.io", AFTER)
    mark = registry.mark()
    first = ask("docker.io", _blob_path(blob))
    assert (first.status, first.error) == (200, "IncompleteRead")
    assert first.headers["Content-Length"] == str(len(blob))
    assert first.body == blob[:AFTER]
    second = ask("docker.io", _blob_path(blob), {"Range": f"bytes={AFTER}-"})
    assert (second.status, second.body) == (206, blob[AFTER : 2 * AFTER])
    asked = registry.requests(mark)
    assert [request.body_bytes for request in asked] == [AFTER, AFTER]
    assert [request.range for request in asked] == ["", f"bytes={AFTER}-"]
    assert ask("docker.io", "/v2/library/faults/manifests/1").error == "", "only blobs"


def test_bodies_break_off_without_ranges(registry: Upstream, blob: bytes) -> None:
    registry.break_off("docker.io", AFTER, ranges=False)
    answer = ask("docker.io", _blob_path(blob), {"Range": f"bytes={AFTER}-"})
    assert (answer.status, answer.body, answer.error) == (200, blob[:AFTER], "IncompleteRead")
    assert "Accept-Ranges" not in answer.headers


def test_bodies_stall(registry: Upstream, blob: bytes) -> None:
    registry.stall("docker.io", AFTER)
    answer = ask("docker.io", _blob_path(blob), timeout=1)
    assert (answer.status, answer.body, answer.error) == (200, blob[:AFTER], "TimeoutError")


def test_bodies_without_a_length(registry: Upstream, blob: bytes) -> None:
    registry.no_length("docker.io")
    mark = registry.mark()
    answer = ask("docker.io", _blob_path(blob))
    assert "Content-Length" not in answer.headers
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert (answer.status, answer.body, answer.error) == (200, blob, "")
    assert [request.body_bytes for request in registry.requests(mark)] == [len(blob)]


def test_bodies_without_a_length_break_off(registry: Upstream, blob: bytes) -> None:
    registry.no_length("docker.io")
    registry.break_off("docker.io", AFTER)
    answer = ask("docker.io", _blob_path(blob))
    assert (answer.body, answer.error) == (blob[:AFTER], "IncompleteRead")


def test_bodies_are_corrupt(registry: Upstream, blob: bytes) -> None:
    registry.corrupt("docker.io")
    answer = ask("docker.io", _blob_path(blob))
    assert answer.body[1:] == blob[1:]
    assert answer.body[0] != blob[0]


@pytest.mark.parametrize("status", [401, 403])
def test_every_request_is_refused(registry: Upstream, status: int) -> None:
    registry.deny("docker.io", status)
    answer = ask("docker.io")
    assert answer.status == status
    assert json.loads(answer.body)["errors"][0]["code"] == {401: "UNAUTHORIZED", 403: "DENIED"}[status]
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)
    assert ask("quay.io").status == 200


def test_401_names_the_token_server(registry: Upstream) -> None:
    real = ask(SITE).headers["WWW-Authenticate"]
    registry.deny(SITE, 401)
    assert ask(SITE, headers=bearer()).headers["WWW-Authenticate"] == real


def test_too_many_requests(registry: Upstream) -> None:
    registry.too_many_requests("docker.io", 7)
    answer = ask("docker.io")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert json.loads(answer.body)["errors"][0]["code"] == "TOOMANYREQUESTS"


def test_expired_certificate(registry: Upstream) -> None:
    registry.expire("docker.io")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        ask("docker.io")
    assert ask("quay.io").status == 200
    registry.resume()
    assert ask("docker.io").status == 200


def test_one_upstream_is_silent(registry: Upstream) -> None:
    registry.silent("docker.io")
    with pytest.raises(TimeoutError):
        ask("docker.io", timeout=0.5)
    assert ask("quay.io").status == 200
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, "docker.io")
        time.sleep(0.3)
        assert not waiting.done()
        registry.resume()
        with pytest.raises(http.client.RemoteDisconnected):
            waiting.result(timeout=5)
    assert ask("docker.io").status == 200


def test_all_responses_share_a_bandwidth(registry: Upstream, blob: bytes) -> None:
    rate = 2_000_000
    registry.bandwidth("docker.io", rate)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask("docker.io", _blob_path(blob)), range(4)))
    seconds = time.monotonic() - begun
    assert [answer.body == blob for answer in answers] == [True] * 4
    assert 4 * len(blob) / rate == pytest.approx(seconds, rel=0.25)


def test_tokens_give_access_to_blobs_at_another_host(registry: Upstream, blob: bytes, image: oci.Image) -> None:
    mark = registry.mark()
    refused = ask(SITE, _blob_path(blob))
    assert refused.status == 401
    challenge = f'Bearer realm="https://{TOKENS}/token",service="{SITE}",scope="repository:library/faults:pull"'
    assert refused.headers["WWW-Authenticate"] == challenge
    login = bearer()
    manifest = ask(SITE, "/v2/library/faults/manifests/1", {**login, "Accept": oci.MANIFEST})
    assert (manifest.status, manifest.body) == (200, image.manifest)
    sent = ask(SITE, _blob_path(blob), login)
    assert sent.status == 307
    place = sent.headers["Location"]
    assert place.startswith(f"https://{CONTENT}/")
    path = place.removeprefix(f"https://{CONTENT}")
    assert ask(CONTENT, path, login).status == 400, "as S3 refuses a login that it did not ask for"
    assert ask(CONTENT, path).body == blob
    assert ask(CONTENT, path, {"Range": f"bytes={AFTER}-"}).body == blob[AFTER:]
    names = [(request.upstream, request.status, request.scheme) for request in registry.requests(mark)]
    assert names == [
        (SITE, 401, ""),
        (TOKENS, 200, ""),
        (SITE, 200, "Bearer"),
        (SITE, 307, "Bearer"),
        (CONTENT, 400, "Bearer"),
        (CONTENT, 200, ""),
        (CONTENT, 206, ""),
    ]


def test_private_names_need_credentials(registry: Upstream, blob: bytes) -> None:
    path = _blob_path(blob, "private/faults")
    assert ask(SITE, path, bearer("private/faults")).status == 401
    assert token("private/faults", "Basic d3Jvbmc6d3Jvbmc=")["status"] == 401
    login = base64.b64encode(f"{sites.USERNAME}:{sites.PASSWORD}".encode()).decode()
    good = token("private/faults", f"Basic {login}")["token"]
    assert ask(SITE, path, {"Authorization": f"Bearer {good}"}).status == 307


def test_tokens_expire(registry: Upstream, blob: bytes) -> None:
    registry.tokens_last(TOKENS, 2)
    answer = token()
    assert answer["expires_in"] == 2
    login = {"Authorization": f"Bearer {answer['token']}"}
    assert ask(SITE, _blob_path(blob), login).status == 307
    time.sleep(3)
    assert ask(SITE, _blob_path(blob), login).status == 401


def test_content_of_another_host_breaks_off(registry: Upstream, blob: bytes) -> None:
    registry.break_off(CONTENT, AFTER)
    place = ask(SITE, _blob_path(blob), bearer()).headers["Location"].removeprefix(f"https://{CONTENT}")
    answer = ask(CONTENT, place)
    assert (answer.body, answer.error) == (blob[:AFTER], "IncompleteRead")


def test_log_has_the_bytes_that_were_sent_before_the_client_left(registry: Upstream, blob: bytes) -> None:
    registry.bandwidth("docker.io", 400_000)
    mark = registry.mark()
    with suppress(TimeoutError):
        ask("docker.io", _blob_path(blob), timeout=5)
    context = ssl.create_default_context(cafile=str(pki.authority_file()))
    with (
        socket.create_connection(("127.0.0.1", 443)) as plain,
        context.wrap_socket(plain, server_hostname=HOSTS["docker.io"]) as line,
    ):
        line.sendall(f"GET {_blob_path(blob)} HTTP/1.1\r\nHost: {HOSTS['docker.io']}\r\n\r\n".encode())
        got = 0
        while got < AFTER:
            got += len(line.recv(65536))
    registry.resume()
    whole, part = registry.requests(mark)
    assert whole.body_bytes == len(blob)
    assert AFTER - 1000 < part.body_bytes < 2 * AFTER


def test_unknown_name_is_refused(registry: Upstream) -> None:
    with pytest.raises(ValueError, match=r"nothing\.example\.com is not an upstream of"):
        registry.fail("nothing.example.com", 500)


def test_pushed_bytes_are_served(registry: Upstream, blob: bytes) -> None:
    assert hashlib.sha256(ask("docker.io", _blob_path(blob)).body).hexdigest() == oci.digest(blob).partition(":")[2]
