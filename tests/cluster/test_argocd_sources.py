"""Argo CD installs the chart from an OCI registry, as a dependency of another chart, and as a generated chart."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from argocd_support import MARKS, PROBE, serves, synced
from cluster import interface
from machine.paths import CHART
from publishing.local_registry import local_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.argocd import ArgoCD

pytestmark = MARKS

CONFIGURATION = {"caches": [{"upstream": "docker.io", "volume": {"size": "1Gi"}}], **PROBE}
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


@pytest.fixture(scope="module")
def charts(argocd: ArgoCD, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The part of a registry that has the chart, as in `ghcr.io/registry-cache/charts`."""
    folder = tmp_path_factory.mktemp("charts")
    kubeconfig = argocd.cluster.kubeconfig
    with local_registry(folder) as address:
        interface.helm(kubeconfig, "package", str(CHART), "--destination", str(folder))
        package = folder / f"registry-cache-{VERSION}.tgz"
        interface.helm(kubeconfig, "push", str(package), f"oci://{address}/charts", "--plain-http")
        yield f"{address}/charts"


def test_chart_from_a_registry_as_helm_gets_it(argocd: ArgoCD, charts: str) -> None:
    """Before Argo CD 3.1, there is no other form of the source."""
    source = {"repoURL": charts, "chart": "registry-cache", "targetRevision": VERSION}
    install(argocd, "argo-helm", {**source, "helm": {"valuesObject": CONFIGURATION}})


def test_chart_from_a_registry_as_argocd_gets_it(argocd: ArgoCD, charts: str) -> None:
    url = f"oci://{charts}/registry-cache"
    argocd.trust_without_tls(url)
    source = {"repoURL": url, "path": ".", "targetRevision": VERSION}
    install(argocd, "argo-oci", {**source, "helm": {"valuesObject": CONFIGURATION}})


def test_chart_as_a_dependency(argocd: ArgoCD, charts: str) -> None:
    dependency = {"name": "registry-cache", "version": VERSION, "repository": f"oci://{charts}"}
    chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    values = {"registry-cache": CONFIGURATION}
    argocd.commit({"platform/Chart.yaml": json.dumps(chart), "platform/values.yaml": json.dumps(values)})
    install(argocd, "argo-umbrella", argocd.in_git("platform"))


def test_generated_chart(argocd: ArgoCD, tmp_path: Path) -> None:
    document = tmp_path / "values.yaml"
    document.write_text(json.dumps(CONFIGURATION))
    chart = tmp_path / "my-caches"
    generate = [sys.executable, "-m", "registry_cache", "generate", str(document), "--output", str(chart)]
    subprocess.run(generate, check=True)
    argocd.commit({"my-caches": chart})
    install(argocd, "argo-generated", argocd.in_git("my-caches"))


def install(argocd: ArgoCD, name: str, source: dict[str, Any]) -> None:
    """Check that an Application is synced, serves, and is in sync with its source; then delete it."""
    with synced(argocd, name, source) as release:
        serves(release)
        argocd.refresh(name)
        assert argocd.is_synced(name)
        assert argocd.diff(name) == ""
