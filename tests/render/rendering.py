"""Renders the chart with helm and checks every object against Kubernetes' own schemas."""

from __future__ import annotations

import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml
from testcluster import tools
from testcluster.paths import CHART, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = "1.37"
SCENARIOS = sorted((REPOSITORY / "ci").glob("*-values.yaml"))

Object = dict[str, Any]


class Strict(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice: of those, some programs take the last and some refuse the file."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        made = super().construct_mapping(node, deep=deep)
        keys = [key.value for key, _ in node.value]
        assert len(made) == len(keys), f"a key twice in {sorted(keys)}"
        return made


class RenderingFailed(Exception):
    """helm refused; the message is what it printed."""


@cache
def render_text(values: Path, *arguments: str, release: str = "x", chart: Path = CHART) -> str:
    """`helm template`, as text.

    Raises:
        RenderingFailed: helm's exit code was not 0.
    """
    command = [tools.helm(), "template", release, chart, "--namespace", "space", "--values", values, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        assert done.stdout == "", "a refused configuration prints no manifest"
        raise RenderingFailed(done.stderr)
    return done.stdout


@cache
def render(values: Path, *arguments: str, release: str = "x", chart: Path = CHART) -> list[Object]:
    """`helm template`, each object valid as Kubernetes sees it; strict, so an unknown field is an error."""
    text = render_text(values, *arguments, release=release, chart=chart)
    objects = [found for found in yaml.load_all(text, Loader=Strict) if found]
    for found in objects:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    return objects


def names(objects: list[Object]) -> list[str]:
    """Kind and name of each object, sorted."""
    return sorted(f"{found['kind']} {found['metadata']['name']}" for found in objects)


def by_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def pod_specs(objects: list[Object]) -> list[tuple[str, Object]]:
    """Each pod's name and spec, those of templates included."""
    found = [(one["metadata"]["name"], one["spec"]) for one in by_kind(objects, "Pod")]
    for kind in ("StatefulSet", "DaemonSet"):
        found += [(one["metadata"]["name"], one["spec"]["template"]["spec"]) for one in by_kind(objects, kind)]
    return found
