"""The values of the program on each node."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.pods import (
    LINUX_NODES,
    RESTRICTED,
    TOLERATE_ALL,
    ContainerSecurityContext,
    NodeSelector,
    PodAnnotations,
    PodLabels,
    PodSecurityContext,
    PodTolerations,
    PriorityClassName,
    RevisionHistoryLimit,
    ServiceAccount,
)
from registry_cache.model.scalars import (
    Affinity,
    Command,
    Duration,
    File,
    Folder,
    OptionalIPAddress,
    Passthrough,
    Port,
    PositiveDuration,
    Program,
    Resources,
    UnitDirectory,
    UnitName,
    Version,
)


class Probe(Model):
    """How the node program checks a cache."""

    interval: PositiveDuration = Field(
        "8s",
        description="Time between two probes of a cache, as a Go duration. After a failure, the next probe follows at "
        "once.",
    )
    timeout: PositiveDuration = Field("2s", description="How long an answer may take, as a Go duration.")
    failureThreshold: int = Field(
        2,
        ge=1,
        description="Number of failed probes in a row after which the node stops using the cache. One success brings "
        "it back.",
    )
    maxBackoff: Duration = Field(
        "5m",
        description="The longest time that an unstable cache must answer before a node uses it again, as a Go "
        "duration. The first return within ten minutes is immediate; the next ones take 15s, 30s and so on. 0s never "
        "waits.",
    )


# Nodes without a containerd of their own. They tolerate every pod, and one that is scheduled there stays pending.
NO_VIRTUAL_NODES: Any = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]},
                        {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]},
                        {"key": "liqo.io/type", "operator": "NotIn", "values": ["virtual-node"]},
                    ]
                }
            ]
        }
    }
}


class NodeMetrics(Model):
    """The metrics of the node program."""

    enabled: bool = Field(True, description="Serves /metrics on the node's own network.")
    listenAddress: OptionalIPAddress = Field(
        "",
        description="The address to listen on. Empty uses the node's internal address, at which Prometheus finds the "
        'pod. "::" listens on every address of the node, including public ones.',
        examples=["::"],
    )
    port: Port = Field(
        9253, description="The port. If something else uses it, the program logs that and runs without metrics."
    )


class ConfigureContainerd(Model):
    """Changing containerd's own configuration, which nothing else in the chart does."""

    enabled: bool = Field(
        False,
        description="Runs a privileged container before the node program. If containerd does not read the registry "
        "directory, it adds the missing line to containerd's configuration and restarts containerd, and undoes that "
        "if containerd does not come back. The line stays after an uninstall.",
    )
    containerdBinary: Program = Field(
        "containerd", description="The containerd program on the node, which checks the new configuration."
    )
    restartCommand: Command = Field(
        ["systemctl", "restart", "containerd"], description="The command on the node that restarts containerd."
    )
    readyCommand: Command = Field(
        ["ctr", "version"], description="A command on the node that succeeds when containerd is ready."
    )


class ProxyCheck(Model):
    """Finding out whether containerd would ask the caches through an HTTP proxy."""

    enabled: bool = Field(
        True,
        description="Runs a container before the node program, which reads how systemd starts containerd. If "
        "HTTP_PROXY is set and NO_PROXY does not cover a cache, the node does not use the cache, and the pod says so. "
        "The container has no capabilities, and ends before the node program starts.",
    )
    units: list[UnitName] = Field(
        [],
        description="The units of systemd that start containerd. Empty uses the preset's; presets whose distribution "
        "covers Services in NO_PROXY itself, or has no units, have none. Nothing is checked unless there are "
        "directories too.",
        examples=[["containerd.service"]],
    )
    directories: list[UnitDirectory] = Field(
        [],
        description="Directories on the nodes with the units and their drop-ins, in systemd's order. Add those of "
        "files that the units name with EnvironmentFile. They are mounted read-only, and created if they do not exist. "
        "Empty uses the preset's. Nothing is checked unless there are units too.",
        examples=[["/etc/systemd/system", "/etc/default"]],
    )


class NodeProgram(Model):
    """The program on each node, which points containerd to the caches."""

    enabled: bool = Field(
        True, description="Runs the program. Disable it if something else points containerd to the caches."
    )
    preset: Literal["kubeadm", "kind", "k3s", "rke2", "k0s", "microk8s", "talos"] = Field(
        "kubeadm",
        description="The Kubernetes distribution, which decides where containerd's files are on the nodes "
        "(files/presets.yaml). The paths of kubeadm fit most other distributions too.",
    )
    registryDirectory: Folder = Field(
        "",
        description="The directory on the nodes that containerd's config_path names. Empty uses the preset's.",
        examples=["/etc/containerd/certs.d"],
    )
    containerdConfig: File = Field(
        "",
        description="containerd's configuration file on the nodes. The program reads it to tell whether containerd "
        "uses the registry directory. Empty uses the preset's.",
        examples=["/etc/containerd/config.toml"],
    )
    containerdVersion: Version = Field(
        "",
        description="The version of containerd, if it is the same on all nodes. Releases read some configurations "
        "differently; if it is empty, the node program reports those as unknown.",
        examples=["2.2.1"],
    )
    dialTimeout: PositiveDuration = Field(
        "500ms",
        description="How long containerd (2.1 or newer) tries to connect to a cache before it turns to the upstream, "
        "as a Go duration.",
    )
    probe: Probe = Field(default_factory=Probe, description="How the program checks whether a cache answers.")
    configureContainerd: ConfigureContainerd = Field(
        default_factory=ConfigureContainerd, description="Changes to containerd's own configuration. Off by default."
    )
    proxyCheck: ProxyCheck = Field(
        default_factory=ProxyCheck, description="Whether containerd would ask the caches through an HTTP proxy."
    )
    metrics: NodeMetrics = Field(default_factory=NodeMetrics, description="Metrics of the program.")
    readyWhen: Literal["CachesInUse", "Running"] = Field(
        "CachesInUse",
        description="When a pod is ready. CachesInUse: while its node uses all caches, so the DaemonSet is a status "
        "page, and `helm install --wait` waits for the nodes. Running: while the program runs. Use it if one broken "
        "node must not hold up a rollout or the health of an application in Argo CD; metrics, alerts and the log of "
        "the pod still have the truth.",
    )
    resources: Resources = Field(
        {"requests": {"cpu": "5m", "memory": "25Mi"}, "limits": {"memory": "128Mi"}},
        description="Resources of the program. If configureContainerd is enabled, they also cover containerd's own "
        "program, which checks the configuration.",
    )
    nodeSelector: NodeSelector = Field(LINUX_NODES)
    tolerations: PodTolerations = Field([TOLERATE_ALL])
    affinity: Affinity = Field(
        NO_VIRTUAL_NODES,
        description="Affinity of the pods. The default keeps them off virtual nodes (EKS Fargate, virtual-kubelet, "
        "Liqo), which have no containerd of their own.",
    )
    priorityClassName: PriorityClassName = "system-node-critical"
    priorityQuota: bool = Field(
        True,
        description="Creates a ResourceQuota that allows the pods of the chart to have a priority class of the system. "
        "It limits nothing. Without one, GKE refuses such pods outside kube-system, and the DaemonSet has none.",
    )
    podLabels: PodLabels = Field({})
    podAnnotations: PodAnnotations = Field({})
    podSecurityContext: PodSecurityContext = Field(
        {
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    containerSecurityContext: ContainerSecurityContext = Field(RESTRICTED)
    seLinuxOptions: Passthrough = Field(
        {},
        description="SELinux options of the container, on nodes whose containerd has enable_selinux. Empty uses the "
        "preset's (docs/containerd.md has a value for each system).",
        examples=[{"type": "spc_t"}],
    )
    serviceAccount: ServiceAccount = Field(
        default_factory=ServiceAccount, description="Service account of the pods. Its token is never mounted."
    )
    updateStrategy: Passthrough = Field(
        {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        description="How an upgrade replaces the pods.",
    )
    revisionHistoryLimit: RevisionHistoryLimit = 2
