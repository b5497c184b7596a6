"""Caches with TLS: what speaks TLS then, and that caches without it stay as they are."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from registry_cache.certificates import make_secrets
from registry_cache.model.values import Values
from rendering import RenderingFailed, by_kind, render

if TYPE_CHECKING:
    from pathlib import Path

    from registry_cache.certificates import Secret

SETTINGS: dict[str, dict[str, Any]] = {"docker.io": {"clusterIP": "10.96.0.20"}}
NODES_ONLY = {"docker.io": {**SETTINGS["docker.io"], "nodesOnly": True}}
CERT_MANAGER = ("Certificate", "Issuer")
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
    objects = render(written(tmp_path, {**VALUES, "upstreamSettings": NODES_ONLY}))
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


def certificates(folder: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    objects = render(written(folder, values))
    return {f"{one['kind']}/{one['metadata']['name']}": one["spec"] for one in objects if one["kind"] in CERT_MANAGER}


def test_cert_manager_makes_an_authority_and_what_the_command_would_print(tmp_path: Path) -> None:
    """The objects are checked against cert-manager's own definitions, as all objects that these tests render."""
    settings = {
        "docker.io": {**SETTINGS["docker.io"], "nodesOnly": True},
        "quay.io": {"clusterIP": "fd00::20", "tlsSecretName": "own"},
    }
    caches = [VALUES["caches"][0], {"upstream": "quay.io", "http": {"tls": True}}, {"upstream": "ghcr.io"}]
    values = {"caches": caches, "upstreamSettings": settings}
    made = certificates(tmp_path, {**values, "certManager": {"enabled": True}})
    assert set(made) == {
        *("Issuer/x-registry-cache-selfsigned", "Issuer/x-registry-cache-ca", "Certificate/x-registry-cache-ca"),
        *("Certificate/x-registry-cache-docker-io", "Certificate/x-registry-cache-quay-io"),
        "Certificate/x-registry-cache-client",
    }
    assert made["Issuer/x-registry-cache-ca"] == {"ca": {"secretName": "x-registry-cache-ca"}}
    authority = made["Certificate/x-registry-cache-ca"]
    assert (authority["isCA"], authority["issuerRef"]["name"]) == (True, "x-registry-cache-selfsigned")
    secrets = make_secrets(Values.model_validate(values), "x", "space", days=1)
    printed = {secret.name: x509.load_pem_x509_certificate(pem_of(secret)) for secret in secrets}
    assert set(printed) == {spec["secretName"] for name, spec in made.items() if name.startswith("Certificate/")}
    for name in ("docker-io", "quay-io"):
        spec = made[f"Certificate/x-registry-cache-{name}"]
        names = printed[spec["secretName"]].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert spec["dnsNames"] == names.get_values_for_type(x509.DNSName)
        assert spec["ipAddresses"] == list(map(str, names.get_values_for_type(x509.IPAddress)))
        assert (spec["usages"][-1], spec["issuerRef"]["name"]) == ("server auth", "x-registry-cache-ca")
    assert made["Certificate/x-registry-cache-client"]["usages"][-1] == "client auth"


def test_given_issuer_issues_for_caches_and_never_for_nodes(tmp_path: Path) -> None:
    reference = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    values = {**VALUES, "certManager": {"enabled": True, "issuerRef": reference}}
    made = certificates(tmp_path, values)
    assert set(made) == {"Certificate/x-registry-cache-docker-io"}
    assert made["Certificate/x-registry-cache-docker-io"]["issuerRef"] == reference
    (tmp_path / "only").mkdir()
    made = certificates(tmp_path / "only", {**values, "upstreamSettings": NODES_ONLY})
    issuers = {name: spec["issuerRef"]["name"] for name, spec in made.items() if "issuerRef" in spec}
    assert issuers == {
        "Certificate/x-registry-cache-docker-io": "company",
        "Certificate/x-registry-cache-ca": "x-registry-cache-selfsigned",
        "Certificate/x-registry-cache-client": "x-registry-cache-ca",
    }


def test_caches_without_tls_get_nothing_from_cert_manager(tmp_path: Path) -> None:
    assert certificates(tmp_path, {"caches": [{"upstream": "quay.io"}], "certManager": {"enabled": True}}) == {}


def pem_of(secret: Secret) -> bytes:
    return base64.b64decode(secret.manifest["data"]["tls.crt"])
