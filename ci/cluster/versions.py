"""The releases of Kubernetes and containerd that a native cluster runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from machine import tools
from machine.paths import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

# The release of Debian, which is not built.
DEBIAN_CONTAINERD = "1.6"


@dataclass(frozen=True)
class Versions:
    """Releases as major and minor version; by default those that the test cluster has."""

    kubernetes: str = field(default_factory=lambda: tools.go_tools()["kubernetes"].release)
    containerd: str = field(default_factory=lambda: tools.go_tools()["containerd"].release)

    @property
    def containerd_number(self) -> tuple[int, ...]:
        """The release of containerd as numbers, which can be compared."""
        return tuple(map(int, self.containerd.split(".")))

    @property
    def containerd_folder(self) -> Path:
        """The folder with containerd, its shim and ctr."""
        if self.containerd == DEBIAN_CONTAINERD:
            return tools.containerd_1_6().parent
        return tools.releases("containerd")[self.containerd].folder(cache_folder())

    @property
    def import_options(self) -> tuple[str, ...]:
        """The options with which ctr imports an image itself, as it always did before 1.7."""
        return ("--local",) if self.containerd_number >= (1, 7) else ()

    def kubernetes_program(self, name: str) -> Path:
        return tools.releases("kubernetes")[self.kubernetes].folder(cache_folder()) / name

    def ensure(self) -> None:
        """Get the programs of these releases that are missing."""
        debian = self.containerd == DEBIAN_CONTAINERD
        containerds = [] if debian else [tools.releases("containerd")[self.containerd]]
        tools.ensure_releases(tools.releases("kubernetes")[self.kubernetes], *containerds, debian_containerd=debian)


def kubernetes_releases() -> list[str]:
    return list(tools.releases("kubernetes"))


def containerd_releases() -> list[str]:
    return [DEBIAN_CONTAINERD, *tools.releases("containerd")]
