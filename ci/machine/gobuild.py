"""Builds pinned Go programs from their published modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from machine import SetupFailed, environment
from machine.paths import cache_folder

# What the user may have set for Go, by variables or by `go env -w`, and what counts here too: where modules come from.
SOURCES = ("GOAUTH", "GOINSECURE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS")
CACHES = ("GOCACHE", "GOMODCACHE")


@dataclass(frozen=True)
class GoTool:
    """One Go module and the programs that are built from it.

    With `source`, the only program is one of ours, a file of the folder `programs`, which uses the module. With
    `replacements`, the module's own replace directives apply, except those that name a folder.
    """

    name: str
    module: str
    version: str
    binaries: dict[str, str]
    seconds: int
    staging: str | None = None
    source: str = ""
    replacements: bool = False
    stamp: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """The major and minor version, as in 1.36."""
        return ".".join(self.version.removeprefix("v").split(".")[:2])

    def folder(self, cache: Path) -> Path:
        """Return where the built programs are, one folder for each version."""
        return cache / "bin" / f"{self.name}-{self.version}"

    def build(self, work: Path) -> None:
        """Build the programs into the folder `out` of `work`."""
        out = work / "out"
        out.mkdir()
        self._write_module(work)
        ldflags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.stamp.items())])
        if self.source:
            shutil.copy(Path(__file__).parent / "programs" / self.source, work)
        for binary, package in self.binaries.items():
            path = f"{self.module}/{package}" if package else (self.source or self.module)
            command = ["go", "build", "-mod=mod", "-trimpath", "-ldflags", ldflags, "-tags", ",".join(self.tags)]
            _go([*command, "-o", str(out / binary), path], work)

    def _write_module(self, work: Path) -> None:
        """Write a module that requires just this one: `go install` refuses modules with replace directives."""
        lines = ["module registry-cache.local/build", "", "go 1.26", "", f"require {self.module} {self.version}"]
        if self.staging:
            required = _go(["go", "mod", "download", "-json", f"{self.module}@{self.version}"], work)
            lines += [f"replace {name} => {name} {self.staging}" for name in _unversioned_requirements(required)]
        if self.replacements:
            lines += _published_replacements(self.module, self.version, work)
        (work / "go.mod").write_text("\n".join(lines) + "\n")


def module_folder(module: str, version: str, work: Path) -> Path:
    """Return the folder with the files of a published module, which Go downloads if it does not have them.

    Raises:
        SetupFailed: The module cannot be downloaded.
    """
    return Path(json.loads(_go(["go", "mod", "download", "-json", f"{module}@{version}"], work))["Dir"])


def module_versions(module: str, work: Path) -> list[str]:
    """Return the published versions of a module.

    Raises:
        SetupFailed: They cannot be listed.
    """
    versions: list[str] = json.loads(_go(["go", "list", "-m", "-versions", "-json", module], work)).get("Versions", [])
    return versions


def _unversioned_requirements(download_json: str) -> list[str]:
    """Return the staging modules, which kubernetes' go.mod requires at v0.0.0 and has as folders in its workspace."""
    go_mod = Path(json.loads(download_json)["GoMod"]).read_text()
    names = [
        line.split()[0] for line in go_mod.splitlines() if line.startswith("\t") and line.split()[1:2] == ["v0.0.0"]
    ]
    return sorted(set(names))


def _published_replacements(module: str, version: str, work: Path) -> list[str]:
    """Return the replace directives of a module whose replacements are published modules."""
    download = json.loads(_go(["go", "mod", "download", "-json", f"{module}@{version}"], work))
    replaced = json.loads(_go(["go", "mod", "edit", "-json", download["GoMod"]], work))["Replace"]
    return [
        f"replace {' '.join(each['Old'].values())} => {each['New']['Path']} {each['New']['Version']}"
        for each in replaced
        if "Version" in each["New"]
    ]


def _go(command: list[str], work: Path) -> str:
    done = subprocess.run(command, cwd=work, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(command[:2])} … {command[-1]} failed:\n{done.stderr[-3000:]}"
        raise SetupFailed(message)
    return done.stdout


@cache
def _environment() -> dict[str, str]:
    """Return the environment of builds: the user's sources of modules, and nothing else that the user set for Go."""
    if shutil.which("go", path=environment.search_path()) is None:
        message = "go is not installed; the native cluster builds its programs with Go 1.26 or newer"
        raise SetupFailed(message)
    command = ["go", "env", "-json", *SOURCES, *CACHES]
    asked = subprocess.run(command, env=environment.for_downloads(), capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        message = f"{' '.join(command)} failed:\n{asked.stderr}"
        raise SetupFailed(message)
    settings: dict[str, str] = json.loads(asked.stdout)
    for name in CACHES:
        if not _is_writable(settings[name]):
            settings[name] = str(cache_folder() / name.lower())
    given = {name: value for name, value in environment.for_downloads().items() if not name.startswith("GO")}
    return {
        **given,
        **{name: value for name, value in settings.items() if value},
        "CGO_ENABLED": "0",
        "GOENV": "off",
        "GOFLAGS": "-buildvcs=false",
        "GOTOOLCHAIN": "auto",
        "GOWORK": "off",
    }


def _is_writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return bool(folder) and os.access(folder, os.W_OK)
