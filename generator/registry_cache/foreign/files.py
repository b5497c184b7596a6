"""The configuration files of container runtimes and registries that name registries, and what they say about them."""

from __future__ import annotations

import re
import tomllib
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from registry_cache.foreign.mirrors import LOGIN, Mirrors
from registry_cache.foreign.parts import Recognized, at, has_any, mapping, mappings, texts
from registry_cache.model.registry_config import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry_cache.document import Document

# containerd's names for the plugin that pulls images for Kubernetes: version 1, 2, and since 3.
CRI_PLUGINS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
CREDENTIALS = ("username", "password", "auth")
TOKENS = ("identityToken", "identitytoken", "identity_token", "registrytoken", "registryToken")


def k3s_registries(document: Document) -> Recognized | None:
    """Recognize the registries.yaml of k3s and RKE2."""
    content = document.content
    if not isinstance(content, dict) or not content or set(content) - {"mirrors", "configs", "auths"}:
        return None
    if set(content) == {"auths"}:  # Docker's config.json
        return None
    return Recognized("a registries.yaml of k3s or RKE2", read_registries(content))


def k3s_config(document: Document) -> Recognized | None:
    """Recognize the config.yaml of k3s and RKE2, which names no registries to be mirrored."""
    keys = {"embedded-registry", "private-registry", "system-default-registry", "disable-default-registry-endpoint"}
    if not mapping(document.content).keys() & keys:
        return None
    hint = "its registries.yaml has the mirrors"
    return Recognized("a config.yaml of k3s or RKE2", Mirrors(), hint)


def containerd_config(document: Document) -> Recognized | None:
    """Recognize containerd's own config.toml, of any version."""
    content = document.content
    daemon = {"plugins", "grpc", "oom_score", "imports", "required_plugins", "disabled_plugins", "proxy_plugins"}
    if not isinstance(content, dict) or not content.keys() & daemon or "apiVersion" in content:
        return None
    if not all(isinstance(content.get(key, {}), dict) for key in ("plugins", "grpc")):
        return None
    mirrors = read_containerd(content)
    hint = ""
    if paths := [path for registry in _plugin_registries(content) for path in texts(registry.get("config_path"))]:
        hint = "it says that the mirrors are in hosts.toml files; give those, as in certs.d/*/hosts.toml"
        if any(paths) and mirrors.upstreams:
            mirrors.notes.append("config_path is set too: more mirrors may be in hosts.toml files")
    return Recognized("containerd's config.toml", mirrors, hint)


def hosts_toml(document: Document) -> Recognized | None:
    """Recognize a hosts.toml of containerd, whose upstream is its server, or else the name of its directory."""
    content = document.content
    hosts = mapping(content, "host")
    by_url = all("://" in url or "." in url or ":" in url for url in hosts)
    names_server = isinstance(content, dict) and isinstance(content.get("server"), str) and "://" in content["server"]
    # A hosts.toml has at most the keys of one host beside its hosts.
    own = {"server", "host", "capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}
    if not isinstance(content, dict) or set(content) - own or not (names_server or (hosts and by_url)):
        return None
    mirrors = Mirrors()
    name = _directory_of(document.name) or content.get("server", "")
    mirrors.add_upstream(name, list(hosts))
    hint = "its directory or its server says which registry it is for; give it by its path" if not name else ""
    for host, settings in [(name, content), *hosts.items()]:
        _add_tls(mirrors, host, settings, ("ca", "client", "skip_verify"))
        headers = mapping(settings, "header")
        if headers:
            is_login = any(key.lower() in ("authorization", "proxy-authorization") for key in headers)
            mirrors.add_setting(host, LOGIN if is_login else "headers")
        if has_any(settings, {"rewrite"}):
            mirrors.add_setting(name, "rewrite")
    return Recognized("a hosts.toml of containerd", mirrors, hint)


def docker_daemon(document: Document) -> Recognized | None:
    """Recognize Docker's daemon.json, whose mirrors are for Docker Hub alone."""
    keys = {"registry-mirrors", "insecure-registries", "exec-opts", "log-driver", "data-root", "live-restore"}
    if not mapping(document.content).keys() & keys:
        return None
    mirrors = Mirrors()
    if "registry-mirrors" in document.content:
        mirrors.add_upstream(DOCKER_HUB, document.content["registry-mirrors"])
    return Recognized("Docker's daemon.json", mirrors, "it has no registry-mirrors")


def docker_config(document: Document) -> Recognized | None:
    """Recognize Docker's config.json, which has the logins of registries."""
    if not isinstance(mapping(document.content).get("auths"), dict) and not has_any(
        document.content, {"credsStore", "credHelpers"}
    ):
        return None
    mirrors = Mirrors()
    for host in [*mapping(document.content, "auths"), *mapping(document.content, "credHelpers")]:
        mirrors.add_upstream(host)
        mirrors.add_setting(host, LOGIN)
    return Recognized("Docker's config.json", mirrors)


def distribution_config(document: Document) -> Recognized | None:
    """Recognize the configuration of distribution, whose proxy has one upstream."""
    content = document.content
    if str(mapping(content).get("version")) != "0.1" or not has_any(content, {"storage", "http", "proxy"}):
        return None
    mirrors = Mirrors()
    proxy = mapping(content, "proxy")
    if isinstance(proxy.get("remoteurl"), str):
        mirrors.add_upstream(proxy["remoteurl"])
        if has_any(proxy, {"username", "password", "exec"}):
            mirrors.add_setting(proxy["remoteurl"], LOGIN)
        if "ttl" in proxy:
            mirrors.notes.append("proxy.ttl is left out; garbageCollection.ttl counts from the last use instead")
    return Recognized("a configuration of distribution", mirrors, "it has no proxy with a remoteurl")


def podman_registries(document: Document) -> Recognized | None:
    """Recognize the registries.conf of CRI-O, Podman and others (containers-registries.conf.5)."""
    content = document.content
    if not isinstance(content, dict) or not (
        isinstance(content.get("registry"), list) or "unqualified-search-registries" in content
    ):
        return None
    mirrors = Mirrors()
    for registry in mappings(content.get("registry")):
        name = registry.get("prefix") or registry.get("location")
        places = [mirror.get("location") for mirror in mappings(registry.get("mirror"))]
        if registry.get("prefix") and registry.get("location"):
            places.append(registry["location"])
        mirrors.add_upstream(name, places)
    return Recognized("a registries.conf of CRI-O or Podman", mirrors)


def buildkit_config(document: Document) -> Recognized | None:
    """Recognize buildkitd.toml."""
    registries = mapping(document.content, "registry")
    if not registries or not all(isinstance(registry, dict) for registry in registries.values()):
        return None
    mirrors = Mirrors()
    for name, registry in registries.items():
        mirrors.add_upstream(name, registry.get("mirrors"))
        _add_tls(mirrors, name, registry, ("ca", "keypair", "insecure"))
    return Recognized("a buildkitd.toml", mirrors)


def bottlerocket_settings(document: Document) -> Recognized | None:
    """Recognize the settings of Bottlerocket, in both forms of its mirrors."""
    registries = at(document.content, "settings", "container-registry")
    if not isinstance(registries, dict):
        return None
    mirrors = Mirrors()
    written = registries.get("mirrors")
    for mirror in mappings(written):
        mirrors.add_upstream(mirror.get("registry"), mirror.get("endpoint"))
    for name, endpoints in mapping(written).items():
        mirrors.add_upstream(name, endpoints)
    for login in mappings(registries.get("credentials")):
        mirrors.add_setting(login.get("registry"), LOGIN)
    return Recognized("a settings file of Bottlerocket", mirrors)


def spegel_values(document: Document) -> Recognized | None:
    """Recognize the values of Spegel's chart; `registries` is the older name of the list."""
    spegel = mapping(document.content, "spegel")
    keys = {"mirroredRegistries", "registries", "containerdRegistryConfigPath", "containerdSock", "resolveTags"}
    if not spegel.keys() & {*keys, "additionalMirrorTargets", "additionalMirrorRegistries", "prependExisting"}:
        return None
    mirrors = Mirrors()
    for key in ("mirroredRegistries", "registries"):
        for name in texts(spegel.get(key)):
            mirrors.add_upstream(name, [*texts(spegel.get("additionalMirrorTargets"))])
    hint = "its list is empty, which means all of them; registry-cache discover finds those that a cluster pulls from"
    return Recognized("a values file of Spegel", mirrors, hint)


def list_of_registries(document: Document) -> Recognized | None:
    """Recognize a plain list of registries, or an answer of Harbor's API with its registries."""
    content = document.content
    if not isinstance(content, list) or not content:
        return None
    mirrors = Mirrors()
    if all(isinstance(one, str) and re.fullmatch(_REGISTRY, one) for one in content):
        for name in content:
            mirrors.add_upstream(name)
        return Recognized("a list of registries", mirrors)
    if all(isinstance(one, dict) and isinstance(one.get("url"), str) and "type" in one for one in content):
        for registry in content:
            mirrors.add_upstream(registry["url"])
            if mapping(registry, "credential").get("access_key"):
                mirrors.add_setting(registry["url"], LOGIN)
        return Recognized("a list of Harbor's registries", mirrors)
    if all(isinstance(one, dict) and "project_id" in one for one in content):
        hint = "Harbor's list of registries has the upstreams of its proxy caches"
        return Recognized("a list of Harbor's projects", mirrors, hint)
    return None


def read_registries(content: object) -> Mirrors:
    """Return what `mirrors` and `configs`, in the form of k3s and of containerd's config.toml, say."""
    mirrors = Mirrors()
    for name, mirror in mapping(content, "mirrors").items():
        mirrors.add_upstream(name, at(mirror, "endpoint") or at(mirror, "endpoints") or [])
        if has_any(mirror, {"rewrite"}):
            mirrors.add_setting(name, "rewrite")
    for name, config in [*mapping(content, "configs").items(), *mapping(content, "auths").items()]:
        auth = mapping(config, "auth") or mapping(config)
        add_login(mirrors, name, auth)
        _add_tls(mirrors, name, mapping(config, "tls"), ("ca_file", "cert_file", "insecure_skip_verify"))
    return mirrors


def read_containerd(content: object) -> Mirrors:
    """Return what the tables of containerd's CRI plugin say about registries."""
    mirrors = Mirrors()
    for registry in _plugin_registries(content):
        mirrors.merge(read_registries(registry))
        for _ in mapping(registry, "headers"):
            mirrors.notes.append("the HTTP headers of registry.headers are left out, because a cache sends its own")
    return mirrors


def read_containerd_patches(patches: Iterable[object]) -> Mirrors:
    """Return what parts of a config.toml, as kind has them, say about registries."""
    mirrors = Mirrors()
    for patch in patches:
        try:
            mirrors.merge(read_containerd(tomllib.loads(patch if isinstance(patch, str) else "")))
        except (tomllib.TOMLDecodeError, RecursionError):
            mirrors.notes.append("a patch of containerd's configuration is not TOML, and is left out")
    return mirrors


def add_login(mirrors: Mirrors, name: object, auth: object) -> None:
    """Add the login of a host, if there is one."""
    if has_any(auth, CREDENTIALS):
        mirrors.add_setting(name, LOGIN)
    if has_any(auth, TOKENS):
        mirrors.add_setting(name, "token")


_REGISTRY = re.compile(r"(https?://)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]+)?/?|(https?://)?[a-z0-9-]+:[0-9]+/?")


def _add_tls(mirrors: Mirrors, name: object, settings: object, keys: tuple[str, str, str]) -> None:
    """Add what a mapping says about certificates, under the names that a kind of document has for it."""
    ca, client, insecure = keys
    if at(settings, ca):
        mirrors.add_setting(name, "certificate authority")
    if at(settings, client):
        mirrors.add_setting(name, "client certificate")
    if at(settings, insecure) is True:
        mirrors.add_setting(name, "no verification")


def _plugin_registries(content: object) -> list[dict[str, Any]]:
    return [mapping(content, "plugins", plugin, "registry") for plugin in CRI_PLUGINS]


def _directory_of(name: str) -> str | None:
    """Return the registry that containerd reads a hosts.toml for, by the name of its directory."""
    path = PurePath(name)
    directory = re.sub("_([0-9]+)_$", r":\1", path.parent.name)
    is_registry = directory == "_default" or (re.search("[^.][.:][^.]", directory) and not directory.endswith(".d"))
    return directory if path.name == "hosts.toml" and is_registry else None
