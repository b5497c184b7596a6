"""RegistryConfig v1alpha3, the format of Gardener's registry cache: the fields of a cache, and no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import Field

from registry_cache import quantities
from registry_cache.model.base import Model, NullableModel
from registry_cache.model.scalars import URL, Duration, Quantity, ServiceNameSuffix, Subdomain, Upstream

if TYPE_CHECKING:
    from decimal import Decimal

DOCKER_HUB, HOST_OF_DOCKER_HUB = "docker.io", "registry-1.docker.io"
DEFAULT_TTL, NO_TTL = "168h", "0s"


class Volume(NullableModel):
    """The volume of each replica of a cache."""

    size: Quantity = Field(
        "10Gi",
        description="The size of the volume. It can grow later if the storage class allows it; it cannot shrink.",
    )
    storageClassName: Subdomain | None = Field(
        None,
        description="The storage class of the volume. The default is the cluster's. It cannot change later.",
    )


class GarbageCollection(Model):
    """When content expires."""

    ttl: Duration = Field(
        NO_TTL,  # of a garbageCollection without ttl, which Gardener reads as zero
        description="How long content is kept after its last use, as a Go duration. 0s keeps it until the volume is "
        "full, and so does garbageCollection without ttl. A change applies to what is stored already.",
        examples=[DEFAULT_TTL, "1h30m", "0s"],
        json_schema_extra={"default": DEFAULT_TTL},  # without garbageCollection
    )


class Proxy(NullableModel):
    """The HTTP proxy between a cache and its upstream."""

    httpProxy: URL | None = Field(
        None,
        description="The proxy for http upstreams. Its credentials come from "
        "upstreamSettings.<upstream>.proxySecretName.",
        examples=["http://proxy:3128"],
    )
    httpsProxy: URL | None = Field(
        None,
        description="The proxy for https upstreams. Its credentials come from "
        "upstreamSettings.<upstream>.proxySecretName.",
        examples=["http://proxy:3128"],
    )


class HTTP(Model):
    """How nodes talk to a cache."""

    tls: bool = Field(
        False,
        description="TLS between nodes and the cache. It needs a certificate and "
        "upstreamSettings.<upstream>.clusterIP. Gardener's default is true.",
    )


class HighAvailability(Model):
    """The number of replicas."""

    enabled: bool = Field(
        False,
        description="Runs at least two replicas of the cache, each with a volume of its own, on different nodes if "
        "there are enough. More of them: cachePods.replicas.",
    )


class Cache(NullableModel):
    """One upstream and its cache."""

    upstream: Upstream = Field(description="The registry's host as it appears in image references.")
    remoteURL: URL | None = Field(
        None,
        description="Where the cache fetches from. The default is https://<upstream>, and for docker.io "
        "https://registry-1.docker.io.",
    )
    volume: Volume = Field(default_factory=Volume, description="The volume of each replica of the cache.")
    garbageCollection: GarbageCollection = Field(
        default_factory=lambda: GarbageCollection(ttl=DEFAULT_TTL), description="When content expires."
    )
    secretReferenceName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace with the credentials for the upstream: the keys username and "
        "password, or a pull secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.",
        examples=["registry-example-com"],
    )
    proxy: Proxy = Field(default_factory=Proxy, description="The HTTP proxy between the cache and its upstream.")
    http: HTTP = Field(default_factory=HTTP, description="How nodes talk to the cache.")
    highAvailability: HighAvailability = Field(
        default_factory=HighAvailability, description="The number of replicas of the cache."
    )
    serviceNameSuffix: ServiceNameSuffix | None = Field(
        None, description="Names the cache's Service registry-<suffix>.", examples=["docker-hub"]
    )

    @property
    def remote_url(self) -> str:
        """The URL that the cache fetches from."""
        host = HOST_OF_DOCKER_HUB if self.upstream == DOCKER_HUB else self.upstream
        return (self.remoteURL or f"https://{host}").removesuffix("/")

    @property
    def remote_scheme(self) -> str:
        """`http` or `https`: how the cache talks to its upstream."""
        return self.remote_url.partition(":")[0].lower()

    def count_replicas(self, configured: int) -> int:
        """Return the number of pods if `configured` is what the values of the chart say."""
        return max(configured, 2 if self.highAvailability.enabled else 1)

    @property
    def size_bytes(self) -> Decimal:
        """The size of each volume."""
        return quantities.number(self.volume.size)

    @property
    def expires(self) -> bool:
        """Whether unused content expires at all."""
        return not re.fullmatch("[+-]?[0a-zµμ.]+", self.garbageCollection.ttl)
