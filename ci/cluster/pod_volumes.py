"""The volumes of a pod without Kubernetes, and the files that the kubelet writes into them."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.pod_manifest import Object

Data = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Tmpfs:
    """A volume in memory: its size as tmpfs has it (`64m`), and how many files fit, 0 for any number."""

    size: str
    inodes: int = 0

    @property
    def options(self) -> str:
        return f"size={self.size},nr_inodes={self.inodes}"


@dataclass
class PodVolumes:
    """The volumes of a pod whose claim is named `claim`; `folder` holds those that are not the claim's."""

    spec: Object
    claim: str
    volume: Path | Tmpfs
    folder: Path
    secrets: Data = field(default_factory=dict)
    config_maps: Data = field(default_factory=dict)

    def source(self, volume: str) -> Path:
        """Return the folder behind a volume, in the pod's mount namespace."""
        if volume == self.claim and isinstance(self.volume, Path):
            return self.volume
        return self.folder / volume

    @property
    def writable(self) -> list[Path]:
        """The folders of the volumes that the pod may write to."""
        names = [volume["name"] for volume in self.spec["volumes"] if "emptyDir" in volume]
        return [self.source(name) for name in (*names, self.claim)]

    @property
    def in_memory(self) -> dict[Path, str]:
        """The folders that a tmpfs is mounted on, with its options."""
        mounts = {
            self.source(volume["name"]): f"size={volume['emptyDir']['sizeLimit'].removesuffix('i')}"
            for volume in self.spec["volumes"]
            if volume.get("emptyDir", {}).get("medium") == "Memory"
        }
        if isinstance(self.volume, Tmpfs):
            mounts[self.source(self.claim)] = self.volume.options
        return mounts

    def write_all(self) -> None:
        """Create all folders, and write the files of all ConfigMaps and Secrets."""
        for volume in self.spec["volumes"]:
            self.source(volume["name"]).mkdir(parents=True, exist_ok=True)
        self._write(self.spec["volumes"])

    def set_secret(self, name: str, data: dict[str, str]) -> None:
        """Give a Secret new content, and write it to its mounts."""
        self.secrets[name] = data
        self._write(one for one in self.spec["volumes"] if one.get("secret", {}).get("secretName") == name)

    def set_config_map(self, name: str, data: dict[str, str]) -> None:
        """Give a ConfigMap new content, and write it to its mounts."""
        self.config_maps[name] = data
        self._write(one for one in self.spec["volumes"] if one.get("configMap", {}).get("name") == name)

    def _write(self, volumes: Iterable[Object]) -> None:
        for volume in volumes:
            if "configMap" in volume:
                reference = volume["configMap"]
                self._write_files(volume["name"], reference, self.config_maps.get(reference["name"]))
            elif "secret" in volume:
                reference = volume["secret"]
                self._write_files(volume["name"], reference, self.secrets.get(reference["secretName"]))

    def _write_files(self, volume: str, reference: Object, data: dict[str, str] | None) -> None:
        """Write files, and switch to them at once (Kubernetes, pkg/volume/util/atomic_writer.go)."""
        if data is None and not reference.get("optional"):
            message = f"the pod mounts {reference.get('name') or reference['secretName']}, which does not exist"
            raise LookupError(message)
        files = dict(data or {})
        if data is not None and reference.get("items"):
            files = {item["path"]: data[item["key"]] for item in reference["items"]}
        folder = self.source(volume)
        folder.mkdir(parents=True, exist_ok=True)
        version = folder / f"..{time.time_ns()}"
        version.mkdir()
        for path, content in files.items():
            file = version / path
            file.write_text(content)
            file.chmod(reference.get("defaultMode", 0o644) | 0o440)
            os.chown(file, 0, self.spec["securityContext"]["fsGroup"])
        data_link, new_link = folder / "..data", folder / "..data_tmp"
        before = data_link.resolve() if data_link.exists() else None
        new_link.symlink_to(version.name)
        new_link.rename(data_link)
        for path in files:
            if not (folder / path).is_symlink():
                (folder / path).symlink_to(f"..data/{path}")
        for link in folder.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if before:
            shutil.rmtree(before)
