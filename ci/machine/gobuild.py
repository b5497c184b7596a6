"""Builds pinned Go programs from their published modules, once, into the user's cache folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


class BuildFailed(Exception):
    """A program could not be built; the message carries the end of what go said."""


@dataclass(frozen=True)
class GoTool:
    """One Go module and the programs that are built from it."""

    name: str
    module: str
    version: str
    binaries: dict[str, str]
    seconds: int
    staging: str | None = None
    stamp: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def folder(self, cache: Path) -> Path:
        """Where the built programs are, one folder a version."""
        return cache / "bin" / f"{self.name}-{self.version}"

    def build(self, cache: Path) -> None:
        """Build into a folder of its own and put it in place in one step, so that it is whole or absent."""
        target = self.folder(cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{self.name}-") as work_name:
            work = target.parent / work_name
            out = work / "out"
            out.mkdir()
            self._write_module(work)
            ldflags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.stamp.items())])
            for binary, package in self.binaries.items():
                path = f"{self.module}/{package}" if package else self.module
                command = ["go", "build", "-mod=mod", "-trimpath", "-ldflags", ldflags, "-tags", ",".join(self.tags)]
                _go([*command, "-o", str(out / binary), path], work)
            out.rename(target)

    def _write_module(self, work: Path) -> None:
        """A module of our own that needs just the one: `go install` refuses modules with replace directives."""
        lines = ["module registry-cache.local/build", "", "go 1.26", "", f"require {self.module} {self.version}"]
        if self.staging:
            required = _go(["go", "mod", "download", "-json", f"{self.module}@{self.version}"], work)
            lines += [f"replace {name} => {name} {self.staging}" for name in _unversioned_requirements(required)]
        (work / "go.mod").write_text("\n".join(lines) + "\n")


def module_folder(module: str, version: str, work: Path) -> Path:
    """Where Go keeps the files of a published module, which it fetches where it has them not.

    Raises:
        BuildFailed: it does not get them.
    """
    return Path(json.loads(_go(["go", "mod", "download", "-json", f"{module}@{version}"], work))["Dir"])


def _unversioned_requirements(download_json: str) -> list[str]:
    """The staging modules: kubernetes' go.mod requires them at v0.0.0 and its workspace has them as folders."""
    go_mod = Path(json.loads(download_json)["GoMod"]).read_text()
    names = [
        line.split()[0] for line in go_mod.splitlines() if line.startswith("\t") and line.split()[1:2] == ["v0.0.0"]
    ]
    return sorted(set(names))


def _go(command: list[str], work: Path) -> str:
    if shutil.which("go") is None:
        message = "go is not installed; the native cluster builds its programs with Go 1.26 or newer"
        raise BuildFailed(message)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(command[:2])} … {command[-1]} failed:\n{done.stderr[-3000:]}"
        raise BuildFailed(message)
    return done.stdout
