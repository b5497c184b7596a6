"""Values that both kinds of pods have: images, resources, tolerations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.scalars import Digest, LabelValue, TaintKey


class Image(Model):
    """A container image; each use of it has its own defaults."""

    registry: str = Field("docker.io", description="The registry.")
    repository: str = Field(description="The repository in the registry.")
    tag: str = Field(description="The tag.")
    digest: Digest = Field("", description="The digest. It wins over the tag.")
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="The pull policy.")


class DistributionImage(Image):
    """The image of distribution."""

    repository: str = Field("library/registry", description="The repository in the registry.")
    tag: str = Field("3.1.1", description="The tag.")


class NginxImage(Image):
    """The image of nginx."""

    repository: str = Field("library/nginx", description="The repository in the registry.")
    tag: str = Field("1.28.0-alpine", description="The tag.")


class PythonImage(Image):
    """The image of Python."""

    repository: str = Field("library/python", description="The repository in the registry.")
    tag: str = Field("3.13-alpine", description="The tag.")


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


Tolerations = list[Toleration]
TOLERATE_ALL: Any = {"operator": "Exists"}  # as it stands in the values file
AFFINITY_EXAMPLE = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
        }
    }
}
