"""Names of the caches' objects, as the chart makes them (chart/templates/_names.tpl), and as Gardener does."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry_cache.model.registry_config import Cache

RELEASE = "registry-cache"
MAX_STATEFULSET_NAME = 52
MAX_LABEL = 63
MAX_GARDENER_LABEL = 43


def fullname(release: str = RELEASE, *, name_override: str = "", fullname_override: str = "") -> str:
    """Return the prefix of the names of all objects; the default release is the one in the README's command."""
    name = name_override or "registry-cache"
    both = release if name in release else f"{release}-{name}"
    return (fullname_override or both).replace(".", "-")[:MAX_LABEL].removesuffix("-")


def suffixed_name(prefix: str, suffix: str) -> str:
    """Return the name of an object that exists once in a release."""
    return f"{prefix[: MAX_LABEL - 1 - len(suffix)].removesuffix('-')}-{suffix}"


def object_name(prefix: str, upstream: str) -> str:
    """Return the name of a cache's objects; `prefix` as of `fullname`."""
    name = f"{prefix}-{re.sub('[.:]', '-', upstream)}"
    if not re.search(r"[-:]|^[^.]+$", upstream) and len(name) <= MAX_STATEFULSET_NAME:
        return name
    return f"{name[:43].strip('-')}-{_hash(f'{prefix}/{upstream}', 8)}"


def service_names(prefix: str, cache: Cache, replicas: int = 1) -> list[str]:
    """Return the names of a cache's Services: the one for clients, and the one by which replicas find each other."""
    own = re.sub("^([0-9])", r"s\1", object_name(prefix, cache.upstream))
    name = f"registry-{cache.serviceNameSuffix}" if cache.serviceNameSuffix else own
    return [name, f"{own}--peers"] if replicas > 1 else [name]


def upstream_label(upstream: str) -> str:
    """Return the value of the label `upstream-host`."""
    label = upstream.replace(":", "-")
    return label if len(label) <= MAX_LABEL else f"{label[:54].strip('-.')}-{_hash(upstream, 8)}"


def gardener_service_name(cache: Cache) -> str:
    """Return Gardener's name for the Service of a cache (pkg/component/registrycaches)."""
    if cache.serviceNameSuffix:
        return f"registry-{cache.serviceNameSuffix}"
    label = cache.upstream.replace(":", "-")
    if len(label) > MAX_GARDENER_LABEL:
        label = f"{label[:37]}-{_hash(cache.upstream, 5)}"
    return f"registry-{label.replace('.', '-')}"


def _hash(text: str, length: int) -> str:
    return sha256(text.encode()).hexdigest()[:length]
