"""Finds a RegistryConfig in a Gardener Shoot: spec.extensions[type=registry-cache].providerConfig.

Source: pkg/admission/validator of Gardener's registry cache for the rules, docs/usage for where things stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.document import Document, Key

TYPE = "registry-cache"


def is_shoot(content: object) -> bool:
    """Whether a document says that it is a Shoot."""
    return isinstance(content, dict) and content.get("kind") == "Shoot"


def registry_config(shoot: Document) -> Document | None:
    """The part of a Shoot that is the RegistryConfig, or none where there is not exactly one."""
    found = [index for index, extension in extensions(shoot.content) if "providerConfig" in extension]
    return shoot.part(("spec", "extensions", found[0], "providerConfig")) if len(found) == 1 else None


def problems(shoot: Document) -> Iterator[tuple[Key, str]]:
    """What is wrong around the RegistryConfig, in the order of Gardener's admission."""
    for index, worker in _mappings(shoot.content, "spec", "provider", "workers"):
        runtime = _get(worker, "cri", "name")
        if runtime not in (None, "containerd"):
            yield (
                ("spec", "provider", "workers", index, "cri", "name"),
                "the caches are for containerd alone; write containerd",
            )
    ours = [*extensions(shoot.content)]
    if not ours:
        yield (
            ("spec", "extensions"),
            f"there is no extension of type {TYPE}; write [{{type: {TYPE}, providerConfig: …}}]",
        )
    for index, extension in ours[:1]:
        if "providerConfig" not in extension:
            yield ("spec", "extensions", index), "providerConfig is missing; write a RegistryConfig into it"
    for index, _ in ours[1:]:
        yield ("spec", "extensions", index, "type"), f"{TYPE} is there already; write one extension of this type"
    config = registry_config(shoot)
    for index, cache in _mappings(config.content, "caches") if config else ():
        name = cache.get("secretReferenceName")
        if isinstance(name, str) and name not in secrets(shoot):
            path = (*config.inside, "caches", index, "secretReferenceName") if config else ()
            yield path, "there is no resource of this name with a resourceRef of kind Secret in spec.resources"


def secrets(shoot: Document) -> dict[str, str]:
    """The names of Secrets by what the Shoot calls them (`spec.resources[].name`)."""
    return {
        resource["name"]: _get(resource, "resourceRef", "name")
        for _, resource in _mappings(shoot.content, "spec", "resources")
        if isinstance(resource.get("name"), str)
        and _get(resource, "resourceRef", "kind") == "Secret"
        and isinstance(_get(resource, "resourceRef", "name"), str)
    }


def notes(shoot: Document) -> Iterator[str]:
    """What of a Shoot has no counterpart here."""
    for _, extension in extensions(shoot.content):
        if extension.get("disabled") is True:
            yield "the Shoot has the extension disabled; a chart has no such switch: leave it uninstalled"
    for _, extension in _mappings(shoot.content, "spec", "extensions"):
        if extension.get("type") == "registry-mirror":
            yield "registry-mirror has no counterpart: its mirrors are no caches; configure containerd for them"


def extensions(content: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The extensions of our type, with their places."""
    for index, extension in _mappings(content, "spec", "extensions"):
        if extension.get("type") == TYPE:
            yield index, extension


def _mappings(content: object, *path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries, with their places, of a list that may not be there or no list."""
    entries = _get(content, *path)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield index, entry


def _get(content: object, *path: str) -> Any:  # noqa: ANN401 - any document
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content
