"""NetworkPolicies of the caches, which a real engine enforces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cluster import network_policies
from cluster.pulls import new_image
from cluster_support import installed, pull_at_first
from machine.processes import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.native import NativeCluster
    from cluster.release import Release

pytestmark = pytest.mark.cluster

OUTSIDER = "outsider"
UPSTREAM = "docker.io"
# What the policies select, besides the component.
SELECTED = ("app.kubernetes.io/name=registry-cache", "app.kubernetes.io/instance=policies")
NOTICE_SECONDS = 60.0
# Prints the status of a response, or the error.
ASK = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=3).status)
except OSError as error:
    print("timeout" if "timed out" in str(error) else repr(error))
"""


def test_pod_that_no_policy_names_reaches_no_cache_and_pulls_go_on(native: NativeCluster, tmp_path: Path) -> None:
    network = native.network
    # What a node sends to its own pods comes from the gateway of its pods' network.
    gateways = [f"{network.pods(node.number).rpartition('.')[0]}.1" for node in native.nodes]
    nodes = [node.address for node in native.nodes]
    values = {
        "caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}, "highAvailability": {"enabled": True}}],
        "networkPolicies": {"enabled": True, "nodes": [f"{address}/32" for address in (*nodes, *gateways)]},
        "helmTest": {"images": {UPSTREAM: f"library/policies-{native.nodes[0].name}:1"}},
    }
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values))
    with network_policies.enforced(native), installed(native, "policies", "--values", str(path)) as release:
        for node in native.nodes:
            reference, _ = new_image(native, f"{UPSTREAM}/library/policies-{node.name}:1")
            assert pull_at_first(native, reference, node).served_by == "upstream through the cache"
        assert "through the cache" in release.test()
        try:
            run_outsider(release)
            address = release.pod(UPSTREAM)["status"]["podIP"]
            for target in (address, release.service_address(UPSTREAM)):
                for port in (5000, 5001):
                    assert ask(release, target, port) == "timeout", (target, port)
            # Nothing else keeps the pod away.
            release.kubectl("label", "pod", OUTSIDER, "app.kubernetes.io/component=test", *SELECTED)
            wait_for("the pod to be let in", lambda: ask(release, address, 5000) == "200", NOTICE_SECONDS)
        finally:
            release.kubectl("delete", "pod", OUTSIDER, "--ignore-not-found", "--grace-period=0", "--force")


def run_outsider(release: Release) -> None:
    (image,) = [one["image"] for one in release.pod(UPSTREAM)["spec"]["containers"] if one["name"] == "gate"]
    sleep = ["--command", "--", "python3", "-c", "import time; time.sleep(3600)"]
    release.kubectl("run", OUTSIDER, f"--image={image}", "--restart=Never", *sleep)
    release.kubectl("wait", "--for=condition=Ready", f"pod/{OUTSIDER}", "--timeout=120s")


def ask(release: Release, address: str, port: int) -> str:
    path = "/v2/" if port == 5000 else "/metrics"
    return release.kubectl("exec", OUTSIDER, "--", "python3", "-c", ASK, f"http://{address}:{port}{path}").strip()
