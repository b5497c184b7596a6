"""A cluster that is there already: what needs only its API works, with the registries that it reaches."""

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
    """A cluster known by its kubeconfig; neither started nor taken down here."""

    kubeconfig: Path
    nodes: list[Node] = field(default_factory=list)
    upstream: Upstream | None = None

    def up(self) -> None:
        """Check that it answers.

        Raises:
            RuntimeError: it does not; the message carries what kubectl said.
        """
        tools.ensure_client()
        interface.kubectl(self.kubeconfig, "get", "--raw", "/readyz")

    def down(self) -> None:
        """Nothing: it is not ours."""

    def status(self) -> str:
        return f"existing cluster, KUBECONFIG={self.kubeconfig}"
