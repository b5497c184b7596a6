"""The values of one side of an upgrade, as the chart uses them, by their paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry_cache import names

if TYPE_CHECKING:
    from registry_cache.model.cache_pods import CachePods
    from registry_cache.model.node_program import NodeProgram
    from registry_cache.model.registry_config import Cache
    from registry_cache.model.values import Values

Flat = dict[str, Any]

# Settings of an upstream that stand in for those of all cache pods.
OVERRIDES = (
    "access",
    "nodesOnly",
    "replicas",
    "resources",
    "nodeSelector",
    "tolerations",
    "affinity",
    "priorityClassName",
)


@dataclass(frozen=True)
class Configuration:
    """The values of one side of an upgrade, as the chart uses them."""

    values: Values
    release: str

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names of all objects."""
        overrides = {"name_override": self.values.nameOverride, "fullname_override": self.values.fullnameOverride}
        return names.fullname(self.release, **overrides)

    @property
    def location(self) -> tuple[str, str]:
        """The namespace and the prefix of all objects."""
        return self.values.namespaceOverride, self.prefix

    @cached_property
    def caches(self) -> dict[str, Cache]:
        """The caches by their upstreams."""
        return {cache.upstream: cache for cache in self.values.caches}

    @cached_property
    def flat(self) -> Flat:
        """All values but the caches and their settings, by their paths; global values are where they take effect."""
        left_out = {"caches", "upstreamSettings", "global_", "imagePullSecrets"}
        flat = flatten(self.values.model_dump(exclude=left_out, exclude_none=True))
        secrets = [*self.values.global_.imagePullSecrets, *self.values.imagePullSecrets]
        flat["imagePullSecrets"] = list(dict.fromkeys(one if isinstance(one, str) else one["name"] for one in secrets))
        flat["certManager.enabled"] &= any(cache.http.tls for cache in self.values.caches)
        if registry := self.values.global_.imageRegistry.removesuffix("/"):
            flat |= {path: registry for path in flat if path.startswith("images.") and path.endswith(".registry")}
        return flat

    @property
    def retains_volumes(self) -> bool:
        """Whether a volume stays when its cache is removed."""
        return self.values.cachePods.volumeClaims.retentionPolicy == "Retain"

    def count_replicas(self, upstream: str) -> int:
        """Return the number of pods of a cache."""
        return self.values.count_replicas(self.caches[upstream])

    def fields(self, upstream: str) -> Flat:
        """Return the fields of a cache, and what upstreamSettings adds to them."""
        cache = self.caches[upstream]
        fields = flatten(cache.model_dump(exclude={"upstream", "remoteURL"}, exclude_none=True))
        unused = () if cache.http.tls else ("tlsSecretName",)
        written = self._written_settings(upstream)
        added = {key: value for key, value in written.items() if key not in (*OVERRIDES, *unused)}
        return {"remoteURL": cache.remote_url, **fields, **flatten({"upstreamSettings": added})}

    def cache_settings(self, upstream: str) -> Flat:
        """Return the settings of a cache: those of cachePods, or of upstreamSettings where it has them."""
        replaced = self.replaced_settings(upstream)
        shared = self._select("cachePods", self.values.cachePods, "images.", "imagePullSecrets")
        own = {key: value for key, value in self._written_settings(upstream).items() if key in OVERRIDES}
        if not self.values.serves_only_nodes(self.caches[upstream]):
            replaced = (*replaced, "cachePods.clientSecretName")
        return {
            **{path: value for path, value in shared.items() if not is_below(path, replaced)},
            **flatten({"cachePods": own}),
        }

    def replaced_settings(self, upstream: str) -> tuple[str, ...]:
        """Return the settings of cachePods, by their paths, that upstreamSettings replaces for a cache."""
        written = self._written_settings(upstream)
        resources = [f"cachePods.resources.{container}" for container in written.get("resources", {})]
        others = [f"cachePods.{key}" for key in OVERRIDES if key in written and key != "resources"]
        return (*resources, *others)

    def node_settings(self) -> Flat:
        """Return the settings of the node program."""
        return self._select("nodeProgram", self.values.nodeProgram, "images.python.", "imagePullSecrets")

    def known_to_nodes(self) -> set[tuple[str, ...]]:
        """Return what the node program is configured with for each cache: upstream, URL, and Service or certificate."""
        return {(cache.upstream, cache.remote_url, *self._endpoint(cache)) for cache in self.values.caches}

    def _endpoint(self, cache: Cache) -> tuple[str, ...]:
        if not cache.http.tls:
            return (names.service_names(self.prefix, cache)[0],)
        settings = self._written_settings(cache.upstream)
        secret = settings.get("tlsSecretName", f"{names.object_name(self.prefix, cache.upstream)}-tls")
        endpoint = str(settings.get("clusterIP")), secret
        if not self.values.serves_only_nodes(cache):
            return endpoint
        return *endpoint, self.values.cachePods.clientSecretName or names.suffixed_name(self.prefix, "client")

    def service_accounts(self) -> dict[str, Any]:
        """Return the service accounts that the chart creates, by their names."""
        parts: list[tuple[str, CachePods | NodeProgram]] = [("cache", self.values.cachePods)]
        if self.values.nodeProgram.enabled:
            parts.append(("node", self.values.nodeProgram))
        created = [(component, part.serviceAccount) for component, part in parts if part.serviceAccount.create]
        return {account.name or self._own_name(component): account.annotations for component, account in created}

    def _select(self, holder: str, part: CachePods | NodeProgram, *more: str) -> Flat:
        """Return the settings of pods, with the name of their service account instead of all that decides it."""
        account = part.serviceAccount
        component = "cache" if holder == "cachePods" else "node"
        name = account.name or (self._own_name(component) if account.create else None)
        return {
            **{
                path: value
                for path, value in self.flat.items()
                if path.startswith((f"{holder}.", *more)) and not path.startswith(f"{holder}.serviceAccount.")
            },
            f"{holder}.serviceAccount.name": name,
        }

    def _written_settings(self, upstream: str) -> dict[str, Any]:
        settings = self.values.upstreamSettings.get(upstream)
        return settings.model_dump(exclude_none=True) if settings else {}

    def _own_name(self, component: str) -> str:
        return names.suffixed_name(self.prefix, component)


def flatten(values: dict[str, Any], prefix: str = "") -> Flat:
    """Return all values that are set, by their paths, as if there were no mappings."""
    flat: Flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif value != {}:
            flat[f"{prefix}{key}"] = value
    return flat


def is_below(path: str, holders: tuple[str, ...]) -> bool:
    """Return whether a path is one of others or a part of one of them."""
    return any(path == holder or path.startswith(f"{holder}.") for holder in holders)
