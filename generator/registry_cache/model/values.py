"""A values file of the chart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry_cache.model.base import Model
from registry_cache.model.cache_pods import CachePods, UpstreamSettings
from registry_cache.model.cert_manager import CertManager
from registry_cache.model.monitoring import Monitoring
from registry_cache.model.network_policies import NetworkPolicies
from registry_cache.model.node_program import NodeProgram
from registry_cache.model.pods import Images
from registry_cache.model.registry_config import Cache
from registry_cache.model.scalars import (
    Annotations,
    ImageRegistry,
    Labels,
    Name,
    Namespace,
    Passthrough,
    PullSecrets,
    Strings,
)

# Values that an earlier version of the chart had under another name. The schema lets them through, so that the command
# and the chart can answer with the new name.
RENAMED_VALUES = {
    "cache": "cachePods",
    "cache.tagWindow": "cachePods.tagCheckInterval",
    "cache.highWaterMark": "cachePods.highWaterMarkPercent",
    "cache.volumeRetention": "cachePods.volumeClaims.retentionPolicy",
    "cache.resources.registry": "cachePods.resources.distribution",
    "upstreams": "upstreamSettings",
    "node": "nodeProgram",
    "node.probe.patience": "nodeProgram.probe.maxBackoff",
    "node.configureContainerd.containerd": "nodeProgram.configureContainerd.containerdBinary",
    "node.configureContainerd.restart": "nodeProgram.configureContainerd.restartCommand",
    "node.configureContainerd.answers": "nodeProgram.configureContainerd.readyCommand",
    "images.registry": "images.distribution",
    "test": "helmTest",
    "monitoring.rules": "monitoring.prometheusRule",
    "monitoring.rules.runbook": "monitoring.prometheusRule.runbookUrl",
}


class Global(BaseModel):
    """Values that a chart shares with its dependencies; a parent chart may have more of them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    imageRegistry: ImageRegistry = Field(
        "",
        description="Registry of all images, instead of images.*.registry. Use it if your cluster pulls from a mirror.",
    )
    imagePullSecrets: PullSecrets = Field(
        [], description="Pull secrets of all pods, besides imagePullSecrets: names, or mappings with a name."
    )


class HelmTest(Model):
    """Settings of `helm test`."""

    images: Strings = Field(
        {},
        description="A public image for each upstream that the chart knows none of (files/helm-test-images.yaml). "
        "`helm test` pulls it through the cache. Without an image it only checks that the cache answers.",
        examples=[{"registry.example.com": "team/app:1.0"}],
    )
    podLabels: Labels = Field(
        {"sidecar.istio.io/inject": "false", "kuma.io/sidecar-injection": "disabled"},
        description="More labels of the pod. The default ones keep service meshes from adding a container that would "
        "never end.",
    )
    podAnnotations: Annotations = Field(
        {
            "sidecar.istio.io/inject": "false",
            "linkerd.io/inject": "disabled",
            "kuma.io/sidecar-injection": "disabled",
            "consul.hashicorp.com/connect-inject": "false",
        },
        description="More annotations of the pod, for the same purpose.",
    )


class Values(Model):
    """A RegistryConfig and the values that the chart adds to it."""

    apiVersion: Literal["registry.extensions.gardener.cloud/v1alpha3"] = Field(
        "registry.extensions.gardener.cloud/v1alpha3", description="The format of `caches`."
    )
    kind: Literal["RegistryConfig"] = Field("RegistryConfig", description="The format of `caches`.")
    caches: list[Cache] = Field(
        min_length=1, description="The upstreams to cache.", examples=[[{"upstream": "docker.io"}]]
    )
    nameOverride: Name = Field("", description="Replaces the chart's name in the names of objects.")
    fullnameOverride: Name = Field(
        "", description="Replaces the release's and the chart's name in the names of objects."
    )
    namespaceOverride: Namespace = Field(
        "",
        description="Namespace of all objects, instead of the release's. Use it in a parent chart whose dependencies "
        "belong in different namespaces.",
        examples=["registry-cache"],
    )
    global_: Global = Field(
        default_factory=Global, alias="global", description="Values that a parent chart sets for all its dependencies."
    )
    imagePullSecrets: PullSecrets = Field(
        [], description="Pull secrets of the chart's own pods: names, or mappings with a name."
    )
    commonLabels: Labels = Field(
        {}, description="Labels of all objects except pods. Use podLabels for those.", examples=[{"team": "platform"}]
    )
    images: Images = Field(default_factory=Images, description="The images of all pods, all of them stock images.")
    upstreamSettings: dict[str, UpstreamSettings] = Field(
        {},
        description="Settings for single caches that a RegistryConfig does not have, by upstream: caConfigMapName or "
        "caSecretName, proxySecretName, allowedRepositories, tokenServers, allowedNetworks, clusterIP, tlsSecretName, "
        "and access, nodesOnly, replicas, resources, nodeSelector, tolerations, affinity or priorityClassName instead "
        "of those in cachePods.",
        examples=[{"registry.example.com": {"caConfigMapName": "registry-ca"}}],
    )
    cachePods: CachePods = Field(default_factory=CachePods, description="The pods of all caches.")
    nodeProgram: NodeProgram = Field(
        default_factory=NodeProgram,
        description="The program on each node, which points containerd to the caches. Values without a comment are as "
        "in cachePods.",
    )
    certManager: CertManager = Field(
        default_factory=CertManager, description="Certificates of the caches and the nodes from cert-manager."
    )
    networkPolicies: NetworkPolicies = Field(
        default_factory=NetworkPolicies, description="NetworkPolicies of the cache pods."
    )
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Objects for Prometheus and Grafana.")
    helmTest: HelmTest = Field(default_factory=HelmTest, description="Settings of `helm test`.")
    extraObjects: list[Annotated[Passthrough | str, Field(title="a mapping or text")]] = Field(
        [],
        description="More objects to install, such as the Secrets of the caches from an external store: mappings or "
        "text, in which Helm's template syntax works.",
        examples=[[{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-note"}}]],
    )

    def serves_only_nodes(self, cache: Cache) -> bool:
        """Return whether a cache serves only who shows the nodes' certificate."""
        settings = self.upstreamSettings.get(cache.upstream)
        own = settings.nodesOnly if settings else None
        return self.cachePods.nodesOnly if own is None else own

    def count_replicas(self, cache: Cache) -> int:
        """Return the number of pods of a cache, each with a volume of its own."""
        settings = self.upstreamSettings.get(cache.upstream)
        return cache.count_replicas((settings and settings.replicas) or self.cachePods.replicas)
