"""A cache that serves only who shows the nodes' certificate: a real cache pod, and containerd with what is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from experiments.bare_node import RELEASES
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.tls_support import CACHE, CLIENT_SECRET, DAY, SECRET, VALUES, Authority, get, node_beside

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench
    from node.tls_support import Node

NODES_ONLY = {**VALUES, "cachePods": {"nodesOnly": True}}
# The node program and the front notice new files within seconds.
ROTATION_SECONDS = 60.0
# What nobody gets without the certificate; %s is a blob.
PATHS = ("/v2/", manifest_path("only"), "%s", "/v2/_catalog", "/incoming/x", "/blobs/x", "/-/ready/", "/-/front?x")


def write_secret(folder: Path, secret: dict[str, str]) -> Path:
    """Write the keys of a Secret as the kubelet does, and return the folder."""
    version = folder / f"..{len(list(folder.glob('..*'))) if folder.exists() else 0}"
    version.mkdir(parents=True)
    for key in ("tls.crt", "tls.key"):
        (version / key).write_text(secret[key])
    new = folder / "..data_tmp"
    new.symlink_to(version.name)
    new.rename(folder / "..data")
    for key in ("tls.crt", "tls.key"):
        (folder / key).unlink(missing_ok=True)
        (folder / key).symlink_to(f"..data/{key}")
    return folder


def pod_for_nodes(bench: Bench, authority: Authority, **more: Any) -> CachePod:
    values = {**NODES_ONLY, "cachePods": {**NODES_ONLY["cachePods"], **more.pop("settings", {})}}
    pod = bench.new_pod(CACHE, values=values, **more)
    peers = "x-registry-cache-docker-io--peers.space.svc"
    hosts = [f"x-registry-cache-docker-io-{ordinal}.{peers}" for ordinal in (0, 1)]
    pod.set_secret(SECRET, authority.secret(pod.address, hosts=hosts))
    return pod


def test_pod_without_the_certificate_gets_nothing_and_probes_and_metrics_need_none(
    bench: Bench, tmp_path: Path
) -> None:
    image = bench.push("only")
    digest = next(iter(image.blobs))
    server, clients = Authority(), Authority()
    pod = pod_for_nodes(bench, server)
    secret = clients.client_secret()
    pod.set_secret(CLIENT_SECRET, secret)
    nodes = write_secret(tmp_path / "nodes", secret)
    paths = [path.replace("%s", blob_path("only", digest)) for path in PATHS]
    try:
        pod.start()
        assert get(pod, manifest_path("only"), server.pem, nodes)[:2] == (200, image.manifest)
        for _ in range(2):
            assert get(pod, blob_path("only", digest), server.pem, nodes)[:2] == (200, image.blobs[digest])
        assert {get(pod, path, server.pem)[0] for path in paths} == {403}
        # A certificate of the cache's own authority, one of nobody's, one that has ended, and one for servers.
        for number, (wrong, authority) in enumerate(
            (
                (server.client_secret(), server),
                (Authority().client_secret(), clients),
                (clients.client_secret(-DAY), clients),
                (clients.secret("10.0.0.1"), clients),
            )
        ):
            folder = write_secret(tmp_path / f"wrong-{number}", wrong)
            assert {get(pod, path, server.pem, folder)[0] for path in paths} == {400}, authority
        assert pod.is_ready()
        assert pod.lives()
        assert pod.metrics()["registry_cache_client_certificate_expiry_timestamp_seconds"] > 0
        assert image.blobs[digest][:1000] not in get(pod, "/-/ready", server.pem)[1]
    finally:
        for name in pod.containers:
            print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
        pod.close()


def test_replicas_show_the_certificate_to_each_other(bench: Bench, tmp_path: Path) -> None:
    image = bench.push("both", layers=6)
    authority = Authority()
    secret = authority.client_secret()
    nodes = write_secret(tmp_path / "nodes", secret)
    pods = [pod_for_nodes(bench, authority, ordinal=ordinal, settings={"replicas": 2}) for ordinal in (0, 1)]
    hosts = "".join(pod.host_line for pod in pods)
    try:
        for pod in pods:
            pod.set_secret(CLIENT_SECRET, secret)
            pod.hosts += hosts
            pod.start()
        mark = bench.upstream.mark()
        for pod in pods:
            for digest, content in image.blobs.items():
                assert get(pod, blob_path("both", digest), authority.pem, nodes)[:2] == (200, content)
        requests = [one for one in bench.upstream.requests(mark) if "/blobs/" in one.path]
        assert len(requests) == len(image.blobs), "a replica fetched what the other one had"
        fetched = sum(pod.metrics()["registry_cache_replica_fetched_bytes_total"] for pod in pods)
        assert fetched == sum(map(len, image.blobs.values()))
    finally:
        for pod in pods:
            print(f"--- {pod.name}", *pod.log("gate").splitlines()[-20:], sep="\n")
            pod.close()


@pytest.mark.parametrize("release", RELEASES)
def test_containerd_pulls_with_the_certificate_that_the_node_program_installs(
    bench: Bench, tmp_path: Path, release: str
) -> None:
    """A new authority of the nodes' certificate is taken, whoever gets it first; a wrong one withdraws the cache."""
    for number in range(4):
        bench.push(f"shown-{release}-{number}")
    authority, old = Authority(), Authority()
    pod = pod_for_nodes(bench, authority)
    secret = old.client_secret()
    pod.set_secret(CLIENT_SECRET, secret)
    with node_beside(pod, release, tmp_path, authority) as node:
        node.client = write_secret(tmp_path / CLIENT_SECRET, secret)
        # An upstream that never answers: what arrives came through the cache.
        node.start_program("https://192.0.2.1")
        wait_for("the cache to be used", node.hosts.exists, HANG_SECONDS)
        (file,) = node.certs.glob(".registry-cache-*.pem")
        assert file.stat().st_mode & 0o777 == 0o600
        assert f'client = "../{file.name}"' in node.hosts.read_text()
        pull(node, f"shown-{release}-0")

        # The node has the new certificate first, and shows the earlier one until the cache knows the new authority.
        new, newest = Authority(), Authority()
        secret = new.client_secret()
        write_secret(node.client, secret)
        pull(node, f"shown-{release}-1")
        pod.set_secret(CLIENT_SECRET, secret)
        wait_for("the new certificate", lambda: shows(node, secret), ROTATION_SECONDS)
        pull(node, f"shown-{release}-2")

        # The cache has the newest authority first, and still accepts certificates of the one before.
        secret = newest.client_secret()
        pod.set_secret(CLIENT_SECRET, secret)
        wait_for("the newest authority", lambda: accepts(pod, authority, tmp_path / "new", secret), ROTATION_SECONDS)
        pull(node, f"shown-{release}-3")
        assert not node.not_ready()
        write_secret(node.client, secret)
        wait_for("the newest certificate", lambda: shows(node, secret), ROTATION_SECONDS)

        shutil.rmtree(node.client)
        wait_for("the missing Secret", lambda: f"the Secret {CLIENT_SECRET} does not exist" in node.not_ready(), 60)
        assert not node.hosts.exists()
        write_secret(node.client, Authority().client_secret())
        pod.place.stop("program")
        assert list(node.certs.iterdir()) == []
        node.start_program("https://192.0.2.1")
        wait_for(
            "the wrong certificate", lambda: "does not accept the certificate of the nodes" in node.not_ready(), 60
        )
        assert not node.hosts.exists()
        write_secret(node.client, secret)
        wait_for("the cache to be used again", node.hosts.exists, HANG_SECONDS)


@pytest.mark.parametrize("release", RELEASES)
def test_pull_without_the_certificate_goes_to_the_upstream(bench: Bench, tmp_path: Path, release: str) -> None:
    bench.push(f"direct-{release}")
    authority = Authority()
    pod = pod_for_nodes(bench, authority)
    pod.set_secret(CLIENT_SECRET, authority.client_secret())
    # Another cache stands in for the upstream, whose name containerd could not look up here.
    with bench.pod() as upstream, node_beside(pod, release, tmp_path, authority) as node:
        (node.certs / UPSTREAM).mkdir()
        (node.certs / "ca.crt").write_text(authority.pem)
        node.hosts.write_text(f'server = "{upstream.url}"\n[host."{pod.url}"]\n  ca = "../ca.crt"\n')
        result = node.containerd.pull(f"{UPSTREAM}/library/direct-{release}:1")
        assert not result.error
        assert upstream.metrics()['registry_proxy_misses_total{type="blob"}'] > 0
        assert pod.metrics()['registry_proxy_requests_total{type="blob"}'] == 0


def pull(node: Node, name: str) -> None:
    """Pull an image, through the cache."""
    before = pushed(node)
    result = node.containerd.pull(f"{UPSTREAM}/library/{name}:1")
    assert not result.error
    wait_for("the bytes to be counted", lambda: pushed(node) > before, HANG_SECONDS)


def pushed(node: Node) -> float:
    return node.pod.metrics()['registry_proxy_pushed_bytes_total{type="blob"}']


def shows(node: Node, secret: dict[str, str]) -> bool:
    """Whether a hosts.toml names a certificate, and nothing else is left."""
    files = list(node.certs.glob(".registry-cache-*.pem"))
    return len(files) == 1 and secret["tls.crt"] in files[0].read_text() and files[0].name in node.hosts.read_text()


def accepts(pod: CachePod, authority: Authority, folder: Path, secret: dict[str, str]) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return get(pod, "/v2/", authority.pem, write_secret(folder, secret))[0] == 200
