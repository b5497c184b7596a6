"""Support for tests of the store: images, checks that read the volume's folder alone, small disks, failing disks."""

from __future__ import annotations

import io
import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from upstreams.oci import CONFIG, INDEX, LAYER, MANIFEST, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from store.store import Store

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
KIB = 1024
MIB = 1024 * 1024
# The kinds of links, as the folders of a repository name them.
LAYERS = "_layers/sha256"
REVISIONS = "_manifests/revisions/sha256"
SYSTEM_CALLS: list[tuple[Any, str]] = [
    *[
        (os, name)
        for name in (
            *(
                "rename",
                "unlink",
                "mkdir",
                "rmdir",
                "open",
                "close",
                "stat",
                "fstat",
                "statvfs",
                "listdir",
                "scandir",
                "utime",
            ),
            *("write", "pread", "preadv", "pwrite", "fsync", "fdatasync", "truncate", "ftruncate", "posix_fallocate"),
        )
    ],
    (io, "open"),
]


class Killed(BaseException):
    """The program was killed; it does not catch this."""


@dataclass
class Clock:
    """A clock that stands still until a test moves it."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def failing_system_call(number: int, error: Callable[[], BaseException], *, lasting: bool) -> Iterator[None]:
    """Let the system call of that number fail, and with `lasting` all later ones too."""
    count = iter(range(1_000_000))
    close = os.close

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            current = next(count)
            if current == number or (lasting and current > number):
                if real is close:
                    # The kernel closes the file even if it reports an error (close(2)).
                    real(*arguments)
                raise error()
            return real(*arguments, **keywords)

        return call

    with ExitStack() as stack:
        for module, name in SYSTEM_CALLS:
            stack.enter_context(mock.patch.object(module, name, failing(getattr(module, name))))
        yield


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system in memory, with options for tmpfs."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, option: str) -> None:
    """Change an option of a mounted file system, such as `ro`."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def manifest_of(config: bytes, layers: list[bytes], media_type: str | None = MANIFEST) -> bytes:
    """Return the manifest of an image, in the format of OCI or Docker."""
    document = {
        "schemaVersion": 2,
        **({"mediaType": media_type} if media_type else {}),
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
    }
    return json.dumps(document, indent=1).encode()


def index_of(manifests: list[bytes], media_type: str | None = INDEX) -> bytes:
    """Return an index of manifests, or Docker's manifest list."""
    platform = {"platform": {"architecture": "amd64", "os": "linux"}}
    document = {
        "schemaVersion": 2,
        **({"mediaType": media_type} if media_type else {}),
        "manifests": [
            {**descriptor(json.loads(each).get("mediaType", MANIFEST), each), **platform} for each in manifests
        ],
    }
    return json.dumps(document, indent=1).encode()


def content(number: int, size: int = 64 * KIB) -> bytes:
    """Return the content of a layer, different for each number."""
    return number.to_bytes(4, "big") + bytes(size - 4)


def put_blob(store: Store, repository: str, content: bytes) -> str:
    """Store a layer, written in two pieces after what was there already, and return its digest."""
    incoming = store.begin_blob(digest(content), len(content))
    try:
        incoming.append_written(incoming.recorded)
        middle = max(incoming.written, len(content) // 2)
        incoming.write(content[incoming.written : middle])
        incoming.write(memoryview(content)[middle:])
        incoming.commit(repository)
    finally:
        incoming.abandon()
    return digest(content)


def put_image(store: Store, repository: str, tag: str | None, *numbers: int) -> tuple[str, list[str]]:
    """Store an image of layers with these numbers; return the digests of its manifest, and of its config and layers."""
    config, layers = content(1000 + numbers[0], 200), [content(number) for number in numbers]
    names = [put_blob(store, repository, each) for each in (config, *layers)]
    return store.put_manifest(repository, manifest_of(config, layers), tag), names


def link_path(root: Path, repository: str, kind: str, name: str) -> Path:
    """Return the path of a link; `kind` is a folder such as `LAYERS`, `name` a digest or the last folder."""
    folder = root / "docker/registry/v2/repositories" / repository / kind
    return folder / name.removeprefix("sha256:") / "link"


def flip_bit(path: Path) -> None:
    """Damage a file so that its size stays."""
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)


def fill_disk(path: Path) -> None:
    """Take all room that is left on a disk with one file."""
    status = os.statvfs(path.parent)
    path.write_bytes(bytes(status.f_bavail * status.f_frsize))


def find_faults(root: Path) -> list[str]:
    """Return what is wrong with a folder that nobody writes to: links that lead nowhere, wrong content, leftovers."""
    base = root / "docker/registry/v2"
    files = [path for path in sorted(base.rglob("*")) if path.is_file()]
    blobs = {f"sha256:{path.parent.name}": path for path in files if path.is_relative_to(base / "blobs")}
    faults = [f"left over: {path}" for path in (root / "parts").iterdir()]
    for path in {path for path in base.rglob("*") if path.is_dir()} - {base / "blobs", base / "repositories"}:
        faults += [f"empty: {path}"] if not any(path.iterdir()) else []
    for name, path in blobs.items():
        right = (path.name, path.parent.parent.name) == ("data", name.removeprefix("sha256:")[:2])
        faults += [f"wrong blob: {path}"] if not right or digest(path.read_bytes()) != name else []
    for path in files:
        if path.is_relative_to(base / "repositories"):
            faults += [f"{fault}: {path}" for fault in _find_link_faults(path, blobs)]
    return faults


def _find_link_faults(path: Path, blobs: dict[str, Path]) -> Iterator[str]:
    target = path.read_text()
    name = target.removeprefix("sha256:")
    if path.name != "link" or target not in blobs:
        yield "leads nowhere"
    if path.parent.name == "current":
        tag = path.parent.parent
        for folder in (tag / "index", tag.parent.parent / "revisions"):
            if not (folder / "sha256" / name / "link").exists():
                yield f"has no {folder.name}"
    else:
        if path.parent.name != name:
            yield "leads elsewhere"
        if path.parents[2].name == "index" and not (path.parents[3] / "current" / "link").exists():
            yield "belongs to no tag"


def bytes_on_disk(root: Path) -> int:
    """Return how many bytes the blobs take on the disk."""
    blobs = (root / "docker/registry/v2/blobs").rglob("data")
    return sum(path.stat().st_blocks * 512 for path in blobs)


def is_empty(root: Path) -> bool:
    """Return whether a volume contains nothing but the folders that always exist."""
    always = {root / "parts", root / "docker", root / "docker/registry", root / "docker/registry/v2"}
    roots = {root / "docker/registry/v2/blobs", root / "docker/registry/v2/repositories"}
    return set(root.rglob("*")) == always | roots
