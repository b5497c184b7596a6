"""Recognizes a foreign document, and says in one line what it is and how it becomes a RegistryConfig."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING

from registry_cache.document import STANDARD_INPUT, Document
from registry_cache.foreign import files, resources, wrapped
from registry_cache.foreign.mirrors import Mirrors
from registry_cache.foreign.parts import Recognized, at, mapping
from registry_cache.foreign.wrapped import MAX_DEPTH, upstreams_of
from registry_cache.untrusted_text import MAX_TEXTS, join_some, printable

if TYPE_CHECKING:
    from collections.abc import Callable

# The more special ones come first.
SHAPES: tuple[Callable[[Document], Recognized | None], ...] = (
    wrapped.cache_entries,
    wrapped.kyma_config,
    wrapped.gardener_extension,
    resources.gardener_mirrors,
    resources.talos_document,
    resources.kind_cluster,
    resources.openshift_mirrors,
    resources.talos_machine,
    files.k3s_registries,
    files.k3s_config,
    files.hosts_toml,
    files.containerd_config,
    files.podman_registries,
    files.buildkit_config,
    files.bottlerocket_settings,
    files.docker_daemon,
    files.docker_config,
    files.distribution_config,
    files.spegel_values,
    files.list_of_registries,
)


def recognize(document: Document) -> Recognized | None:
    """Return what a foreign document is, or None for one of ours and for one that is not known."""
    if document.documents or at(document.content, "kind") == "List":
        return _recognize_several(document)
    if mapping(document.content, "sops").get("mac"):
        return Recognized("a file that SOPS has encrypted", Mirrors(), "decrypt it first")
    if wrapped.is_ours(document.content):
        return None
    found = (shape(document) for shape in SHAPES)
    return next(filter(None, found), None) or wrapped.holder(document, recognize) or _any_resource(document)


def describe(document: Document, recognized: Recognized) -> str:
    """Return one line: what the document is, which registries it names, and the command that turns it into caches."""
    upstreams = upstreams_of(recognized)
    if not upstreams:
        reason = f"; {recognized.hint}" if recognized.hint else ""
        return f"this is {recognized.title}, which names no registry that can have a cache{reason}"
    file = (
        "-"
        if document.name == STANDARD_INPUT
        else shlex.quote(document.name if document.name.isprintable() else ascii(document.name))
    )
    return (
        f"this is {recognized.title}, which names {join_some(upstreams)}; to make caches of that, run "
        f"`registry-cache convert {file} > registry-config.yaml`"
    )


def count_text(documents: list[Document]) -> str:
    """Return how many documents of which kinds there are."""
    kinds = Counter(printable(kind) for one in documents if isinstance(kind := at(one.content, "kind"), str))
    named = [f"{count} {kind}" for kind, count in kinds.most_common(MAX_TEXTS)]
    return f"{len(documents)} documents" + (f" ({', '.join(named)})" if named else "")


def unpack(document: Document) -> list[Document]:
    """Return the documents of a file or of a List."""
    if document.documents:
        return document.documents
    items = at(document.content, "items")
    parts = [
        Document(item, inside=(*document.inside, "items", index), name=document.name)
        for index, item in enumerate(items if isinstance(items, list) else [])
    ]
    for path, line in document.lines.items():
        if parts and path[:1] == ("items",) and len(path) > 1 and isinstance(path[1], int):
            parts[path[1]].lines[path[2:]] = line
    return parts


def _recognize_several(document: Document) -> Recognized | None:
    """Return what several documents are together, if they are of one kind or if only one of them is known."""
    documents = unpack(document)
    if len(document.inside) > MAX_DEPTH:
        return None
    known = [one for one in documents if at(one.content, "kind") == "RegistryCacheConfig"]
    if known:
        place = "a List" if at(document.content, "kind") == "List" else "a file"
        return Recognized(f"{place} of {count_text(documents)} of Kyma", wrapped.as_config(known))
    ours = [one for one in documents if wrapped.is_ours(one.content)]
    found = [one for document in documents if (one := recognize(document)) and _names_registries(one)]
    together = Mirrors()
    for one in found:
        if isinstance(one.content, Mirrors):
            together.merge(one.content)
    parts = [*ours, *(one.content for one in found if isinstance(one.content, Document))]
    if not parts and found:
        titles = dict.fromkeys(one.title for one in found)
        return Recognized(" and ".join([*titles][:2]), together)
    if len(parts) == 1 and not together.facts:
        is_list = at(document.content, "kind") == "List"
        kind = at(parts[0].content, "kind")
        inner = f"a {printable(kind)}" if isinstance(kind, str) else "a values file"
        return Recognized(f"{'a List' if is_list else 'a file'} of {count_text(documents)} with {inner}", parts[0])
    return None


def _names_registries(recognized: Recognized) -> bool:
    """Return whether a document says anything about registries."""
    return not isinstance(recognized.content, Mirrors) or bool(recognized.content.facts)


def _any_resource(document: Document) -> Recognized | None:
    """Recognize any other resource of Kubernetes, and documents of Helm and Kustomize."""
    version, kind = at(document.content, "apiVersion"), at(document.content, "kind")
    if version in ("v1", "v2") and at(document.content, "name") and at(document.content, "version"):
        return Recognized("the Chart.yaml of a chart", Mirrors(), "give the values of the chart")
    if not isinstance(version, str) or not isinstance(kind, str) or kind in ("Shoot", "RegistryConfig"):
        return None
    hint = "registry-cache discover finds those that a cluster pulls from"
    return Recognized(f"a document of the kind {printable(kind)}", Mirrors(), hint)
