"""Documents with an apiVersion and a kind that name registries, and Talos' machine configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_cache.foreign.files import add_login, read_containerd_patches, read_registries
from registry_cache.foreign.mirrors import Mirrors
from registry_cache.foreign.parts import Recognized, at, has_any, mapping, mappings, texts

if TYPE_CHECKING:
    from registry_cache.document import Document

TALOS_KINDS = ("RegistryMirrorConfig", "RegistryAuthConfig", "RegistryTLSConfig")
OPENSHIFT_LISTS = {
    "ImageDigestMirrorSet": "imageDigestMirrors",
    "ImageTagMirrorSet": "imageTagMirrors",
    "ImageContentSourcePolicy": "repositoryDigestMirrors",
    "ImageContentPolicy": "repositoryDigestMirrors",
}


def kind_of(content: object, *api: str) -> str:
    """Return the kind of a resource if its apiVersion begins with one of these; otherwise an empty text."""
    version, kind = at(content, "apiVersion"), at(content, "kind")
    return kind if isinstance(version, str) and isinstance(kind, str) and version.startswith(api) else ""


def talos_machine(document: Document) -> Recognized | None:
    """Recognize Talos' machine configuration, a part of it, or a JSON patch of it."""
    content = document.content
    title = "a machine configuration of Talos"
    if isinstance(content, list):
        content, title = _apply_json_patch(content), "a JSON patch of Talos"
    if not isinstance(content, dict) or "machine" not in content or "apiVersion" in content:
        return None
    registries = mapping(content, "machine", "registries")
    mirrors = read_registries({**registries, "configs": {}})
    for name, mirror in mapping(registries, "mirrors").items():
        if at(mirror, "skipFallback") is True:
            mirrors.add_setting(name, "no fallback")
    for name, config in mapping(registries, "config").items():
        add_login(mirrors, name, mapping(config, "auth"))
        _add_tls(mirrors, name, mapping(config, "tls"))
    return Recognized(title, mirrors, "machine.registries.mirrors is not in it")


def talos_document(document: Document) -> Recognized | None:
    """Recognize one of the documents that Talos has instead of machine.registries since 1.12."""
    content = document.content
    kind = kind_of(content, "v1alpha1")
    if kind not in TALOS_KINDS or at(content, "apiVersion") != "v1alpha1":
        return None
    mirrors = Mirrors()
    name = content.get("name")
    if kind == "RegistryMirrorConfig":
        written = content.get("endpoints")
        mirrors.add_upstream(name, [*texts(written), *(one.get("url") for one in mappings(written))])
        if content.get("skipFallback") is True:
            mirrors.add_setting(name, "no fallback")
    elif kind == "RegistryAuthConfig":
        add_login(mirrors, name, content)
    else:
        _add_tls(mirrors, name, content)
    return Recognized(f"a {kind} of Talos", mirrors)


def gardener_mirrors(document: Document) -> Recognized | None:
    """Recognize Gardener's MirrorConfig, and a Shoot or an Extension that has one but no registry cache."""
    content = document.content
    is_list = any("upstream" in mirror for mirror in mappings(at(content, "mirrors")))
    if is_list or kind_of(content, "mirror.extensions.gardener.cloud/") == "MirrorConfig":
        return Recognized("a MirrorConfig of Gardener", _read_gardener_mirrors(content))
    if kind_of(content, "extensions.gardener.cloud/") == "Extension":
        if at(content, "spec", "type") != "registry-mirror":
            return None
        title, configs = "an Extension of Gardener for registry-mirror", [at(content, "spec", "providerConfig")]
    elif at(content, "kind") == "Shoot":
        extensions = mappings(at(content, "spec", "extensions"))
        configs = [one.get("providerConfig") for one in extensions if one.get("type") == "registry-mirror"]
        if not configs or any(one.get("type") == "registry-cache" for one in extensions):
            return None
        title = "a Shoot with the extension registry-mirror and without registry-cache"
    else:
        return None
    mirrors = Mirrors()
    for config in configs:
        mirrors.merge(_read_gardener_mirrors(config))
    return Recognized(title, mirrors)


def kind_cluster(document: Document) -> Recognized | None:
    """Recognize a configuration of kind, which has parts of containerd's config.toml."""
    content = document.content
    if not kind_of(content, "kind.x-k8s.io/"):
        return None
    mirrors = read_containerd_patches(texts(content.get("containerdConfigPatches")))
    return Recognized("a Cluster of kind", mirrors, "no containerdConfigPatches name any; hosts.toml files may")


def openshift_mirrors(document: Document) -> Recognized | None:
    """Recognize OpenShift's sets of mirrors."""
    kind = kind_of(document.content, "config.openshift.io/", "operator.openshift.io/")
    if kind not in OPENSHIFT_LISTS:
        return None
    mirrors = Mirrors()
    for entry in mappings(at(document.content, "spec", OPENSHIFT_LISTS[kind])):
        mirrors.add_upstream(entry.get("source"), entry.get("mirrors"))
    return Recognized(f"an {kind} of OpenShift", mirrors)


def _read_gardener_mirrors(config: object) -> Mirrors:
    mirrors = Mirrors()
    for mirror in mappings(at(config, "mirrors")):
        hosts = mappings(mirror.get("hosts"))
        mirrors.add_upstream(mirror.get("upstream"), [host.get("host") for host in hosts])
    return mirrors


def _apply_json_patch(operations: list[object]) -> dict[str, object] | None:
    """Return the machine configuration that a JSON patch (RFC 6902) makes, or None if it is something else."""
    patch: dict[str, object] = {}
    for operation in operations:
        path = at(operation, "path")
        if at(operation, "op") is None or not isinstance(path, str) or not path.startswith("/"):
            return None
        *holders, name = [key.replace("~1", "/").replace("~0", "~") for key in path[1:].split("/")]
        part = patch
        for key in holders:
            below = part.get(key)
            part[key] = part = below if isinstance(below, dict) else {}
        part[name] = at(operation, "value")
    return patch if "machine" in patch else None


def _add_tls(mirrors: Mirrors, name: object, tls: object) -> None:
    if has_any(tls, {"ca"}):
        mirrors.add_setting(name, "certificate authority")
    if has_any(tls, {"clientIdentity"}):
        mirrors.add_setting(name, "client certificate")
    if at(tls, "insecureSkipVerify") is True:
        mirrors.add_setting(name, "no verification")
