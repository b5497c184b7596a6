"""Disks that really fail: a file system with checksums on a block device whose content can be changed.

btrfs compares each block that it reads with a checksum. If they differ, reading fails with an I/O error, as if a sector
were unreadable (Linux, fs/btrfs/bio.c). The block device is a file in the memory of a node. If that has no room for a
block, writing fails with an I/O error (drivers/block/loop.c).
"""

from __future__ import annotations

import mmap
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machine import tools
from upstreams.oci import blob_file

from cluster.small_volumes import SmallVolume, offer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node

# What btrfs reads and checks at once.
SECTOR_BYTES = 4096


@dataclass(frozen=True)
class FailingDisk(SmallVolume):
    """A volume on such a disk."""

    @property
    def device(self) -> str:
        """The folder on the node that holds the block device in memory."""
        return f"{self.path}-device"

    @property
    def device_file(self) -> Path:
        """The file of the block device, as a path on this machine."""
        return self.files.parent / f"{self.name}-device" / "file"

    def spoil(self, digest: str, offset: int) -> None:
        """Make the sector with this byte of a blob unreadable, also where it was read before."""
        begin = offset // SECTOR_BYTES * SECTOR_BYTES
        os.sync()
        with blob_file(self.files, digest).open("rb") as file:
            wanted = os.pread(file.fileno(), SECTOR_BYTES, begin)
            with self.device_file.open("r+b") as device, mmap.mmap(device.fileno(), 0) as content:
                at = content.find(wanted)
                assert at >= 0, f"{digest} is on the disk"
                content[at] ^= 1
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                os.pread(file.fileno(), 1, begin)
            except OSError:
                return
        message = f"byte {offset} of {digest} can still be read"
        raise AssertionError(message)

    def take_no_more(self) -> None:
        """Refuse for good to write blocks that were never written before; btrfs soon writes nothing at all."""
        os.sync()
        used = self.device_file.stat().st_blocks * 512
        self.node.run("mount", "-o", f"remount,size={used}", self.device)


@contextmanager
def failing_disk(cluster: Cluster, node: Node, name: str, size: int) -> Iterator[FailingDisk]:
    """Create a volume of this size on such a disk, alone in a StorageClass of its name."""
    volume = FailingDisk(node, name, size)
    node.run("mkdir", "-p", volume.path, volume.device)
    node.run("mount", "-t", "tmpfs", "-o", f"size={2 * size}", "tmpfs", volume.device)
    try:
        with volume.device_file.open("wb") as file:
            file.truncate(size)
        # One copy of each block, so that there is none to recover from.
        command = ["mkfs.btrfs", "--quiet", "--metadata", "single", "--data", "single", str(volume.device_file)]
        subprocess.run(command, check=True, capture_output=True, env=tools.program_environment())
        node.run("mount", "-o", "loop", f"{volume.device}/file", volume.path)
        try:
            with offer(cluster, volume):
                yield volume
        finally:
            node.run("umount", volume.path)
    finally:
        node.run("umount", volume.device)
        node.run("rmdir", volume.path, volume.device)
