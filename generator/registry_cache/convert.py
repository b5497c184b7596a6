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

# What a cache without http.tls means here, where nobody makes certificates unless that is configured.
NO_TLS = "Gardener uses TLS between nodes and caches by default; here it is HTTP unless http.tls is true"
# TLS needs values that only the chart has.
TLS_NEEDS = "TLS needs a certificate and upstreamSettings.<upstream>.clusterIP here (docs/guide/tls.md)"


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
        if any("tls" not in (cache.get("http") or {}) for cache in values["caches"]):
            notes.append(NO_TLS)
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
    """Return the document without TLS where the values that it needs are missing, with a note for each cache."""
    content = copy.deepcopy(document.content)
    notes = []
    for index, cache in _caches(content):
        http = cache.get("http")
        if isinstance(http, dict) and http.get("tls") is True and not _has_address(content, cache.get("upstream")):
            http["tls"] = False
            notes.append(f"caches[{index}].http.tls: true became false: {TLS_NEEDS}")
    return replace(document, content=content), notes


def _has_address(content: Any, upstream: object) -> bool:  # noqa: ANN401 - any document
    """Return whether a document sets the address of a cache's Service."""
    settings = content.get("upstreamSettings") if isinstance(content, dict) else None
    own = settings.get(upstream) if isinstance(settings, dict) else None
    return isinstance(own, dict) and bool(own.get("clusterIP"))


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
