"""Finds the registries that a cluster pulls from, by listing its pods and nodes. It reads no Secret."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from registry_cache.cluster_api import list_objects
from registry_cache.model.scalars import Upstream
from registry_cache.references import is_nameless, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubernetes import client

# cloud-provider-aws, cmd/ecr-credential-provider/main.go, and docker-credential-ecr-login, which knows amazonaws.eu.
_ECR = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-zA-Z0-9][a-zA-Z0-9_-]*\."
    r"(amazonaws\.(com(\.cn)?|eu)|on\.(aws|amazonwebservices\.com\.cn)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_UPSTREAM: TypeAdapter[str] = TypeAdapter(Upstream)


@dataclass
class Registry:
    """The images of one registry.

    `sizes` has the bytes of each image that a node reports, by digest, or by reference if no digest is known, and by
    platform, because a cache stores each platform of an image separately. `pull_secrets` are those of the pods that
    pull from the registry, as `namespace/name`; the rest are references.

    A size is that of the compressed image: manifest, config and layers as the registry sends them and a cache stores
    them. The kubelet passes on what CRI's ListImages says, which in containerd is the sum of the sizes in the manifest
    (internal/cri/store/image/image.go, `Size is the compressed size of the image`: CalculateImageUsage with
    WithManifestUsage and without snapshots). A layer that images share counts for each of them, so the sum is rather
    too large.
    """

    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    on_nodes: set[str] = field(default_factory=set)
    in_pods: set[str] = field(default_factory=set)
    pull_secrets: set[str] = field(default_factory=set)

    @property
    def unknown(self) -> int:
        """The number of images of pods that no node reports.

        A node reports its largest images, 50 unless the kubelet's nodeStatusMaxImages says otherwise, with at most
        five names each (pkg/kubelet/nodestatus/setters.go; pkg/kubelet/images/image_gc_manager.go sorts them).
        """
        return len(self.in_pods - self.on_nodes)

    @property
    def images(self) -> int:
        """The number of images, including those of unknown size."""
        return len(self.sizes) + self.unknown


@dataclass
class Discovery:
    """The registries of a cluster.

    `nameless` is the number of images without a name that leads to a registry, `unreadable` has the references of pods
    that containerd cannot read either.
    """

    registries: dict[str, Registry] = field(default_factory=lambda: defaultdict(Registry))
    nameless: int = 0
    unreadable: set[str] = field(default_factory=set)
    pods: int = 0
    nodes: int = 0

    @property
    def upstreams(self) -> list[str]:
        """The registries that can have a cache, by name.

        Registries whose images are only on nodes are among them: a node pulls images of its own, such as the pause
        container, and the images of finished jobs will be pulled again.
        """
        return sorted(name for name in self.registries if unsupported_reason(name) is None)

    @property
    def left_out(self) -> dict[str, str]:
        """The registries that cannot have a cache, by name, and why."""
        return {name: reason for name in sorted(self.registries) if (reason := unsupported_reason(name))}


def discover(api: client.CoreV1Api) -> Discovery:
    """Read all pods and nodes of a cluster.

    Raises:
        CannotDiscover: The server cannot be reached, or refuses.
    """
    discovery = Discovery()
    for pod in list_objects(api, api.list_pod_for_all_namespaces, "pods"):
        discovery.pods += 1
        add_pod(discovery, pod)
    for node in list_objects(api, api.list_node, "nodes"):
        discovery.nodes += 1
        add_node(discovery, node)
    return discovery


def add_pod(discovery: Discovery, pod: dict[str, Any]) -> None:
    """Add the registries of a pod's images.

    The pull secrets of the pod's service account are among its own: admission copied them when the pod was created
    (plugin/pkg/admission/serviceaccount/admission.go).
    """
    spec = pod["spec"]
    namespace = pod["metadata"]["namespace"]
    secrets = {f"{namespace}/{secret.get('name', '')}" for secret in spec.get("imagePullSecrets") or []}
    for image in _images(spec):
        reference = parse_reference(image)
        if reference:
            registry = discovery.registries[reference.registry]
            registry.in_pods.add(reference.text)
            registry.pull_secrets |= secrets
        elif is_nameless(image):
            discovery.nameless += 1
        else:
            discovery.unreadable.add(image)


def add_node(discovery: Discovery, node: dict[str, Any]) -> None:
    """Add the images that a node reports; one image can have names in several registries."""
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    platform = f"{info.get('operatingSystem')}/{info.get('architecture')}"
    for image in status.get("images") or []:
        references: dict[str, list[str]] = defaultdict(list)
        for reference in filter(None, map(parse_reference, image.get("names") or [])):
            references[reference.registry].append(reference.text)
        discovery.nameless += not references
        for name, texts in references.items():
            registry = discovery.registries[name]
            registry.on_nodes.update(texts)
            # One digest in two repositories is one image: a cache stores a blob once.
            digests = [text.partition("@")[2] for text in texts if "@" in text]
            key = (min(digests or texts), platform)
            registry.sizes[key] = max(registry.sizes.get(key, 0), image.get("sizeBytes", 0))


def unsupported_reason(registry: str) -> str | None:
    """Return why a registry cannot have a cache, or None if it can."""
    if _is_on_the_node(registry):
        return "runs on the node itself, where a cache cannot reach it"
    if _ECR.fullmatch(registry):
        return "needs tokens that expire after 12 hours, which a cache cannot renew"
    try:
        _UPSTREAM.validate_python(registry)
    except ValidationError:
        return f"an upstream must be {_UPSTREAM.json_schema()['title']}"
    return None


def _images(spec: dict[str, Any]) -> Iterator[str]:
    """Yield all images that a pod pulls: those of its containers and those that it mounts."""
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind) or []:
            if container.get("image"):  # a controller may set it later
                yield container["image"]
    for volume in spec.get("volumes") or []:
        if reference := volume.get("image", {}).get("reference"):
            yield reference


def _is_on_the_node(registry: str) -> bool:
    """Return whether a registry, as `host`, `host:port` or `[v6]`, is the machine that asks for it."""
    host = re.sub(r":[0-9]+$|[\[\]]", "", registry).lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
