"""Documents that contain a RegistryConfig, or a foreign document, as a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry_cache.document import Document, Unreadable, parse
from registry_cache.foreign.mirrors import Mirrors
from registry_cache.foreign.parts import Recognized, at, mapping, mappings, texts
from registry_cache.foreign.resources import kind_of
from registry_cache.untrusted_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry_cache.document import Key

    Recognize = Callable[[Document], Recognized | None]

API = "registry.extensions.gardener.cloud/"
MAX_DEPTH = 4


def is_ours(content: object) -> bool:
    """Return whether a document says that it is a RegistryConfig or a values file, or is a Shoot with one."""
    if not isinstance(content, dict):
        return False
    if content.get("kind") == "Shoot":
        extensions = mappings(at(content, "spec", "extensions"))
        return any(extension.get("type") == "registry-cache" for extension in extensions)
    return "caches" in content or kind_of(content, API) != ""


def kyma_config(document: Document) -> Recognized | None:
    """Recognize Kyma's RegistryCacheConfig, whose spec is an entry of `caches`."""
    if at(document.content, "kind") != "RegistryCacheConfig" or "caches" in document.content:
        return None
    return Recognized("a RegistryCacheConfig of Kyma", as_config([document]))


def cache_entries(document: Document) -> Recognized | None:
    """Recognize an entry of `caches`, or the list of them, without the key."""
    content = document.content
    if isinstance(content, dict) and isinstance(content.get("upstream"), str) and "kind" not in content:
        path: Key = ("caches", 0)
        title, caches = "an entry of caches without that key", [content]
    elif isinstance(content, list) and any("upstream" in cache for cache in mappings(content)):
        path, title, caches = ("caches",), "the list of caches without that key", content
    else:
        return None
    lines = {(*path, *own): line for own, line in document.lines.items()}
    return Recognized(title, Document({"caches": caches}, lines, name=document.name))


def as_config(configs: list[Document]) -> Document:
    """Return one RegistryConfig for Kyma's resources, with the lines of their fields."""
    caches, lines = [], {}
    for index, config in enumerate(configs):
        spec = at(config.content, "spec")
        caches.append(spec)
        for path, line in config.lines.items():
            if path[:1] == ("spec",):
                lines["caches", index, *path[1:]] = line
    return Document({"caches": caches}, lines, name=configs[0].name)


def gardener_extension(document: Document) -> Recognized | None:
    """Recognize Gardener's resource Extension of our type."""
    content = document.content
    if kind_of(content, "extensions.gardener.cloud/") != "Extension":
        return None
    if at(content, "spec", "type") != "registry-cache" or not at(content, "spec", "providerConfig"):
        return None
    return Recognized("an Extension of Gardener", document.part(("spec", "providerConfig")))


def holder(document: Document, recognize: Recognize) -> Recognized | None:
    """Recognize a document that has values for a chart, or files, if exactly one of them is known."""
    if len(document.inside) > MAX_DEPTH:
        return None
    title, parts = _parts(document)
    found = [(part, recognize(part)) for part in parts]
    known = [(part, one) for part, one in found if (one and upstreams_of(one)) or _has_caches(part.content)]
    if len(known) != 1:
        return None
    part, one = known[0]
    # Up to here, the parts have no lines.
    whole = document.part(part.inside[len(document.inside) :]) if part.inside != document.inside else part
    if one is None:
        return Recognized(title, whole)
    content = (recognize(whole) or one).content
    return Recognized(one.title if one.title == title else f"{title} with {one.title}", content)


def upstreams_of(recognized: Recognized) -> list[str]:
    """Return the upstreams that a recognized document becomes caches of, valid or not."""
    if isinstance(recognized.content, Mirrors):
        return recognized.content.upstreams
    content = recognized.content.content
    configs = [content]
    if at(content, "kind") == "Shoot":
        configs = [one.get("providerConfig") for one in mappings(at(content, "spec", "extensions"))]
    written = [cache.get("upstream") for config in configs for cache in mappings(at(config, "caches"))]
    return texts(written)


def _has_caches(content: object) -> bool:
    return any("upstream" in cache for cache in mappings(at(content, "caches")))


def _parts(document: Document) -> tuple[str, list[Document]]:
    """Return what a document is, and its parts that may be known."""
    content = document.content
    found: tuple[str, list[Document]] = ("", [])
    if kind_of(content, "helm.toolkit.fluxcd.io/") == "HelmRelease":
        found = "a HelmRelease of Flux", [*_at(document, ("spec", "values"))]
    elif kind_of(content, "argoproj.io/") in ("Application", "ApplicationSet"):
        found = f"an {content['kind']} of Argo CD", [*_of_application(document)]
    elif kind_of(content, "provisioning.cattle.io/") == "Cluster":
        found = "a Cluster of Rancher", [*_at(document, ("spec", "rkeConfig", "registries"))]
    elif kind_of(content, "helm.cattle.io/"):
        found = f"a {printable(content['kind'])} of k3s", [*_texts(document, at(content, "spec", "valuesContent"))]
    elif kind_of(content, "k3d.io/"):
        found = "a configuration of k3d", [*_texts(document, at(content, "registries", "config"))]
    elif kind_of(content, "v1") == "ConfigMap":
        found = "a ConfigMap", [*_texts(document, *mapping(content, "data").values())]
    elif isinstance(content, dict) and "apiVersion" not in content and "kind" not in content:
        inner = [*_at(document, *((key,) for key in content if key not in ("global", "metadata")))]
        is_part = content.keys() & {"spec", "providerConfig"}
        found = "a part of a resource" if is_part else "a values file of a parent chart", inner
    return found


def _of_application(document: Document) -> Iterator[Document]:
    for path in (("spec",), ("spec", "template", "spec")):
        spec = at(document.content, *path)
        sources: list[Key] = [(*path, "source")]
        several = at(spec, "sources")
        sources += [(*path, "sources", index) for index in range(len(several) if isinstance(several, list) else 0)]
        for source in sources:
            yield from _at(document, (*source, "helm", "valuesObject"))
            yield from _texts(document, _get(document.content, *source, "helm", "values"))


def _at(document: Document, *paths: Key) -> Iterator[Document]:
    """Yield the mappings at paths, without their lines, because a document can have very many mappings."""
    for path in paths:
        value = _get(document.content, *path)
        if isinstance(value, dict):
            yield Document(value, inside=(*document.inside, *path), name=document.name)


def _texts(document: Document, *values: object) -> Iterator[Document]:
    """Yield the documents in texts; their lines are those of the texts, and so unknown."""
    for text in texts(list(values)):
        try:
            part = parse(text.encode(errors="replace"), document.name)
        except Unreadable:
            continue
        yield Document(part.content, {}, name=document.name, documents=part.documents)


def _get(content: object, *path: str | int) -> Any:  # noqa: ANN401 - any document
    for key in path:
        if isinstance(content, dict):
            content = content.get(key)
        elif isinstance(content, list) and isinstance(key, int):
            content = content[key]
        else:
            return None
    return content
