"""The chart as a whole: its metadata, its package, its templates, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine import tools
from machine.paths import CHART, REPOSITORY
from registry_cache.model.pods import Images
from rendering import (
    EVERYTHING,
    SCENARIOS,
    RenderingFailed,
    names,
    render,
    render_text,
    scenarios,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path


@scenarios
def test_lint_finds_nothing(values: Path) -> None:
    command = [str(tools.helm()), "lint", "--strict", str(CHART), "--values", str(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_chart_without_caches_passes_lint_and_is_refused_with_a_message(tmp_path: Path) -> None:
    command = [str(tools.helm()), "lint", "--strict", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with pytest.raises(RenderingFailed, match="caches: no cache is defined"):
        render_text(written(tmp_path, {}))


def test_chart_has_the_metadata_that_artifact_hub_and_helm_show() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    images = [{"name": name, "image": f"{image.registry}/{image.repository}:{image.tag}"} for name, image in Images()]
    annotations = {key: yaml.safe_load(text) for key, text in chart["annotations"].items()}
    assert annotations["artifacthub.io/images"] == images
    assert {one["kind"] for one in annotations["artifacthub.io/changes"]} <= {"added", "changed", "fixed", "removed"}
    assert "support" in {one["name"] for one in annotations["artifacthub.io/links"]}
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == package, "the programs come with the chart"
    blob = "https://raw.githubusercontent.com/registry-cache/registry-cache/main/"
    assert (REPOSITORY / chart["icon"].removeprefix(blob)).read_text().startswith("<svg ")


def test_values_files_of_the_scenarios_are_found_by_chart_testing_and_not_packaged(tmp_path: Path) -> None:
    """`ct lint` takes ci/*-values.yaml beside the Chart.yaml (chart-testing, pkg/chart/chart.go, NewChart)."""
    chart_dirs = yaml.safe_load((REPOSITORY / "ct.yaml").read_text())["chart-dirs"]
    found = [path for folder in chart_dirs for path in (REPOSITORY / folder).glob("*/ci/*-values.yaml")]
    assert sorted(found) == SCENARIOS
    subprocess.run([str(tools.helm()), "package", str(CHART), "--destination", tmp_path], check=True)
    (package,) = tmp_path.iterdir()
    with tarfile.open(package) as archive:
        assert not [name for name in archive.getnames() if "/ci/" in name]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    caches: list[dict[str, Any]] = [
        {"upstream": "docker.io", "serviceNameSuffix": "one"},
        {"upstream": "docker.io"},
        {"upstream": "quay.io", "serviceNameSuffix": "one"},
    ]
    with pytest.raises(RenderingFailed) as refused:
        render_text(written(tmp_path, {"caches": caches}))
    assert "caches[1].upstream: docker.io has a cache already, at caches[0]" in str(refused.value)
    assert "caches[2].serviceNameSuffix: the name registry-one belongs to the Service of caches[0]" in str(
        refused.value
    )


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="no-caches"),
        pytest.param({"caches": []}, id="empty"),
        pytest.param({"caches": [{"upstream": "Docker.io"}]}, id="upper-case"),
        pytest.param({"caches": [{"upstream": "docker.io", "volume": {"size": "0"}}]}, id="no-size"),
        pytest.param({"caches": [{"upstream": "docker.io", "garbageCollection": {"ttl": "7d"}}]}, id="days"),
        pytest.param({"caches": [{"upstream": "docker.io", "http": {"tls": True}}]}, id="tls"),
        pytest.param({"caches": [{"upstream": "docker.io", "size": "1Gi"}]}, id="unknown-field"),
    ],
)
def test_invalid_values_render_nothing(tmp_path: Path, document: object) -> None:
    with pytest.raises(RenderingFailed, match="caches"):
        render_text(written(tmp_path, document))


def test_everything_scenario_changes_the_default_of_every_value() -> None:
    """Except for those that have no other valid value, or that would disable something that the scenario shows."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load(EVERYTHING.read_text())
    del values["upstreamSettings"]["quay.io"]  # which has only what TLS needs; docker.io has every setting
    assert set(_unset(schema, values)) == {
        *("enabled", "apiVersion", "kind"),
        *("nodeProgram.enabled", "nodeProgram.metrics.enabled", "cachePods.podDisruptionBudget.enabled"),
        *("upstreamSettings.docker.io.resources.front", "upstreamSettings.docker.io.resources.gate"),
        "upstreamSettings.docker.io.caSecretName",  # since caConfigMapName is there
    }


def test_every_value_reaches_the_manifests() -> None:
    """Every value of the everything scenario appears in its manifests."""
    text = render_text(EVERYTHING)
    for value in _leaves(yaml.safe_load(EVERYTHING.read_text())):
        if value in ("registry.extensions.gardener.cloud/v1alpha3", "RegistryConfig", "caches", "k3s", "Retain"):
            # The format's name, a name that fullnameOverride replaces, a preset that other values replace, and what
            # test_volume_is_kept_only_with_the_retention_policy_retain looks for.
            continue
        if "{{" in value:
            continue  # test_extra_objects_are_templates checks this value
        if value in ("registry.example.com", "RegistryCacheNotScraped"):
            assert f'"{value}/' not in text, "global.imageRegistry wins"
            assert f"alert: {value}" not in text, "the alert is disabled"
            continue
        if value in ("3.1.1-alpine", "1.28.0-alpine-slim", "3.12-alpine"):
            assert value not in text, "the digest wins over the tag"
        else:
            assert value in text, value


def test_templates_depend_on_nothing_but_their_input() -> None:
    """No look at the cluster, no chance, no clock: Argo CD would see a drift in each.

    But for one look at the claims that are there, in a definition whose only outcomes are nothing and a refusal.
    """
    forbidden = (
        r"\b(lookup|rand\w+|uuidv4|now|genCA|genSignedCert|genSelfSignedCert|derivePassword|htpasswd|getHostByName)\b"
    )
    for path in sorted((CHART / "templates").rglob("*.*")):
        actions = "\n".join(
            re.findall(r"\{\{(.*?)\}\}", re.sub(r"\{\{-? */\*.*?\*/", "", path.read_text(), flags=re.DOTALL), re.DOTALL)
        )
        if path.name == "_validate-claims.tpl":
            (actions, checked) = _without_definition(actions, "registry-cache.validateClaims")
            assert checked.count("lookup ") == 1
            silent = re.compile(r"- (range|with|if|else|end|\$\w+ :?=) ?")
            printing = [action for action in checked.splitlines() if not silent.match(action)]
            assert printing == ['- include "registry-cache.refuse" ($problems | uniq) -']
        assert not re.search(forbidden, actions), path
        assert ".Capabilities" not in actions, path
        for name in re.findall(r'\b(?:define|include|template) "([^"]*)"', actions):
            assert name.startswith("registry-cache."), path


def test_values_that_templates_use_are_declared() -> None:
    declared = yaml.safe_load((CHART / "values.yaml").read_text())
    text = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*.*")))
    used = set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", text))
    for path in used:
        found: Any = declared
        for part in path.split("."):
            assert part in found, path
            found = found[part]


def test_package_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        command = [str(tools.helm()), "package", str(CHART), "--destination", str(tmp_path / folder)]
        subprocess.run(command, check=True, capture_output=True)
        (package,) = (tmp_path / folder).iterdir()
        made.append(package.read_bytes())
    assert made[0] == made[1]


def test_chart_works_as_a_dependency(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "registry-cache").symlink_to(CHART)
    dependency = {"name": "registry-cache", "version": "0.1.0", "condition": "registry-cache.enabled"}
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(json.dumps(chart))
    values = {"global": {"x": 1}, "registry-cache": {"enabled": True, "caches": [{"upstream": "docker.io"}]}}
    objects = render(written(tmp_path, values), chart=parent)
    assert "StatefulSet x-registry-cache-docker-io" in names(objects)


def _without_definition(actions: str, name: str) -> tuple[str, str]:
    """Return the actions of a template, one for each line: those outside of one definition, and those in it."""
    before, start, rest = actions.partition(f'- define "{name}" -\n')
    assert start
    inside, _, after = rest.partition("- define ")
    return f"{before}- define {after}", inside


def _unset(schema: Any, values: Any, path: str = "") -> list[str]:
    """Return the paths of a schema that the values lack or do not change."""
    found = []
    for name, part in schema["properties"].items():
        if "properties" in part:
            found += _unset(part, values.get(name, {}), f"{path}{name}.")
        elif name == "caches":
            found += _unset(part["items"], values[name][0], f"{path}{name}.")
        elif isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            for key, settings in values[name].items():
                found += _unset(each, settings, f"{path}{name}.{key}.")
        elif "deprecationMessage" not in part and values.get(name) == part.get("default"):
            found.append(path + name)
    return found


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value] if isinstance(value, str) else []
