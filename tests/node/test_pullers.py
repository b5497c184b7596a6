"""Each puller's own credentials: real releases of containerd, a cache pod with TLS, and a registry with a token server.

The cache has no credentials. Two accounts may each pull what is theirs.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from common.endpoint import Endpoint
from experiments.bare_node import Containerd
from experiments.cache_client import HANG_SECONDS
from experiments.pod_bench import CERTIFICATE, issue_certificate
from machine import tools
from machine.processes import Place, wait_for
from node.test_cache_pod_credentials import assert_nowhere
from node_program.hosts_toml import Mirror, render
from upstreams import pki
from upstreams.sites import PASSWORD, USERNAME
from upstreams.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench
    from upstreams import oci

TOKENS, BASIC = "lscr.example.com", "registry.example.com"
ONE, TWO = ("team-one", "password of one"), ("team-two", "password of two")
ACCOUNTS = {":".join(ONE): "private/one/", ":".join(TWO): "private/two/"}


def new_pod(bench: Bench, upstream: str, ordinal: int = 0, **settings: Any) -> CachePod:
    own = {"access": "Puller", "clusterIP": "10.96.0.100", "tlsSecretName": CERTIFICATE}
    cache = {"upstream": upstream, "remoteURL": f"https://{upstream}", "http": {"tls": True}}
    values = {"upstreamSettings": {upstream: own}, "cachePods": settings}
    pod = bench.new_pod(cache, values=values, ordinal=ordinal)
    issue_certificate(pod)
    return pod


def ask(pod: CachePod, path: str, shown: str = "", method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
    context = ssl.create_default_context(cafile=str(pki.authority_file()))
    connection = http.client.HTTPSConnection(urlsplit(pod.url).netloc, timeout=HANG_SECONDS, context=context)
    try:
        connection.request(method, path, headers={"Authorization": shown} if shown else {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@dataclass
class Node:
    """A containerd that finds the cache, and the upstreams by their names."""

    pod: CachePod
    containerd: Containerd
    upstream: str

    def pull(self, name: str, login: tuple[str, str] | None = None) -> str:
        """Pull an image that the node does not have, and return the error message, or "" if there is none."""
        reference = f"{self.upstream}/{name}"
        error = self.containerd.pull(reference, login).error
        self.containerd.remove(reference)
        return error

    def sent_bytes(self) -> float:
        return self.pod.metrics()['registry_proxy_pushed_bytes_total{type="blob"}']


class NamedContainerd(Containerd):
    """A containerd that has an /etc/hosts and authorities of its own."""

    hosts = ""

    @property
    def program(self) -> Path:
        hosts, script = self.folder / "hosts", self.folder / "start"
        hosts.write_text(f"127.0.0.1 localhost\n{self.hosts}")
        run = """exec unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"'"""
        environment = f"export SSL_CERT_FILE='{pki.authority_file()}'"
        script.write_text(f"""#!/bin/sh\n{environment}\n{run} '{hosts}' '{super().program}' "$@"\n""")
        script.chmod(0o755)
        return script


def start_node(bench: Bench, pod: CachePod, release: str, folder: Path) -> Node:
    tools.ensure_containerds()
    upstream = pod.cache["upstream"]
    certs = folder / "certs.d" / upstream
    certs.mkdir(parents=True)
    split = urlsplit(pod.url)
    endpoint = Endpoint(split.scheme, split.hostname or "", split.port or 0)
    mirror = Mirror(f"https://{upstream}", endpoint, "500ms", ca=str(pki.authority_file()))
    (certs / "hosts.toml").write_text(render(mirror, "space/name"))
    containerd = NamedContainerd(release, Place(folder, pod.place.cgroup), folder / "certs.d")
    containerd.hosts = bench.upstream.host_lines()
    containerd.start()
    return Node(pod, containerd, upstream)


@pytest.fixture
def accounts(bench: Bench) -> Iterator[None]:
    bench.upstream.set_accounts(ACCOUNTS)
    yield
    bench.upstream.set_accounts({})


@pytest.fixture
def tokens_pod(bench: Bench, accounts: None) -> Iterator[CachePod]:
    pod = new_pod(bench, TOKENS)
    try:
        pod.start()
        yield pod
    finally:
        for name in pod.containers:
            print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
        pod.close()


@pytest.mark.parametrize("release", ["1.7", "2.x"])
def test_each_pod_pulls_what_its_own_secret_allows(
    bench: Bench, tokens_pod: CachePod, tmp_path: Path, release: str
) -> None:
    """Right, wrong, revoked and no credentials; and the same for an image that the cache has already."""
    image = bench.push(f"public-{release}", site=TOKENS)
    private = f"private/one/app-{release}:1"
    bench.upstream.push(f"{TOKENS}/{private}", image)
    pod = tokens_pod
    node = start_node(bench, pod, release, tmp_path)
    try:
        mark, before = bench.upstream.mark(), node.sent_bytes()
        assert node.pull(private, ONE) == ""
        wait_for("the bytes to be counted", lambda: node.sent_bytes() > before, HANG_SECONDS)
        asked = bench.upstream.requests(mark)
        sent = [one for one in asked if one.is_blob and one.status == 200]
        assert sorted(one.digest for one in sent) == sorted(image.blobs), "the upstream sent each blob once"
        through = [one for one in asked if not one.is_blob]
        mark, before = bench.upstream.mark(), node.sent_bytes()
        assert node.pull(private, ONE) == ""
        wait_for("the bytes to be counted", lambda: node.sent_bytes() > before, HANG_SECONDS)
        assert not [one for one in bench.upstream.requests(mark) if one.digest in image.blobs], "it was on the volume"

        before = node.sent_bytes()
        for login in (TWO, (ONE[0], "another password"), ("stranger", "x"), None):
            assert node.pull(private, login) != "", login
        bench.upstream.set_accounts({":".join(TWO): "private/two/"})
        assert node.pull(private, ONE) != "", "these credentials were revoked"
        assert node.sent_bytes() == before

        assert node.pull(f"library/public-{release}:1") == ""
        wait_for("the bytes to be counted", lambda: node.sent_bytes() > before, HANG_SECONDS)
        checks = pod.metrics()
        assert checks['registry_cache_puller_checks_total{result="allowed"}'] >= 1
        assert_nowhere(pod, ONE[1], TWO[1], ":".join(ONE))

        other = f"private/two/app-{release}:1"
        bench.upstream.push(f"{TOKENS}/{other}", image)
        (node.containerd.certs / TOKENS / "hosts.toml").unlink()
        mark = bench.upstream.mark()
        assert node.pull(other, TWO) == ""
        direct = [one for one in bench.upstream.requests(mark) if not one.is_blob]
        print(f"{len(through)} requests for manifests and tokens through the cache, {len(direct)} without it")
        assert len(through) <= len(direct) + 3
    finally:
        node.containerd.close()
        node.containerd.place.stop(f"containerd-{release}")


def token_for(bench: Bench, repository: str, opens: str | None, seconds: int = 300) -> str:
    """Return a header with a token as the token server would issue it."""
    server = TokenServer.load(bench.upstream.folder / "tokens")
    return "Bearer " + server.token(f"repository:{repository}:pull", opens=opens, seconds=seconds)


def pull_as(pod: CachePod, repository: str, image: oci.Image, shown: str = "") -> set[int]:
    """Return the statuses of the responses for the manifest, by tag and digest, and the blobs."""
    base = f"/v2/{repository}"
    paths = [f"{base}/manifests/1", f"{base}/manifests/{image.digest}", *(f"{base}/blobs/{one}" for one in image.blobs)]
    return {ask(pod, path, shown)[0] for path in paths}


def test_nothing_private_is_served_while_a_part_of_the_pod_or_the_upstream_is_away(
    bench: Bench, tokens_pod: CachePod, faults_end: None
) -> None:
    pod = tokens_pod
    public = bench.push("open", site=TOKENS)
    image = bench.push("other", site=TOKENS, layers=2)
    bench.upstream.push(f"{TOKENS}/private/one/away:1", image)
    token = token_for(bench, "private/one/away", "private/one/")
    status, headers, _ = ask(pod, "/v2/private/one/away/manifests/1")
    assert status == 401
    challenge = headers["WWW-Authenticate"]
    assert 'realm="https://auth.example.org/token"' in challenge
    assert 'scope="repository:private/one/away:pull"' in challenge
    assert pull_as(pod, "private/one/away", image, token) == {200}
    assert pull_as(pod, "library/open", public) == {200}
    assert ask(pod, "/v2/private/one/away/manifests/1", f"Bearer {'x' * 7000}")[0] == 401, "tokens may be long"

    bench.upstream.stop()
    assert pull_as(pod, "private/one/away", image, token) == {200}, "these were checked a moment ago"
    other = token_for(bench, "private/one/away", "private/one/")
    assert pull_as(pod, "private/one/away", image, other) <= {503}
    assert pull_as(pod, "private/one/away", image) <= {401, 503}
    assert pull_as(pod, "library/open", public) == {200}
    # What is public is on the volume, and a restart forgets who showed what.
    wait_for("the record", (pod.volume_folder / "registry-cache.public").exists, HANG_SECONDS)
    pod.kill("gate")
    assert pull_as(pod, "private/one/away", image) == {503}, "distribution knows nobody"
    assert pull_as(pod, "library/open", public) == {503}
    pod.start_container("gate")
    pod.wait_until_ready()
    assert pull_as(pod, "library/open", public) == {200}
    assert pull_as(pod, "private/one/away", image, token) == {503}


def test_basic_credentials_are_passed_on(bench: Bench) -> None:
    """The registry has no token server; the cache shows it what the node shows."""
    image = bench.push("basic", site=BASIC)
    pod = new_pod(bench, BASIC, accessCheckInterval="0s")
    shown = "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    wrong = "Basic " + base64.b64encode(f"{USERNAME}:wrong".encode()).decode()
    try:
        pod.start()
        status, headers, _ = ask(pod, "/v2/library/basic/manifests/1")
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="registry"')
        assert pull_as(pod, "library/basic", image, shown) == {200}
        assert pull_as(pod, "library/basic", image, wrong) == {403}
        assert pull_as(pod, "library/basic", image) == {401}
        bench.upstream.stop()
        assert pull_as(pod, "library/basic", image, shown) == {200}, "the grace period"
        assert pull_as(pod, "library/basic", image, wrong) <= {403, 503}
        assert_nowhere(pod, PASSWORD, f"{USERNAME}:{PASSWORD}")
    finally:
        bench.upstream.resume()
        for name in pod.containers:
            print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
        pod.close()


def test_replicas_check_a_puller_each_and_fetch_a_blob_once(bench: Bench, accounts: None) -> None:
    image = bench.push("replicas", site=TOKENS, layers=6)
    bench.upstream.push(f"{TOKENS}/private/one/replicas:1", image)
    token = token_for(bench, "private/one/replicas", "private/one/")
    pods = [new_pod(bench, TOKENS, ordinal, replicas=2) for ordinal in range(2)]
    try:
        for pod in pods:
            pod.hosts += "".join(one.host_line for one in pods)
            pod.start(wait=False)
        for pod in pods:
            pod.wait_until_ready()
        mark = bench.upstream.mark()
        for pod in pods:
            assert pull_as(pod, "private/one/replicas", image, token) == {200}
            assert pull_as(pod, "private/one/replicas", image) == {401}
            assert pull_as(pod, "private/one/replicas", image, "Bearer wrong") == {401}
        sent = [one for one in bench.upstream.requests(mark) if one.is_blob and one.status == 200]
        assert sorted(one.digest for one in sent) == sorted(image.blobs)
        assert sum(pod.metrics()["registry_cache_replica_fetched_bytes_total"] for pod in pods) >= image.size
    finally:
        for pod in pods:
            print(f"--- {pod.name}", *pod.log("gate").splitlines()[-20:], sep="\n")
            pod.close()
