"""The values of the cache pods: what they share, and what is different for one upstream."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.pods import AFFINITY_EXAMPLE, Tolerations
from registry_cache.model.scalars import Affinity, Annotations, Duration, Labels, NoProxy, Percent, Resources, Subdomain


class CacheResources(Model):
    """The resources of each container of a cache pod."""

    front: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "128Mi"}},
        description="nginx, which receives all requests and sends blobs.",
    )
    gate: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "256Mi"}},
        description="Our program, which decides, fetches, sends manifests and evicts.",
    )
    distribution: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "256Mi"}},
        description="Distribution, which serves what is stored while the gate is away.",
    )


class UpstreamSettings(Model):
    """What the chart can set for one cache besides the fields of a RegistryConfig."""

    caConfigMapName: Subdomain | None = Field(
        None,
        description="A ConfigMap in the release's namespace. Its key ca.crt holds the certificates of the authorities "
        "that signed the upstream's certificate. Use either this or caSecretName.",
        examples=["registry-ca"],
    )
    caSecretName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace. Its key ca.crt holds the certificates of the authorities "
        "that signed the upstream's certificate. Use either this or caConfigMapName.",
        examples=["registry-ca"],
    )
    proxySecretName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace with the keys username and password for the HTTP proxy of the "
        "cache.",
        examples=["proxy-login"],
    )


class VolumeClaims(Model):
    """The claims of the caches' volumes."""

    retentionPolicy: Literal["Delete", "Retain"] = Field(
        "Delete",
        description="What happens to a volume when its cache is removed or the release is uninstalled. Retain keeps "
        "it for a later cache of the same upstream. It must be set one upgrade before the one that removes the cache.",
    )


class CachePods(Model):
    """The pods of all caches."""

    tagCheckInterval: Duration = Field(
        "5s",
        description="How long a cache trusts what it knows about a tag before it asks the upstream again, as a Go "
        "duration. 0s asks at every pull. Raise it if the upstream limits your rate.",
    )
    highWaterMarkPercent: Percent = Field(
        85,
        description="How full a volume may be. Above that, the least recently used content is evicted, so that there "
        "is room before it is needed.",
    )
    volumeClaims: VolumeClaims = Field(default_factory=VolumeClaims, description="The claims of the caches' volumes.")
    noProxy: list[NoProxy] = Field(
        [
            "localhost",
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            ".svc",
            ".cluster.local",
        ],
        description="Hosts, domains (with a leading dot) and networks that caches reach without their HTTP proxy.",
    )
    resources: CacheResources = Field(
        default_factory=CacheResources, description="Resources of each container of a cache pod."
    )
    priorityClassName: str = Field("", description="Priority class of the pods.", examples=["system-cluster-critical"])
    nodeSelector: Labels = Field({"kubernetes.io/os": "linux"}, description="Labels of the nodes that the pods run on.")
    tolerations: Tolerations = Field(
        [], description="Tolerations of the pods.", examples=[[{"key": "dedicated", "operator": "Exists"}]]
    )
    affinity: Affinity = Field({}, description="Affinity of the pods.", examples=[AFFINITY_EXAMPLE])
    podAnnotations: Annotations = Field(
        {}, description="Annotations of the pods.", examples=[{"example.com/team": "platform"}]
    )
