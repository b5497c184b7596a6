"""The chart without `helm install`: kubectl apply, kustomize, and the oldest Helm. On a cluster: tests/cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine import tools
from machine.paths import CHART
from rendering import THREE, names, render, scenarios, written

if TYPE_CHECKING:
    from pathlib import Path

# Of all annotations of an object (k8s.io/apimachinery/pkg/api/validation, TotalAnnotationSizeLimitB).
ANNOTATIONS_LIMIT = 256 * 1024


@scenarios
def test_each_object_fits_into_the_annotation_of_kubectl_apply(values: Path) -> None:
    """On the client's side, `kubectl apply` keeps the whole object in an annotation."""
    for found in render(values):
        annotations = found["metadata"].get("annotations", {})
        kept = len(json.dumps(found).encode()) + sum(len(key) + len(text) for key, text in annotations.items())
        assert kept < ANNOTATIONS_LIMIT / 2, found["metadata"]["name"]


@pytest.mark.parametrize("values", [pytest.param(THREE, id="three")])
def test_kustomize_inflates_the_same_objects(values: Path, tmp_path: Path) -> None:
    """`skipTests` leaves the objects of `helm test` out, which kustomize would create like any others."""
    shutil.copytree(CHART, tmp_path / "charts" / "registry-cache")
    chart = {"name": "registry-cache", "releaseName": "x", "namespace": "space", "skipTests": True}
    document = {
        "helmGlobals": {"chartHome": "charts"},
        "helmCharts": [{**chart, "valuesInline": yaml.safe_load(values.read_text())}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(document))
    command = [tools.kubectl(), "kustomize", "--enable-helm", "--helm-command", tools.helm(), tmp_path]
    done = subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inflated = [found for found in yaml.safe_load_all(done.stdout) if found]
    expected = [found for found in render(values) if "helm.sh/hook" not in found["metadata"].get("annotations", {})]
    assert names(inflated) == names(expected)
    assert sorted(map(_key, inflated)) == sorted(map(_key, expected))


def _key(found: dict[str, Any]) -> str:
    return json.dumps(found, sort_keys=True)


@pytest.mark.slow
@scenarios
def test_oldest_helm_renders_the_same_objects(values: Path) -> None:
    """Helm 4 writes other empty lines between objects."""
    command = [tools.helm_3(), "template", "x", CHART, "--namespace", "space", "--values", values]
    done = subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [found for found in yaml.safe_load_all(done.stdout) if found] == render(values)


@pytest.mark.slow
def test_oldest_helm_refuses_what_helm_4_refuses(tmp_path: Path) -> None:
    values = written(tmp_path, {"caches": [{"upstream": "docker.io", "size": "1Gi"}]})
    command = [tools.helm_3(), "template", "x", CHART, "--values", values]
    done = subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "size" in done.stderr
