"""The versions of RegistryConfig before v1alpha3, and what each of their fields became.

Source: pkg/apis/registry/v1alpha1 and v1alpha2 of Gardener's registry cache, as they were before they were removed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from registry_cache.model.base import Model, NullableModel, drop_nulls
from registry_cache.model.registry_config import DEFAULT_TTL, NO_TTL, Volume
from registry_cache.model.scalars import Quantity, Subdomain, Upstream

API = "registry.extensions.gardener.cloud"
V1ALPHA1, V1ALPHA2, NEWEST = f"{API}/v1alpha1", f"{API}/v1alpha2", f"{API}/v1alpha3"
# The ttl that enabled and disabled garbage collection stand for.
TTL = {True: DEFAULT_TTL, False: NO_TTL}


class Switch(Model):
    """Garbage collection without a time."""

    enabled: bool = Field(False, description="Whether content expires 168h after its last use.", examples=[True])


class _OldCache(NullableModel):
    upstream: Upstream = Field(description="The registry's host as it appears in image references.")
    garbageCollection: Switch | None = Field(None, description="Whether content expires.")
    secretReferenceName: Subdomain | None = Field(None, description="A Secret with the keys username and password.")


class CacheV1alpha1(_OldCache):
    """A cache in v1alpha1, which has its size beside its upstream."""

    size: Quantity = Field(Volume().size, description="The size of the volume.")


class CacheV1alpha2(_OldCache):
    """A cache in v1alpha2, which has a volume with a size."""

    volume: Volume | None = Field(None, description="The cache's volume.")


class ConfigV1alpha1(Model):
    """A RegistryConfig of v1alpha1."""

    apiVersion: Literal["registry.extensions.gardener.cloud/v1alpha1"] = Field(description="The format of `caches`.")
    kind: Literal["RegistryConfig"] = Field("RegistryConfig", description="The format of `caches`.")
    caches: list[CacheV1alpha1] = Field(
        min_length=1, description="The upstreams to cache.", examples=[[{"upstream": "docker.io"}]]
    )


class ConfigV1alpha2(Model):
    """A RegistryConfig of v1alpha2."""

    apiVersion: Literal["registry.extensions.gardener.cloud/v1alpha2"] = Field(description="The format of `caches`.")
    kind: Literal["RegistryConfig"] = Field("RegistryConfig", description="The format of `caches`.")
    caches: list[CacheV1alpha2] = Field(
        min_length=1, description="The upstreams to cache.", examples=[[{"upstream": "docker.io"}]]
    )


OLD_VERSIONS = {V1ALPHA1: ConfigV1alpha1, V1ALPHA2: ConfigV1alpha2}


def convert_to_v1alpha3(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a valid document of any version as v1alpha3, and what a person should know about the change."""
    version = content.get("apiVersion", NEWEST)
    notes = []
    if version == V1ALPHA1:
        notes.append(
            "v1alpha1 had no storage class, and Gardener used the class with the name default; "
            "here the cluster's default class is used"
        )
    convert = convert_cache if version in OLD_VERSIONS else _write_defaults
    caches = [convert(drop_nulls(cache)) for cache in content["caches"]]
    return {
        "apiVersion": NEWEST,
        "kind": "RegistryConfig",
        "caches": caches,
        **_without(content, "apiVersion", "kind", "caches"),
    }, notes


def _write_defaults(cache: dict[str, Any]) -> dict[str, Any]:
    """Return a cache without null, and with the ttl that Gardener reads in a garbageCollection without it."""
    cache = {key: drop_nulls(value) for key, value in cache.items()}
    if cache.get("garbageCollection") == {}:
        cache["garbageCollection"] = {"ttl": NO_TTL}
    return cache


def convert_cache(old: dict[str, Any]) -> dict[str, Any]:
    """Return a cache of an old version as one of v1alpha3."""
    cache = _without(old, "size", "garbageCollection")
    if "size" in old:
        cache["volume"] = {"size": old["size"]}
    switch = old.get("garbageCollection")
    if isinstance(switch, dict):
        cache["garbageCollection"] = {"ttl": TTL[switch.get("enabled") is True]}
    return cache


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
