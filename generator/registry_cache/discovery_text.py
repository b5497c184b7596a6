"""Writes a RegistryConfig for the registries of a cluster."""

from __future__ import annotations

import itertools
import re
import textwrap
from typing import TYPE_CHECKING

from registry_cache.model.values import Values
from registry_cache.untrusted_text import join_some, printable
from registry_cache.values_file import WIDTH, dump

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from registry_cache.discover import Discovery, Registry

BYTES_PER_GI = 2**30


def document_text(discovery: Discovery, cached: Collection[str] = ()) -> str:
    """Return a RegistryConfig for the upstreams of a cluster, sorted by name, without those that have a cache already.

    Comments say what was left out and why. If no upstream is left, there are only comments.
    """
    missing = [name for name in discovery.upstreams if name not in cached]
    lines = [*_header(discovery, missing, cached), *_left_out(discovery, cached)]
    if missing:
        lines += dump({key: Values.model_fields[key].default for key in ("apiVersion", "kind")}).splitlines()
        lines.append("caches:")
        for name in missing:
            lines += textwrap.indent("\n".join(_cache(name, discovery.registries[name])), "  ").splitlines()
    return "\n".join(lines) + "\n"


def suggest_size_gi(image_bytes: int) -> int:
    """Return the size of a volume, in Gi, for images of a size.

    It is twice the size of the images, because new versions come before the old ones expire, rounded up to 10, 20, 50,
    100, 200 and so on. It is at least the chart's default, 10.
    """
    steps: Iterator[int] = (step * 10**power for power in itertools.count(1) for step in (1, 2, 5))
    return next(step for step in steps if step * BYTES_PER_GI >= 2 * image_bytes)


def _header(discovery: Discovery, missing: list[str], cached: Collection[str]) -> Iterator[str]:
    source = f"{_count(discovery.pods, 'pod')} and {_count(discovery.nodes, 'node')}"
    if not missing:
        known = [name for name in discovery.upstreams if name in cached]
        yield from _comment(
            f"Nothing is missing: all registries of {source} have a cache already: {', '.join(known)}."
            if known
            else f"No image of {source} comes from a registry that can have a cache."
        )
        return
    subject = "The caches that the given values do not have yet," if cached else "A RegistryConfig"
    yield from _comment(f"{subject} for the registries that this cluster pulls from, found in {source}.")
    yield from _comment(
        "A volume is twice as large as the images on the nodes, in the compressed form that a cache stores, rounded up."
    )
    if any(discovery.registries[name].unknown for name in missing):
        yield from _comment(
            "The size of some images is unknown: a node reports only its 50 largest images (nodeStatusMaxImages of the "
            "kubelet)."
        )


def _left_out(discovery: Discovery, cached: Collection[str]) -> Iterator[str]:
    reasons = [
        f"{printable(name)} ({_count(discovery.registries[name].images, 'image')}): {reason}"
        for name, reason in discovery.left_out.items()
        if name not in cached
    ]
    if discovery.nameless:
        reasons.append(
            f"{_count(discovery.nameless, 'image')} with only a digest or an ID and no name: the registry is unknown. "
            "An image that a pod names with registry and digest is cached like all others"
        )
    if discovery.unreadable:
        reasons.append(f"references that are not valid: {join_some(discovery.unreadable)}")
    if reasons:
        yield "# Left out:"
    for reason in reasons:
        yield from _comment(reason, "# - ", "#   ")


def _cache(name: str, registry: Registry) -> Iterator[str]:
    """Yield the lines of the entry of `caches` for one registry."""
    if not registry.in_pods:
        yield from _comment("Only on nodes: no pod uses an image of it now.")
    if registry.pull_secrets:
        yield from _comment(
            f"Pods with images of it have pull secrets: {join_some(registry.pull_secrets)}. If they are for this "
            "registry, the cache needs a Secret with the keys username and password in the release's namespace, named "
            "by secretReferenceName. Without it, private images are not cached and nodes pull them directly, as now."
        )
    yield f"- {dump({'upstream': name}).strip()}"
    if registry.sizes:
        size = sum(registry.sizes.values())
        gi = suggest_size_gi(size)
        minimum = ", and at least the default" if gi == suggest_size_gi(0) else ""
        unknown = f"; the size of {registry.unknown} more is unknown" if registry.unknown else ""
        images = _count(len(registry.sizes), "image")
        yield "  volume:"
        yield f"    size: {gi}Gi # {images}, {_size_text(size)} on the nodes, doubled{minimum}{unknown}"
    else:
        images = _count(registry.unknown, "image")
        yield f"  # {images} of unknown size; the default size of a volume is {suggest_size_gi(0)}Gi."
    if registry.pull_secrets:
        yield f"  # {dump({'secretReferenceName': re.sub('[.:]', '-', name)}).strip()}"


def _comment(text: str, first: str = "# ", following: str = "# ") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004 - a GB
