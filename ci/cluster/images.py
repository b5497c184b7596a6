"""The images that run in the test cluster, under the names of the stock images that they stand in for.

The native cluster cannot reach public registries. Each image has the same program as the stock image, from the same
source, and the certificate of the test authority in place of the public ones. So it has another digest than the one in
the name, which containerd does not compare for an image that was imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import locks, tools
from machine.paths import REPOSITORY, cache_folder
from registry_cache.model.pods import Images
from upstreams import oci, pki

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = "registry.k8s.io/pause:3.10.1"
COREDNS = f"registry.k8s.io/coredns/coredns:{tools.pinned()['go']['coredns']['version']}"
LOCAL_PATH = f"docker.io/rancher/local-path-provisioner:{tools.pinned()['go']['local-path-provisioner']['version']}"
BUSYBOX = "docker.io/library/busybox:stable"
REGISTRY, NGINX, PYTHON = (image.reference for _, image in Images())

UNUSED_SECONDS = 24 * 3600.0
CA_PATH = "etc/ssl/certs/ca-certificates.crt"
APPLETS = (
    "sh",
    "awk",
    "cat",
    "echo",
    "grep",
    "ls",
    "mkdir",
    "nslookup",
    "rm",
    "sed",
    "sleep",
    "stat",
    "test",
    "tr",
    "wget",
)


def archives(references: tuple[str, ...] = ()) -> dict[str, Path]:
    """Create the archives of these images, or of all images, where they are missing, and return them by name."""
    recipes = _recipes()
    return {name: _archive(name, recipes[name]) for name in references or recipes}


def name_in_containerd(reference: str) -> str:
    """Return the name under which containerd looks for an image that a pod names with a tag and a digest.

    The tag does not count then (github.com/distribution/reference, `ParseDockerRef`, which the CRI plugin calls).
    """
    name, at, digest = reference.partition("@")
    return f"{name.rpartition(':')[0]}@{digest}" if at else reference


def build(reference: str) -> oci.Image:
    """Return an image, to push it into a registry."""
    return _recipes()[reference]()


def unpacked(reference: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder with the content of an image, and its `config` (OCI image-spec, config.md)."""
    archive = archives((reference,))[reference]
    root = archive.with_suffix(".root")
    with locks.exclusive(root, reference), tarfile.open(archive) as layout:

        def blob(name: str) -> bytes:
            file = layout.extractfile(f"blobs/{name.replace(':', '/')}")
            assert file is not None
            return file.read()

        index = layout.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        if not root.exists():
            _remove_unused(reference)
            with tempfile.TemporaryDirectory(dir=root.parent) as work:
                new_root = Path(work) / "root"
                new_root.mkdir()
                for layer in manifest["layers"]:
                    with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as files:
                        files.extractall(new_root, filter="tar")
                new_root.rename(root)
        config: dict[str, Any] = json.loads(blob(manifest["config"]["digest"]))["config"]
        return root, config


def busybox(*layers: bytes, label: str = "") -> oci.Image:
    """Return a small image whose process sleeps; layers make it larger, and a label makes its first layer unique."""
    return oci.Image(layers=(busybox_layer(label), *layers), entrypoint=("/bin/busybox", "sleep", "2147483647"))


def busybox_layer(label: str = "") -> bytes:
    """Return a layer with BusyBox and links for the commands that scripts use."""
    files = {"bin/busybox": (tools.debian_root() / "bin" / "busybox").read_bytes(), "etc/label": label.encode()}
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    return oci.layer_of_files(files, links=links, executable=True)


def _recipes() -> dict[str, Callable[[], oci.Image]]:
    return {
        PAUSE: busybox,
        COREDNS: _coredns,
        LOCAL_PATH: _local_path_provisioner,
        BUSYBOX: busybox,
        REGISTRY: _registry,
        PYTHON: _python,
        NGINX: _nginx,
    }


def _archive(reference: str, make: Callable[[], oci.Image]) -> Path:
    key = hashlib.sha256((pki.authority_file().read_text() + _recipe()).encode()).hexdigest()[:12]
    path = cache_folder() / "images" / f"{_file_name(reference)}-{key}.tar"
    with locks.exclusive(path, reference):
        if not path.exists():
            _remove_unused(reference)
            make().write_archive(path, name_in_containerd(reference))
        os.utime(path)
    return path


def _remove_unused(reference: str) -> None:
    """Remove versions of an image that were not used lately, also not by another checkout of this repository."""
    for archive in (cache_folder() / "images").glob(f"{_file_name(reference)}-*.tar"):
        if time.time() - archive.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(archive.with_suffix(".root"), ignore_errors=True)
            archive.unlink()


def _file_name(reference: str) -> str:
    return reference.replace("/", "_").replace(":", "_")


def _recipe() -> str:
    """Return everything that the content of images depends on: the modules that create them and the pinned versions."""
    files = (Path(__file__), Path(oci.__file__), REPOSITORY / "ci" / "tools.toml")
    return "".join(path.read_text() for path in files)


def _trust_layer() -> bytes:
    return oci.layer_of_files(
        {CA_PATH: pki.authority_file().read_bytes(), "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n"}
    )


def _program(tool: str, binary: str) -> bytes:
    return tools.go_binary(tool, binary).read_bytes()


def _coredns() -> oci.Image:
    layer = oci.layer_of_files({"coredns": _program("coredns", "coredns")}, executable=True)
    return oci.Image(layers=(_trust_layer(), layer), entrypoint=("/coredns",))


def _local_path_provisioner() -> oci.Image:
    layer = oci.layer_of_files(
        {"usr/bin/local-path-provisioner": _program("local-path-provisioner", "local-path-provisioner")},
        executable=True,
    )
    return oci.Image(layers=(_trust_layer(), layer), entrypoint=("/usr/bin/local-path-provisioner",))


def _registry() -> oci.Image:
    layer = oci.layer_of_files({"bin/registry": _program("distribution", "registry")}, executable=True)
    return oci.Image(
        layers=(busybox_layer(), _trust_layer(), layer),
        entrypoint=("/bin/registry",),
        command=("serve", "/etc/distribution/config.yml"),
    )


def _python() -> oci.Image:
    """Return an image with Debian's Python, which is older than the stock image's: it proves that 3.11 is enough."""
    tree = oci.layer_of_tree(tools.python_root())
    names = {
        "usr/local/bin/python3": "/usr/bin/python3.11",
        # The default of Debian's OpenSSL. That of the stock image is the file in the trust layer.
        "usr/lib/ssl/cert.pem": f"/{CA_PATH}",
    }
    return oci.Image(
        layers=(tree, busybox_layer(), _trust_layer(), oci.layer_of_files({}, links=names)), command=("python3",)
    )


def _nginx() -> oci.Image:
    """Return an image with Debian's nginx, which is older than the stock image's: it proves that 1.22 is enough."""
    tree = oci.layer_of_tree(tools.nginx_root())
    # The stock image has these links too, so that a process without write access has both logs.
    logs = {"var/log/nginx/access.log": "/dev/stdout", "var/log/nginx/error.log": "/dev/stderr"}
    return oci.Image(
        layers=(tree, busybox_layer(), _trust_layer(), oci.layer_of_files({}, links=logs)),
        command=("nginx", "-g", "daemon off;"),
        stop_signal="SIGQUIT",
    )
