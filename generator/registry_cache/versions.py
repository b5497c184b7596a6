"""The versions of RegistryConfig before v1alpha3, and what each of their fields became.

Source: pkg/apis/registry/v1alpha1 and v1alpha2 of Gardener's registry cache, as they were before they were removed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from registry_cache.model import Model, Quantity, Subdomain, Upstream, Volume

API = "registry.extensions.gardener.cloud"
NEWEST = f"{API}/v1alpha3"
TIME_TO_LIVE = {True: "168h", False: "0s"}


class Switch(Model):
    """Garbage collection before it had a time."""

    enabled: bool = Field(False, description="Whether what is cached goes 168h after its last use.", examples=[True])


class _CacheBefore3(Model):
    upstream: Upstream = Field(description="The host that image references begin with.")
    garbageCollection: Switch | None = Field(None, description="Whether what is cached goes.")
    secretReferenceName: Subdomain | None = Field(None, description="A Secret with username and password.")


class CacheV1alpha1(_CacheBefore3):
    """A cache in v1alpha1: its size stands beside its upstream."""

    size: Quantity = Field("10Gi", description="Size of the volume.")


class CacheV1alpha2(_CacheBefore3):
    """A cache in v1alpha2: its size is its volume's."""

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


OLD = {f"{API}/v1alpha1": ConfigV1alpha1, f"{API}/v1alpha2": ConfigV1alpha2}


def to_v1alpha3(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A valid document of any version as v1alpha3, and what a person should know about it."""
    version = content.get("apiVersion", NEWEST)
    notes = []
    if version == f"{API}/v1alpha1":
        notes.append(
            "v1alpha1 knew no storage class, and Gardener took the one called default; "
            "here it is the one that is the cluster's default"
        )
    caches = [_cache(cache) for cache in content["caches"]] if version in OLD else content["caches"]
    return {
        "apiVersion": NEWEST,
        "kind": "RegistryConfig",
        "caches": caches,
        **_without(content, "apiVersion", "kind", "caches"),
    }, notes


def _cache(old: dict[str, Any]) -> dict[str, Any]:
    cache = _without(old, "size", "garbageCollection")
    if "size" in old:
        cache["volume"] = {"size": old["size"]}
    if "garbageCollection" in old:
        cache["garbageCollection"] = {"ttl": TIME_TO_LIVE[old["garbageCollection"].get("enabled", False)]}
    return cache


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
