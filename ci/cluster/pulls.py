"""Pulls images as a user's pods do, and reads in the upstreams' access log who served them."""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from machine.processes import wait_for
from upstreams import oci, sites

from cluster import images, interface

if TYPE_CHECKING:
    from pathlib import Path

    from upstreams.access_log import Request

    from cluster.interface import Cluster, Node

PULLED = re.compile(r"Successfully pulled image .* in (?P<duration>[\d.msh]+)")
PARTS = re.compile(r"([\d.]+)(h|ms|m|s)")
RUN = uuid.uuid4().hex
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class PullFailed(Exception):
    """A pod did not start; the message has the kubelet's events about it."""


@dataclass(frozen=True)
class Pull:
    """The pull of an image by a node: the seconds as the kubelet measured them, and the requests to the upstreams."""

    image: str
    node: Node
    seconds: float
    requests: list[Request]

    @property
    def upstream_bytes(self) -> int:
        """The bytes of all bodies that the upstreams sent for this pull."""
        return sum(request.body_bytes for request in self.requests)

    @property
    def blobs(self) -> list[str]:
        """The blobs that were requested from the upstreams, once for each request."""
        return [request.digest for request in self.requests if request.is_blob]

    @property
    def served_by(self) -> str:
        """Who sent the image's blobs to the node, for a person to read."""
        if any(request.is_blob and request.client == self.node.address for request in self.requests):
            return "upstream"
        return "upstream through the cache" if self.blobs else "cache"


def pull(cluster: Cluster, image: str, node: Node, *, secret: str | None = None, timeout: float = 120) -> Pull:
    """Start a pod with the image on the node, wait until it runs, and delete it.

    `secret` names a pull secret in the namespace default.

    Raises:
        PullFailed: It does not run within `timeout` seconds.
    """
    assert cluster.upstream is not None
    mark = cluster.upstream.mark()
    with Pod(cluster.kubeconfig, image, node, secret=secret) as pod:
        seconds = pod.wait_until_pulled(timeout)
    return Pull(image, node, seconds, cluster.upstream.requests(mark))


def new_image(
    cluster: Cluster, reference: str, *, layers: int = 2, layer_bytes: int = 3_000_000
) -> tuple[str, oci.Image]:
    """Push an image to the upstream that its reference names; no other image, and no other run, has its content."""
    assert cluster.upstream is not None
    content = [oci.random_layer(f"{RUN} {reference} {number}", layer_bytes) for number in range(layers)]
    image = images.busybox(*content, label=f"{RUN} {reference}")
    cluster.upstream.push(reference, image)
    for node in cluster.nodes:  # an earlier run on the same cluster may have left this name
        node.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", reference, check=False)
    return reference, image


def pull_secret(cluster: Cluster, name: str) -> None:
    """Create a pull secret for the private upstream in the namespace default, which pods need without its cache."""
    interface.kubectl(cluster.kubeconfig, "delete", "secret", name, "--ignore-not-found")
    interface.kubectl(
        cluster.kubeconfig,
        *["create", "secret", "docker-registry", name, "--docker-server=registry.example.com"],
        *[f"--docker-username={sites.USERNAME}", f"--docker-password={sites.PASSWORD}"],
    )


class Pod:
    """A pod that pulls an image on a node, and exists while the `with` block runs."""

    def __init__(self, kubeconfig: Path, image: str, node: Node, *, secret: str | None = None) -> None:
        """Describe the pod; entering the block creates it."""
        self.kubeconfig = kubeconfig
        slug = re.sub(r"[^a-z0-9]+", "-", image.partition("/")[2].lower()).strip("-")
        self.name = f"pull-{slug[:40].strip('-')}-{node.name}"[:63].strip("-")
        self._node = node.name
        self._spec: dict[str, Any] = {
            "nodeName": node.name,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": image}],
            "imagePullSecrets": [{"name": secret}] if secret else [],
        }

    def __enter__(self) -> Self:
        """Create the pod."""
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": self._spec}
        interface.kubectl(self.kubeconfig, "create", "--filename", "-", text=json.dumps(pod))
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the pod without waiting for its end."""
        interface.kubectl(self.kubeconfig, "delete", "pod", self.name, "--now", "--ignore-not-found", "--wait=false")

    def wait_until_pulled(self, timeout: float) -> float:
        """Wait until its container runs, and return the seconds of the kubelet's pull.

        Raises:
            PullFailed: It does not run within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            status = interface.get(self.kubeconfig, "pod", self.name)["status"]
            if status.get("phase") == "Running":
                return self._pull_seconds(deadline)
            if time.monotonic() > deadline:
                message = f"{self.name} does not run after {timeout:.0f} s:\n" + "\n".join(self._messages())
                raise PullFailed(message)
            time.sleep(0.1)

    def wait_until_begun(self, timeout: float = 60) -> None:
        """Wait until the kubelet reports that the pull has begun.

        Raises:
            TimeoutError: It does not within `timeout` seconds.
        """
        wait_for("the pull to begin", lambda: any(text.startswith("Pulling ") for text in self._messages()), timeout)

    def failed_tries(self) -> list[str]:
        """Return the kubelet's messages about pulls that failed before it tried again, each once."""
        return [text for text in self._messages() if text.startswith("Failed to pull image")]

    def first_failure(self) -> float:
        """Return a time after the first failure of a try, in seconds since the epoch, or infinity where none failed.

        The times of the kubelet's events are in whole seconds.
        """
        failed = [event for event in self._events() if event["message"].startswith("Failed to pull image")]
        begun = [datetime.fromisoformat(event["firstTimestamp"]).timestamp() + 1 for event in failed]
        return min(begun, default=math.inf)

    def _pull_seconds(self, deadline: float) -> float:
        """Return the time in the kubelet's event, which comes a moment after the pod runs."""
        while True:
            messages = "\n".join(self._messages())
            if match := PULLED.search(messages):
                return sum(float(number) * UNITS[unit] for number, unit in PARTS.findall(match["duration"]))
            if "already present" in messages or time.monotonic() > deadline:
                message = f"{self.name} runs without a pull:\n{messages}"
                raise PullFailed(message)
            time.sleep(0.1)

    def _messages(self) -> list[str]:
        return [event["message"] for event in self._events()]

    def _events(self) -> list[dict[str, Any]]:
        selector = f"involvedObject.name={self.name}"
        events = interface.get(self.kubeconfig, "events", "--field-selector", selector)["items"]
        uid = interface.get(self.kubeconfig, "pod", self.name)["metadata"]["uid"]
        return [event for event in events if event["involvedObject"].get("uid") == uid]
