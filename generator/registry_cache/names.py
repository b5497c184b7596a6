"""Names of the caches' objects, as the chart makes them (chart/templates/_helpers.tpl), and as Gardener does."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

RELEASE = "registry-cache"


def fullname(release: str = RELEASE, *, name_override: str = "", fullname_override: str = "") -> str:
    """What the names of all objects begin with; the release is the one of the install command in the README."""
    name = name_override or "registry-cache"
    both = release if name in release else f"{release}-{name}"
    return (fullname_override or both).replace(".", "-")[:63].removesuffix("-")


def object_name(full: str, upstream: str) -> str:
    """The name of a cache's objects, at most 52 characters; `full` as of `fullname`."""
    name = f"{full}-{re.sub('[.:]', '-', upstream)}"
    if not re.search(r"[-:]|^[^.]+$", upstream) and len(name) <= 52:  # noqa: PLR2004 - a StatefulSet's
        return name
    return f"{name[:43].strip('-')}-{_hash(f'{full}/{upstream}', 8)}"


def service_name(full: str, upstream: str, suffix: str = "") -> str:
    """The name of a cache's Service; `suffix` is its serviceNameSuffix."""
    return f"registry-{suffix}" if suffix else re.sub("^([0-9])", r"s\1", object_name(full, upstream))


def service_names(full: str, cache: dict[str, Any]) -> list[str]:
    """The names of all Services of a cache, as in a values file that may not be valid."""
    suffix = cache.get("serviceNameSuffix")
    own = service_name(full, cache["upstream"], suffix if isinstance(suffix, str) else "")
    return [own, peers_name(full, cache["upstream"])] if replicas(cache) > 1 else [own]


def peers_name(full: str, upstream: str) -> str:
    """The name of the headless Service by which the replicas of a cache find each other."""
    return f"{service_name(full, upstream)}--peers"


def replicas(cache: dict[str, Any]) -> int:
    """How many pods a cache has, each with a volume of its own."""
    setting = cache.get("highAvailability")
    return 2 if isinstance(setting, dict) and setting.get("enabled") is True else 1


def remote_url(cache: dict[str, Any]) -> str:
    """Where a cache, as in a values file, fetches from."""
    host = "registry-1.docker.io" if cache["upstream"] == "docker.io" else cache["upstream"]
    url: str = cache.get("remoteURL", f"https://{host}")
    return url.removesuffix("/")


def upstream_label(upstream: str) -> str:
    """The value of the label `upstream-host`."""
    label = upstream.replace(":", "-")
    return label if len(label) <= 63 else f"{label[:54].strip('-.')}-{_hash(upstream, 8)}"  # noqa: PLR2004 - a label's


def gardener_service_name(upstream: str) -> str:
    """What Gardener calls the Service of a cache without a suffix (pkg/component/registrycaches)."""
    label = upstream.replace(":", "-")
    if len(label) > 43:  # noqa: PLR2004 - Gardener's
        label = f"{label[:37]}-{_hash(upstream, 5)}"
    return f"registry-{label.replace('.', '-')}"


def _hash(text: str, length: int) -> str:
    return sha256(text.encode()).hexdigest()[:length]
