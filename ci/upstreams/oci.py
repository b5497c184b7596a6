"""Creates OCI images (image-spec 1.1, image-layout.md): the same bytes for the same content."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Image:
    """An image for linux/amd64, with uncompressed layers."""

    layers: tuple[bytes, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    stop_signal: str = ""
    blobs: dict[str, bytes] = field(init=False, default_factory=dict)
    manifest: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        """Create the configuration and the manifest, which name the layers by digest."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(self.entrypoint),
                "Cmd": list(self.command),
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *self.environment],
                **({"StopSignal": self.stop_signal} if self.stop_signal else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
        }
        config_bytes = _json(config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config_bytes),
            "layers": [_descriptor(LAYER, layer) for layer in self.layers],
        }
        self.blobs.update({digest(blob): blob for blob in (*self.layers, config_bytes)})
        object.__setattr__(self, "manifest", _json(manifest))

    @property
    def digest(self) -> str:
        """The digest of the manifest, `sha256:…`."""
        return digest(self.manifest)

    @property
    def size(self) -> int:
        """The bytes that a client fetches: manifest, configuration and layers."""
        return len(self.manifest) + sum(map(len, self.blobs.values()))

    def write_archive(self, path: Path, reference: str) -> None:
        """Write an OCI layout in a tar file, which containerd imports as `reference`."""
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    **_descriptor(MANIFEST, self.manifest),
                    "platform": {"architecture": "amd64", "os": "linux"},
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
                    },
                }
            ],
        }
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index)}
        for name, blob in {**self.blobs, self.digest: self.manifest}.items():
            files[f"blobs/sha256/{name.removeprefix('sha256:')}"] = blob
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with tarfile.open(partial, "w") as archive:
            for name, content in files.items():
                _add_file(archive, name, content, 0o644)
        partial.rename(path)


def digest(content: bytes) -> str:
    """Return the digest of content, `sha256:…`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob_file(root: Path, digest: str) -> Path:
    """Return the file of a blob below the root folder of a distribution (distribution, registry/storage/paths.go)."""
    code = digest.partition(":")[2]
    return root / "docker/registry/v2/blobs/sha256" / code[:2] / code / "data"


def damaged_blobs(root: Path) -> list[str]:
    """Return the digests of the blobs below the root folder of a distribution whose content has another digest."""
    files = (root / "docker/registry/v2/blobs/sha256").glob("*/*/data")
    return sorted(file.parent.name for file in files if digest(file.read_bytes()) != f"sha256:{file.parent.name}")


def layer_of_files(files: dict[str, bytes], *, links: dict[str, str] | None = None, executable: bool = False) -> bytes:
    """Return a layer with these files by path, and these symbolic links to their targets, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            _add_file(archive, name, content, 0o755 if executable else 0o644)
        for name, target in sorted((links or {}).items()):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def layer_of_tree(root: Path) -> bytes:
    """Return a layer with everything below `root`, owned by root, without times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=False) as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=plain)
    return buffer.getvalue()


def random_layer(seed: str, size: int) -> bytes:
    """Return a layer of about `size` bytes that cannot be compressed, and is the same for the same seed."""
    name = hashlib.sha256(seed.encode()).hexdigest()[:12]
    return layer_of_files({f"content/{name}": random.Random(seed).randbytes(size)})  # noqa: S311 - content, not a secret


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    archive.addfile(member, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
