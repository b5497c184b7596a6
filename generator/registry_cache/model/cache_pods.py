"""The values of the cache pods: what they share, and what is different for one upstream."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.pods import (
    LINUX_NODES,
    RESTRICTED,
    ContainerSecurityContext,
    NodeSelector,
    PodAffinity,
    PodAnnotations,
    PodLabels,
    PodSecurityContext,
    PodTolerations,
    PriorityClassName,
    ProbeTimings,
    RevisionHistoryLimit,
    ServiceAccount,
)
from registry_cache.model.scalars import (
    Annotations,
    CountOrPercent,
    Duration,
    Host,
    IPAddress,
    Labels,
    NetworkAddress,
    NoProxy,
    Objects,
    OptionalSubdomain,
    Passthrough,
    Percent,
    PositiveCount,
    Replicas,
    RepositoryPattern,
    Resources,
    Subdomain,
)

TEAM = {"example.com/team": "platform"}
SPREAD = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
Access = Literal["Anyone", "Puller"]
AccessMode = Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]


class CacheResources(Model):
    """The resources of each container of a cache pod."""

    front: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}},
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


class UpstreamResources(Model):
    """The resources of some containers of a cache pod, instead of those in cachePods."""

    front: Resources | None = Field(None, description="nginx.", examples=[{"limits": {"memory": "512Mi"}}])
    gate: Resources | None = Field(None, description="Our program.", examples=[{"limits": {"memory": "512Mi"}}])
    distribution: Resources | None = Field(
        None, description="Distribution.", examples=[{"limits": {"memory": "512Mi"}}]
    )


class UpstreamSettings(Model):
    """Settings for one cache besides the fields of a RegistryConfig."""

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
    allowedRepositories: list[RepositoryPattern] | None = Field(
        None,
        description="The repositories that the cache serves; nodes pull others from the upstream. An entry is the name "
        "of a repository, without the registry, or a prefix with /*. On docker.io, the official images are below "
        "library. Without entries, the cache serves all. Use it if pods of others can reach the cache, and the "
        "upstream charges for each byte or the volume is small.",
        examples=[["library/*", "team/app"]],
    )
    access: Access | None = Field(None, description="Instead of cachePods.access.", examples=["Puller"])
    tokenServers: list[Host] | None = Field(
        None,
        description="Hosts of token servers that get the credentials of secretReferenceName although they are in "
        "another domain than the upstream. The log of the gate names such a server. They may have any address.",
        examples=[["auth.example.com"]],
    )
    allowedNetworks: list[NetworkAddress] | None = Field(
        None,
        description="Networks of servers to which the upstream may redirect, and in which its token server may be, "
        "besides public addresses. An upstream whose own address is private may lead to all private ones.",
        examples=[["10.0.0.0/8"]],
    )
    clusterIP: IPAddress | None = Field(
        None,
        description="A fixed address of the cache's Service, for firewalls, for nodes that are configured by hand, and "
        "for TLS, whose certificate names it. It cannot change later.",
    )
    tlsSecretName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace with the keys tls.crt, tls.key and ca.crt, for caches with "
        "http.tls. The default is the name of the cache's objects and -tls.",
        examples=["registry-cache-docker-io-tls"],
    )
    nodesOnly: bool | None = Field(None, description="Instead of cachePods.nodesOnly.", examples=[True])
    replicas: Replicas | None = Field(None, description="Instead of cachePods.replicas.", examples=[4])
    resources: UpstreamResources | None = Field(
        None, description="Resources of this cache's containers, instead of cachePods.resources."
    )
    nodeSelector: Labels | None = Field(
        None, description="Instead of cachePods.nodeSelector.", examples=[{"disk": "ssd"}]
    )
    tolerations: PodTolerations | None = Field(None, description="Instead of cachePods.tolerations.")
    affinity: PodAffinity | None = Field(None, description="Instead of cachePods.affinity.")
    priorityClassName: PriorityClassName | None = Field(None, description="Instead of cachePods.priorityClassName.")


class VolumeClaims(Model):
    """The claims of the caches' volumes."""

    retentionPolicy: Literal["Delete", "Retain"] = Field(
        "Delete",
        description="What happens to a volume when its cache is removed or the release is uninstalled. Retain keeps "
        "it for a later cache of the same upstream. It must be set one upgrade before the one that removes the cache.",
    )
    accessModes: Annotated[list[AccessMode], Field(min_length=1)] = Field(
        ["ReadWriteOnce"],
        description="Access modes of the claims. ReadWriteOncePod makes sure that only one pod uses a volume. They "
        "cannot change later.",
    )
    labels: Labels = Field({}, description="More labels of the claims.", examples=[{"backup": "never"}])
    annotations: Annotations = Field({}, description="More annotations of the claims.", examples=[TEAM])


class Service(Model):
    """The Services of the caches."""

    annotations: Annotations = Field({}, description="More annotations of the Services.", examples=[TEAM])
    ipFamilyPolicy: Literal["", "SingleStack", "PreferDualStack", "RequireDualStack"] = Field(
        "",
        description="IP families of the Services "
        "(https://kubernetes.io/docs/concepts/services-networking/dual-stack). Empty leaves the choice to the cluster.",
        examples=["PreferDualStack"],
    )
    ipFamilies: list[Literal["IPv4", "IPv6"]] = Field(
        [], description="IP families in the order of preference.", examples=[["IPv6", "IPv4"]]
    )
    internalTrafficPolicy: Literal["", "Cluster", "Local"] = Field(
        "",
        description="Local sends a node's pulls only to a cache pod on the same node; other nodes pull from the "
        "upstream.",
        examples=["Local"],
    )
    trafficDistribution: Literal["", "PreferClose", "PreferSameZone", "PreferSameNode"] = Field(
        "",
        description="Sends a node's pulls to the nearest replica, to save traffic between zones: PreferSameZone and "
        "PreferSameNode (Kubernetes 1.34 or newer), or PreferClose, the older name of PreferSameZone (1.31 or newer).",
        examples=["PreferSameZone"],
    )


class PodDisruptionBudget(Model):
    """The disruption budgets of caches with several replicas."""

    enabled: bool = Field(
        True, description="Lets a drain evict one replica after the other. A single replica never has a budget."
    )
    maxUnavailable: CountOrPercent = Field(1, description="Number of replicas that may be away.")
    unhealthyPodEvictionPolicy: Literal["AlwaysAllow", "IfHealthyBudget"] = Field(
        "AlwaysAllow", description="Whether a replica that is not ready may be evicted regardless of the budget."
    )


class ReadinessProbe(ProbeTimings):
    """When a cache pod counts as ready."""

    periodSeconds: PositiveCount = Field(2, description="Seconds between two checks.")
    timeoutSeconds: PositiveCount = Field(2, description="Seconds that an answer may take.")
    failureThreshold: PositiveCount = Field(3, description="Failures in a row after which a pod gets no more requests.")


class LivenessProbe(ProbeTimings):
    """When a container of a cache pod counts as hung."""

    periodSeconds: PositiveCount = Field(5, description="Seconds between two checks.")
    timeoutSeconds: PositiveCount = Field(5, description="Seconds that an answer may take.")
    failureThreshold: PositiveCount = Field(4, description="Failures in a row after which a container is restarted.")


class CachePods(Model):
    """The pods of all caches."""

    replicas: Replicas = Field(
        1,
        description="The number of pods of each cache, each with a volume of its own. They fetch each blob once for "
        "all of them. Raise it if many nodes pull at once: docs/guide/high-availability.md says how far. A cache with "
        "highAvailability.enabled has at least two.",
    )
    ownerPerZone: bool = Field(
        False,
        description="Makes the replicas of a zone fetch each blob from another zone once. It needs several replicas in "
        "a zone, and Kubernetes 1.35 or newer, which copies the label topology.kubernetes.io/zone of a node to its "
        "pods. Without the label it does nothing. Combine it with service.trafficDistribution.",
    )
    tagCheckInterval: Duration = Field(
        "5s",
        description="How long a cache trusts what it knows about a tag before it asks the upstream again, as a Go "
        "duration. 0s asks at every pull. Raise it if the upstream limits your rate.",
    )
    access: Access = Field(
        "Anyone",
        description="Who may pull what a cache has. Anyone: whoever reaches the cache, also what was fetched with "
        "secretReferenceName. Puller: what the upstream gives to anyone, is for anyone; for the rest, the cache asks "
        "for the pod's own credentials and shows them to the upstream. Such a cache needs http.tls, and has no "
        "secretReferenceName. docs/guide/private-registries.md says more.",
    )
    accessCheckInterval: Duration = Field(
        "5m",
        description="How long a cache with the access Puller trusts what the upstream said about credentials or a "
        "public repository, as a Go duration. A token is not trusted longer than it says. 0s asks at every request.",
    )
    accessGracePeriod: Duration = Field(
        "1h",
        description="How long the same is trusted while the upstream is away, as a Go duration. What was public when "
        "the upstream was asked last stays so for as long as it is away.",
    )
    fetchAhead: Literal["Never", "Adaptive", "Always"] = Field(
        "Adaptive",
        description="Whether layers are fetched before a node requests them, which saves the node the delay of the "
        "line. Adaptive does so for a node that has requested two successive layers that were not cached, unless the "
        "upstream begins to send blobs within 10 ms, and fetches the beginning of each of the next three layers until "
        "the node requests them. Always does so as soon as a node gets the manifest of an image, even if it has most "
        "of the layers already. Never fetches only what is requested; use it if the upstream charges for each byte.",
    )
    nodesOnly: bool = Field(
        False,
        description="Whether the caches serve only who shows the certificate of the nodes, so that no pod can read "
        "private images from them. It needs http.tls in each cache: docs/guide/tls.md. The kubelet's probes and "
        "Prometheus need no certificate.",
    )
    clientSecretName: OptionalSubdomain = Field(
        "",
        description="A Secret in the release's namespace with the certificate of the nodes, for caches with nodesOnly: "
        "the keys tls.crt, tls.key, and ca.crt, the authority of that certificate. Every certificate for clients of "
        "this authority is let in, so use one of your own. Empty stands for the release's full name and -client.",
        examples=["registry-cache-client"],
    )
    highWaterMarkPercent: Percent = Field(
        85,
        description="How full a volume may be. Above that, the least recently used content is evicted, so that there "
        "is room before it is needed.",
    )
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
    volumeClaims: VolumeClaims = Field(default_factory=VolumeClaims, description="The claims of the caches' volumes.")
    service: Service = Field(default_factory=Service, description="The Services of the caches.")
    podDisruptionBudget: PodDisruptionBudget = Field(
        default_factory=PodDisruptionBudget, description="Disruption budgets of caches with several replicas."
    )
    resources: CacheResources = Field(
        default_factory=CacheResources, description="Resources of each container of a cache pod."
    )
    readinessProbe: ReadinessProbe = Field(
        default_factory=ReadinessProbe, description="When a pod counts as ready. Raise it for very slow volumes."
    )
    livenessProbe: LivenessProbe = Field(
        default_factory=LivenessProbe,
        description="When a container counts as hung. A pull that it holds waits until it is restarted.",
    )
    nodeSelector: NodeSelector = Field(LINUX_NODES)
    tolerations: PodTolerations = Field([])
    affinity: PodAffinity = Field({})
    topologySpreadConstraints: Objects = Field(
        [SPREAD],
        description="How the replicas of a cache are spread. Without a labelSelector, a constraint gets that of the "
        "cache. By default several may run on one node, so that a cluster with one node can have them.",
    )
    priorityClassName: PriorityClassName = ""
    podLabels: PodLabels = Field({})
    podAnnotations: PodAnnotations = Field({})
    podSecurityContext: PodSecurityContext = Field(
        {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    containerSecurityContext: ContainerSecurityContext = Field(RESTRICTED)
    serviceAccount: ServiceAccount = Field(
        default_factory=ServiceAccount, description="Service account of the pods. Its token is never mounted."
    )
    dnsConfig: Passthrough = Field(
        {},
        description="DNS settings of the pods, for example to look up an upstream at a name server of your own.",
        examples=[{"options": [{"name": "ndots", "value": "1"}]}],
    )
    hostAliases: Objects = Field(
        [],
        description="Lines for /etc/hosts in the pods, for example for an upstream that DNS does not know.",
        examples=[[{"ip": "10.0.0.7", "hostnames": ["registry.example.com"]}]],
    )
    extraVolumes: Objects = Field(
        [],
        description="More volumes of the pods, for example of a CSI secret store that creates a Secret only while its "
        "volume is mounted.",
        examples=[[{"name": "secrets", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}]],
    )
    extraVolumeMounts: Objects = Field(
        [],
        description="Where the gate mounts the extra volumes.",
        examples=[[{"name": "secrets", "mountPath": "/mnt/secrets", "readOnly": True}]],
    )
    revisionHistoryLimit: RevisionHistoryLimit = 2
