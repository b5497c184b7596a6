"""`make demo`: shows on a real cluster what the caches do, and prints a table of pulls."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from cluster import images
from cluster.cli import choose
from cluster.pulls import RUN, Pull, pull, pull_secret
from cluster.release import Release
from machine import environment, tools
from machine.paths import REPOSITORY
from upstreams import oci, sites

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.interface import Cluster

EXAMPLE = REPOSITORY / "examples" / "registry-config.yaml"
GENERATED = REPOSITORY / "build" / "demo-caches"
PULL_SECRET = "pull-registry-example-com"  # noqa: S105 - a name

PUBLIC = "docker.io/library/web:1.0"
KUBERNETES = "registry.k8s.io/metrics/agent:1.0"
PRIVATE = "registry.example.com/team/shop:1.0"
LATER = "docker.io/library/web:1.1"
LAST = "docker.io/library/web:1.2"
# What `helm test` pulls by default (chart/files/helm-test-images.yaml).
TESTED = ("docker.io/library/busybox:latest", "registry.k8s.io/pause:3.10")


def main() -> int:
    """Run the demo, and return the exit code."""
    environment.clean_process()
    start = time.monotonic()
    say("1. A cluster (real etcd, API server, kubelets, containerds) and an upstream registry beside it")
    cluster = choose("demo")
    cluster.up()
    clean(cluster)
    say("2. Images in the upstream registries, under their real names")
    fill(cluster)
    say(f"3. The chart for {EXAMPLE.relative_to(REPOSITORY)}, generated and installed")
    release = install(cluster)
    say("4. Pulls by pods on both nodes, with figures from the upstream's access log")
    pulls = [
        pull(cluster, image, node, secret=PULL_SECRET if image == PRIVATE else None)
        for image in (PUBLIC, KUBERNETES, PRIVATE)
        for node in cluster.nodes
    ]
    say("5. The cache of docker.io scaled to zero, and back")
    release.take_away("docker.io")
    away = [pull(cluster, LATER, node) for node in cluster.nodes]
    release.bring_back("docker.io")
    back = [pull(cluster, LAST, node) for node in cluster.nodes]
    print()
    print(table([("", pulls), ("cache of docker.io away", away), ("cache of docker.io back", back)]))
    print(
        f"""
Done in {time.monotonic() - start:.0f} s. The cluster is still running. Look around:
  export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}
  kubectl --namespace {release.namespace} get pods,services,persistentvolumeclaims --output wide
  helm --namespace {release.namespace} test {release.name} --logs
(If you do not have kubectl and helm: PATH=$PATH:{shlex.quote(str(tools.helm().parent))})
Stop it: make demo-down"""
    )
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def clean(cluster: Cluster) -> None:
    """Remove what an earlier run of the demo has left in a cluster that is still running."""
    release(cluster).uninstall()
    for node in cluster.nodes:
        for image in (PUBLIC, KUBERNETES, PRIVATE, LATER, LAST):
            node.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", image, check=False)


def fill(cluster: Cluster) -> None:
    """Push the demo's images; each has about 30 MB in three layers, which no other image and no other run has."""
    assert cluster.upstream is not None
    for reference in (PUBLIC, KUBERNETES, PRIVATE, LATER, LAST):
        layers = [oci.random_layer(f"{RUN} {reference} {number}", 10_000_000) for number in range(3)]
        cluster.upstream.push(reference, images.busybox(*layers, label=f"{RUN} {reference}"))
    for reference in TESTED:
        cluster.upstream.push(reference, images.busybox(label=reference))


def release(cluster: Cluster) -> Release:
    return Release(cluster, name="demo-caches")


def install(cluster: Cluster) -> Release:
    """Generate the chart and install it as a user would, with a Secret for the private upstream's credentials."""
    command = [sys.executable, "-m", "registry_cache", "generate", str(EXAMPLE), "--output", str(GENERATED)]
    subprocess.run(command, check=True)
    installed = release(cluster)
    installed.secret("registry-example-com", sites.USERNAME, sites.PASSWORD)
    # The kubelet needs them too: without its cache, a private image is pulled with the pull secret of the pod.
    pull_secret(cluster, PULL_SECRET)
    installed.install(chart=GENERATED)
    return installed


def table(groups: Iterable[tuple[str, list[Pull]]]) -> str:
    """Return the table of pulls: image, node, served by, bytes from the upstream, seconds."""
    rows = [("image", "node", "served by", "from upstream", "seconds")]
    for title, pulls in groups:
        if title:
            rows.append((f"— {title}", "", "", "", ""))
        rows += [
            (one.image, one.node.name, one.served_by, f"{one.upstream_bytes / 1e6:.1f} MB", f"{one.seconds:.2f}")
            for one in pulls
        ]
    widths = [max(len(row[column]) for row in rows if row[1]) for column in range(5)]
    right = (False, False, False, True, True)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
