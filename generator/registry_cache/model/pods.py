"""Values that both kinds of pods have: images, scheduling, security contexts, service accounts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.scalars import (
    Affinity,
    Annotations,
    Digest,
    Labels,
    LabelValue,
    OptionalSubdomain,
    Passthrough,
    PositiveCount,
    TaintKey,
)

# The digest is part of the tag, so that it goes when somebody sets another tag.
TAG = "The tag, with the digest that is pulled. A tag alone is pulled as it is at that moment."


class Image(Model):
    """A container image; each use of it has its own defaults."""

    registry: str = Field("public.ecr.aws/docker", description="The registry, which may have a path.")
    repository: str = Field(description="The repository in the registry.")
    tag: str = Field(description=TAG)
    digest: Digest = Field("", description="A digest, which wins over the tag.")
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="The pull policy.")

    @property
    def reference(self) -> str:
        """The reference of the image, as the chart writes it."""
        return f"{self.registry}/{self.repository}{f'@{self.digest}' if self.digest else f':{self.tag}'}"


class DistributionImage(Image):
    """The image of distribution."""

    repository: str = Field("library/registry", description="The repository in the registry.")
    tag: str = Field(
        "3.1.1@sha256:325b4b29b041e82803abeb703e201655e4e23ab83264ec1a7c9ddb0a5b14a6e0",
        description=TAG,
    )


class NginxImage(Image):
    """The image of nginx."""

    repository: str = Field("library/nginx", description="The repository in the registry.")
    tag: str = Field(
        "1.28.3-alpine@sha256:a8b39bd9cf0f83869a2162827a0caf6137ddf759d50a171451b335cecc87d236",
        description=TAG,
    )


class PythonImage(Image):
    """The image of Python."""

    repository: str = Field("library/python", description="The repository in the registry.")
    tag: str = Field(
        "3.13-alpine@sha256:79e7a9b9ff1cbceff819f856fb374477792a5967759d94df266de7b7b4120e6f",
        description=TAG,
    )


class Images(Model):
    """The images of all pods, all of them stock ones."""

    distribution: DistributionImage = Field(
        default_factory=DistributionImage,
        description="Distribution, which serves what is stored while the gate is away.",
    )
    nginx: NginxImage = Field(
        default_factory=NginxImage, description="nginx, which receives all requests in the cache pods."
    )
    python: PythonImage = Field(
        default_factory=PythonImage,
        description="Python, which runs our programs in the cache pods, on the nodes and for `helm test`.",
    )


class Toleration(Model):
    """A taint that does not keep a pod off a node."""

    key: TaintKey | None = Field(None, description="The key of the taint. Without it, all taints are tolerated.")
    operator: Literal["Exists", "Equal"] | None = Field(
        None,
        description="Exists tolerates any value of the taint; the default, Equal, only the given one.",
        examples=["Exists"],
    )
    value: LabelValue | None = Field(None, description="The value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The effect of the taint. Without it, all effects are tolerated.", examples=["NoSchedule"]
    )
    tolerationSeconds: int | None = Field(
        None,
        description="How long a pod stays on a node with a NoExecute taint. Without it, the pod stays forever.",
        examples=[60],
    )


class ServiceAccount(Model):
    """The service account of pods. None of the chart's pods has its token."""

    create: bool = Field(
        False,
        description="Creates a service account. Use it if a policy, such as an SCC of OpenShift, is bound to one.",
    )
    name: OptionalSubdomain = Field(
        "",
        description="The name of the service account. Empty uses the generated name of the created one, or else the "
        "namespace's default.",
        examples=["registry-cache"],
    )
    annotations: Annotations = Field(
        {}, description="Annotations of the created service account.", examples=[{"example.com/team": "platform"}]
    )


class ProbeTimings(Model):
    """When the kubelet checks a container; each use has its own defaults."""

    periodSeconds: PositiveCount = Field(description="Seconds between two checks.")
    timeoutSeconds: PositiveCount = Field(description="Seconds that an answer may take.")
    failureThreshold: PositiveCount = Field(description="Number of failures in a row that count.")


Tolerations = list[Toleration]
TOLERATE_ALL: Any = {"operator": "Exists"}  # as it stands in the values file
LINUX_NODES = {"kubernetes.io/os": "linux"}
RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_CONCEPTS = "https://kubernetes.io/docs/concepts"
NodeSelector = Annotated[Labels, Field(description="Labels of the nodes that the pods may run on.")]
PodTolerations = Annotated[
    Tolerations,
    Field(
        description="Taints that the pods tolerate.",
        examples=[[{"key": "dedicated", "operator": "Exists"}]],
    ),
]
PodAffinity = Annotated[
    Affinity,
    Field(
        description=f"Affinity of the pods ({_CONCEPTS}/scheduling-eviction/assign-pod-node).",
        examples=[{"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}],
    ),
]
PriorityClassName = Annotated[
    OptionalSubdomain, Field(description="Priority class of the pods.", examples=["system-cluster-critical"])
]
PodLabels = Annotated[
    Labels, Field(description="More labels of the pods. The chart's own win.", examples=[{"team": "platform"}])
]
PodAnnotations = Annotated[
    Annotations, Field(description="More annotations of the pods.", examples=[{"example.com/team": "platform"}])
]
RevisionHistoryLimit = Annotated[PositiveCount, Field(description="Number of old revisions that Kubernetes keeps.")]
PodSecurityContext = Annotated[
    Passthrough,
    Field(
        description="Security context of the pods. It is merged over the default, and null removes a key: on "
        "OpenShift, set runAsUser, runAsGroup and fsGroup to null.",
    ),
]
ContainerSecurityContext = Annotated[
    Passthrough,
    Field(
        description="Security context of each container. It is merged over the default, and null removes a key: set "
        "seLinuxOptions here, for example.",
    ),
]
