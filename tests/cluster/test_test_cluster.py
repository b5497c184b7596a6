"""The test cluster itself: it leaves nothing behind, and its upstream can be watched and made to fail."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.native import NativeCluster
from cluster.pulls import new_image, pull
from machine.cgroups import hierarchies
from machine.paths import cluster_folder
from upstreams import pki

if TYPE_CHECKING:
    from cluster.interface import Cluster
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster


def traces(cluster: NativeCluster, bridge: str) -> set[str]:
    """What a cluster has on this machine, on which others may come and go meanwhile."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    routes = Path("/proc/net/route").read_text().splitlines()
    found = {f"namespace {path.name}" for path in Path("/run/netns").glob(f"{cluster.prefix}-*")}
    found |= {f"cgroup {path}" for root in hierarchies() for path in root.glob(cluster.prefix)}
    found |= {f"link {each.name}" for each in Path("/sys/class/net").iterdir() if each.name.split("-")[0] == bridge}
    found |= {f"route {line}" for line in routes if line.split()[0] == bridge}
    owned = (f"/{cluster.prefix}-", f"{cluster.folder}/")
    found |= {f"mount {line}" for line in mounts if any(each in line for each in owned)}
    return found | {f"process {line}" for line in _command_lines() if any(each in line for each in owned)}


def of_a_node() -> set[Path]:
    """Where a node's programs write on a machine of their own."""
    return {path for place in ("etc/c*", "opt/*", "var/lib/*") for path in Path("/").glob(place)}


def test_down_leaves_nothing_behind(cluster: Cluster) -> None:
    if not isinstance(cluster, NativeCluster):
        pytest.skip("this is about the native cluster; kind deletes its containers itself")
    before = of_a_node()
    second = NativeCluster(f"{cluster.name}-second")
    second.up()
    bridge = second.network.bridge
    try:
        kinds = {line.split()[0] for line in traces(second, bridge)}
        assert kinds == {"namespace", "cgroup", "link", "route", "mount", "process"}, "the comparison sees a cluster"
        assert second.status().startswith(f"{second.name}: up")
    finally:
        second.down()
    assert traces(second, bridge) == set()
    assert of_a_node() == before
    assert not cluster_folder(second.name).exists()
    assert second.status() == f"{second.name}: down"


def test_upstream_fails_stops_and_comes_back(cluster: Cluster, healthy_upstream: Upstream) -> None:
    assert _status(healthy_upstream) == 200
    healthy_upstream.fail("docker.io", 503)
    assert _status(healthy_upstream) == 503
    healthy_upstream.stop()
    with pytest.raises(ConnectionRefusedError):
        _status(healthy_upstream)
    healthy_upstream.resume()
    assert _status(healthy_upstream) == 200
    healthy_upstream.hang()
    with pytest.raises(TimeoutError):
        _status(healthy_upstream, timeout=1)
    healthy_upstream.resume()
    assert _status(healthy_upstream) == 200


def test_upstream_is_slow_when_told(cluster: Cluster, healthy_upstream: Upstream) -> None:
    reference, _ = new_image(cluster, "quay.io/tests/slow:1", layers=1, layer_bytes=4_000_000)
    healthy_upstream.slow("quay.io", 2_000_000)
    start = time.monotonic()
    pull(cluster, reference, cluster.nodes[0])
    assert time.monotonic() - start > 1.5, "4 MB at 2 MB/s"


def _status(upstream: Upstream, timeout: float = 10) -> int:
    """What the upstream that stands for docker.io answers, asked as the cluster's programs ask it."""
    context = ssl.create_default_context(cafile=str(pki.authority_file()))
    context.check_hostname = False
    request = urllib.request.Request(f"https://{upstream.address}/v2/", headers={"Host": "registry-1.docker.io"})
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from error


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
