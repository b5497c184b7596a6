"""Each pod's own pull secret: two namespaces with two accounts, and kubelets that check pull secrets.

Kubernetes 1.36 does that by default (KubeletEnsureSecretPulledImages): a pod may use an image that is on its node only
if its secret is one with which the image was pulled, or if a pull with it succeeds.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

import pytest
from cluster import interface
from cluster.pulls import new_image
from cluster_support import installed
from machine.processes import wait_for
from upstreams import pki

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node
    from cluster.release import Release
    from upstreams.upstream import Upstream

UPSTREAM = "lscr.example.com"
RELEASE = "pullers"
ACCOUNTS = {"one": ("team-one", "password of one"), "two": ("team-two", "password of two")}
RUN_SECONDS = 120.0
REFUSED = {"ErrImagePull", "ImagePullBackOff"}


def set_accounts(upstream: Upstream, *teams: str) -> None:
    upstream.set_accounts({":".join(ACCOUNTS[team]): f"private/{team}/" for team in teams})


def create(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    interface.kubectl(cluster.kubeconfig, "--namespace", namespace, "apply", "--filename", "-", text=text)


@pytest.fixture
def teams(cluster: Cluster, healthy_upstream: Upstream) -> Iterator[Upstream]:
    """Namespaces with the secrets of their accounts, called `right`, and one with the password of nobody, `wrong`."""
    set_accounts(healthy_upstream, *ACCOUNTS)
    for team, (username, password) in ACCOUNTS.items():
        interface.kubectl(cluster.kubeconfig, "create", "namespace", f"team-{team}")
        for name, secret in (("right", password), ("wrong", "another password")):
            interface.kubectl(
                cluster.kubeconfig,
                *["--namespace", f"team-{team}", "create", "secret", "docker-registry", name],
                *[f"--docker-server={UPSTREAM}", f"--docker-username={username}", f"--docker-password={secret}"],
            )
    yield healthy_upstream
    healthy_upstream.set_accounts({})
    interface.kubectl(cluster.kubeconfig, "delete", "namespace", *(f"team-{team}" for team in ACCOUNTS))


@pytest.fixture
def release(cluster: Cluster, teams: Upstream, tmp_path: Path) -> Iterator[Release]:
    """A cache with TLS and without credentials."""
    services = interface.get(cluster.kubeconfig, "--namespace", "default", "service", "kubernetes")
    address = str(ipaddress.ip_address(services["spec"]["clusterIP"]) + 90)
    certificate, key = pki.issue(tmp_path, "cache", address, common_name="cache")
    values = {
        "caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}, "http": {"tls": True}}],
        "upstreamSettings": {UPSTREAM: {"access": "Puller", "clusterIP": address, "tlsSecretName": "certificate"}},
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "certificate"},
                "stringData": {
                    "tls.crt": certificate.read_text(),
                    "tls.key": key.read_text(),
                    "ca.crt": pki.authority_file().read_text(),
                },
            }
        ],
    }
    path = tmp_path / "values.json"
    path.write_text(json.dumps(values))
    with installed(cluster, RELEASE, "--values", str(path)) as running:
        yield running


def runs(cluster: Cluster, team: str, image: str, node: Node, secret: str | None) -> bool:
    """Return whether a pod of a team runs, or is refused its image."""
    namespace, name = f"team-{team}", f"pod-{secret or 'none'}-{node.name}"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node.name,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}],
            "imagePullSecrets": [{"name": secret}] if secret else [],
        },
    }
    create(cluster, namespace, pod)

    def outcome() -> str | None:
        status = interface.get(cluster.kubeconfig, "--namespace", namespace, "pod", name)["status"]
        waiting = {each["state"].get("waiting", {}).get("reason") for each in status.get("containerStatuses", [])}
        return "runs" if status.get("phase") == "Running" else "refused" if waiting & REFUSED else None

    try:
        wait_for(f"{name} to run or to be refused", outcome, RUN_SECONDS)
        return outcome() == "runs"
    finally:
        interface.kubectl(cluster.kubeconfig, "--namespace", namespace, "delete", "pod", name, "--now")


def test_image_that_another_pod_pulled_needs_a_right_secret(
    cluster: Cluster, release: Release, teams: Upstream
) -> None:
    """Right, wrong, revoked and no credentials, where the image is on the node, and where only the cache has it."""
    first, second = cluster.nodes[:2]
    reference, image = new_image(cluster, f"{UPSTREAM}/private/one/app:1")
    mark = teams.mark()
    assert runs(cluster, "one", reference, first, "right")
    sent = [one for one in teams.requests(mark) if one.is_blob and one.body_bytes]
    nodes = {node.address for node in cluster.nodes}
    assert sent
    assert not [one for one in sent if one.client in nodes], "the cache fetched it"

    for node in (first, second):
        for team, secret in (("two", "right"), ("two", None), ("one", "wrong"), ("one", None)):
            assert not runs(cluster, team, reference, node, secret), (node.name, team, secret)
    mark = teams.mark()
    assert runs(cluster, "one", reference, second, "right")
    assert not [one for one in teams.requests(mark) if one.digest in image.blobs], "it came from the volume"

    set_accounts(teams, "two")
    second.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", reference)
    assert not runs(cluster, "one", reference, second, "right"), "the account was revoked"
    mine, _ = new_image(cluster, f"{UPSTREAM}/private/two/app:1")
    assert runs(cluster, "two", mine, second, "right")
    public, _ = new_image(cluster, f"{UPSTREAM}/library/open:1")
    assert runs(cluster, "two", public, second, None)
    log = release.kubectl("logs", release.pod(UPSTREAM)["metadata"]["name"], "--all-containers")
    assert not any(password in log for _, password in ACCOUNTS.values())
