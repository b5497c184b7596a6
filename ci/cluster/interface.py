"""The interface of all kinds of cluster, for the demo and the tests."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Protocol

from machine import environment, tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from upstreams.upstream import Upstream


class Node(Protocol):
    """A node whose files and processes are accessible."""

    @property
    def name(self) -> str:
        """The name of the node in Kubernetes."""

    @property
    def address(self) -> str:
        """The address of the node, from which containerd and the kubelet connect."""

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the node, and return its output."""


class Cluster(Protocol):
    """A Kubernetes cluster."""

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig file of the cluster."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes whose files are accessible; none of an existing cluster."""

    @property
    def upstream(self) -> Upstream | None:
        """The upstream registries beside the cluster, if it has any."""

    def up(self) -> None:
        """Start the cluster, if it does not run."""

    def down(self) -> None:
        """Stop the cluster, and remove all of it."""

    def status(self) -> str:
        """Describe the cluster for a person."""


def client_environment(kubeconfig: Path) -> dict[str, str]:
    """Return the environment of helm and kubectl, whose caches are removed with the cluster."""
    own = kubeconfig.parent / "client"
    return environment.for_programs(
        tools.helm().parent,
        HELM_CACHE_HOME=str(own / "helm-cache"),
        HELM_CONFIG_HOME=str(own / "helm-config"),
        HELM_DATA_HOME=str(own / "helm-data"),
        KUBECACHEDIR=str(own / "kubectl"),
        KUBECONFIG=str(kubeconfig),
    )


def kubectl(kubeconfig: Path, *arguments: str, text: str | None = None) -> str:
    """Run kubectl, and return its output.

    Raises:
        RuntimeError: It failed; the message has its output.
    """
    return _client(kubeconfig, "kubectl", *arguments, text=text)


def helm(kubeconfig: Path, *arguments: str) -> str:
    """Run helm, and return its output; errors are those of `kubectl`."""
    return _client(kubeconfig, "helm", *arguments)


def get(kubeconfig: Path, *arguments: str) -> Any:
    """Return the parsed output of `kubectl get … --output json`."""
    return json.loads(kubectl(kubeconfig, "get", *arguments, "--output", "json"))


def _client(kubeconfig: Path, program: str, *arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [program, *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=client_environment(kubeconfig),
    )
    if done.returncode != 0:
        message = f"{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        raise RuntimeError(message)
    return done.stdout
