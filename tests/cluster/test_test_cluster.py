"""The test cluster itself: it leaves nothing behind, and its upstreams can have faults."""

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
from machine.links import Links
from machine.paths import cluster_folder
from upstreams import pki

if TYPE_CHECKING:
    from cluster.interface import Cluster
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster


def traces(cluster: NativeCluster, bridge: str) -> set[str]:
    """Return what a cluster has on this machine, where other clusters may start and stop at the same time."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    routes = Path("/proc/net/route").read_text().splitlines()
    names = {f"namespace {path.name}" for path in Path("/run/netns").glob(f"{cluster.prefix}-*")}
    names |= {f"cgroup {path}" for root in hierarchies() for path in root.glob(cluster.prefix)}
    names |= {f"link {each.name}" for each in Path("/sys/class/net").iterdir() if each.name.split("-")[0] == bridge}
    names |= {f"route {line}" for line in routes if line.split()[0] == bridge}
    owned = (f"/{cluster.prefix}-", f"{cluster.folder}/")
    names |= {f"mount {line}" for line in mounts if any(each in line for each in owned)}
    return names | {f"process {line}" for line in _command_lines() if any(each in line for each in owned)}


def node_paths() -> set[Path]:
    """Return the paths to which the programs of an ordinary node write."""
    return {path for place in ("etc/c*", "opt/*", "var/lib/*") for path in Path("/").glob(place)}


def test_down_leaves_nothing_behind(cluster: Cluster) -> None:
    if not isinstance(cluster, NativeCluster):
        pytest.skip("this is about the native cluster; kind deletes its containers itself")
    before = node_paths()
    second = NativeCluster(f"{cluster.name}-second")
    second.up()
    bridge = second.network.bridge
    try:
        second.set_links(Links(node_rate=10**9, upstream_rate=10**9, upstream_delay=0.01))
        kinds = {line.split()[0] for line in traces(second, bridge)}
        assert kinds == {"namespace", "cgroup", "link", "route", "mount", "process"}, "the comparison sees a cluster"
        assert second.status().startswith(f"{second.name}: up")
    finally:
        second.down()
    assert traces(second, bridge) == set()
    assert node_paths() == before
    assert not cluster_folder(second.name).exists()
    assert second.status() == f"{second.name}: down"


def test_nodes_have_no_files_of_a_container_runtime_on_this_machine(native: NativeCluster) -> None:
    for node in native.nodes:
        assert node.run("ls", "/etc/cni/net.d") == "10-pods.conflist\n"
        assert node.run("ls", "/etc/containerd").split() == ["certs.d", "config.toml"]
        assert node.run("ls", "/etc/kubernetes", "/opt/cni", check=False) == ""


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


def test_upstream_can_be_slow(cluster: Cluster, healthy_upstream: Upstream) -> None:
    reference, _ = new_image(cluster, "quay.io/tests/slow:1", layers=1, layer_bytes=4_000_000)
    healthy_upstream.slow("quay.io", 2_000_000)
    start = time.monotonic()
    pull(cluster, reference, cluster.nodes[0])
    assert time.monotonic() - start > 1.5, "4 MB at 2 MB/s"


def _status(upstream: Upstream, timeout: float = 10) -> int:
    """Return the status of the upstream that stands in for docker.io, as the cluster's programs get it."""
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
