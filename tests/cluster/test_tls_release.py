"""TLS and nodesOnly on a running release, with certificates of a real cert-manager."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cluster import cert_manager
from cluster.native_node import REGISTRY_DIRECTORY
from cluster.pulls import new_image
from cluster_support import installed, pull_at_first
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode
    from cluster.release import Release

pytestmark = pytest.mark.cluster

UPSTREAM = "docker.io"
NAME = "secure"
CACHE = f"{NAME}-registry-cache-docker-io"
CLIENT = f"{NAME}-registry-cache-client"
# The kubelet brings a changed Secret into the pods within a minute or so.
ROTATION_SECONDS = 120.0
# Ten times the time between two probes of the node program.
NOTICE_SECONDS = 150.0


def test_tls_is_switched_on_renewed_and_switched_off_without_a_failed_pull(
    native: NativeCluster, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"

    def write(*, tls: bool, address: str = "") -> str:
        settings = {"clusterIP": address, "nodesOnly": tls} if address else {}
        cache = {"upstream": UPSTREAM, "volume": {"size": "1Gi"}, "http": {"tls": tls}}
        values = {"caches": [cache], "upstreamSettings": {UPSTREAM: settings}, "certManager": {"enabled": True}}
        values["helmTest"] = {"images": {UPSTREAM: f"library/secure-{native.nodes[0].name}:1"}}
        path.write_text(json.dumps(values))
        return str(path)

    with cert_manager.running(native), installed(native, NAME, "--values", write(tls=False)) as release:
        address = release.service_address(UPSTREAM)
        probe = ["--set", "nodeProgram.probe.interval=2s", "--set", "nodeProgram.probe.maxBackoff=0s"]
        with pulls_go_on(native):
            release.upgrade("--values", write(tls=True, address=address), *probe)
            for node in native.nodes:
                used = f'[host."https://{address}:5000"]'
                wait_for(f"TLS on {node.name}", partial(names, node, used), NOTICE_SECONDS)
        for node in native.nodes:
            reference, _ = new_image(native, f"{UPSTREAM}/library/secure-{node.name}:1")
            assert pull_at_first(native, reference, node).served_by == "upstream through the cache"
        assert "through the cache" in release.test()

        with pulls_go_on(native):
            for certificate in (CACHE, CLIENT):
                secret = f"{CACHE}-tls" if certificate == CACHE else CLIENT
                before = certificate_of(release, secret)
                cert_manager.renew(native, release.namespace, certificate)
                wait_for("the certificate", lambda old=before, of=secret: certificate_of(release, of) != old, 60)
            begun = time.monotonic()
            served, shown = certificate_of(release, f"{CACHE}-tls"), certificate_of(release, CLIENT)
            wait_for("the cache's certificate", lambda: serves(native.nodes[0], address) in served, ROTATION_SECONDS)
            for node in native.nodes:
                wait_for(f"the one of {node.name}", partial(shows, node, shown), ROTATION_SECONDS)
            seconds = time.monotonic() - begun
            print(f"{seconds:.0f} s until all used the renewed certificates")
            assert seconds < ROTATION_SECONDS

        with pulls_go_on(native):
            release.upgrade("--values", write(tls=False, address=address), *probe)
            for node in native.nodes:
                used = f'[host."http://{address}:5000"]'
                wait_for(f"HTTP on {node.name}", partial(names, node, used), NOTICE_SECONDS)
        for node in native.nodes:
            # Nothing with a key is left where nothing uses it.
            assert files(node, "pem") == ""


@contextmanager
def pulls_go_on(cluster: NativeCluster) -> Iterator[None]:
    """Pull a new image on each node again and again meanwhile, and check that no try fails."""
    stop = threading.Event()
    counts: list[int] = []
    problems: list[BaseException] = []

    def run(node: NativeNode) -> None:
        count = 0
        try:
            while not stop.is_set() or not count:
                reference, _ = new_image(
                    cluster, f"{UPSTREAM}/library/on-{node.name}-{time.monotonic_ns()}:1", layers=1
                )
                pull_at_first(cluster, reference, node)
                count += 1
        except BaseException as error:  # noqa: BLE001 - reported below
            problems.append(error)
        counts.append(count)

    threads = [threading.Thread(target=run, args=(node,)) for node in cluster.nodes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{sum(counts)} pulls meanwhile")
    if problems:
        raise problems[0]


def names(node: NativeNode, text: str) -> bool:
    return text in node.run("cat", f"{REGISTRY_DIRECTORY}/{UPSTREAM}/hosts.toml", check=False)


def files(node: NativeNode, ending: str) -> str:
    """Return the content of the files with certificates beside the folders of the registry directory."""
    return node.run("sh", "-c", f"cat {REGISTRY_DIRECTORY}/.registry-cache-*.{ending} 2> /dev/null", check=False)


def shows(node: NativeNode, certificate: str) -> bool:
    """Whether the file with the node's certificate has this one, and not that of before."""
    return files(node, "pem").startswith(certificate.strip())


def serves(node: NativeNode, address: str) -> str:
    """Return the certificate that the cache serves, as PEM."""
    script = f"import ssl; print(ssl.get_server_certificate(('{address}', 5000)))"
    return node.run("python3", "-c", script).strip()


def certificate_of(release: Release, secret: str) -> str:
    found: Any = release.get("secret", secret)
    return base64.b64decode(found["data"]["tls.crt"]).decode()
