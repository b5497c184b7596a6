"""Renders the chart with helm and checks every object against Kubernetes' own schemas, or its operator's."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from machine import tools
from machine.paths import CHART

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = "1.37"
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))
THREE = CHART / "ci" / "three-upstreams-values.yaml"
PRIVATE = CHART / "ci" / "private-values.yaml"
AWKWARD = CHART / "ci" / "awkward-names-values.yaml"
EVERYTHING = CHART / "ci" / "everything-values.yaml"

scenarios = pytest.mark.parametrize("values", SCENARIOS, ids=lambda path: path.name.removesuffix("-values.yaml"))

Object = dict[str, Any]


class Strict(yaml.SafeLoader):
    """Refuses a key that a mapping has twice: some programs take the last one, and some refuse the file."""

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
        schema = custom_schemas().get((found["apiVersion"], found["kind"]))
        if schema is None:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
        else:
            jsonschema.Draft202012Validator(schema).validate(found)
    return objects


@cache
def custom_schemas() -> dict[tuple[str, str], Object]:
    """Return the schemas of custom resources by apiVersion and kind; they are strict as well."""
    found = {}
    for path in tools.custom_resources():
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = _strict(schema)
    return found


def _strict(schema: Any) -> Any:
    """Return the schema without unknown fields, which the API server would drop silently."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields", False))
    return made


def names(objects: list[Object]) -> list[str]:
    """Return the kind and the name of each object, sorted."""
    return sorted(f"{found['kind']} {found['metadata']['name']}" for found in objects)


def by_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def pod_specs(objects: list[Object]) -> list[tuple[str, Object]]:
    """Return the name and the spec of each pod, including those in templates."""
    found = [(one["metadata"]["name"], one["spec"]) for one in by_kind(objects, "Pod")]
    for kind in ("StatefulSet", "DaemonSet"):
        found += [(one["metadata"]["name"], one["spec"]["template"]["spec"]) for one in by_kind(objects, kind)]
    return found


def written(folder: Path, document: object) -> Path:
    """A values file."""
    path = folder / f"{abs(hash(json.dumps(document)))}.yaml"
    path.write_text(json.dumps(document))
    return path


def configurations(values: Path) -> dict[str, Any]:
    """Return the configuration of each cache by its upstream."""
    return configurations_of(render(values))


def configurations_of(objects: list[Any]) -> dict[str, Any]:
    return {
        found["metadata"]["labels"]["upstream-host"]: json.loads(found["data"]["cache.json"])
        for found in by_kind(objects, "ConfigMap")
        if "cache.json" in found["data"]
    }


def node_configuration(objects: list[Any]) -> Any:
    (found,) = [one for one in by_kind(objects, "ConfigMap") if "node.json" in one["data"]]
    return json.loads(found["data"]["node.json"])


def container_of(workload: Any, name: str) -> Any:
    (found,) = [one for one in workload["spec"]["template"]["spec"]["containers"] if one["name"] == name]
    return found
