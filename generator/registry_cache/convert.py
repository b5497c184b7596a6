"""Converts any document that contains a RegistryConfig into one of v1alpha3, with notes about the differences."""

from __future__ import annotations

import copy
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry_cache import shoot, versions
from registry_cache.foreign.mirrors import Mirrors
from registry_cache.foreign.recognize import recognize
from registry_cache.foreign.wrapped import upstreams_of
from registry_cache.values_file import WIDTH, dump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.document import Document

# Fields that a RegistryConfig may set and the chart does not support yet, and what happens instead.
UNSUPPORTED = {
    ("http", "tls"): "nodes and caches use HTTP between them; TLS is not supported yet",
}


@dataclass(frozen=True)
class Converted:
    """The content of a values file, and what a person should know about the conversion."""

    values: dict[str, Any]
    notes: list[str]

    def text(self) -> str:
        """Return the values as a file with the notes as comments."""
        comments = ["# Made by registry-cache convert."]
        for note in self.notes:
            comments += textwrap.wrap(
                note, WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_on_hyphens=False
            )
        return "\n".join(comments) + "\n" + dump(self.values)


def convert(document: Document) -> Converted:
    """Convert a document that has no problems (validation.find_problems)."""
    config = shoot.registry_config(document) if shoot.is_shoot(document.content) else document
    if config is None:
        message = "a Shoot without a RegistryConfig has problems"
        raise ValueError(message)
    values, notes = versions.convert_to_v1alpha3(config.content)
    if config is not document:
        values, secret_notes = _use_names_of_secrets(values, shoot.secrets(document))
        notes += [*shoot.notes(document), *secret_notes]
        if any("http" not in cache for cache in values["caches"]):
            notes.append("Gardener uses TLS between nodes and caches by default; here it is HTTP")
    return Converted(values, notes)


def import_foreign(document: Document) -> tuple[Document, list[str]]:
    """Return a foreign document as one of ours, and what a person should know about it; any other as it is.

    A foreign document that names no registry stays as it is, too, and has problems then.
    """
    recognized = recognize(document)
    if recognized is None or not upstreams_of(recognized):
        return document, []
    if isinstance(recognized.content, Mirrors):
        content, notes = recognized.content.config()
        return type(document)(content, name=document.name), notes
    config = recognized.content
    notes = []
    if not shoot.is_shoot(config.content):
        notes = [
            f"caches[{index}].secretReferenceName: create this Secret, with the keys username and password, in the "
            "release's namespace"
            for index, cache in _caches(config.content)
            if cache.get("secretReferenceName")
        ]
    return config, notes


def drop_unsupported(document: Document) -> tuple[Document, list[str]]:
    """Return the document without the fields that only Gardener supports, and what happens instead of each."""
    content = copy.deepcopy(document.content)
    notes = []
    for index, cache in _caches(content):
        for (outer, inner), instead in UNSUPPORTED.items():
            if isinstance(cache.get(outer), dict) and cache[outer].get(inner) is True:
                cache[outer][inner] = False
                notes.append(f"caches[{index}].{outer}.{inner}: true became false: {instead}")
    return replace(document, content=content), notes


def _caches(content: Any) -> Iterator[tuple[int, dict[str, Any]]]:  # noqa: ANN401 - any document
    """Yield the caches, with their indexes, of a document that may be a Shoot, a RegistryConfig, or neither."""
    holders = [content]
    if shoot.is_shoot(content):
        holders = [extension.get("providerConfig") for _, extension in shoot.extensions(content)]
    for holder in holders:
        caches = holder.get("caches") if isinstance(holder, dict) else None
        for index, cache in enumerate(caches if isinstance(caches, list) else []):
            if isinstance(cache, dict):
                yield index, cache


def _use_names_of_secrets(values: dict[str, Any], secrets: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Replace the names of resources, which a Shoot uses, by the names of Secrets, which a values file uses."""
    caches, notes = [], []
    for index, cache in enumerate(values["caches"]):
        resource = cache.get("secretReferenceName")
        if resource is None:
            caches.append(cache)
            continue
        name = secrets[resource]
        caches.append({**cache, "secretReferenceName": name})
        notes.append(
            f"caches[{index}].secretReferenceName: the Shoot's resource {resource} is the project's Secret {name}; "
            f"create a Secret {name} with its username and password in the release's namespace"
        )
    return {**values, "caches": caches}, notes
