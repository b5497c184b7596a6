"""Caches with TLS: a real cache pod, and a real containerd that pulls through it with what the node program writes."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from experiments.bare_node import RELEASES
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.tls_support import CACHE, DAY, SECRET, VALUES, Authority, Node, get, node_beside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from experiments.pod_bench import Bench

# The node program and the front notice new files within seconds.
ROTATION_SECONDS = 60.0


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_cache_pod_serves_everything_with_tls_and_takes_a_renewed_certificate(
    bench: Bench, authority: Authority
) -> None:
    image = bench.push("tls")
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    other = Authority()
    try:
        pod.start()
        status, body, _ = get(pod, manifest_path("tls"), authority.pem)
        assert (status, body) == (200, image.manifest)
        for digest, content in image.blobs.items():
            for _ in range(2):
                assert get(pod, blob_path("tls", digest), authority.pem)[:2] == (200, content)
        assert pod.metrics()["registry_cache_certificate_expiry_timestamp_seconds"] == pytest.approx(
            time.time() + 86400, abs=600
        )
        pod.set_secret(SECRET, other.secret(pod.address))
        begun = time.monotonic()

        def uses_the_new_one() -> bool:
            try:
                return get(pod, "/v2/", other.pem)[0] == 200
            except ssl.SSLError:
                # The old one is served until then, and nothing fails.
                assert get(pod, blob_path("tls", next(iter(image.blobs))), authority.pem)[0] == 200
                return False

        wait_for("the renewed certificate", uses_the_new_one, ROTATION_SECONDS)
        print(f"{time.monotonic() - begun:.1f} s until the front served the renewed certificate")
        assert pod.is_ready()
        assert pod.lives()
        with pytest.raises(ssl.SSLError):
            get(pod, "/v2/", authority.pem)
    finally:
        for name in pod.containers:
            print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
        pod.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_old_versions_and_plain_http_get_nothing(bench: Bench, authority: Authority, version: ssl.TLSVersion) -> None:
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    try:
        pod.start()
        host, port = urlsplit(pod.url).hostname, urlsplit(pod.url).port
        plain = http.client.HTTPConnection(host or "", port, timeout=HANG_SECONDS)
        plain.request("GET", "/v2/")
        assert plain.getresponse().status == 400
        plain.close()
        context = ssl.create_default_context(cadata=authority.pem)
        context.minimum_version = context.maximum_version = version
        connection = http.client.HTTPSConnection(host or "", port, timeout=HANG_SECONDS, context=context)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
        connection.close()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        connection = http.client.HTTPSConnection(host or "", port, timeout=HANG_SECONDS, context=context)
        with pytest.raises(OSError, match=r"(?i)ssl|tls|protocol|alert|reset"):
            connection.request("GET", "/v2/")
    finally:
        pod.close()


@pytest.fixture(params=RELEASES)
def node(bench: Bench, authority: Authority, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    with node_beside(pod, request.param, tmp_path, authority) as node:
        yield node


def pulled_bytes(node: Node) -> float:
    return node.pod.metrics()['registry_proxy_pushed_bytes_total{type="blob"}']


def test_containerd_pulls_through_a_cache_whose_certificate_the_node_program_has_checked(
    node: Node, bench: Bench, authority: Authority
) -> None:
    """An expired, wrong or missing certificate withdraws the cache; a new authority is taken while both are trusted."""
    for number in range(3):
        bench.push(f"node-{node.containerd.release}-{number}")
    # An upstream that never answers: what arrives came through the cache.
    node.start_program("https://192.0.2.1")

    def pull(number: int) -> None:
        before = pulled_bytes(node)
        reference = f"{UPSTREAM}/library/node-{node.containerd.release}-{number}:1"
        pull = node.containerd.pull(reference)
        assert not pull.error
        wait_for("the bytes to be counted", lambda: pulled_bytes(node) > before, HANG_SECONDS)

    wait_for("the cache to be used", node.hosts.exists, HANG_SECONDS)
    (file,) = node.certs.glob(".registry-cache-*.crt")
    assert f'ca = "../{file.name}"' in node.hosts.read_text()
    pull(0)

    # The node has the new authority first, and trusts both.
    other = Authority()
    node.authorities.write_text(other.pem)
    wait_for("both authorities", lambda: _trusts(node, other.pem, authority.pem), HANG_SECONDS)
    pull(1)
    node.pod.set_secret(SECRET, other.secret(node.pod.address))
    time.sleep(15)
    assert node.not_ready() == ""
    assert node.hosts.exists()
    pull(2)

    for secret, problem in (
        (other.secret(node.pod.address, -DAY), "certificate has expired"),
        (other.secret("10.9.9.9"), "IP address mismatch"),
        (Authority().secret(node.pod.address), "self-signed certificate|unable to get local issuer certificate"),
    ):
        node.pod.set_secret(SECRET, secret)
        wait_for(problem, lambda wanted=problem: any(one in node.not_ready() for one in wanted.split("|")), 60)
        assert not node.hosts.exists()
        node.pod.set_secret(SECRET, other.secret(node.pod.address))
        wait_for("the cache to be used again", node.hosts.exists, 60)
    node.authorities.unlink()
    wait_for("the missing authority", lambda: f"the Secret {SECRET} does not exist" in node.not_ready(), 60)
    assert not node.hosts.exists()
    node.pod.place.stop("program")
    assert list(node.certs.iterdir()) == []


def _trusts(node: Node, *authorities: str) -> bool:
    files = list(node.certs.glob(".registry-cache-*.crt"))
    return len(files) == 1 and all(pem.strip() in files[0].read_text() for pem in authorities)
