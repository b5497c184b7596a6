"""A pod attacks a cache while kubelets pull from it. tests/node/test_attacks.py has all attacks."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from cluster_support import cached_image, installed, pod_states, pull_at_once
from experiments.attack_bed import MEEK
from experiments.cluster_faults import UPSTREAM, pod_processes
from experiments.flood import Flood
from machine.paths import REPOSITORY
from upstreams import oci

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode
    from cluster.release import Release

pytestmark = pytest.mark.cluster

PORT = 5000
ATTACKER = "attacker"
# Ten times what such a pull takes.
PULL_SECONDS = 30.0
# What the attack has done before the nodes pull.
AHEAD_SECONDS = 3.0
FLOODS: dict[str, dict[str, Any]] = {
    "unknown-digests": {"path": "/v2/library/missing/blobs/{d}", "at_once": 300, "hangs_up": 0.0},
    "made-up-repositories": {"path": "/v2/made/up/{n}/blobs/{blob}", "at_once": 8},
    "unfinished-headers": {"path": "/v2/", "at_once": 5000, "unfinished": 31_000},
    "slow-readers": {"path": "/v2/library/slow-readers/blobs/{blob}", "at_once": 500, "max_read": 1000},
}


@pytest.fixture(scope="module")
def release(native: NativeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    path = tmp_path_factory.mktemp("attacks") / "values.yaml"
    path.write_text(json.dumps({"caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}}]}))
    with installed(native, "attacks", "--values", str(path)) as running:
        yield running


@pytest.fixture(scope="module")
def attacker(native: NativeCluster, release: Release) -> Iterator[tuple[NativeNode, int]]:
    """A pod of somebody else: its node, and a process in its network."""
    (image,) = [one["image"] for one in release.pod(UPSTREAM)["spec"]["containers"] if one["name"] == "gate"]
    sleep = ["--command", "--", "python3", "-c", "import time; time.sleep(3600)"]
    release.kubectl("run", ATTACKER, f"--image={image}", "--restart=Never", *sleep)
    try:
        release.kubectl("wait", "--for=condition=Ready", f"pod/{ATTACKER}", "--timeout=120s")
        pod = release.get("pod", ATTACKER)
        (node,) = [node for node in native.nodes if node.name == pod["spec"]["nodeName"]]
        yield node, pod_processes(node, pod)[0]
    finally:
        release.kubectl("delete", "pod", ATTACKER, "--grace-period=0", "--force")


@pytest.mark.parametrize("name", FLOODS)
def test_kubelets_pull_from_a_cache_that_is_attacked(
    native: NativeCluster, release: Release, attacker: tuple[NativeNode, int], name: str
) -> None:
    cache = release.pod(UPSTREAM)
    reference, image = cached_image(native, f"{UPSTREAM}/library/{name}:1", cache)
    before = pod_states(release)
    changes = dict(FLOODS[name])
    changes["path"] = changes["path"].replace("{blob}", oci.digest(image.layers[0]))
    flood = Flood(cache["status"]["podIP"], PORT, **changes)
    node, process = attacker
    command = ["nsenter", f"--net=/proc/{process}/ns/net", *MEEK, sys.executable, "-m", "experiments.flood"]
    node.outside.start("flood", [*command, flood.to_json()], {"PYTHONPATH": str(REPOSITORY / "ci")})
    try:
        time.sleep(AHEAD_SECONDS)
        pulled = pull_at_once(native, *((reference, one) for one in native.nodes))
        node.outside.fail_if_dead("flood")
    finally:
        node.outside.stop("flood")
    print(f"{name}: {[each.seconds for each in pulled]} s")
    assert [each.served_by for each in pulled] == ["cache"] * len(native.nodes)
    assert all(each.seconds < PULL_SECONDS for each in pulled)
    assert pod_states(release) == before, "a container was restarted, or was not ready"
