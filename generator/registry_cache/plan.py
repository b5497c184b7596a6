"""What an upgrade from one configuration to another does to each cache and to the nodes.

It follows from how the chart uses each value (chart/templates); tests/render compares it with what is rendered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from registry_cache import names, quantities
from registry_cache.document import shown
from registry_cache.model import UpstreamSettings
from registry_cache.values_file import complete

Action = Literal["created", "changed", "removed", "refused"]
Data = Literal["kept", "none", "left behind", "lost"]

SIZE, STORAGE_CLASS = "volume.size", "volume.storageClassName"
TIME_TO_LIVE, SUFFIX = "garbageCollection.ttl", "serviceNameSuffix"
HIGH_AVAILABILITY = "highAvailability.enabled"
RETENTION, HIGH_WATER_MARK = "cachePods.volumeClaims.retentionPolicy", "cachePods.highWaterMarkPercent"
OF_CACHES = ("cachePods.", "images.distribution.", "images.nginx.", "images.python.", "imagePullSecrets")
OF_NODES = ("nodeProgram.", "images.python.", "imagePullSecrets")
# What no pod has, or what a running cache reads again.
WITHOUT_RESTART = (SIZE, TIME_TO_LIVE, SUFFIX, RETENTION, HIGH_WATER_MARK)


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

    part: Literal["cache", "nodes", "dashboard", "monitoring", "labels", "test"]
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
        """Whether the chart would refuse the upgrade."""
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
    shared = _differences(before, after, *OF_CACHES)
    keeps = before["cachePods"]["volumeClaims"]["retentionPolicy"] == "Retain"
    was, will = _fields_by_upstream(before), _fields_by_upstream(after)
    changes = [
        change
        for upstream, fields in will.items()
        if (change := _cache(upstream, was.get(upstream), fields, shared, full, keeps=keeps))
    ]
    changes += [_removed(upstream, keeps=keeps) for upstream in was if upstream not in will]
    return Plan((*changes, *_nodes(before, after, full), *_rest(before, after, full)))


def _cache(  # noqa: PLR0913 - what there is to know of a cache
    upstream: str,
    before: dict[str, Any] | None,
    after: dict[str, Any],
    shared: tuple[Difference, ...],
    full: list[str],
    *,
    keeps: bool,
) -> Change | None:
    words: tuple[str, ...]
    if before is None:
        words = ("empty at first, or with what a volume of an earlier cache of this upstream still holds",)
        return Change("cache", upstream, "created", restart=False, data="none", differences=(), words=words)
    own = tuple(
        Difference(path, before[path], after[path]) for path in before if not _same(path, before[path], after[path])
    )
    if full[0] != full[1]:
        words = (
            f"its objects were called {full[0]}-… and will be {full[1]}-…, so it begins with a new and empty volume",
            "the old volume stays, unused, until its claim is deleted" if keeps else "the old volume goes",
        )
        return Change("cache", upstream, "changed", restart=True, data="lost", differences=own, words=words)
    if immutable := [one for one in own if _impossible(one)]:
        kept = " and ".join(f"{one.path} {_word(one.old)}" for one in immutable)
        words = (
            "a volume does not shrink, and keeps its storage class: helm upgrade refuses this and changes nothing",
            f"keep {kept}, or take the cache out, see its claim gone, and put the cache back, empty",
        )
        return Change("cache", upstream, "refused", restart=False, data="kept", differences=own, words=words)
    differences = (*own, *shared)
    if not differences:
        return None
    restart = any(one.path not in WITHOUT_RESTART for one in differences)
    two = after[HIGH_AVAILABILITY]
    words = tuple(_consequences({one.path: one for one in differences}, restart=restart, two=two, keeps=keeps))
    return Change("cache", upstream, "changed", restart, "kept", differences, words)


def _impossible(difference: Difference) -> bool:
    """Whether it is what no claim can become (chart/templates/_validate.tpl, registry-cache.validateClaims)."""
    return difference.path == STORAGE_CLASS or (
        difference.path == SIZE and quantities.number(difference.new) < quantities.number(difference.old)
    )


def _consequences(differences: dict[str, Difference], *, restart: bool, two: bool, keeps: bool) -> list[str]:
    words = []
    if restart and two:
        words.append("one replica restarts after the other; what is cached stays")
    elif restart:
        words.append("nodes pull from the upstream while it restarts; what is cached stays")
    if SIZE in differences:
        words.append("the volume grows under the running cache, if its storage class has allowVolumeExpansion")
    if TIME_TO_LIVE in differences:
        words.append("the running cache takes the ttl over, also for what is there: since its last use")
    if HIGH_WATER_MARK in differences:
        words.append("the running cache takes cachePods.highWaterMarkPercent over")
    if SUFFIX in differences:
        words.append("the Service gets a new name and address; nodes pull from the upstream until they know it")
    if high := differences.get(HIGH_AVAILABILITY):
        went = "stays until its claim is deleted" if keeps else "goes"
        words.append("the second replica begins empty" if high.new else f"the volume of the second replica {went}")
    if retention := differences.get(RETENTION):
        what = "stays" if retention.new == "Retain" else "goes"
        words.append(f"from then on its volume {what} when the cache is taken out, and with an uninstall")
    return words


def _removed(upstream: str, *, keeps: bool) -> Change:
    delete = f"kubectl delete persistentvolumeclaims --selector upstream-host={names.upstream_label(upstream)}"
    volume = f"its volume stays until its claim is deleted: {delete}" if keeps else "its volume goes with it"
    words = ("nodes pull from the upstream", volume)
    data: Data = "left behind" if keeps else "lost"
    return Change("cache", upstream, "removed", restart=False, data=data, differences=(), words=words)


def _nodes(before: dict[str, Any], after: dict[str, Any], full: list[str]) -> list[Change]:
    """The program on the nodes: it knows where each cache is, and its own settings."""
    words: tuple[str, ...]
    enabled = [values["nodeProgram"]["enabled"] for values in (before, after)]
    if enabled == [False, False]:
        return []
    own = _differences(before, after, *OF_NODES)
    if enabled == [False, True]:
        words = ("each node is pointed to the caches",)
        return [Change("nodes", None, "created", restart=False, data="none", differences=own, words=words)]
    if enabled == [True, False]:
        words = ("each node is as it was without the caches, and pulls from the upstreams",)
        return [Change("nodes", None, "removed", restart=False, data="none", differences=own, words=words)]
    known = [_known_to_nodes(values, name) for values, name in zip((before, after), full, strict=True)]
    restarting = [one for one in own if not one.path.startswith("nodeProgram.updateStrategy")]
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
    parts: tuple[tuple[Literal["dashboard", "monitoring", "labels", "test"], tuple[str, ...]], ...] = (
        ("dashboard", ("monitoring.dashboard.",)),
        ("monitoring", ("monitoring.podMonitor.", "monitoring.prometheusRule.")),
        ("labels", ("commonLabels",)),
        ("test", ("helmTest.",)),
    )
    for part, prefixes in parts:
        found = _differences(before, after, *prefixes)
        renamed = part == "dashboard" and full[0] != full[1] and after["monitoring"]["dashboard"]["enabled"]
        if found or renamed:
            words = ("its ConfigMap gets another name",) if renamed else ()
            changes.append(Change(part, None, "changed", restart=False, data="none", differences=found, words=words))
    return changes


def _fields_by_upstream(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cache["upstream"]: _fields(cache, values["upstreamSettings"]) for cache in values["caches"]}


def _fields(cache: dict[str, Any], upstreams: dict[str, Any]) -> dict[str, Any]:
    """A cache's fields by path, also what the chart adds, and with what it takes where nothing is written."""
    volume, proxy = cache.get("volume", {}), cache.get("proxy", {})
    more = upstreams.get(cache["upstream"], {})
    return {
        "remoteURL": names.remote_url(cache),
        SIZE: volume.get("size", "10Gi"),
        STORAGE_CLASS: volume.get("storageClassName"),
        TIME_TO_LIVE: cache.get("garbageCollection", {}).get("ttl", "168h"),
        "secretReferenceName": cache.get("secretReferenceName"),
        "proxy.httpProxy": proxy.get("httpProxy"),
        "proxy.httpsProxy": proxy.get("httpsProxy"),
        HIGH_AVAILABILITY: names.replicas(cache) > 1,
        SUFFIX: cache.get("serviceNameSuffix"),
        **{f"upstreamSettings.{name}": more.get(name) for name in UpstreamSettings.model_fields},
    }


def _same(path: str, old: object, new: object) -> bool:
    return quantities.number(old) == quantities.number(new) if path == SIZE else old == new


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
