"""A generated chart is the project's chart with the configuration in it: the same manifests as with --values."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine import tools
from machine.paths import REPOSITORY
from registry_cache import cli
from rendering import SCENARIOS, Object, RenderingFailed, by_kind, render, render_text

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = REPOSITORY / "examples"
EXAMPLE = EXAMPLES / "registry-config.yaml"
# The content of each example, written by hand in v1alpha3.
V1ALPHA3: dict[str, list[dict[str, Any]]] = {
    "registry-config-v1alpha1.yaml": [
        {"upstream": "docker.io", "volume": {"size": "20Gi"}},
        {"upstream": "registry.k8s.io", "garbageCollection": {"ttl": "0s"}},
        {"upstream": "registry.example.com", "secretReferenceName": "registry-example-com"},
    ],
    "registry-config-v1alpha2.yaml": [
        {"upstream": "docker.io", "volume": {"size": "20Gi"}},
        {"upstream": "registry.k8s.io", "garbageCollection": {"ttl": "0s"}},
        {
            "upstream": "registry.example.com",
            "volume": {"storageClassName": "fast"},
            "garbageCollection": {"ttl": "168h"},
            "secretReferenceName": "registry-example-com",
        },
    ],
    "registry-config.yaml": yaml.safe_load(EXAMPLE.read_text())["caches"],
    "shoot.yaml": [
        {"upstream": "docker.io", "volume": {"size": "20Gi"}},
        {"upstream": "registry.k8s.io", "garbageCollection": {"ttl": "720h"}},
        {"upstream": "registry.example.com", "secretReferenceName": "registry-example-com-2026-11"},
    ],
}


def generated(document: Path, tmp_path: Path, name: str, *arguments: str) -> Path:
    chart = tmp_path / name
    assert cli.main(["generate", str(document), "--output", str(chart), "--name", name, *arguments]) == 0
    return chart


def helm(*arguments: str | Path) -> str:
    return subprocess.run([tools.helm(), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """An empty values file."""
    path = tmp_path / "nothing.yaml"
    path.write_text("")
    return path


def without_version(text: str, chart: Path) -> str:
    """Return a rendering with the version that the generated chart's version begins with."""
    version = re.search('version: "(.*)"', (chart / "Chart.yaml").read_text())
    assert version is not None
    label = version[1].replace("+", "_")
    return text.replace(label, label.partition("_")[0])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_generated_chart_renders_what_the_chart_renders_with_the_document(
    scenario: Path, tmp_path: Path, nothing: Path
) -> None:
    chart = generated(scenario, tmp_path, "registry-cache")
    assert without_version(render_text(nothing, chart=chart), chart) == render_text(scenario)


def test_every_example_has_its_counterpart() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == set(V1ALPHA3)


@pytest.mark.parametrize("name", sorted(V1ALPHA3))
def test_example_is_converted_validated_generated_and_rendered(
    name: str, tmp_path: Path, nothing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(EXAMPLES / name)]) == 0
    converted = tmp_path / "converted.yaml"
    converted.write_text(capsys.readouterr().out)
    assert cli.main(["validate", str(converted)]) == 0
    chart = generated(converted, tmp_path, "registry-cache")
    counterpart = tmp_path / "counterpart.yaml"
    counterpart.write_text(json.dumps({"caches": V1ALPHA3[name]}))
    assert without_version(render_text(nothing, chart=chart), chart) == render_text(counterpart)


@pytest.mark.parametrize("name", sorted(V1ALPHA3))
def test_example_is_generated_without_being_converted(name: str, tmp_path: Path, nothing: Path) -> None:
    chart = generated(EXAMPLES / name, tmp_path, "registry-cache")
    counterpart = tmp_path / "counterpart.yaml"
    counterpart.write_text(json.dumps({"caches": V1ALPHA3[name]}))
    assert without_version(render_text(nothing, chart=chart), chart) == render_text(counterpart)


def test_generated_chart_passes_lint_and_renders_under_its_own_name(tmp_path: Path, nothing: Path) -> None:
    chart = generated(SCENARIOS[-1], tmp_path, "my-caches")
    helm("lint", "--strict", chart)
    assert all(
        one["metadata"]["name"].removeprefix("cache-volume-").startswith("my-caches-")
        for one in render(nothing, release="my-caches", chart=chart)
    )


def test_generated_chart_describes_itself(tmp_path: Path) -> None:
    chart = yaml.safe_load((generated(EXAMPLE, tmp_path, "my-caches") / "Chart.yaml").read_text())
    base = yaml.safe_load((REPOSITORY / "chart" / "Chart.yaml").read_text())
    for key in ("apiVersion", "type", "appVersion", "kubeVersion", "sources"):
        assert chart[key] == base[key]
    assert chart["name"] == "my-caches"
    assert re.fullmatch(re.escape(base["version"]) + r"\+[0-9a-f]{8}", chart["version"])
    assert chart["annotations"]["registry-cache/upstreams"] == "docker.io, registry.k8s.io, registry.example.com"


def test_readme_explains_which_secrets_to_create_and_how_to_install(tmp_path: Path) -> None:
    readme = (generated(EXAMPLE, tmp_path, "my-caches") / "README.md").read_text()
    assert "helm install my-caches . --namespace registry-cache" in readme
    assert "helm test my-caches --namespace registry-cache" in readme
    assert "create secret generic registry-example-com --from-file=username=FILE" in readme


def test_helm_and_the_command_create_the_same_package(tmp_path: Path, nothing: Path) -> None:
    chart = generated(EXAMPLE, tmp_path, "my-caches")
    helm("package", chart, "--destination", tmp_path / "packages")
    (packaged,) = (tmp_path / "packages").iterdir()
    own = generated(EXAMPLE, tmp_path, "my-caches", "--package").with_suffix(".tgz")
    with tarfile.open(packaged) as first, tarfile.open(own) as second:
        assert sorted(second.getnames()) == sorted(first.getnames())
    assert render_text(nothing, chart=own) == render_text(nothing, chart=packaged) == render_text(nothing, chart=chart)
    assert "my-caches" in helm("show", "chart", own)


def sizes(objects: list[Object]) -> list[str]:
    return [found["spec"]["resources"]["requests"]["storage"] for found in by_kind(objects, "PersistentVolumeClaim")]


def test_field_of_one_cache_is_set_by_its_index(tmp_path: Path, nothing: Path) -> None:
    chart = generated(EXAMPLE, tmp_path, "my-caches")
    assert sizes(render(nothing, chart=chart)) == ["20Gi", "5Gi", "10Gi"]
    assert sizes(render(nothing, "--set", "caches[0].volume.size=50Gi", chart=chart)) == ["50Gi", "5Gi", "10Gi"]
    last = render(nothing, "--set", "caches[2].volume.size=50Gi,caches[2].garbageCollection.ttl=1h", chart=chart)
    assert sizes(last) == ["20Gi", "5Gi", "50Gi"]
    (room,) = [
        found["data"]["room.json"]
        for found in by_kind(last, "ConfigMap")
        if found["metadata"]["labels"].get("upstream-host") == "registry.example.com"
    ]
    assert json.loads(room)["ttl"] == "1h"


def test_field_of_one_cache_can_be_set_to_false(tmp_path: Path, nothing: Path) -> None:
    document = tmp_path / "document.yaml"
    document.write_text("caches: [{upstream: docker.io, highAvailability: {enabled: true}}]")
    chart = generated(document, tmp_path, "my-caches")
    assert len(sizes(render(nothing, chart=chart))) == 2
    assert len(sizes(render(nothing, "--set", "caches[0].highAvailability.enabled=false", chart=chart))) == 1


def test_whole_list_replaces_the_charts_own(tmp_path: Path) -> None:
    chart = generated(EXAMPLE, tmp_path, "my-caches")
    other = tmp_path / "other.yaml"
    other.write_text("caches: [{upstream: quay.io}]")
    assert sizes(render(other, chart=chart)) == ["10Gi"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("caches[3].volume.size=50Gi", "caches[3]: upstream is missing"),
        ("caches[1].upstream=docker.io", "caches[1].upstream: docker.io has a cache already, at caches[0]"),
        ("caches[1].volume.size=0", "/caches/1/volume/size"),
        ("caches[1].volumes.size=1Gi", "volumes"),
    ],
)
def test_wrong_setting_is_refused(setting: str, said: str, tmp_path: Path, nothing: Path) -> None:
    chart = generated(EXAMPLE, tmp_path, "my-caches")
    with pytest.raises(RenderingFailed, match=re.escape(said)):
        render_text(nothing, "--set", setting, chart=chart)


def test_schema_of_the_chart_still_requires_an_upstream(tmp_path: Path) -> None:
    document = tmp_path / "document.yaml"
    document.write_text("caches: [{volume: {size: 1Gi}}]")
    with pytest.raises(RenderingFailed, match="missing property 'upstream'"):
        render_text(document)


def test_generated_chart_works_as_a_dependency(tmp_path: Path) -> None:
    """The parent has values below the chart's name, `global` beside them, and a condition."""
    generated(EXAMPLE, tmp_path, "my-caches")
    parent = tmp_path / "parent"
    parent.mkdir()
    dependency = {
        "name": "my-caches",
        "version": ">=0.1.0-0",
        "repository": "file://../my-caches",
        "condition": "my-caches.enabled",
    }
    (parent / "Chart.yaml").write_text(
        json.dumps({"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]})
    )
    helm("dependency", "update", parent)
    values = tmp_path / "parent.yaml"
    values.write_text(
        json.dumps(
            {"global": {"x": 1}, "my-caches": {"enabled": True, "nodeProgram": {"enabled": False}, "helmTest": {}}}
        )
    )
    objects = render(values, "--set", "my-caches.caches[1].volume.size=50Gi", chart=parent)
    assert sizes(objects) == ["20Gi", "50Gi", "10Gi"]
    assert not by_kind(objects, "DaemonSet")
    assert render(values, "--set", "my-caches.enabled=false", chart=parent) == []
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps({"my-caches": {"caches": [{"upstream": "quay.io"}]}}))
    assert sizes(render(own, chart=parent)) == ["10Gi"]
