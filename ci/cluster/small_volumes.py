"""Volumes that are really small: a file system in the memory of a node, as a local volume."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import interface
from cluster.native_node import NativeNode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster, Node

FILLER = "somebody-elses-file"
# The least that a file in memory takes.
BLOCK_BYTES = 4096
INODES = 8192


@dataclass(frozen=True)
class SmallVolume:
    """A volume that is mounted on a node; its StorageClass has the same name."""

    node: Node
    name: str
    size: int

    @property
    def path(self) -> str:
        """The path of the volume on the node."""
        return f"/opt/{self.name}"

    @property
    def files(self) -> Path:
        """The path of the volume on this machine, which only the native cluster has."""
        assert isinstance(self.node, NativeNode)
        return Path(f"/proc/{self.node.outside.process_id('holder')}/root{self.path}")

    @property
    def blobs(self) -> set[str]:
        """The digests of the blobs on the volume, some of which may be about to be removed."""
        walked = os.walk(self.files / "docker" / "registry" / "v2" / "blobs")
        return {f"sha256:{Path(folder).name}" for folder, _, files in walked if "data" in files}

    @contextmanager
    def filled(self, free: int = 0) -> Iterator[None]:
        """Fill the volume with a foreign file, so that `free` bytes are left."""
        file = self.files / FILLER
        try:
            with file.open("wb", buffering=0) as filler:
                while (left := self._statistics().f_bavail * BLOCK_BYTES - free) >= BLOCK_BYTES:
                    filler.write(bytes(min(left // BLOCK_BYTES * BLOCK_BYTES, 1 << 20)))
            yield
        finally:
            file.unlink()

    @contextmanager
    def without_inodes(self) -> Iterator[None]:
        """Leave no inode."""
        before = self._statistics()
        self._remount(f"nr_inodes={before.f_files - before.f_ffree}")
        try:
            yield
        finally:
            self._remount(f"nr_inodes={INODES}")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Remount it read-only, as the kernel does when a disk fails."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def resize(self, size: int) -> None:
        """Resize the file system, as a storage driver does when a claim is expanded."""
        self._remount(f"size={size}")

    def _statistics(self) -> os.statvfs_result:
        return os.statvfs(self.files)

    def _remount(self, options: str) -> None:
        self.node.run("mount", "-o", f"remount,{options}", self.path)


@contextmanager
def small_volume(cluster: Cluster, node: Node, name: str, size: int) -> Iterator[SmallVolume]:
    """Create a volume of this size on a node, alone in a StorageClass of its name."""
    volume = SmallVolume(node, name, size)
    node.run("mkdir", "-p", volume.path)
    node.run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={INODES}", "tmpfs", volume.path)
    try:
        with offer(cluster, volume):
            yield volume
    finally:
        node.run("umount", volume.path)
        node.run("rmdir", volume.path)


@contextmanager
def offer(cluster: Cluster, volume: SmallVolume, kind: str = "local") -> Iterator[None]:
    """Create the StorageClass and the PersistentVolume for it; fsGroup has no effect on one of the kind hostPath."""
    objects = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": volume.name},
            "provisioner": "kubernetes.io/no-provisioner",
            "allowVolumeExpansion": True,
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume.name},
            "spec": {
                "capacity": {"storage": str(volume.size)},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": volume.name,
                kind: {"path": volume.path},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [volume.node.name]}
                                ]
                            }
                        ]
                    }
                },
            },
        },
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    try:
        interface.kubectl(cluster.kubeconfig, "create", "--filename", "-", text=text)
        yield
    finally:
        interface.kubectl(cluster.kubeconfig, "delete", "--ignore-not-found", "--filename", "-", text=text)
