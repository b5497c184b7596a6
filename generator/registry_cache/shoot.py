"""Finds a RegistryConfig in a Gardener Shoot: spec.extensions[type=registry-cache].providerConfig.

Source: pkg/admission/validator of Gardener's registry cache for the rules, docs/usage for the structure of a Shoot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry_cache.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.document import Document, Key

TYPE = "registry-cache"


def is_shoot(content: object) -> bool:
    """Return whether a document says that it is a Shoot."""
    return isinstance(content, dict) and content.get("kind") == "Shoot"


def registry_config(shoot: Document) -> Document | None:
    """Return the RegistryConfig of a Shoot, or None unless there is exactly one."""
    found = [index for index, extension in extensions(shoot.content) if "providerConfig" in extension]
    return shoot.part(("spec", "extensions", found[0], "providerConfig")) if len(found) == 1 else None


def find_problems(shoot: Document) -> Iterator[Finding]:
    """Yield the problems around the RegistryConfig, in the order of Gardener's admission."""
    for index, worker in _mappings(shoot.content, "spec", "provider", "workers"):
        if _get(worker, "cri", "name") not in (None, "containerd"):
            path: Key = ("spec", "provider", "workers", index, "cri", "name")
            yield Finding(path, "the caches work with containerd only; write containerd")
    ours = [*extensions(shoot.content)]
    if not ours:
        reason = f"no extension has the type {TYPE}; write [{{type: {TYPE}, providerConfig: …}}]"
        yield Finding(("spec", "extensions"), reason)
    for index, extension in ours[:1]:
        if "providerConfig" not in extension:
            yield Finding(("spec", "extensions", index), "providerConfig is missing; write a RegistryConfig there")
    for index, _ in ours[1:]:
        path = ("spec", "extensions", index, "type")
        yield Finding(path, f"another extension has the type {TYPE}; write one extension of this type")
    config = registry_config(shoot)
    for index, cache in _mappings(config.content, "caches") if config else ():
        name = cache.get("secretReferenceName")
        if isinstance(name, str) and name not in secrets(shoot):
            path = (*config.inside, "caches", index, "secretReferenceName") if config else ()
            yield Finding(path, "no entry of spec.resources has this name and a resourceRef of the kind Secret")


def secrets(shoot: Document) -> dict[str, str]:
    """Return the names of Secrets by their names in the Shoot (`spec.resources[].name`)."""
    return {
        resource["name"]: _get(resource, "resourceRef", "name")
        for _, resource in _mappings(shoot.content, "spec", "resources")
        if isinstance(resource.get("name"), str)
        and _get(resource, "resourceRef", "kind") == "Secret"
        and isinstance(_get(resource, "resourceRef", "name"), str)
    }


def notes(shoot: Document) -> Iterator[str]:
    """Yield notes about parts of a Shoot that have no counterpart in the chart."""
    for _, extension in extensions(shoot.content):
        if extension.get("disabled") is True:
            yield "the Shoot disables the extension; a chart cannot be disabled: do not install it"
    for _, extension in _mappings(shoot.content, "spec", "extensions"):
        if extension.get("type") == "registry-mirror":
            yield "registry-mirror is left out, because its mirrors are not caches; configure containerd for them"


def extensions(content: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the extensions of our type with their indexes."""
    for index, extension in _mappings(content, "spec", "extensions"):
        if extension.get("type") == TYPE:
            yield index, extension


def _mappings(content: object, *path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the mappings of a list with their indexes; there may be no list."""
    entries = _get(content, *path)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield index, entry


def _get(content: object, *path: str) -> Any:  # noqa: ANN401 - any document
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content
