"""The objects for the operators of Prometheus and Grafana are valid, and match only the pods of the chart."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from machine.paths import CHART
from registry_cache.rules import rules
from rendering import SCENARIOS, Object, by_kind, custom_schemas, render

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = CHART / "ci" / "everything-values.yaml"
CUSTOM = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "GrafanaDashboard"}


def monitored(folder: Path, **more: Any) -> list[Object]:
    """The objects that are rendered with the PodMonitors and the rules."""
    path = folder / "values.yaml"
    on = {"enabled": True}
    document = {"caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}], **more}
    path.write_text(json.dumps({**document, "monitoring": {"podMonitor": on, "prometheusRule": on}}))
    render.cache_clear()
    return render(path)


def pods(objects: list[Object]) -> dict[str, Object]:
    """The template of each kind of pod, by name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in by_kind(objects, "StatefulSet") + by_kind(objects, "DaemonSet")
    }


@pytest.mark.parametrize("values", SCENARIOS, ids=lambda path: path.name)
def test_objects_that_need_an_operator_are_off_by_default(values: Path) -> None:
    assert ({found["kind"] for found in render(values)} & CUSTOM == CUSTOM) is (values == EVERYTHING)
    assert (not {found["kind"] for found in render(values)} & CUSTOM) is (values != EVERYTHING)


def test_definitions_refuse_unknown_fields() -> None:
    """Otherwise the other tests would check nothing."""
    for found in render(EVERYTHING):
        if found["kind"] in CUSTOM:
            validator = jsonschema.Draft202012Validator(custom_schemas()[found["apiVersion"], found["kind"]])
            assert validator.is_valid(found)
            assert not validator.is_valid({**found, "spec": {**found["spec"], "unknown": 1}})


def test_podmonitors_find_the_metrics_of_each_pod_once(tmp_path: Path) -> None:
    objects = monitored(tmp_path)
    found = []
    for monitor in by_kind(objects, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        for name, template in pods(objects).items():
            if selector <= template["metadata"]["labels"].items():
                found.append(name)
                assert template["metadata"]["annotations"]["prometheus.io/path"] == endpoint["path"]
                assert template["metadata"]["annotations"]["prometheus.io/port"] in port_of(endpoint, template)
        assert monitor["spec"]["jobLabel"] in template["metadata"]["labels"]
    assert sorted(found) == sorted(pods(objects))


def port_of(endpoint: Object, template: Object) -> list[str]:
    """Return the port that is scraped, as a list with one entry."""
    if "port" in endpoint:
        ports = [port for container in template["spec"]["containers"] for port in container.get("ports", ())]
        return [str(port["containerPort"]) for port in ports if port["name"] == endpoint["port"]]
    return [address("10.0.0.1", endpoint).rpartition(":")[2]]


def address(pod: str, endpoint: Object) -> str:
    """What Prometheus makes of a pod's address; its expressions match the whole (prometheus, "relabel_config")."""
    made = ""
    for rule in endpoint["relabelings"]:
        if rule.get("targetLabel") == "__address__" and (found := re.fullmatch(rule["regex"], pod)):
            made = found.expand(re.sub(r"\$\{(\d)\}", r"\\\1", rule["replacement"]))
    return made


def test_nodes_are_scraped_at_their_port_with_ipv4_and_ipv6(tmp_path: Path) -> None:
    objects = monitored(tmp_path, nodeProgram={"metrics": {"port": 1234}})
    (monitor,) = [one for one in by_kind(objects, "PodMonitor") if one["metadata"]["name"].endswith("-node")]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert address("10.1.2.3", endpoint) == "10.1.2.3:1234"
    assert address("fd00::7", endpoint) == "[fd00::7]:1234"


@pytest.mark.parametrize("node", [{"enabled": False}, {"metrics": {"enabled": False}}])
def test_nodes_without_metrics_are_not_scraped(tmp_path: Path, node: dict[str, Any]) -> None:
    names = [one["metadata"]["name"] for one in by_kind(monitored(tmp_path, nodeProgram=node), "PodMonitor")]
    assert names == ["x-registry-cache-cache"]


def test_rules_equal_those_of_the_file_and_link_to_the_runbook_of_the_values(tmp_path: Path) -> None:
    (of_default,) = by_kind(monitored(tmp_path), "PrometheusRule")
    file = (CHART / "files" / "monitoring" / "registry-caches.rules.yaml").read_text()
    assert rules() == yaml.safe_load(file)
    home = "https://github.com/registry-cache/registry-cache/blob/main/docs/runbook.md"
    assert of_default["spec"] == yaml.safe_load(file.replace("docs/runbook.md", home))
    (of_everything,) = by_kind(render(EVERYTHING), "PrometheusRule")
    links = re.findall(r'"runbook_url": "([^"]*)"', json.dumps(of_everything))
    assert links == [
        f"https://wiki.example.com/registry-caches#{one['alert'].lower()}"
        for one in named(rules())
        if one["alert"] != "RegistryCacheNotScraped"
    ]


def test_only_disabled_alerts_are_left_out(tmp_path: Path) -> None:
    (all_rules,) = by_kind(monitored(tmp_path), "PrometheusRule")
    first, last = [one["alert"] for one in named(all_rules["spec"])][:: len(named(all_rules["spec"])) - 1]
    path = tmp_path / "disabled.yaml"
    rule = {"enabled": True, "disabledAlerts": [first, last]}
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}], "monitoring": {"prometheusRule": rule}}))
    (found,) = by_kind(render(path), "PrometheusRule")
    left = [rule for group in all_rules["spec"]["groups"] for rule in group["rules"]]
    assert [rule for group in found["spec"]["groups"] for rule in group["rules"]] == [
        rule for rule in left if rule.get("alert") not in (first, last)
    ]


def test_servicemonitors_find_each_pod_through_a_service(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    caches = [{"upstream": "docker.io", "highAvailability": {"enabled": True}}, {"upstream": "quay.io"}]
    path.write_text(json.dumps({"caches": caches, "monitoring": {"serviceMonitor": {"enabled": True}}}))
    objects = render(path)
    found = []
    for monitor in by_kind(objects, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        for service in by_kind(objects, "Service"):
            ports = {port["name"]: port for port in service["spec"]["ports"]}
            if selector <= service["metadata"]["labels"].items() and endpoint["port"] in ports:
                pods_of_service = service["spec"]["selector"].items()
                found += [
                    name
                    for name, template in pods(objects).items()
                    if pods_of_service <= template["metadata"]["labels"].items()
                ]
                assert monitor["spec"]["jobLabel"] in service["metadata"]["labels"]
    assert sorted(found) == sorted(pods(objects)), "each once"


def test_node_program_has_a_service_only_for_a_servicemonitor(tmp_path: Path) -> None:
    names = [one["metadata"]["name"] for one in by_kind(monitored(tmp_path), "Service")]
    assert "x-registry-cache-node" not in names
    path = tmp_path / "services.yaml"
    monitoring = {"serviceMonitor": {"enabled": True}}
    path.write_text(
        json.dumps(
            {
                "caches": [{"upstream": "docker.io"}],
                "monitoring": monitoring,
                "nodeProgram": {"metrics": {"port": 1234}},
            }
        )
    )
    (service,) = [one for one in by_kind(render(path), "Service") if one["metadata"]["name"] == "x-registry-cache-node"]
    assert service["spec"]["clusterIP"] == "None"
    (port,) = service["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("metrics", 1234, 1234)


@pytest.mark.parametrize(("kind", "key"), [("PodMonitor", "podMonitor"), ("ServiceMonitor", "serviceMonitor")])
def test_monitors_have_the_settings_of_the_values(tmp_path: Path, kind: str, key: str) -> None:
    settings = {
        "enabled": True,
        "namespace": "prometheus",
        "labels": {"release": "main"},
        "annotations": {"note": "mine"},
        "interval": "1m",
        "scrapeTimeout": "50s",
        "relabelings": [{"targetLabel": "cluster", "replacement": "production"}],
        "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "x", "action": "drop"}],
    }
    path = tmp_path / "monitors.yaml"
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}], "monitoring": {key: settings}}))
    found = by_kind(render(path), kind)
    assert [one["metadata"]["name"] for one in found] == ["x-registry-cache-cache", "x-registry-cache-node"]
    for one in found:
        assert one["metadata"]["namespace"] == "prometheus"
        assert one["metadata"]["labels"]["release"] == "main"
        assert one["metadata"]["annotations"] == {"note": "mine"}
        assert one["spec"]["namespaceSelector"] == {"matchNames": ["space"]}
        (endpoint,) = one["spec"].get("podMetricsEndpoints") or one["spec"]["endpoints"]
        assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("1m", "50s")
        assert endpoint["relabelings"][-1] == settings["relabelings"][0]
        assert [rule["targetLabel"] for rule in endpoint["relabelings"][-3:-1]] == ["release", "node"]
        assert endpoint["metricRelabelings"] == settings["metricRelabelings"]


def test_dashboard_exists_only_if_it_is_enabled(tmp_path: Path) -> None:
    for dashboard, namespace in (({}, None), ({"enabled": True}, "space"), ({"enabled": True, "namespace": "g"}, "g")):
        path = tmp_path / f"{namespace}.yaml"
        path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}], "monitoring": {"dashboard": dashboard}}))
        found = [one for one in by_kind(render(path), "ConfigMap") if "registry-caches.json" in one["data"]]
        assert [one["metadata"]["namespace"] for one in found] == ([namespace] if namespace else [])


def test_alerts_have_no_link_without_a_runbook(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    rule = {"enabled": True, "runbookUrl": ""}
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}], "monitoring": {"prometheusRule": rule}}))
    (found,) = by_kind(render(path), "PrometheusRule")
    assert [one["alert"] for one in named(found["spec"])] == [one["alert"] for one in named(rules())]
    assert not any("runbook_url" in one["annotations"] for one in named(found["spec"]))


def named(document: Object) -> list[Object]:
    return [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]


def test_dashboard_of_the_grafana_operator_is_the_one_of_the_configmap() -> None:
    objects = render(EVERYTHING)
    (dashboard,) = by_kind(objects, "GrafanaDashboard")
    reference = dashboard["spec"]["configMapRef"]
    (config_map,) = [one for one in by_kind(objects, "ConfigMap") if one["metadata"]["name"] == reference["name"]]
    assert json.loads(config_map["data"][reference["key"]])["title"] == "Registry Caches"
    assert dashboard["spec"]["instanceSelector"] == {"matchLabels": {"shows": "registries"}}
