"""The configuration of a node's containerd, which has two forms (docs/cri/config.md in containerd)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machine import tools

from cluster import images

if TYPE_CHECKING:
    from cluster.versions import Versions

REGISTRY_DIRECTORY = "/etc/containerd/certs.d"


def containerd_configuration(versions: Versions) -> str:
    """Return the content of config.toml."""
    programs = f"{tools.debian_root()}/usr/lib/cni"
    if versions.containerd_number < (2, 0):
        return f"""version = 2

[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = '{images.PAUSE}'
  restrict_oom_score_adj = true

[plugins.'io.containerd.grpc.v1.cri'.registry]
  config_path = '{REGISTRY_DIRECTORY}'

[plugins.'io.containerd.grpc.v1.cri'.cni]
  bin_dir = '{programs}'
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
"""
    # 2.1 can have several folders, and calls the old name deprecated.
    folders = f"bin_dirs = ['{programs}']" if versions.containerd_number >= (2, 1) else f"bin_dir = '{programs}'"
    return f"""version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{images.PAUSE}'

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '{REGISTRY_DIRECTORY}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  {folders}
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
"""
