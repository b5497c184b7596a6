"""Works out what an upgrade from one configuration to another does to each cache and to the nodes.

It follows from how the chart uses each value (chart/templates); tests/render compares it with what is rendered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from registry_cache import names, quantities
from registry_cache.document import quote_value

if TYPE_CHECKING:
    from registry_cache.model.registry_config import Cache
    from registry_cache.model.values import Values

Action = Literal["created", "changed", "removed", "refused"]
Data = Literal["kept", "none", "left behind", "lost"]

SIZE, STORAGE_CLASS = "volume.size", "volume.storageClassName"
TTL, SUFFIX = "garbageCollection.ttl", "serviceNameSuffix"
HIGH_AVAILABILITY = "highAvailability.enabled"
RETENTION, HIGH_WATER_MARK = "cachePods.volumeClaims.retentionPolicy", "cachePods.highWaterMarkPercent"
CACHE_VALUES = ("cachePods.", "images.", "imagePullSecrets")
NODE_VALUES = ("nodeProgram.", "images.python.", "imagePullSecrets")
# These are not in a pod, or a running cache reads them again.
WITHOUT_RESTART = (SIZE, TTL, SUFFIX, RETENTION, HIGH_WATER_MARK)


@dataclass(frozen=True)
class Difference:
    """A value that changes; None if it is not set."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """`volume.size: 10Gi -> 20Gi`."""
        return f"{self.path}: {_value_text(self.old)} -> {_value_text(self.new)}"


@dataclass(frozen=True)
class Change:
    """What happens to one cache (`upstream`), or to the nodes or another part of the chart (`part`)."""

    part: Literal["cache", "nodes", "dashboard", "monitoring", "labels", "test"]
    upstream: str | None
    action: Action
    restart: bool = False
    data: Data = "none"
    differences: tuple[Difference, ...] = ()
    consequences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All changes: first those of caches, in the order of the new document."""

    changes: tuple[Change, ...]

    @property
    def refused(self) -> bool:
        """Whether the chart would refuse the upgrade."""
        return any(change.action == "refused" for change in self.changes)

    def as_json(self) -> dict[str, Any]:
        """Return the plan for machines."""
        return {"refused": self.refused, "changes": [asdict(change) for change in self.changes]}

    def text(self) -> str:
        """Return the plan for people: a paragraph for each change."""
        if not self.changes:
            return "Nothing changes."
        lines = []
        for change in self.changes:
            restart = ", restarts" if change.restart and change.action == "changed" else ""
            lines.append(f"{change.upstream or change.part}: {change.action}{restart}")
            lines += [f"  {line}" for line in (*map(str, change.differences), *change.consequences)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Configuration:
    """The values of one side of an upgrade."""

    values: Values
    release: str

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names of all objects."""
        overrides = {
            "name_override": self.values.nameOverride,
            "fullname_override": self.values.fullnameOverride,
        }
        return names.fullname(self.release, **overrides)

    @cached_property
    def caches(self) -> dict[str, Cache]:
        """The caches by their upstreams."""
        return {cache.upstream: cache for cache in self.values.caches}

    @cached_property
    def flat(self) -> dict[str, Any]:
        """All values but the caches and their settings, by their paths."""
        return _flatten(self.values.model_dump(exclude={"caches", "upstreamSettings"}))

    @property
    def retains_volumes(self) -> bool:
        """Whether a volume stays when its cache is removed."""
        return self.values.cachePods.volumeClaims.retentionPolicy == "Retain"

    def fields(self, upstream: str) -> dict[str, Any]:
        """Return the fields of a cache and its settings by their paths, with the defaults filled in."""
        cache = self.caches[upstream]
        fields = {
            "remoteURL": cache.remote_url,
            **_flatten(cache.model_dump(exclude={"upstream", "remoteURL", "http"})),
        }
        settings = self.values.upstreamSettings.get(upstream)
        overrides = _flatten(settings.model_dump()) if settings else {}
        return {
            **fields,
            **{f"upstreamSettings.{path}": value for path, value in overrides.items()},
        }

    def known_to_nodes(self) -> set[tuple[str, str, str]]:
        """Return what the nodes know of the caches."""
        return {
            (cache.upstream, cache.remote_url, names.service_names(self.prefix, cache)[0])
            for cache in self.values.caches
        }


def plan(old: Values, new: Values, release: str = names.RELEASE) -> Plan:
    """Return what `helm upgrade` of a release does."""
    before, after = Configuration(old, release), Configuration(new, release)
    changes = [change for upstream in after.caches if (change := _plan_cache(upstream, before, after))]
    changes += [_plan_removal(upstream, before) for upstream in before.caches if upstream not in after.caches]
    return Plan((*changes, *_plan_nodes(before, after), *_plan_rest(before, after)))


def _plan_cache(upstream: str, before: Configuration, after: Configuration) -> Change | None:
    consequences: tuple[str, ...]
    if upstream not in before.caches:
        start = "starts empty, or with the volume that an earlier cache of this upstream left behind"
        return Change("cache", upstream, "created", consequences=(start,))
    own = _differences(before.fields(upstream), after.fields(upstream))
    if before.prefix != after.prefix:
        consequences = (
            f"its objects are renamed from {before.prefix}-… to {after.prefix}-…, so it starts with an empty volume",
            "the old volume stays, unused, until its claim is deleted"
            if before.retains_volumes
            else "the old volume is deleted",
        )
        return Change(
            "cache", upstream, "changed", restart=True, data="lost", differences=own, consequences=consequences
        )
    if impossible := [one for one in own if _is_impossible(one)]:
        kept = " and ".join(f"{one.path} {_value_text(one.old)}" for one in impossible)
        consequences = (
            "helm upgrade refuses this and changes nothing: a volume cannot shrink or change its storage class",
            f"keep {kept}, or remove the cache, wait until its claim is gone, and add it again, empty",
        )
        return Change("cache", upstream, "refused", data="kept", differences=own, consequences=consequences)
    differences = (*own, *_differences(before.flat, after.flat, *CACHE_VALUES))
    if not differences:
        return None
    restart = any(one.path not in WITHOUT_RESTART for one in differences)
    consequences = tuple(_consequences(differences, after.caches[upstream], before, restart=restart))
    return Change("cache", upstream, "changed", restart, "kept", differences, consequences)


def _is_impossible(difference: Difference) -> bool:
    """Return whether a claim cannot become this (chart/templates/_validate-claims.tpl)."""
    return difference.path == STORAGE_CLASS or (
        difference.path == SIZE and quantities.number(difference.new) < quantities.number(difference.old)
    )


def _consequences(
    differences: tuple[Difference, ...], cache: Cache, before: Configuration, *, restart: bool
) -> list[str]:
    changed = {one.path: one for one in differences}
    lines = []
    if restart and cache.replicas > 1:
        lines.append("the replicas restart one after the other; the cached content stays")
    elif restart:
        lines.append("nodes pull from the upstream while the cache restarts; the cached content stays")
    if SIZE in changed:
        lines.append("the volume grows while the cache runs, if its storage class allows volume expansion")
    if TTL in changed:
        lines.append("the new ttl applies without a restart, also to stored content")
    if HIGH_WATER_MARK in changed:
        lines.append("the new high-water mark applies without a restart")
    if SUFFIX in changed:
        lines.append("the Service gets a new name and address; nodes pull from the upstream until they know it")
    if high := changed.get(HIGH_AVAILABILITY):
        fate = "stays until its claim is deleted" if before.retains_volumes else "is deleted"
        lines.append("the second replica starts empty" if high.new else f"the volume of the second replica {fate}")
    if retention := changed.get(RETENTION):
        fate = "stays" if retention.new == "Retain" else "is deleted"
        lines.append(f"from now on, its volume {fate} when the cache is removed or the release is uninstalled")
    return lines


def _plan_removal(upstream: str, before: Configuration) -> Change:
    delete = f"kubectl delete persistentvolumeclaims --selector upstream-host={names.upstream_label(upstream)}"
    keeps = before.retains_volumes
    volume = f"its volume stays until its claim is deleted: {delete}" if keeps else "its volume is deleted"
    data: Data = "left behind" if keeps else "lost"
    return Change("cache", upstream, "removed", data=data, consequences=("nodes pull from the upstream", volume))


def _plan_nodes(before: Configuration, after: Configuration) -> list[Change]:
    """Return what happens to the program on the nodes, which knows where each cache is, and its own settings."""
    enabled = [one.values.nodeProgram.enabled for one in (before, after)]
    if enabled == [False, False]:
        return []
    own = _differences(before.flat, after.flat, *NODE_VALUES)
    if enabled == [False, True]:
        return [
            Change("nodes", None, "created", differences=own, consequences=("every node starts to use the caches",))
        ]
    if enabled == [True, False]:
        end = "the configuration of every node is restored, and it pulls from the upstreams"
        return [Change("nodes", None, "removed", differences=own, consequences=(end,))]
    restarting = [one for one in own if not one.path.startswith("nodeProgram.updateStrategy")]
    moved = before.prefix != after.prefix or before.known_to_nodes() != after.known_to_nodes()
    restart = bool(restarting) or moved
    if not own and not restart:
        return []
    restarts = "the node program restarts on a few nodes at a time; meanwhile these pull from the upstreams"
    return [Change("nodes", None, "changed", restart, "none", own, (restarts,) if restart else ())]


def _plan_rest(before: Configuration, after: Configuration) -> list[Change]:
    """Return what happens to objects that no pull depends on."""
    changes = []
    parts: tuple[tuple[Literal["dashboard", "monitoring", "labels", "test"], tuple[str, ...]], ...] = (
        ("dashboard", ("monitoring.dashboard.",)),
        ("monitoring", ("monitoring.podMonitor.", "monitoring.prometheusRule.")),
        ("labels", ("commonLabels",)),
        ("test", ("helmTest.",)),
    )
    for part, prefixes in parts:
        differences = _differences(before.flat, after.flat, *prefixes)
        dashboard = after.values.monitoring.dashboard.enabled
        renamed = part == "dashboard" and before.prefix != after.prefix and dashboard
        if differences or renamed:
            consequences = ("its ConfigMap gets another name",) if renamed else ()
            changes.append(Change(part, None, "changed", differences=differences, consequences=consequences))
    return changes


def _differences(old: dict[str, Any], new: dict[str, Any], *prefixes: str) -> tuple[Difference, ...]:
    """Return the values that differ, of those whose path begins with one of the prefixes, if there are any."""
    return tuple(
        Difference(path, old.get(path), new.get(path))
        for path in dict.fromkeys([*old, *new])
        if path.startswith(prefixes or "") and not _is_same(path, old.get(path), new.get(path))
    )


def _is_same(path: str, old: object, new: object) -> bool:
    return quantities.number(old) == quantities.number(new) if path == SIZE else old == new


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all values that are set by their paths, as if there were no mappings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value not in ({}, None):
            flat[f"{prefix}{key}"] = value
    return flat


def _value_text(value: object) -> str:
    return "unset" if value is None else value if isinstance(value, str) and value else quote_value(value)
