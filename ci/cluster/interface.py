"""What the demo and the tests need of a cluster, whatever kind it is."""

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
    """A node whose files and processes can be reached from here."""

    @property
    def name(self) -> str:
        """Its name in Kubernetes."""

    @property
    def address(self) -> str:
        """Its address, from which its containerd and kubelet speak."""

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the node and return what it printed."""


class Cluster(Protocol):
    """A running Kubernetes."""

    @property
    def kubeconfig(self) -> Path:
        """The file that leads to it."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes whose files can be reached from here; none where the cluster is somebody's own."""

    @property
    def upstream(self) -> Upstream | None:
        """The upstream registries beside it, if there are any of ours."""

    def up(self) -> None:
        """Start it, or do nothing where it runs."""

    def down(self) -> None:
        """Take it away and leave nothing behind."""

    def status(self) -> str:
        """What runs, in words."""


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
    """Run kubectl and return what it printed.

    Raises:
        RuntimeError: it failed; the message carries its output.
    """
    return _client(kubeconfig, "kubectl", *arguments, text=text)


def helm(kubeconfig: Path, *arguments: str) -> str:
    """Run helm and return what it printed; errors as with kubectl."""
    return _client(kubeconfig, "helm", *arguments)


def get(kubeconfig: Path, *arguments: str) -> Any:
    """`kubectl get … --output json`, parsed."""
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
