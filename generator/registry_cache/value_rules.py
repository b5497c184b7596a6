"""The rules that the schema cannot express, with the reasons that the chart gives too (chart/templates/_validate*.tpl).

They work on the valid parts of a document, so that they find problems besides those of the schema.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from registry_cache import names
from registry_cache.document import quote_value
from registry_cache.model.pods import Images
from registry_cache.model.registry_config import DOCKER_HUB, HOST_OF_DOCKER_HUB, Cache
from registry_cache.model.values import RENAMED_VALUES
from registry_cache.problems import Finding, path_text
from registry_cache.versions import OLD_VERSIONS, V1ALPHA1, convert_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.document import Key

MIN_VOLUME_BYTES = 2**20
OTHER_HOSTS_OF_DOCKER_HUB = ("index.docker.io", "hub.docker.com")


@dataclass(frozen=True)
class Entry:
    """An entry of `caches` with a valid upstream, and as much of the rest as is valid."""

    index: int
    cache: Cache
    written_size: object
    size_path: Key = ("volume", "size")

    @property
    def path(self) -> Key:
        """The path of the entry."""
        return "caches", self.index

    @property
    def place(self) -> str:
        """The path of the entry as a person writes it."""
        return path_text(self.path)


@dataclass(frozen=True)
class Content:
    """A document that may not be valid."""

    values: Any

    def at(self, *path: str) -> Any:  # noqa: ANN401 - any document
        """Return the value at a path, or None if there is none."""
        return _at(self.values, *path)

    def mapping(self, *path: str) -> dict[str, Any]:
        """Return the mapping at a path, or an empty one if there is none."""
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def text(self, key: str) -> str:
        """Return a text, or an empty one if there is none."""
        value = self.at(key)
        return value if isinstance(value, str) else ""

    @cached_property
    def entries(self) -> list[Entry]:
        """The caches whose upstream is valid."""
        caches = self.at("caches")
        version = self.at("apiVersion")
        found = []
        for index, written in enumerate(caches if isinstance(caches, list) else []):
            is_old = isinstance(version, str) and version in OLD_VERSIONS and isinstance(written, dict)
            cache = _valid_part(convert_cache(written) if is_old else written)
            if cache is not None:
                size_path = ("size",) if version == V1ALPHA1 else ("volume", "size")
                found.append(Entry(index, cache, _at(written, *size_path), size_path))
        return found

    def count_replicas(self, cache: Cache) -> int:
        """Return the number of pods of a cache, as far as what decides it is valid."""
        written = self.at("upstreamSettings", cache.upstream, "replicas"), self.at("cachePods", "replicas")
        return cache.count_replicas(next((one for one in written if type(one) is int), 1))

    def serves_only_nodes(self, cache: Cache) -> bool:
        """Return whether a cache serves only who shows the nodes' certificate, as far as what decides it is valid."""
        own = self.at("upstreamSettings", cache.upstream, "nodesOnly")
        return (self.at("cachePods", "nodesOnly") if own is None else own) is True

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names of all objects."""
        overrides = {"name_override": self.text("nameOverride"), "fullname_override": self.text("fullnameOverride")}
        return names.fullname(**overrides)

    @cached_property
    def upstreams(self) -> list[str]:
        """The upstreams of all caches, valid or not."""
        caches = self.at("caches")
        upstreams = [_at(cache, "upstream") for cache in (caches if isinstance(caches, list) else [])]
        return sorted({upstream for upstream in upstreams if isinstance(upstream, str)})


def find_problems(values: object) -> Iterator[Finding]:
    """Yield the problems of a RegistryConfig or a values file that the schema cannot see."""
    content = Content(values)
    yield from _renamed_values(content)
    yield from _duplicates(content)
    yield from _cache_problems(content)
    yield from _upstream_settings_problems(content)
    yield from _image_problems(content)
    yield from _certificate_problems(content)
    if content.at("networkPolicies", "enabled") is True and not content.at("networkPolicies", "nodes"):
        reason = 'is empty, so no node could reach a cache; write the networks of your nodes, such as ["10.0.0.0/16"]'
        yield Finding(("networkPolicies", "nodes"), reason)


def find_gardener_problems(values: object) -> Iterator[Finding]:
    """Yield the problems that only Gardener has: a suffix that makes the name of another cache's Service there."""
    entries = Content(values).entries
    for entry in entries:
        name = names.gardener_service_name(entry.cache)
        for other in entries:
            if entry.cache.serviceNameSuffix and not other.cache.serviceNameSuffix and _named(other.cache, name):
                reason = f"Gardener names the Service of {other.place} {name}; write another suffix"
                yield Finding((*entry.path, "serviceNameSuffix"), reason)


def _named(cache: Cache, name: str) -> bool:
    return names.gardener_service_name(cache) == name


def _renamed_values(content: Content) -> Iterator[Finding]:
    for old, new in RENAMED_VALUES.items():
        *holders, name = old.split(".")
        if name in content.mapping(*holders):
            yield Finding(tuple(old.split(".")), f"has a new name; write {new}")


def _duplicates(content: Content) -> Iterator[Finding]:
    upstreams: dict[str, str] = {}
    services: dict[str, str] = {}
    for entry in content.entries:
        upstream = entry.cache.upstream
        if upstream in upstreams:
            reason = f"{upstream} has a cache already, at {upstreams[upstream]}; write each upstream once"
            yield Finding((*entry.path, "upstream"), reason)
            continue
        upstreams[upstream] = entry.place
        for name in names.service_names(content.prefix, entry.cache, content.count_replicas(entry.cache)):
            if name in services:
                reason = f"the name {name} belongs to the Service of {services[name]}; write another suffix"
                yield Finding((*entry.path, "serviceNameSuffix"), reason)
            services.setdefault(name, entry.place)


def _cache_problems(content: Content) -> Iterator[Finding]:
    for entry in content.entries:
        cache = entry.cache
        # An image can be named by registry-1.docker.io too, so a cache of it may stand beside one of docker.io.
        is_alias = cache.upstream == HOST_OF_DOCKER_HUB and DOCKER_HUB not in content.upstreams
        if is_alias or cache.upstream in OTHER_HOSTS_OF_DOCKER_HUB:
            reason = f'image references name Docker Hub {DOCKER_HUB}; write "{DOCKER_HUB}"'
            yield Finding((*entry.path, "upstream"), reason)
        count = f"{float(cache.size_bytes):.0f}"
        if float(count) < MIN_VOLUME_BYTES:
            reason = f'a volume of {count} bytes is too small; write at least "1Mi"'
            yield Finding((*entry.path, *entry.size_path), reason, _suggest_size(entry.written_size))
        if cache.proxy.httpProxy and not cache.proxy.httpsProxy and cache.remote_scheme == "https":
            reason = "is not used, because the cache speaks https to its upstream; write httpsProxy"
            yield Finding((*entry.path, "proxy", "httpProxy"), reason)
        if cache.http.tls and not content.at("upstreamSettings", cache.upstream, "clusterIP"):
            settings = path_text(("upstreamSettings", cache.upstream))
            reason = f"the certificate needs a fixed address of the Service; write {settings}.clusterIP, or false here"
            yield Finding((*entry.path, "http", "tls"), reason)
        if not cache.http.tls and content.serves_only_nodes(cache):
            settings = path_text(("upstreamSettings", cache.upstream))
            reason = f"a cache that serves only nodes needs TLS; write true, or {settings}.nodesOnly: false"
            yield Finding((*entry.path, "http", "tls"), reason)
        yield from _access_problems(content, entry)


def _access_problems(content: Content, entry: Entry) -> Iterator[Finding]:
    cache = entry.cache
    own = content.at("upstreamSettings", cache.upstream, "access")
    if (own or content.at("cachePods", "access")) != "Puller":
        return
    if not cache.http.tls:
        reason = "pullers show their credentials (access: Puller), which needs TLS; write true, or access: Anyone"
        yield Finding((*entry.path, "http", "tls"), reason)
    if cache.secretReferenceName:
        reason = "pullers show their own credentials (access: Puller); leave it out, or write access: Anyone"
        yield Finding((*entry.path, "secretReferenceName"), reason)


def _upstream_settings_problems(content: Content) -> Iterator[Finding]:
    caches = {entry.cache.upstream: entry for entry in reversed(content.entries)}
    for upstream, settings in content.mapping("upstreamSettings").items():
        path = ("upstreamSettings", upstream)
        if upstream not in content.upstreams:
            yield Finding(path, "no cache has this upstream", _suggest_upstream(upstream, content.upstreams))
            continue
        if _at(settings, "caConfigMapName") and _at(settings, "caSecretName"):
            yield Finding((*path, "caSecretName"), "caConfigMapName is set too; keep one of the two")
        entry = caches.get(upstream)
        if (
            entry
            and _at(settings, "proxySecretName")
            and not (entry.cache.proxy.httpProxy or entry.cache.proxy.httpsProxy)
        ):
            proxy = f"{entry.place}.proxy.{entry.cache.remote_scheme}Proxy"
            yield Finding((*path, "proxySecretName"), f"the cache has no proxy; write {proxy}, or leave this out")
        replicas = _at(settings, "replicas")
        if entry and type(replicas) is int and 1 <= replicas < entry.cache.count_replicas(1):
            reason = f"is too few, because {entry.place}.highAvailability.enabled is true"
            yield Finding((*path, "replicas"), f"{reason}; write at least 2, or leave this out")


def _image_problems(content: Content) -> Iterator[Finding]:
    for name in Images.model_fields:
        image = content.mapping("images", name)
        if image.get("tag") == "" and not image.get("digest"):
            yield Finding(("images", name, "tag"), "is empty, and there is no digest; write one of the two")
    for upstream in content.mapping("helmTest", "images"):
        if upstream not in content.upstreams:
            suggestion = _suggest_upstream(upstream, content.upstreams)
            yield Finding(("helmTest", "images", upstream), "no cache has this upstream", suggestion)


def _certificate_problems(content: Content) -> Iterator[Finding]:
    """Yield the Secrets into which cert-manager would put two certificates."""
    if content.at("certManager", "enabled") is not True:
        return
    holders: dict[str, str] = {}
    # Names that nobody wrote are all different, so a name that was written is what can be changed.
    for path, name, holder in sorted(_certificate_secrets(content), key=lambda secret: secret[0] is not None):
        if path and name in holders:
            reason = f"the Secret {name} gets the certificate of {holders[name]}; write another name, or leave this out"
            yield Finding(path, reason)
        holders.setdefault(name, holder)


def _certificate_secrets(content: Content) -> Iterator[tuple[Key | None, str, str]]:
    """Yield the Secrets that cert-manager makes: where the name is written, if it is, the name, and whose they are."""
    caches: dict[str, Entry] = {}
    for entry in content.entries:
        if entry.cache.http.tls:
            caches.setdefault(entry.cache.upstream, entry)
    for upstream, entry in caches.items():
        default = f"{names.object_name(content.prefix, upstream)}-tls"
        yield *_written_or(content, ("upstreamSettings", upstream, "tlsSecretName"), default), entry.place
    has_nodes = any(content.serves_only_nodes(entry.cache) for entry in caches.values())
    if has_nodes:
        default = names.suffixed_name(content.prefix, "client")
        yield *_written_or(content, ("cachePods", "clientSecretName"), default), "the nodes"
    if has_nodes or (caches and not content.at("certManager", "issuerRef", "name")):
        yield None, names.suffixed_name(content.prefix, "ca"), "the release's own authority"


def _written_or(content: Content, path: tuple[str, ...], default: str) -> tuple[Key | None, str]:
    """Return the path and the value of a name that is written, or None and the default."""
    written = content.at(*path)
    return (path, written) if written and isinstance(written, str) else (None, default)


def _valid_part(written: object) -> Cache | None:
    """Return the valid parts of an entry of `caches`, or None if its upstream is not valid."""
    if not isinstance(written, dict):
        return None
    valid = {key: value for key, value in written.items() if value is not None}
    while "upstream" in valid:
        try:
            return Cache.model_validate(valid)
        except ValidationError as error:
            wrong = {part["loc"][0] for part in error.errors()}
            valid = {key: value for key, value in valid.items() if key not in wrong}
    return None


def _at(value: object, *path: str) -> Any:  # noqa: ANN401 - any value
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _suggest_upstream(upstream: object, known: list[str]) -> str:
    nearest = difflib.get_close_matches(str(upstream), known, n=1)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"the upstreams are {', '.join(known)}" if known else ""


def _suggest_size(size: object) -> str:
    """Suggest the unit that was most likely left out or mistaken."""
    match = re.fullmatch("([1-9][0-9]{0,3})(m?)([.]0)?", str(size))
    if not match:
        return ""
    return f"did you mean {quote_value(match[1] + ('Mi' if match[2] else 'Gi'))}?"
