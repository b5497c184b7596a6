"""What several cluster tests need."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from testcluster import interface, upstream
from testcluster.native import REGISTRY_DIRECTORY
from testcluster.release import Release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testcluster.interface import Cluster, Node


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
    release.secret("registry-example-com", upstream.USERNAME, upstream.PASSWORD)
    try:
        try:
            release.install("--set", "node.probe.interval=2s", *arguments)
        except RuntimeError as error:
            error.add_note(describe(cluster))
            raise
        yield release
    finally:
        release.uninstall()


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
