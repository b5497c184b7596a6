"""Images for a cache's volume, a look at what lies there that trusts the folder alone, and disks with troubles."""

from __future__ import annotations

import io
import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from upstreams.oci import CONFIG, INDEX, LAYER, MANIFEST, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from store.store import Store

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SYSTEM_CALLS: list[tuple[Any, str]] = [
    *[
        (os, name)
        for name in (
            *("rename", "unlink", "mkdir", "rmdir", "open", "close", "stat", "fstat", "statvfs", "listdir", "utime"),
            *("write", "pread", "pwrite", "fsync", "ftruncate", "posix_fallocate"),
        )
    ],
    (io, "open"),
]


class Killed(BaseException):
    """The program ended at once, in the middle; nothing of it catches this."""


@contextmanager
def trouble_at(number: int, raised: Callable[[], BaseException], *, lasting: bool) -> Iterator[None]:
    """Let the system call of that number, and with `lasting` all after it, raise instead of being done."""
    count = iter(range(1_000_000))
    close = os.close

    def troubled(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            now = next(count)
            if now == number or (lasting and now > number):
                if real is close:
                    # The kernel does it anyway (close(2)).
                    real(*arguments)
                raise raised()
            return real(*arguments, **keywords)

        return call

    with ExitStack() as stack:
        for module, name in SYSTEM_CALLS:
            stack.enter_context(mock.patch.object(module, name, troubled(getattr(module, name))))
        yield


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own, in memory, with mount's options for tmpfs."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, option: str) -> None:
    """Change an option of a file system, such as `ro`."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def manifest_of(config: bytes, layers: list[bytes], media_type: str | None = MANIFEST) -> bytes:
    """An image's manifest, of OCI or of Docker; without a media type it is one of OCI."""
    document = {
        "schemaVersion": 2,
        **({"mediaType": media_type} if media_type else {}),
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
    }
    return json.dumps(document, indent=1).encode()


def index_of(manifests: list[bytes], media_type: str | None = INDEX) -> bytes:
    """An index of such manifests, or Docker's list of them."""
    platform = {"platform": {"architecture": "amd64", "os": "linux"}}
    document = {
        "schemaVersion": 2,
        **({"mediaType": media_type} if media_type else {}),
        "manifests": [
            {**descriptor(json.loads(each).get("mediaType", MANIFEST), each), **platform} for each in manifests
        ],
    }
    return json.dumps(document, indent=1).encode()


def put(store: Store, repository: str, content: bytes) -> str:
    """Let a layer come in two pieces."""
    part = store.begin(digest(content), len(content))
    try:
        part.write(content[: len(content) // 2])
        part.write(memoryview(content)[len(content) // 2 :])
        part.commit(repository)
    finally:
        part.abandon()
    return digest(content)


def link(root: Path, repository: str, kind: str, name: str) -> Path:
    """Where a link lies: `kind` is _layers/sha256 or the like."""
    folder = root / "docker/registry/v2/repositories" / repository / kind
    return folder / name.removeprefix("sha256:") / "link"


def faults(root: Path) -> list[str]:
    """What is wrong with a folder that nobody writes: links that lead nowhere, wrong content, leftovers."""
    base = root / "docker/registry/v2"
    files = [path for path in sorted(base.rglob("*")) if path.is_file()]
    blobs = {f"sha256:{path.parent.name}": path for path in files if path.is_relative_to(base / "blobs")}
    found = [f"left over: {path}" for path in (root / "parts").iterdir()]
    for path in {path for path in base.rglob("*") if path.is_dir()} - {base / "blobs", base / "repositories"}:
        found += [f"empty: {path}"] if not any(path.iterdir()) else []
    for name, path in blobs.items():
        right = (path.name, path.parent.parent.name) == ("data", name.removeprefix("sha256:")[:2])
        found += [f"wrong blob: {path}"] if not right or digest(path.read_bytes()) != name else []
    for path in files:
        if path.is_relative_to(base / "repositories"):
            found += [f"{problem}: {path}" for problem in _link_faults(path, blobs)]
    return found


def _link_faults(path: Path, blobs: dict[str, Path]) -> Iterator[str]:
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
            yield "is of no tag"


def bytes_on_disk(root: Path) -> int:
    """What the blobs take."""
    blobs = (root / "docker/registry/v2/blobs").rglob("data")
    return sum(path.stat().st_blocks * 512 for path in blobs)


def is_empty(root: Path) -> bool:
    """Whether nothing is in it but the folders that always are."""
    always = {root / "parts", root / "docker", root / "docker/registry", root / "docker/registry/v2"}
    roots = {root / "docker/registry/v2/blobs", root / "docker/registry/v2/repositories"}
    return set(root.rglob("*")) == always | roots
