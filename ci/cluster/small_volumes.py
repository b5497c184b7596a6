"""Volumes that are really as small as they say: a file system in a node's memory, offered as a local volume."""

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
# Bytes: what a file in memory takes at least.
BLOCK = 4096
INODES = 8192


@dataclass(frozen=True)
class SmallVolume:
    """One that is mounted on a node; `name` is also its StorageClass's."""

    node: Node
    name: str
    size: int

    @property
    def path(self) -> str:
        """Where it is on the node."""
        return f"/opt/{self.name}"

    @property
    def files(self) -> Path:
        """Where its files are reached from here, which nodes of the native cluster alone allow."""
        assert isinstance(self.node, NativeNode)
        return Path(f"/proc/{self.node.outside.process_id('holder')}/root{self.path}")

    @property
    def blobs(self) -> set[str]:
        """The digests of what distribution would find on it, of what is removed just now or not."""
        walked = os.walk(self.files / "docker" / "registry" / "v2" / "blobs")
        return {f"sha256:{Path(folder).name}" for folder, _, files in walked if "data" in files}

    @contextmanager
    def filled(self, free: int = 0) -> Iterator[None]:
        """Somebody else's file takes all but `free` bytes."""
        file = self.files / FILLER
        try:
            with file.open("wb", buffering=0) as filler:
                while (left := self._statistics().f_bavail * BLOCK - free) >= BLOCK:
                    filler.write(bytes(min(left // BLOCK * BLOCK, 1 << 20)))
            yield
        finally:
            file.unlink()

    @contextmanager
    def without_inodes(self) -> Iterator[None]:
        """There is no inode left."""
        found = self._statistics()
        self._remount(f"nr_inodes={found.f_files - found.f_ffree}")
        try:
            yield
        finally:
            self._remount(f"nr_inodes={INODES}")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """It was remounted read-only, as the kernel does with a disk that fails."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def resize(self, size: int) -> None:
        """Give the file system so many bytes, as a storage driver does for a claim that asks for more."""
        self._remount(f"size={size}")

    def _statistics(self) -> os.statvfs_result:
        return os.statvfs(self.files)

    def _remount(self, options: str) -> None:
        self.node.run("mount", "-o", f"remount,{options}", self.path)


@contextmanager
def small_volume(cluster: Cluster, node: Node, name: str, size: int) -> Iterator[SmallVolume]:
    """A volume of so many bytes on a node, alone in a StorageClass of its name."""
    volume = SmallVolume(node, name, size)
    node.run("mkdir", "-p", volume.path)
    node.run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={INODES}", "tmpfs", volume.path)
    try:
        with offered(cluster, volume):
            yield volume
    finally:
        node.run("umount", volume.path)
        node.run("rmdir", volume.path)


@contextmanager
def offered(cluster: Cluster, volume: SmallVolume) -> Iterator[None]:
    """A claim for the StorageClass of its name gets what is mounted there."""
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
                "local": {"path": volume.path},
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
