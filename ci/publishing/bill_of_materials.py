"""The bill of materials of a release, as SPDX 2.3 and as CycloneDX 1.6.

It lists the chart, the Python package and what they need: the three images that the chart runs, and the packages that
pip installs. It does not list the content of the images, which are not ours; they have bills of materials of their own.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

if TYPE_CHECKING:
    from publishing.source import Source

HOME = "https://github.com/registry-cache/registry-cache"
COMPONENTS = "ci/publishing/components.toml"
OUR_LICENSE = "Apache-2.0"


@dataclass(frozen=True)
class Component:
    """One thing that a release consists of or needs; `needs` are the names of those that it needs itself."""

    name: str
    version: str
    license: str
    url: str
    kind: str
    supplier: str = "The registry-cache maintainers"
    needs: tuple[str, ...] = ()


def components(source: Source) -> list[Component]:
    """Return the chart, the Python package, and what both need."""
    listed = tomllib.loads((source.folder / COMPONENTS).read_text())
    values = yaml.safe_load((source.chart / "values.yaml").read_text())
    images = [
        Component(
            f"image-{name}",
            image["tag"].partition("@")[0],
            listed["images"][name]["license"],
            _image_url(**image),
            "container",
            listed["images"][name]["supplier"],
        )
        for name, image in values["images"].items()
    ]
    packages = [
        Component(name, one["version"], one["license"], f"pkg:pypi/{name}@{one['version']}", "library", "")
        for name, one in listed["packages"].items()
    ]
    chart = f"pkg:helm/registry-cache@{source.version}"
    package = f"pkg:pypi/registry-cache@{source.version}"
    return [
        Component("chart", source.version, OUR_LICENSE, chart, "application", needs=tuple(one.name for one in images)),
        Component("command", source.version, OUR_LICENSE, package, "application", needs=tuple(listed["packages"])),
        *images,
        *packages,
    ]


def spdx(source: Source) -> str:
    """Return the bill of materials as SPDX 2.3 in JSON."""
    all_components = components(source)
    packages = [
        {
            "SPDXID": f"SPDXRef-{one.name}",
            "name": _full_name(one),
            "versionInfo": one.version,
            "supplier": f"Organization: {one.supplier}" if one.supplier else "NOASSERTION",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": one.license,
            "copyrightText": "NOASSERTION",
            "primaryPackagePurpose": one.kind.upper(),
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": one.url}
            ],
        }
        for one in all_components
    ]
    relations = [("DOCUMENT", "DESCRIBES", name) for name in ("chart", "command")]
    relations += [(one.name, "DEPENDS_ON", name) for one in all_components for name in one.needs]
    return _json(
        {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"registry-cache-{source.version}",
            "documentNamespace": f"{HOME}/sbom/{source.version}/{source.commit}",
            "creationInfo": {"created": _time(source), "creators": ["Organization: The registry-cache maintainers"]},
            "packages": packages,
            "relationships": [
                {
                    "spdxElementId": f"SPDXRef-{one}",
                    "relationshipType": kind,
                    "relatedSpdxElement": f"SPDXRef-{other}",
                }
                for one, kind, other in relations
            ],
        }
    )


def cyclonedx(source: Source) -> str:
    """Return the bill of materials as CycloneDX 1.6 in JSON."""
    all_components = components(source)
    release = {
        "type": "application",
        "bom-ref": "release",
        "name": "registry-cache",
        "version": source.version,
        "licenses": [{"license": {"id": OUR_LICENSE}}],
        "externalReferences": [{"type": "website", "url": HOME}],
    }
    return _json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{HOME}/{source.commit}')}",
            "version": 1,
            "metadata": {"timestamp": _time(source), "component": release},
            "components": [
                {
                    "type": one.kind,
                    "bom-ref": one.name,
                    "name": _full_name(one),
                    "version": one.version,
                    "licenses": [_cyclonedx_license(one.license)],
                    "purl": one.url,
                    **({"supplier": {"name": one.supplier}} if one.supplier else {}),
                }
                for one in all_components
            ],
            "dependencies": [
                {"ref": "release", "dependsOn": ["chart", "command"]},
                *({"ref": one.name, **({"dependsOn": [*one.needs]} if one.needs else {})} for one in all_components),
            ],
        }
    )


def _full_name(component: Component) -> str:
    ours = {"chart": "registry-cache (Helm chart)", "command": "registry-cache (Python package)"}
    return ours.get(component.name, component.name.removeprefix("image-"))


def _cyclonedx_license(expression: str) -> dict[str, Any]:
    return {"expression": expression} if " " in expression else {"license": {"id": expression}}


def _image_url(registry: str, repository: str, tag: str, digest: str, **_: str) -> str:
    name, pinned = repository.rpartition("/")[2], tag.partition("@")[2]
    tag, digest = tag.partition("@")[0], digest or pinned
    if digest:
        return f"pkg:oci/{name}@{quote(digest, safe='')}?repository_url={registry}/{repository}&tag={tag}"
    return f"pkg:docker/{repository}@{tag}?repository_url={registry}"


def _time(source: Source) -> str:
    return datetime.fromtimestamp(source.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
