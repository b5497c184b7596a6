"""What an upgrade from one configuration to another does to each cache and to the nodes.

It follows from how the chart uses each value (chart/templates); tests/render compares it with what is rendered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from registry_cache import names
from registry_cache.document import shown
from registry_cache.values_file import complete

Action = Literal["created", "changed", "removed", "refused"]
Data = Literal["kept", "none", "left behind", "lost"]

SIZE, STORAGE_CLASS = "volume.size", "volume.storageClassName"
TIME_TO_LIVE, SUFFIX = "garbageCollection.ttl", "serviceNameSuffix"
UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_UNITS = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


@dataclass(frozen=True)
class Difference:
    """A value that is not what it was; None where it is left out."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """`volume.size 10Gi -> 20Gi`."""
        return f"{self.path} {_word(self.old)} -> {_word(self.new)}"


@dataclass(frozen=True)
class Change:
    """What happens to one cache (`upstream`), or to the nodes or another part of the chart (`part`)."""

    part: Literal["cache", "nodes", "dashboard", "labels", "test"]
    upstream: str | None
    action: Action
    restart: bool
    data: Data
    differences: tuple[Difference, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All changes, those of caches first and in the order of the new document."""

    changes: tuple[Change, ...]

    @property
    def refused(self) -> bool:
        """Whether Kubernetes would refuse a part of the upgrade."""
        return any(change.action == "refused" for change in self.changes)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"refused": self.refused, "changes": [asdict(change) for change in self.changes]}

    def text(self) -> str:
        """For people: a paragraph for each change."""
        if not self.changes:
            return "Nothing changes."
        lines = []
        for change in self.changes:
            restart = ", restarts" if change.restart and change.action == "changed" else ""
            lines.append(f"{change.upstream or change.part}: {change.action}{restart}")
            lines += [f"  {line}" for line in (*map(str, change.differences), *change.words)]
        return "\n".join(lines)


def plan(old: dict[str, Any], new: dict[str, Any], release: str = names.RELEASE) -> Plan:
    """What `helm upgrade` of a release does, from one valid values file (v1alpha3) to another."""
    before, after = complete(old), complete(new)
    full = [_fullname(release, values) for values in (before, after)]
    shared = _differences(before, after, "cache.", "imagePullSecrets")
    was = {cache["upstream"]: cache for cache in before["caches"]}
    will = {cache["upstream"]: cache for cache in after["caches"]}
    changes = [
        change
        for upstream, cache in will.items()
        if (change := _cache(upstream, was.get(upstream), cache, shared, full))
    ]
    changes += [_removed(upstream) for upstream in was if upstream not in will]
    return Plan((*changes, *_nodes(before, after, full), *_rest(before, after, full)))


def _cache(
    upstream: str, old: dict[str, Any] | None, new: dict[str, Any], shared: tuple[Difference, ...], full: list[str]
) -> Change | None:
    words: tuple[str, ...]
    if old is None:
        words = ("empty at first, or with what a volume of an earlier cache of this upstream still holds",)
        return Change("cache", upstream, "created", restart=False, data="none", differences=(), words=words)
    before, after = _fields(old), _fields(new)
    own = tuple(
        Difference(path, before[path], after[path]) for path in before if not _same(path, before[path], after[path])
    )
    if full[0] != full[1]:
        words = (
            f"its objects were called {full[0]}-… and will be {full[1]}-…, so it begins with a new and empty volume",
            "the old volume stays, unused, until its claim is deleted",
        )
        return Change("cache", upstream, "changed", restart=True, data="lost", differences=own, words=words)
    if immutable := [one.path for one in own if one.path in (SIZE, STORAGE_CLASS)]:
        said = f"Kubernetes does not let a StatefulSet change {' and '.join(immutable)}: keep what is there, or"
        words = (
            f"{said} take the cache out, delete its claim and put it back, empty",
            "the upgrade would stop there, with a part of it done",
        )
        return Change("cache", upstream, "refused", restart=False, data="kept", differences=own, words=words)
    restart = bool(shared) or any(one.path != SUFFIX for one in own)
    if not own and not shared:
        return None
    return Change(
        "cache", upstream, "changed", restart, "kept", (*own, *shared), tuple(_consequences(own, restart=restart))
    )


def _consequences(own: tuple[Difference, ...], *, restart: bool) -> list[str]:
    words = []
    if restart:
        words.append("nodes pull from the upstream while it restarts; what is cached stays")
    paths = {one.path for one in own}
    if TIME_TO_LIVE in paths:
        words.append("the ttl counts for what is fetched from then on; what is cached keeps the one it came with")
    if SUFFIX in paths:
        words.append("the Service gets a new name and address; nodes pull from the upstream until they know it")
    return words


def _removed(upstream: str) -> Change:
    delete = f"kubectl delete persistentvolumeclaims --selector upstream-host={names.upstream_label(upstream)}"
    words = ("nodes pull from the upstream", f"its volume stays until its claim is deleted: {delete}")
    return Change("cache", upstream, "removed", restart=False, data="left behind", differences=(), words=words)


def _nodes(before: dict[str, Any], after: dict[str, Any], full: list[str]) -> list[Change]:
    """The program on the nodes: it knows where each cache is, and its own settings."""
    words: tuple[str, ...]
    enabled = [values["node"]["enabled"] for values in (before, after)]
    if enabled == [False, False]:
        return []
    own = _differences(before, after, "node.")
    if enabled == [False, True]:
        words = ("each node is pointed to the caches",)
        return [Change("nodes", None, "created", restart=False, data="none", differences=own, words=words)]
    if enabled == [True, False]:
        words = ("each node is as it was without the caches, and pulls from the upstreams",)
        return [Change("nodes", None, "removed", restart=False, data="none", differences=own, words=words)]
    own += _differences(before, after, "imagePullSecrets")
    known = [_known_to_nodes(values, name) for values, name in zip((before, after), full, strict=True)]
    restarting = [one for one in own if not one.path.startswith("node.updateStrategy")]
    restart = bool(restarting) or known[0] != known[1] or full[0] != full[1]
    if not own and not restart:
        return []
    words = (
        ("its program restarts, a few nodes at a time; a node pulls from the upstreams meanwhile",) if restart else ()
    )
    return [Change("nodes", None, "changed", restart=restart, data="none", differences=own, words=words)]


def _rest(before: dict[str, Any], after: dict[str, Any], full: list[str]) -> list[Change]:
    """What no pull depends on."""
    changes = []
    parts: tuple[tuple[Literal["dashboard", "labels", "test"], str], ...] = (
        ("dashboard", "monitoring.dashboard."),
        ("labels", "commonLabels"),
        ("test", "test."),
    )
    for part, prefix in parts:
        found = _differences(before, after, prefix)
        renamed = part == "dashboard" and full[0] != full[1] and after["monitoring"]["dashboard"]["enabled"]
        if found or renamed:
            words = ("its ConfigMap gets another name",) if renamed else ()
            changes.append(Change(part, None, "changed", restart=False, data="none", differences=found, words=words))
    return changes


def _fields(cache: dict[str, Any]) -> dict[str, Any]:
    """A cache's fields by path, with what the chart takes where nothing is written."""
    volume, proxy = cache.get("volume", {}), cache.get("proxy", {})
    return {
        "remoteURL": names.remote_url(cache),
        SIZE: volume.get("size", "10Gi"),
        STORAGE_CLASS: volume.get("storageClassName"),
        TIME_TO_LIVE: cache.get("garbageCollection", {}).get("ttl", "168h"),
        "secretReferenceName": cache.get("secretReferenceName"),
        "proxy.httpProxy": proxy.get("httpProxy"),
        "proxy.httpsProxy": proxy.get("httpsProxy"),
        SUFFIX: cache.get("serviceNameSuffix"),
    }


def _same(path: str, old: object, new: object) -> bool:
    return _bytes(old) == _bytes(new) if path == SIZE else old == new


def _bytes(quantity: object) -> Decimal:
    """The number that a valid quantity is (apimachinery/pkg/api/resource)."""
    written = str(quantity)
    unit = written.lstrip("+.0123456789")
    number = Decimal(written.removesuffix(unit))
    if unit in BINARY_UNITS:
        return number * Decimal(1024) ** BINARY_UNITS[unit]
    power = UNITS[unit] if unit in UNITS else int(unit[1:])
    return number * Decimal(10) ** power


def _known_to_nodes(values: dict[str, Any], full: str) -> set[tuple[str, str, str]]:
    return {
        (
            cache["upstream"],
            names.remote_url(cache),
            names.service_name(full, cache["upstream"], cache.get(SUFFIX, "")),
        )
        for cache in values["caches"]
    }


def _fullname(release: str, values: dict[str, Any]) -> str:
    return names.fullname(release, name_override=values["nameOverride"], fullname_override=values["fullnameOverride"])


def _differences(before: dict[str, Any], after: dict[str, Any], *prefixes: str) -> tuple[Difference, ...]:
    """The values below some paths that are not what they were."""
    old, new = _flat(before), _flat(after)
    return tuple(
        Difference(path, old.get(path), new.get(path))
        for path in dict.fromkeys([*old, *new])
        if path.startswith(prefixes) and old.get(path) != new.get(path)
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif value != {}:
            flat[f"{prefix}{key}"] = value
    return flat


def _word(value: object) -> str:
    return "unset" if value is None else value if isinstance(value, str) and value else shown(value)
