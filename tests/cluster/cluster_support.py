"""Helpers of several cluster tests."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster import interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import Pod, Pull, new_image
from cluster.release import Release
from upstreams import oci, sites

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node


def values(path: Path, *upstreams: str) -> str:
    """Write a RegistryConfig with these upstreams, and return its path."""
    document = {
        "apiVersion": "registry.extensions.gardener.cloud/v1alpha3",
        "kind": "RegistryConfig",
        "caches": [{"upstream": name, "volume": {"size": "1Gi"}} for name in upstreams],
    }
    path.write_text(json.dumps(document))
    return str(path)


def containerd_files(node: Node, folder: str = "/etc/containerd") -> str:
    """Return the paths, types, modes and owners below a folder, and the time and digest of each file."""
    listing = f"find {folder} -printf '%p %y %m %u:%g\\n' | sort"
    files = f"find {folder} -type f -printf '%p %T@\\n' -exec sha256sum {{}} + | sort"
    return node.run("sh", "-c", f"{listing}; {files}")


@contextmanager
def installed(cluster: Cluster, name: str, *arguments: str) -> Iterator[Release]:
    """Install a release in a namespace of its own with the private upstream's Secret, and uninstall it at the end.

    Its nodes probe the caches more often than by default, so that tests wait less; tests/node uses the default.
    """
    release = Release(cluster, name=name, namespace=name)
    release.uninstall()
    release.secret("registry-example-com", sites.USERNAME, sites.PASSWORD)
    try:
        try:
            release.install("--set", "nodeProgram.probe.interval=2s", *arguments)
        except RuntimeError as error:
            error.add_note(describe(cluster))
            raise
        yield release
    finally:
        release.uninstall()


def pull_at_first(cluster: Cluster, image: str, node: Node, *, secret: str | None = None, timeout: float = 120) -> Pull:
    """Pull like pulls.pull, but fail if the first try fails, and count only the requests for this repository."""
    assert cluster.upstream is not None
    mark = cluster.upstream.mark()
    with Pod(cluster.kubeconfig, image, node, secret=secret) as pod:
        seconds = pod.wait_until_pulled(timeout)
        failed = pod.failed_tries()
        assert not failed, "\n".join(failed)
    repository = image.partition("@")[0].partition("/")[2].partition(":")[0]
    requests = [each for each in cluster.upstream.requests(mark) if f"/v2/{repository}/" in each.path]
    return Pull(image, node, seconds, requests)


def pull_at_once(cluster: Cluster, *wanted: tuple[str, Node], timeout: float = 120) -> list[Pull]:
    """Pull images on nodes at the same moment, each at the first try."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda each: pull_at_first(cluster, *each, timeout=timeout), wanted))


def by_digest(reference: str, image: oci.Image) -> str:
    """Return the reference of an image by its digest."""
    return f"{reference.rpartition(':')[0]}@{image.digest}"


def request_status(pod: Any, path: str, timeout: float = 30) -> int:
    """Return the status of a GET request to a cache pod, after reading the whole body."""
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 5000, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Accept": f"{oci.INDEX}, {oci.MANIFEST}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def fill_cache(pod: Any, reference: str, image: oci.Image) -> None:
    """Request all of an image from a cache pod, so that it is cached."""
    repository, _, tag = reference.partition("/")[2].rpartition(":")
    for path in (f"manifests/{tag}", *(f"blobs/{digest}" for digest in image.blobs)):
        assert request_status(pod, f"/v2/{repository}/{path}") == http.HTTPStatus.OK, path


def cached_image(cluster: Cluster, reference: str, *pods: Any, **more: int) -> tuple[str, oci.Image]:
    """Push a new image and have it cached by each of these pods; `more` are arguments of new_image."""
    _, image = new_image(cluster, reference, **more)
    for pod in pods:
        fill_cache(pod, reference, image)
    return reference, image


def pod_states(release: Release) -> dict[str, tuple[str, list[int], list[str]]]:
    """Return the data of cache pods that change when one is replaced, restarted, or not ready for a while."""
    pods = release.get("pods", "--selector=app.kubernetes.io/component=cache")["items"]
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            [container["restartCount"] for container in pod["status"]["containerStatuses"]],
            [each["lastTransitionTime"] for each in pod["status"]["conditions"] if each["type"] == "Ready"],
        )
        for pod in pods
    }


def describe(cluster: Cluster) -> str:
    """Return all pods, events, logs of releases, and each node's hosts.toml."""
    parts = []
    for title, arguments in (
        ("pods", ["get", "pods", "--all-namespaces", "--output=wide"]),
        ("events", ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]),
    ):
        parts.append(f"--- {title}\n{_kubectl_output(cluster, *arguments)}")
    pods = interface.get(
        cluster.kubeconfig, "pods", "--all-namespaces", "--selector=app.kubernetes.io/name=registry-cache"
    )
    for pod in pods["items"]:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        logs = _kubectl_output(cluster, "logs", name, f"--namespace={namespace}", "--all-containers", "--tail=40")
        parts.append(f"--- log of {namespace}/{name}\n{logs}")
    for node in cluster.nodes:
        script = f'for file in $(find {REGISTRY_DIRECTORY} -type f); do echo "$file"; cat $file; done'
        parts.append(f"--- {REGISTRY_DIRECTORY} on {node.name}\n{node.run('sh', '-c', script, check=False)}")
    return "\n".join(parts)


def _kubectl_output(cluster: Cluster, *arguments: str) -> str:
    try:
        return "\n".join(interface.kubectl(cluster.kubeconfig, *arguments).splitlines()[-60:])
    except RuntimeError as error:
        return str(error)
