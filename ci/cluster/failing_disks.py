"""Disks that fail for real: a file system that knows what it wrote, on a block device whose content can be changed.

btrfs compares each block that it reads with a checksum: where that differs, reading is an I/O error, as with a sector
that cannot be read (Linux, fs/btrfs/bio.c). The block device is a file in a node's memory; where there is no room for
what is written to it, writing is an I/O error (drivers/block/loop.c).
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

from cluster.small_volumes import SmallVolume, offered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node

# Bytes: btrfs reads and checks these at once.
SECTOR = 4096


@dataclass(frozen=True)
class FailingDisk(SmallVolume):
    """A volume on one."""

    @property
    def device(self) -> str:
        """The folder on the node in whose memory the block device lies."""
        return f"{self.path}-device"

    @property
    def device_file(self) -> Path:
        """The block device's file, reached from here."""
        return self.files.parent / f"{self.name}-device" / "file"

    def spoil(self, digest: str, offset: int) -> None:
        """Have the sector that holds a byte of a blob unreadable, also for who read it before."""
        begin = offset // SECTOR * SECTOR
        os.sync()
        with blob_file(self.files, digest).open("rb") as file:
            wanted = os.pread(file.fileno(), SECTOR, begin)
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
        """Refuse to write where nothing was written before; it stays so, and btrfs soon writes nothing at all."""
        os.sync()
        used = self.device_file.stat().st_blocks * 512
        self.node.run("mount", "-o", f"remount,size={used}", self.device)


@contextmanager
def failing_disk(cluster: Cluster, node: Node, name: str, size: int) -> Iterator[FailingDisk]:
    """A volume of so many bytes on a node, alone in a StorageClass of its name, on a disk that does as it is told."""
    volume = FailingDisk(node, name, size)
    node.run("mkdir", "-p", volume.path, volume.device)
    node.run("mount", "-t", "tmpfs", "-o", f"size={2 * size}", "tmpfs", volume.device)
    try:
        with volume.device_file.open("wb") as file:
            file.truncate(size)
        # Each block once, so that there is no second copy to read from.
        command = ["mkfs.btrfs", "--quiet", "--metadata", "single", "--data", "single", str(volume.device_file)]
        subprocess.run(command, check=True, capture_output=True, env=tools.program_environment())
        node.run("mount", "-o", "loop", f"{volume.device}/file", volume.path)
        try:
            with offered(cluster, volume):
                yield volume
        finally:
            node.run("umount", volume.path)
    finally:
        node.run("umount", volume.device)
        node.run("rmdir", volume.path, volume.device)
