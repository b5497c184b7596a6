"""A cluster that exists already: everything works that needs only its API and the registries that it reaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from machine import tools

from cluster import interface

if TYPE_CHECKING:
    from pathlib import Path

    from upstreams.upstream import Upstream

    from cluster.interface import Node


@dataclass
class ExistingCluster:
    """A cluster that is given by its kubeconfig, and is neither started nor stopped here."""

    kubeconfig: Path
    nodes: list[Node] = field(default_factory=list)
    upstream: Upstream | None = None

    def up(self) -> None:
        """Check that it answers.

        Raises:
            RuntimeError: It does not; the message has the output of kubectl.
        """
        tools.ensure_client()
        interface.kubectl(self.kubeconfig, "get", "--raw", "/readyz")

    def down(self) -> None:
        """Do nothing, since it is not ours."""

    def status(self) -> str:
        return f"existing cluster, KUBECONFIG={self.kubeconfig}"
