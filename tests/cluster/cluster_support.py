"""What several cluster tests need."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster import interface
from cluster.native_node import REGISTRY_DIRECTORY
from cluster.pulls import Pod, Pull, new_image
from cluster.release import Release
from upstreams import oci, sites

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node


def values(path: Path, *upstreams: str) -> str:
    """A RegistryConfig with these upstreams, in a file."""
    document = {
        "apiVersion": "registry.extensions.gardener.cloud/v1alpha3",
        "kind": "RegistryConfig",
        "caches": [{"upstream": name, "volume": {"size": "1Gi"}} for name in upstreams],
    }
    path.write_text(json.dumps(document))
    return str(path)


def containerd_files(node: Node) -> str:
    """Everything below /etc/containerd: path, kind, mode, owner, and each file's time and digest."""
    listing = "find /etc/containerd -printf '%p %y %m %u:%g\\n' | sort"
    files = "find /etc/containerd -type f -printf '%p %T@\\n' -exec sha256sum {} + | sort"
    return node.run("sh", "-c", f"{listing}; {files}")


@contextmanager
def installed(cluster: Cluster, name: str, *arguments: str) -> Iterator[Release]:
    """A release in a namespace of its own, with the private upstream's Secret in it, taken out at the end.

    Its nodes ask the caches more often than by default, so that tests wait less; tests/node has the default.
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
    """As pulls.pull, without a try that failed, and with what was asked of the upstream for this repository alone."""
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
    """How a pod names the image by its digest."""
    return f"{reference.rpartition(':')[0]}@{image.digest}"


def ask(pod: Any, path: str, timeout: float = 30) -> int:
    """The status that a cache's pod answers to a GET, whose body is read to its end."""
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 5000, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Accept": f"{oci.INDEX}, {oci.MANIFEST}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def warm(pod: Any, reference: str, image: oci.Image) -> None:
    """Have a cache's pod hold an image, as it does when somebody pulled it."""
    repository, _, tag = reference.partition("/")[2].rpartition(":")
    for path in (f"manifests/{tag}", *(f"blobs/{digest}" for digest in image.blobs)):
        assert ask(pod, f"/v2/{repository}/{path}") == http.HTTPStatus.OK, path


def cached_image(cluster: Cluster, reference: str, *pods: Any, **more: int) -> tuple[str, oci.Image]:
    """A new image that each of a cache's pods holds; `more` is what new_image takes."""
    _, image = new_image(cluster, reference, **more)
    for pod in pods:
        warm(pod, reference, image)
    return reference, image


def unrest(release: Release) -> dict[str, tuple[str, list[int], list[str]]]:
    """What changes when a cache's pod was replaced, a container of it restarted, or when it was not ready meanwhile."""
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
    """Pods, events, logs of every release, and each node's hosts.toml."""
    parts = []
    for title, arguments in (
        ("pods", ["get", "pods", "--all-namespaces", "--output=wide"]),
        ("events", ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]),
    ):
        parts.append(f"--- {title}\n{_said(cluster, *arguments)}")
    pods = interface.get(
        cluster.kubeconfig, "pods", "--all-namespaces", "--selector=app.kubernetes.io/name=registry-cache"
    )
    for pod in pods["items"]:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        logs = _said(cluster, "logs", name, f"--namespace={namespace}", "--all-containers", "--tail=40")
        parts.append(f"--- log of {namespace}/{name}\n{logs}")
    for node in cluster.nodes:
        script = f'for file in $(find {REGISTRY_DIRECTORY} -type f); do echo "$file"; cat $file; done'
        parts.append(f"--- {REGISTRY_DIRECTORY} on {node.name}\n{node.run('sh', '-c', script, check=False)}")
    return "\n".join(parts)


def _said(cluster: Cluster, *arguments: str) -> str:
    try:
        return "\n".join(interface.kubectl(cluster.kubeconfig, *arguments).splitlines()[-60:])
    except RuntimeError as error:
        return str(error)
