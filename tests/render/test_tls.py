"""Caches with TLS: what speaks TLS then, and that caches without it stay as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rendering import RenderingFailed, by_kind, render

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"docker.io": {"clusterIP": "10.96.0.20"}}
VALUES: dict[str, Any] = {
    "caches": [
        {"upstream": "docker.io", "http": {"tls": True}, "highAvailability": {"enabled": True}},
        {"upstream": "quay.io"},
    ],
    "upstreamSettings": SETTINGS,
    "monitoring": {"podMonitor": {"enabled": True}},
}
SECRET = "x-registry-cache-docker-io-tls"
CLIENT_SECRET = "x-registry-cache-client"
AUTHORITY = f"/etc/registry-cache-authorities/{SECRET}.crt"


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def data_of(objects: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [json.loads(one["data"][key]) for one in by_kind(objects, "ConfigMap") if key in one.get("data", {})]


def test_everything_that_reaches_a_cache_with_tls_uses_it(tmp_path: Path) -> None:
    objects = render(written(tmp_path, VALUES))
    with_tls, without = by_kind(objects, "StatefulSet")
    volumes = {one["name"]: one for one in with_tls["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"] == {"secretName": SECRET, "defaultMode": 0o440}
    probes = {
        (container["name"], container[kind]["httpGet"].get("scheme"))
        for container in with_tls["spec"]["template"]["spec"]["containers"]
        for kind in ("readinessProbe", "livenessProbe")
        if kind in container
    }
    assert probes == {("front", "HTTPS"), ("gate", "HTTPS"), ("distribution", "HTTPS")}
    assert with_tls["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scheme"] == "https"
    assert "HTTPS" not in yaml.safe_dump(without)
    assert "tls" not in [one["name"] for one in without["spec"]["template"]["spec"]["volumes"]]
    (node,) = data_of(objects, "node.json")
    endpoints = {cache["upstream"]: cache["endpoint"] for cache in node["caches"]}
    assert endpoints["docker.io"] == {"scheme": "https", "host": "10.96.0.20", "port": 5000, "ca": AUTHORITY}
    assert endpoints["quay.io"]["scheme"] == "http"
    (daemon_set,) = by_kind(objects, "DaemonSet")
    (projected,) = [one for one in daemon_set["spec"]["template"]["spec"]["volumes"] if one["name"] == "authorities"]
    (source,) = projected["projected"]["sources"]
    # The nodes get no private key.
    assert source["secret"]["items"] == [{"key": "ca.crt", "path": f"{SECRET}.crt"}]
    gates = {one["upstream"]: one for one in data_of(objects, "cache.json")}
    assert {one["scheme"] for one in gates["docker.io"]["replicas"]} == {"https"}
    assert gates["docker.io"]["certificates"] == "/etc/registry-cache/tls"
    assert "certificates" not in gates["quay.io"]
    (tests,) = data_of(objects, "caches.json")
    assert {one["scheme"] for one in tests["caches"][0]["metrics"]} == {"https"}
    assert tests["caches"][0]["endpoint"]["ca"] == AUTHORITY


def test_tls_without_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderingFailed, match=r'http\.tls: the certificate needs .*upstreamSettings\["docker.io"\]'):
        render(written(tmp_path, {**VALUES, "upstreamSettings": {}}))


def test_only_nodes_and_replicas_have_the_certificate_that_a_cache_with_nodes_only_asks_for(tmp_path: Path) -> None:
    settings = {"docker.io": {**SETTINGS["docker.io"], "nodesOnly": True}}
    objects = render(written(tmp_path, {**VALUES, "upstreamSettings": settings}))
    with_tls, without = by_kind(objects, "StatefulSet")
    pod = with_tls["spec"]["template"]["spec"]
    (client,) = [one["secret"] for one in pod["volumes"] if one["name"] == "client"]
    keys = [item["key"] for item in client["items"]]
    assert (client["secretName"], keys) == (CLIENT_SECRET, ["ca.crt", "tls.crt", "tls.key"])
    front, _, distribution = pod["containers"]
    assert "nodes-only.conf" in front["command"][-1]
    assert "client" not in [mount["name"] for mount in distribution["volumeMounts"]]
    assert "nodes-only.conf" not in without["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    (node,) = data_of(objects, "node.json")
    endpoints = {cache["upstream"]: cache["endpoint"] for cache in node["caches"]}
    assert endpoints["docker.io"]["client"] == f"/etc/registry-cache-clients/{CLIENT_SECRET}"
    assert "client" not in endpoints["quay.io"]
    (daemon_set,) = by_kind(objects, "DaemonSet")
    (mount,) = [
        one
        for one in daemon_set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        if one["name"] == "client"
    ]
    assert mount == {"name": "client", "mountPath": endpoints["docker.io"]["client"], "readOnly": True}
    (gate, _) = data_of(objects, "cache.json")
    assert {one["client"] for one in gate["replicas"]} == {"/etc/registry-cache/client"}
    (tests,) = data_of(objects, "caches.json")
    assert tests["caches"][0]["endpoint"]["client"] == endpoints["docker.io"]["client"]


def test_single_replica_has_no_key_of_the_nodes(tmp_path: Path) -> None:
    caches = [{"upstream": "docker.io", "http": {"tls": True}}]
    more = {"nodesOnly": True, "clientSecretName": "own"}
    objects = render(written(tmp_path, {"caches": caches, "upstreamSettings": SETTINGS, "cachePods": more}))
    (stateful_set,) = by_kind(objects, "StatefulSet")
    (client,) = [
        one["secret"] for one in stateful_set["spec"]["template"]["spec"]["volumes"] if one["name"] == "client"
    ]
    assert client["secretName"] == "own"
    assert [item["key"] for item in client["items"]] == ["ca.crt", "tls.crt"]


def test_cache_without_tls_cannot_serve_only_nodes(tmp_path: Path) -> None:
    with pytest.raises(RenderingFailed, match=r"caches\[1\]\.http\.tls: a cache that serves only nodes needs TLS"):
        render(written(tmp_path, {**VALUES, "cachePods": {"nodesOnly": True}}))
