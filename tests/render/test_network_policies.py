"""The NetworkPolicies of the caches: none by default, and then exactly the connections that a cache needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rendering import RenderingFailed, by_kind, render

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "caches": [
        {"upstream": "docker.io", "highAvailability": {"enabled": True}},
        {
            "upstream": "registry.example.com:5000",
            "remoteURL": "http://registry.example.com",
            "proxy": {"httpProxy": "http://proxy:3128"},
        },
        {"upstream": "registry.example.com:5001"},
    ],
    "networkPolicies": {"enabled": True, "nodes": ["10.0.0.0/16", "fd00::/64"]},
}


def policies(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return [one["spec"] for one in by_kind(render(path), "NetworkPolicy")]


def ports_of(rule: dict[str, Any]) -> set[int]:
    return {port["port"] for port in rule["ports"] if port["protocol"] == "TCP"}


def test_each_cache_is_reached_by_nodes_monitoring_helm_test_and_its_replicas_alone(tmp_path: Path) -> None:
    several, single, _ = policies(tmp_path, VALUES)
    assert several["policyTypes"] == single["policyTypes"] == ["Ingress", "Egress"]
    inside, monitoring, replicas = several["ingress"]
    blocks = [one["ipBlock"]["cidr"] for one in inside["from"] if "ipBlock" in one]
    assert (blocks, ports_of(inside)) == (["10.0.0.0/16", "fd00::/64"], {5000, 5001})
    (test,) = [one["podSelector"]["matchLabels"] for one in inside["from"] if "podSelector" in one]
    assert test["app.kubernetes.io/component"] == "test"
    namespaces = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert (monitoring["from"], ports_of(monitoring)) == (namespaces, {5001})
    assert (replicas["from"], ports_of(replicas)) == ([{"podSelector": several["podSelector"]}], {5000})
    assert several["podSelector"]["matchLabels"]["app"] == "x-registry-cache-docker-io"
    assert single["ingress"] == several["ingress"][:2]


def test_caches_reach_dns_and_the_ports_of_their_upstreams_and_proxies(tmp_path: Path) -> None:
    several, with_proxy, with_port = policies(tmp_path, VALUES)
    dns, upstream, replicas = several["egress"]
    assert {(one["protocol"], one["port"]) for one in dns["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353, 8053)
    }
    assert "to" not in dns
    assert upstream["to"][0]["ipBlock"] == {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}
    assert ports_of(upstream) == {443}
    assert (replicas["to"], ports_of(replicas)) == ([{"podSelector": several["podSelector"]}], {5000})
    assert [ports_of(one["egress"][1]) for one in (with_proxy, with_port)] == [{443, 80, 3128}, {443, 5001}]


def test_policies_that_no_node_would_pass_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderingFailed, match=r"networkPolicies\.nodes: is empty, so no node could reach a cache"):
        policies(tmp_path, {**VALUES, "networkPolicies": {"enabled": True}})


def test_there_are_no_policies_by_default(tmp_path: Path) -> None:
    assert policies(tmp_path, {"caches": VALUES["caches"]}) == []
