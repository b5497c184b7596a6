"""The contract: RegistryConfig v1alpha3 and what the chart's values add to it.

The one source: values.schema.json, values.yaml and the reference are made from these classes. `title` says what a value
is, in words that an error can use; `examples` say what to write.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

# The patterns are anchored and use what RE2 has, since Helm checks the schema with Go's regular expressions. None can
# match a text in two ways, since Python's would try them all.
_LABEL = "[a-z0-9]+(-+[a-z0-9]+)*"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = f"{_SUBDOMAIN}(:{_PORT})?"
_QUANTITY_UNIT = "([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?"
_POSITIVE_NUMBER = "(0*[1-9][0-9]*([.][0-9]*)?|0*[.]0*[1-9][0-9]*)"
# As many digits before the point as keep the sum of all units within the 292 years that Go can hold.
_DURATION_DIGITS = {"h": 6, "m": 7, "s": 9, "ms": 12, "(us|µs|μs)": 15, "ns": 18}
_DURATION = "|".join(f"([0-9]{{1,{n}}}([.][0-9]*)?|[.][0-9]+){unit}" for unit, n in _DURATION_DIGITS.items())
_NO_DURATION = "(0+([.]0*)?|[.]0+)(ns|us|µs|μs|ms|s|m|h)"
_POSITIVE_DURATION = "|".join(
    f"(0*[1-9][0-9]{{0,{n - 1}}}([.][0-9]*)?|0*[.]0*[1-9][0-9]*){unit}" for unit, n in _DURATION_DIGITS.items()
)
# apimachinery/pkg/util/validation, IsQualifiedName and IsValidLabelValue.
_LABEL_VALUE = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = f"({_SUBDOMAIN}/)?{_LABEL_VALUE}"
# As chart/files/programs/upstream/proxies.py reads them.
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
_IPV6 = f"([0-9a-fA-F]{{0,4}}:){{2,7}}([0-9a-fA-F]{{0,4}}|{_IPV4})"
_ANY_CASE = "[A-Za-z0-9]+(-+[A-Za-z0-9]+)*"
_NO_PROXY = "|".join(
    (
        "[*]",
        rf"([*]?\.)?{_ANY_CASE}(\.{_ANY_CASE})*(:{_PORT})?",
        rf"{_IPV6}|\[{_IPV6}\]:{_PORT}",
        f"{_IPV4}/(3[0-2]|[12]?[0-9])",
        f"{_IPV6}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])",
    )
)


def _of_host(pattern: str) -> tuple[AfterValidator, dict[str, Any]]:
    """A limit of the host alone: the check, and the same for the schema."""
    title = "a host of at most 253 characters"

    def check(value: str) -> str:
        if not re.search(pattern, value):
            raise ValueError(title)
        return value

    return AfterValidator(check), {"allOf": [{"pattern": pattern, "title": title}]}


_CHECK_UPSTREAM, _UPSTREAM_SCHEMA = _of_host("^[^:]{0,253}(:|$)")
# What is no URL is told so by the other pattern.
_CHECK_URL, _URL_SCHEMA = _of_host("^[^/]*(//[^:/]{0,253}([:/]|$)|/[^/]|/$|$)")
# In all 255: it names a folder of containerd.
Upstream = Annotated[
    str,
    Field(
        title="a registry's host in lower case, with a port from 1 to 65535 where it has one",
        pattern=f"^{_HOST}$",
        max_length=255,
        examples=["docker.io", "registry.example.com:5000"],
        json_schema_extra=_UPSTREAM_SCHEMA,
    ),
    _CHECK_UPSTREAM,
]
URL = Annotated[
    str,
    Field(
        title="a URL of scheme, host and port alone",
        pattern=f"^[hH][tT][tT][pP][sS]?://{_HOST}/?$",
        examples=["https://registry.example.com"],
        json_schema_extra=_URL_SCHEMA,
    ),
    _CHECK_URL,
]
# apimachinery/pkg/api/resource/quantity.go; greater than zero.
Quantity = Annotated[
    Annotated[str, Field(pattern=f"^[+]?{_POSITIVE_NUMBER}{_QUANTITY_UNIT}$")] | Annotated[int, Field(ge=1)],
    Field(title="a quantity of bytes greater than zero", examples=["10Gi"]),
]
# As Quantity, but of anything that a container can be given, so nothing at all and plain numbers too.
AMOUNT = "an amount of a resource"
Amount = Annotated[
    Annotated[str, Field(pattern=f"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+){_QUANTITY_UNIT}$")]
    | Annotated[float, Field(ge=0)],
    Field(title=AMOUNT, examples=["100m"]),
]
# time.ParseDuration in Go; not negative.
Duration = Annotated[
    str,
    Field(
        title="a duration of hours, minutes and seconds, zero or more",
        pattern=f"^([+]?(0|({_DURATION})+)|-(0|({_NO_DURATION})+))$",
    ),
]
PositiveDuration = Annotated[
    str,
    Field(
        title="a duration of hours, minutes and seconds, more than zero",
        pattern=f"^[+]?({_NO_DURATION})*({_POSITIVE_DURATION})({_DURATION})*$",
    ),
]
# Prometheus knows units that Go does not, and no fractions (prometheus/common, model/time.go).
PrometheusDuration = Annotated[
    str,
    Field(title="a whole number of ms, s, m or h, more than zero", pattern="^0*[1-9][0-9]*(ms|s|m|h)$"),
]
Subdomain = Annotated[
    str,
    Field(title="the name of a Kubernetes object", pattern=f"^{_SUBDOMAIN}$", max_length=253, examples=["fast"]),
]
# Of a folder below the root; Kubernetes takes no colon and no `..`.
_PART = r"/([^/:.\s]|[.][^/:.\s])[^/:\s]*"
Folder = Annotated[str, Field(title="an absolute path, or nothing", pattern=f"^(({_PART})+/?)?$")]
File = Annotated[
    str, Field(title="an absolute path of a file in a folder, or nothing", pattern=f"^({_PART}({_PART})+)?$")
]
Port = Annotated[int, Field(title="a port from 1 to 65535", ge=1, le=65535)]
Percent = Annotated[int, Field(title="a percentage from 1 to 100", ge=1, le=100)]
Digest = Annotated[
    str,
    Field(
        title="a digest, or nothing",
        pattern="^(sha256:[a-f0-9]{64})?$",
        examples=["sha256:1be55279f18a2fe1a74edf2664cac61c1bea305b7b4642dab412e7affdcb3e33"],
    ),
]
Name = Annotated[
    str,
    Field(
        title="a name of lower case letters, digits and dashes, or nothing",
        pattern=f"^({_SUBDOMAIN})?$",
        max_length=63,
        examples=["caches"],
    ),
]
Version = Annotated[str, Field(title="a version, or nothing", pattern="^(v?[0-9]+[.][0-9]+[-+.~0-9A-Za-z]*)?$")]
Command = Annotated[str, Field(title="a program's name or path", min_length=1)]
Commands = Annotated[list[Command], Field(min_length=1)]
NoProxy = Annotated[
    str,
    Field(
        title="a host, a domain, an address or a network, with a port where it is no network, or *",
        pattern=f"^({_NO_PROXY})$",
        examples=[".example.com"],
    ),
]
Strings = dict[str, str]
Objects = list[dict[str, Any]]


KEY = (
    "a key that Kubernetes takes: at most 63 letters, digits, dashes, underscores and dots, a domain and a slash before"
)
Key = Annotated[str, Field(pattern=f"^{_KEY}$")]


def _values(title: str) -> Any:  # noqa: ANN401 - pydantic's
    """The title of the values of a mapping with such keys, which pydantic takes away."""

    def complete(schema: dict[str, Any]) -> None:
        for part in schema["patternProperties"].values():
            part["title"] = title

    return Field(json_schema_extra=complete)


LABEL_VALUE = "a label's value: at most 63 letters, digits, dashes, underscores and dots, or nothing"
LabelValue = Annotated[
    str,
    Field(
        title=LABEL_VALUE,
        pattern=f"^({_LABEL_VALUE})?$",
        examples=["platform"],
    ),
]
Labels = Annotated[dict[Key, LabelValue], _values(LABEL_VALUE)]
Annotations = dict[Key, str]
Resources = dict[Literal["requests", "limits"], Annotated[dict[Key, Amount], _values(AMOUNT)]]
Affinity = dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]]
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
        }
    }
}


class Model(BaseModel):
    """Knows its fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def no_null(cls, data: object) -> object:
        """Refuse null: what has no value is left out."""
        if isinstance(data, dict) and None in data.values():
            message = "null is no value"
            raise ValueError(message)
        return data


class Toleration(Model):
    """A taint of nodes that keeps no pod away."""

    key: Annotated[str, Field(title="a taint's key", pattern=f"^{_KEY}$", examples=["dedicated"])] | None = Field(
        None, description="The taint's key; any where unset."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        None, description="Whether its value counts; Equal where unset.", examples=["Exists"]
    )
    value: LabelValue | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; any where unset.", examples=["NoSchedule"]
    )
    tolerationSeconds: int | None = Field(
        None,
        description="How long a pod stays on a node with a taint of NoExecute; for ever where unset.",
        examples=[60],
    )


Tolerations = list[Toleration]
ANY_TAINT: Any = {"operator": "Exists"}  # as it stands in the values file


class Volume(Model):
    """The volume of one cache."""

    size: Quantity = Field(
        "10Gi",
        description="Size of the volume; it can grow, where the storage class allows it, and not shrink.",
    )
    storageClassName: Subdomain | None = Field(
        None, description="Storage class of the volume; the cluster's default where unset. It stays as it is at first."
    )


class GarbageCollection(Model):
    """When what is cached goes."""

    ttl: Duration = Field(
        description="How long content is kept since its last use, as a Go duration; 0s keeps all. A change applies to "
        "what is there.",
        examples=["168h", "1h30m", "0s"],
        json_schema_extra={"default": "168h"},  # of the whole; one who writes garbageCollection writes a ttl
    )


class Proxy(Model):
    """The HTTP proxy through which a cache reaches its upstream."""

    httpProxy: URL | None = Field(
        None,
        description="Proxy for http upstreams; its credentials come from upstreamSettings.<upstream>.proxySecretName.",
        examples=["http://proxy:3128"],
    )
    httpsProxy: URL | None = Field(
        None,
        description="Proxy for https upstreams; its credentials come from upstreamSettings.<upstream>.proxySecretName.",
        examples=["http://proxy:3128"],
    )


def _not_yet(value: bool) -> bool:  # noqa: FBT001 - a validator
    if value:
        message = "not supported yet"
        raise ValueError(message)
    return value


# No Literal[False], which takes 0 for false.
NotYet = Annotated[
    bool, AfterValidator(_not_yet), WithJsonSchema({"const": False}), Field(title="supported yet", examples=[False])
]


class HTTP(Model):
    """How the cache itself is reached."""

    tls: NotYet = Field(
        False,
        description="TLS between node and cache. Not there yet, so only false; Gardener's default is true.",
    )


class HighAvailability(Model):
    """More than one replica."""

    enabled: bool = Field(
        False,
        description="Two replicas of the cache, each with a volume of this size, on two nodes where there are two.",
    )


class Cache(Model):
    """One upstream and its cache: the fields of RegistryConfig and no others."""

    upstream: Upstream = Field(description="The host that image references begin with.")
    remoteURL: URL | None = Field(
        None,
        description="Where the cache fetches from; https://<upstream> where unset, for docker.io https://registry-1.docker.io.",
    )
    volume: Volume | None = Field(None, description="The cache's volume.")
    garbageCollection: GarbageCollection | None = Field(None, description="When what is cached goes; 168h where unset.")
    secretReferenceName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace with the keys username and password for the upstream.",
        examples=["registry-example-com"],
    )
    proxy: Proxy | None = Field(None, description="The HTTP proxy on the way to the upstream.")
    http: HTTP | None = Field(None, description="How the cache itself is reached.")
    highAvailability: HighAvailability | None = Field(None, description="More than one replica.")
    serviceNameSuffix: (
        Annotated[str, Field(title="a DNS label of at most 54 characters", pattern=f"^{_LABEL}$", max_length=54)] | None
    ) = Field(None, description="Names the Service registry-<suffix>.", examples=["docker-hub"])


class Image(Model):
    """A container image; each use of it has its own defaults."""

    registry: str = Field("docker.io", description="Registry.")
    repository: str = Field(description="Repository in the registry.")
    tag: str = Field(description="Tag.")
    digest: Digest = Field("", description="Digest; wins over the tag.")
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="Pull policy.")


class DistributionImage(Image):
    """The image of distribution."""

    repository: str = Field("library/registry", description="Repository in the registry.")
    tag: str = Field("3.1.1", description="Tag.")


class NginxImage(Image):
    """The image of nginx."""

    repository: str = Field("library/nginx", description="Repository in the registry.")
    tag: str = Field("1.28.0-alpine", description="Tag.")


class PythonImage(Image):
    """The image of Python."""

    repository: str = Field("library/python", description="Repository in the registry.")
    tag: str = Field("3.13-alpine", description="Tag.")


class Images(Model):
    """The images of all pods, all of them stock ones."""

    distribution: DistributionImage = Field(
        default_factory=DistributionImage, description="Image of distribution, in the pods of the caches."
    )
    nginx: NginxImage = Field(default_factory=NginxImage, description="Image of nginx, in the pods of the caches.")
    python: PythonImage = Field(
        default_factory=PythonImage,
        description="Image of Python, in the pods of the caches, on the nodes and for helm test.",
    )


class CacheResources(Model):
    """The resources of each container of a cache."""

    front: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "128Mi"}},
        description="Resources of nginx, which sends what is cached.",
    )
    gate: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "256Mi"}},
        description="Resources of the program that fetches from the upstream and makes room on the volume.",
    )
    distribution: Resources = Field(
        {"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "256Mi"}},
        description="Resources of distribution.",
    )


class UpstreamSettings(Model):
    """What the chart adds for one cache to what a RegistryConfig can say."""

    caConfigMapName: Subdomain | None = Field(
        None,
        description="A ConfigMap in the release's namespace whose key ca.crt has the certificates of the authorities "
        "that sign for the upstream; instead of caSecretName.",
        examples=["registry-ca"],
    )
    caSecretName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace whose key ca.crt has the certificates of the authorities "
        "that sign for the upstream; instead of caConfigMapName.",
        examples=["registry-ca"],
    )
    proxySecretName: Subdomain | None = Field(
        None,
        description="A Secret in the release's namespace with the keys username and password for the cache's HTTP "
        "proxy.",
        examples=["proxy-login"],
    )


class VolumeClaims(Model):
    """The claims of all caches' volumes."""

    retentionPolicy: Literal["Delete", "Retain"] = Field(
        "Delete",
        description="What becomes of a cache's volume when the chart is uninstalled, and when the cache is taken out "
        "of `caches`: all content can be fetched again, and a volume that nobody wants costs money. Retain must be in "
        "force before that.",
    )


class CachePods(Model):
    """The pods of all caches."""

    tagCheckInterval: Duration = Field(
        "5s",
        description="How long the upstream's answer about a tag counts before it is asked again, as a Go duration; 0s "
        "asks at each pull.",
    )
    highWaterMarkPercent: Percent = Field(
        85,
        description="Above so many percent of the volume the least recently used content goes, so that there is room "
        "ahead of need.",
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
        description="What no cache asks its HTTP proxy for: hosts, domains with a dot in front, and networks.",
    )
    resources: CacheResources = Field(default_factory=CacheResources, description="Resources of each cache.")
    priorityClassName: str = Field("", description="Priority class.", examples=["system-cluster-critical"])
    nodeSelector: Labels = Field({"kubernetes.io/os": "linux"}, description="Node selector.")
    tolerations: Tolerations = Field(
        [], description="Tolerations.", examples=[[{"key": "dedicated", "operator": "Exists"}]]
    )
    affinity: Affinity = Field({}, description="Affinity.", examples=[AFFINITY])
    podAnnotations: Annotations = Field(
        {}, description="Annotations of the pods.", examples=[{"example.com/team": "platform"}]
    )


class Probe(Model):
    """How the node program asks a cache."""

    interval: PositiveDuration = Field(
        "8s",
        description="Time between two probes of a cache, as a Go duration; after a failure the next one comes at once.",
    )
    timeout: PositiveDuration = Field("2s", description="How long an answer may take, as a Go duration.")
    failureThreshold: int = Field(
        2, ge=1, description="After so many failures in a row the node leaves the cache; one success brings it back."
    )
    maxBackoff: Duration = Field(
        "5m",
        description="How long a cache that comes and goes must answer at most before it is used again, as a Go "
        "duration: nothing the first time in ten minutes, then 15s, 30s and so on; 0s asks for none.",
    )


class NodeMetrics(Model):
    """Where the node program's metrics are."""

    enabled: bool = Field(True, description="Whether the program serves /metrics, on the node's own network.")
    port: Port = Field(9253, description="The port; where something else has it, the program says so and goes on.")


class ConfigureContainerd(Model):
    """Changing containerd's own configuration, which nothing else here does."""

    enabled: bool = Field(
        False,
        description="Whether containerd, where its configuration does not name the registry folder, gets the line that "
        "does and is restarted: once, checked by containerd itself, undone where it does not come back. Takes a "
        "privileged container that runs before the program; the line stays after an uninstall.",
    )
    containerdBinary: Command = Field("containerd", description="containerd's program on the node.")
    restartCommand: Commands = Field(
        ["systemctl", "restart", "containerd"], description="What restarts it, on the node."
    )
    readyCommand: Commands = Field(["ctr", "version"], description="What ends well once it answers, on the node.")


class NodeProgram(Model):
    """The program that points containerd on each node to the caches."""

    enabled: bool = Field(True, description="Whether nodes are configured at all.")
    preset: Literal["kubeadm", "kind", "k3s", "rke2", "k0s", "microk8s", "talos"] = Field(
        "kubeadm",
        description="Whose places of containerd's files the nodes have (chart/files/presets.yaml); kubeadm's are those "
        "of most others too.",
    )
    registryDirectory: Folder = Field(
        "",
        description="The folder on the node that containerd's config_path names; empty takes the preset's.",
        examples=["/etc/containerd/certs.d"],
    )
    containerdConfig: File = Field(
        "",
        description="containerd's configuration on the node, which is read to say whether containerd reads the folder; "
        "empty takes the preset's.",
        examples=["/etc/containerd/config.toml"],
    )
    containerdVersion: Version = Field(
        "",
        description="containerd's version on the nodes, if it is the same on all of them. Releases read some "
        "configurations differently; if empty, the node program reports those as unknown.",
        examples=["2.2.1"],
    )
    dialTimeout: PositiveDuration = Field(
        "500ms",
        description="How long containerd (2.1 and newer) tries to connect to a cache, as a Go duration.",
    )
    probe: Probe = Field(default_factory=Probe, description="How a cache is asked whether it answers.")
    configureContainerd: ConfigureContainerd = Field(
        default_factory=ConfigureContainerd, description="Changing containerd's own configuration; off by default."
    )
    metrics: NodeMetrics = Field(default_factory=NodeMetrics, description="Metrics of the program.")
    resources: Resources = Field({"requests": {"cpu": "5m", "memory": "25Mi"}}, description="Resources.")
    priorityClassName: str = Field("system-node-critical", description="Priority class.")
    nodeSelector: Labels = Field({"kubernetes.io/os": "linux"}, description="Node selector.")
    tolerations: Tolerations = Field([ANY_TAINT], description="Tolerations; every node by default.")
    updateStrategy: dict[str, Any] = Field(
        {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}, description="Update strategy."
    )
    podAnnotations: Annotations = Field(
        {}, description="Annotations of the pods.", examples=[{"example.com/team": "platform"}]
    )


class GrafanaOperator(Model):
    """The dashboard for the Grafana operator."""

    enabled: bool = Field(
        False, description="Whether it is created, for which the Grafana operator, version 5, must be installed."
    )
    instanceSelector: dict[str, Any] = Field(
        {},
        description="The label selector of the Grafanas that show it; all of them where it is empty.",
        examples=[{"matchLabels": {"dashboards": "grafana"}}],
    )


class Dashboard(Model):
    """The ConfigMap with the dashboard."""

    enabled: bool = Field(True, description="Whether it is created.")
    labels: Labels = Field(
        {"grafana_dashboard": "1", "dashboard.monitoring.gardener.cloud/shoot": "true"},
        description="Labels by which a Grafana sidecar, or Gardener's Plutono, finds it.",
    )
    annotations: Annotations = Field({}, description="Annotations.", examples=[{"grafana_folder": "Registries"}])
    grafanaOperator: GrafanaOperator = Field(
        default_factory=GrafanaOperator, description="A GrafanaDashboard that refers to the ConfigMap."
    )


class PodMonitor(Model):
    """The PodMonitors of the caches and of the nodes."""

    enabled: bool = Field(
        False,
        description="Whether they are created, for which the Prometheus operator must be installed. They add the "
        "labels `release` and `node` to what the pods tell; where they are not, the pods' annotations say where their "
        "metrics are.",
    )
    labels: Labels = Field(
        {}, description="Labels by which a Prometheus finds them.", examples=[{"release": "kube-prometheus-stack"}]
    )
    interval: PrometheusDuration = Field("30s", description="Time between two scrapes, as Prometheus has it.")


class PrometheusRule(Model):
    """The PrometheusRule."""

    enabled: bool = Field(
        False,
        description="Whether it is created, for which the Prometheus operator must be installed. Its rules are about "
        "all releases, so one of them is enough. Without the operator, files/monitoring/registry-caches.rules.yaml is "
        "a rule file for Prometheus.",
    )
    labels: Labels = Field(
        {}, description="Labels by which a Prometheus finds it.", examples=[{"release": "kube-prometheus-stack"}]
    )
    runbookUrl: str = Field(
        "https://github.com/registry-cache/registry-cache/blob/main/docs/runbook.md",
        description="The address of the runbook, with which the annotation `runbook_url` of each alert begins. Empty "
        "leaves the annotation out.",
        examples=["https://wiki.example.com/registry-caches"],
    )


class Monitoring(Model):
    """What is there to watch the caches with."""

    dashboard: Dashboard = Field(
        default_factory=Dashboard, description='The dashboard "Registry Caches" as a ConfigMap.'
    )
    podMonitor: PodMonitor = Field(
        default_factory=PodMonitor, description="How the Prometheus operator scrapes the pods; off by default."
    )
    prometheusRule: PrometheusRule = Field(
        default_factory=PrometheusRule, description="Recording rules and alerts; off by default."
    )


class HelmTest(Model):
    """What `helm test` does."""

    images: Strings = Field(
        {},
        description="A public image for each upstream that the chart knows none of (files/helm-test-images.yaml). "
        "`helm test` pulls it through the cache; without one it only checks that the cache answers.",
        examples=[{"registry.example.com": "team/app:1.0"}],
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


class Values(Model):
    """A values file of the chart: a RegistryConfig and what the chart adds beside it."""

    apiVersion: Literal["registry.extensions.gardener.cloud/v1alpha3"] = Field(
        "registry.extensions.gardener.cloud/v1alpha3", description="The format of `caches`."
    )
    kind: Literal["RegistryConfig"] = Field("RegistryConfig", description="The format of `caches`.")
    caches: list[Cache] = Field(
        min_length=1, description="The upstreams to cache.", examples=[[{"upstream": "docker.io"}]]
    )
    nameOverride: Name = Field("", description="Replaces the chart's name in names of objects.")
    fullnameOverride: Name = Field("", description="What names of objects begin with.")
    imagePullSecrets: Objects = Field(
        [], description="Pull secrets of the chart's own pods.", examples=[[{"name": "registry-login"}]]
    )
    commonLabels: Labels = Field(
        {}, description="Labels of all objects, pods excepted.", examples=[{"team": "platform"}]
    )
    images: Images = Field(default_factory=Images, description="The images of all pods, all of them stock ones.")
    upstreamSettings: dict[str, UpstreamSettings] = Field(
        {},
        description="What the chart adds for one cache to what a RegistryConfig can say, by the cache's upstream.",
        examples=[{"registry.example.com": {"caConfigMapName": "registry-ca"}}],
    )
    cachePods: CachePods = Field(default_factory=CachePods, description="The pods of all caches.")
    nodeProgram: NodeProgram = Field(
        default_factory=NodeProgram, description="The program that points containerd on each node to the caches."
    )
    monitoring: Monitoring = Field(default_factory=Monitoring, description="What is there to watch the caches with.")
    helmTest: HelmTest = Field(default_factory=HelmTest, description="What helm test does.")
