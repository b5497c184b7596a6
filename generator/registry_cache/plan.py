"""Works out what an upgrade from one configuration to another does to each cache and to the nodes.

It follows from how the chart uses each value (chart/templates); tests/render compares it with what is rendered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from registry_cache import names, quantities
from registry_cache.configuration import Configuration, is_below
from registry_cache.document import shorten_value

if TYPE_CHECKING:
    from registry_cache.model.values import Values

Action = Literal["created", "changed", "removed", "refused"]
Data = Literal["kept", "none", "left behind", "lost"]

SIZE, STORAGE_CLASS, ACCESS_MODES = "volume.size", "volume.storageClassName", "cachePods.volumeClaims.accessModes"
TTL, SUFFIX = "garbageCollection.ttl", "serviceNameSuffix"
HIGH_AVAILABILITY, CLUSTER_IP = "highAvailability.enabled", "upstreamSettings.clusterIP"
RETENTION, HIGH_WATER_MARK = "cachePods.volumeClaims.retentionPolicy", "cachePods.highWaterMarkPercent"
# These are not in a pod, or a running cache reads them again.
WITHOUT_RESTART = (
    *(SIZE, TTL, SUFFIX, HIGH_WATER_MARK, CLUSTER_IP),
    *(f"cachePods.{name}" for name in ("volumeClaims", "podDisruptionBudget", "service", "revisionHistoryLimit")),
)
WITHOUT_RESTART_OF_NODES = ("nodeProgram.updateStrategy", "nodeProgram.revisionHistoryLimit")
# A single replica has none of these.
OF_SEVERAL_REPLICAS = tuple(
    f"cachePods.{name}" for name in ("podDisruptionBudget", "topologySpreadConstraints", "ownerPerZone")
)
# These decide the number of replicas together.
OF_REPLICAS = (HIGH_AVAILABILITY, "cachePods.replicas")
# Objects whose changes restart nothing: their name in the plan, the values that decide them, and the value that enables
# them.
PARTS = (
    ("dashboard", "monitoring.dashboard", "monitoring.dashboard.enabled"),
    ("monitoring", "monitoring.podMonitor", "monitoring.podMonitor.enabled"),
    ("monitoring", "monitoring.serviceMonitor", "monitoring.serviceMonitor.enabled"),
    ("monitoring", "monitoring.prometheusRule", "monitoring.prometheusRule.enabled"),
    ("certificates", "certManager", "certManager.enabled"),
    ("network policies", "networkPolicies", "networkPolicies.enabled"),
    ("labels", "commonLabels", None),
    ("test", "helmTest", None),
    ("extra objects", "extraObjects", None),
)


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
    """A change to one cache (`upstream`), or to the nodes or another part of the chart (`part`)."""

    part: str
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
    replicas = before.count_replicas(upstream), after.count_replicas(upstream)
    own = _differences(before.fields(upstream), after.fields(upstream))
    if replicas[0] == replicas[1]:
        own = tuple(one for one in own if one.path != HIGH_AVAILABILITY)
    if before.location != after.location:
        consequences = (
            _describe_move(before, after),
            "the old volume stays, unused, until its claim is deleted"
            if before.retains_volumes
            else "the old volume is deleted",
        )
        return Change(
            "cache", upstream, "changed", restart=True, data="lost", differences=own, consequences=consequences
        )
    differences = (*own, *_settings_differences(upstream, before, after))
    if impossible := [one for one in differences if _is_impossible(one)]:
        kept = " and ".join(f"{one.path} {_value_text(one.old)}" for one in impossible)
        consequences = (
            "helm upgrade refuses this and changes nothing: a volume cannot shrink or change its class or access modes",
            f"keep {kept}, or remove the cache, wait until its claim is gone, and add it again, empty",
        )
        return Change("cache", upstream, "refused", data="kept", differences=differences, consequences=consequences)
    if not differences:
        return None
    restart = any(not is_below(one.path, WITHOUT_RESTART) for one in differences)
    consequences = tuple(_consequences(differences, replicas, before, restart=restart))
    return Change("cache", upstream, "changed", restart, "kept", differences, consequences)


def _describe_move(before: Configuration, after: Configuration) -> str:
    if before.prefix != after.prefix:
        return f"its objects are renamed from {before.prefix}-… to {after.prefix}-…, so it starts with an empty volume"
    namespace = after.values.namespaceOverride or "of the release"
    return f"its objects move to the namespace {namespace}, so it starts with an empty volume"


def _settings_differences(upstream: str, before: Configuration, after: Configuration) -> tuple[Difference, ...]:
    """Return the settings of a cache that differ, under the name that the values give them."""
    differences = _differences(before.cache_settings(upstream), after.cache_settings(upstream))
    replicas = {before.count_replicas(upstream), after.count_replicas(upstream)}
    without_effect = (*(OF_SEVERAL_REPLICAS if replicas == {1} else ()), *(OF_REPLICAS if len(replicas) == 1 else ()))
    differences = tuple(one for one in differences if not is_below(one.path, without_effect))
    replaced = (*before.replaced_settings(upstream), *after.replaced_settings(upstream))
    return tuple(
        replace(one, path=f"upstreamSettings.{one.path.partition('.')[2]}") if is_below(one.path, replaced) else one
        for one in differences
    )


def _is_impossible(difference: Difference) -> bool:
    """Return whether a claim cannot become this (chart/templates/_validate-claims.tpl)."""
    return difference.path in (STORAGE_CLASS, ACCESS_MODES) or (
        difference.path == SIZE and quantities.number(difference.new) < quantities.number(difference.old)
    )


def _consequences(
    differences: tuple[Difference, ...], replicas: tuple[int, int], before: Configuration, *, restart: bool
) -> list[str]:
    changed = {one.path: one for one in differences}
    lines = []
    if restart and replicas[1] > 1:
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
    if CLUSTER_IP in changed and changed[CLUSTER_IP].new:
        lines.append("a Service that exists cannot get another address: delete it first")
    if replicas[0] != replicas[1]:
        lines.append(_describe_scaling(*replicas, retains_volumes=before.retains_volumes))
    if retention := changed.get(RETENTION):
        fate = "stays" if retention.new == "Retain" else "is deleted"
        lines.append(f"from now on, its volume {fate} when the cache is removed or the release is uninstalled")
    return lines


def _describe_scaling(old: int, new: int, *, retains_volumes: bool) -> str:
    count, is_one, is_second = abs(new - old), abs(new - old) == 1, {old, new} == {1, 2}
    if new > old:
        subject = "the second replica" if is_second else "one more replica" if is_one else f"{count} more replicas"
        return f"{subject} {'starts' if is_one else 'start'} empty"
    subject = "the second replica" if is_second else "the last replica" if is_one else f"the last {count} replicas"
    volumes, fate = ("volume", "is deleted") if is_one else ("volumes", "are deleted")
    if retains_volumes:
        fate = "stays until its claim is deleted" if is_one else "stay until their claims are deleted"
    return f"the {volumes} of {subject} {fate}"


def _plan_removal(upstream: str, before: Configuration) -> Change:
    delete = f"kubectl delete persistentvolumeclaims --selector upstream-host={names.upstream_label(upstream)}"
    keeps = before.retains_volumes
    volume = f"its volume stays until its claim is deleted: {delete}" if keeps else "its volume is deleted"
    data: Data = "left behind" if keeps else "lost"
    return Change("cache", upstream, "removed", data=data, consequences=("nodes pull from the upstream", volume))


def _plan_nodes(before: Configuration, after: Configuration) -> list[Change]:
    """Return the change to the node program, which knows its own settings and the address of each cache."""
    enabled = [one.values.nodeProgram.enabled for one in (before, after)]
    if enabled == [False, False]:
        return []
    own = _differences(before.node_settings(), after.node_settings())
    if enabled == [False, True]:
        start = "every node starts to use the caches"
        return [Change("nodes", None, "created", differences=own, consequences=(start,))]
    if enabled == [True, False]:
        end = "the configuration of every node is restored, and it pulls from the upstreams"
        return [Change("nodes", None, "removed", differences=own, consequences=(end,))]
    moved = before.location != after.location or before.known_to_nodes() != after.known_to_nodes()
    restart = moved or any(not is_below(one.path, WITHOUT_RESTART_OF_NODES) for one in own)
    if not own and not restart:
        return []
    restarts = "the node program restarts on a few nodes at a time; these pull from the upstreams until it is back"
    return [Change("nodes", None, "changed", restart, "none", own, (restarts,) if restart else ())]


def _plan_rest(before: Configuration, after: Configuration) -> list[Change]:
    """Return the changes to objects that no pull depends on."""
    found: dict[str, tuple[Difference, ...]] = {}
    consequences: dict[str, tuple[str, ...]] = {}
    for part, path, switch in PARTS:
        if switch is None or before.flat[switch] or after.flat[switch]:
            differences = _differences(before.flat, after.flat)
            found[part] = (*found.get(part, ()), *(one for one in differences if is_below(one.path, (path,))))
    if before.service_accounts() != after.service_accounts():
        found["service accounts"] = tuple(
            one for one in _differences(before.flat, after.flat) if ".serviceAccount." in one.path
        )
        consequences["service accounts"] = ("service accounts are created, changed or removed",)
    if before.location != after.location and after.values.monitoring.dashboard.enabled:
        consequences["dashboard"] = ("its ConfigMap gets another name or namespace",)
    return [
        Change(part, None, "changed", differences=differences, consequences=consequences.get(part, ()))
        for part, differences in found.items()
        if differences or part in consequences
    ]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[Difference, ...]:
    return tuple(
        Difference(path, old.get(path), new.get(path))
        for path in dict.fromkeys([*old, *new])
        if not _is_same(path, old.get(path), new.get(path))
    )


def _is_same(path: str, old: object, new: object) -> bool:
    return quantities.number(old) == quantities.number(new) if path == SIZE else old == new


def _value_text(value: object) -> str:
    return "unset" if value is None else value if isinstance(value, str) and value else shorten_value(value)
