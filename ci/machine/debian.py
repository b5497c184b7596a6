"""Debian packages, unpacked into the cache folder: nothing is installed, and no service is started.

Which packages that takes must not depend on those that are installed. apt therefore gets a state of its own in which
nothing is, so that it resolves every dependency to a package. It takes from the machine only where packages come from
and whose signatures count (sources.list, apt.conf, preferences).

The C library and its loader are left out where programs run beside those of the machine: a program names its loader by
an absolute path, so the machine's is used, and a C library works only with the loader of its own build. Both come from
the same release, since apt uses the machine's sources. All other libraries are found by a script for each program,
which is the only one that sees them: programs of the machine keep the libraries that they were built for.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machine import SetupFailed, environment

if TYPE_CHECKING:
    from pathlib import Path

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
LOADER_PACKAGES = ("libc6_",)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The quotes and the path of the script itself hold wherever the cache folder is moved.
WRAPPER = """#!/bin/sh
root=${{0%/*}}/..
LD_LIBRARY_PATH={libraries} exec "$root/{program}" "$@"
"""


@dataclass(frozen=True)
class PackageSet:
    """Debian packages that are unpacked into one folder.

    With `whole` they are exactly the content of the folder, and otherwise everything that they depend on is added,
    except the C library. `programs` are paths of programs that get a script in the folder `programs`. `suite` is a
    release of Debian other than the machine's; its packages must be the whole.
    """

    name: str
    packages: tuple[str, ...]
    seconds: int
    whole: bool = False
    programs: tuple[str, ...] = ()
    suite: str = ""

    def folder(self, cache: Path) -> Path:
        """Return where they are unpacked, one folder for each choice of packages."""
        key = hashlib.sha256(
            " ".join((*self.packages, *self.programs, *filter(None, (self.suite,)))).encode()
        ).hexdigest()[:12]
        return cache / "debian" / f"{self.name}-{key}"

    def unpack(self, work: Path) -> None:
        """Download the packages and unpack them into the folder `out` of `work`."""
        out = work / "out"
        out.mkdir()
        for archive in sorted(self.download(work)):
            if self.whole or not archive.name.startswith(LOADER_PACKAGES):
                _run(["dpkg-deb", "--extract", str(archive), str(out)], work)
        if self.programs:
            (out / "programs").mkdir()
        libraries = ":".join(f"$root/{folder}" for folder in LIBRARIES)
        for program in self.programs:
            if not (out / program).is_file():
                message = f"{program} is in none of the Debian packages {', '.join(self.packages)}"
                raise SetupFailed(message)
            script = out / "programs" / program.rpartition("/")[2]
            script.write_text(WRAPPER.format(libraries=libraries, program=program))
            script.chmod(0o755)

    def download(self, work: Path) -> list[Path]:
        """Download the packages into `work`, and return their archives."""
        apt = _apt(work)
        _run([*apt, "update"], work)
        if self.suite:
            apt += _other_suite(apt, self.suite, work)
            _run([*apt, "update"], work)
        if self.whole:
            _run([*apt, "download", *self.packages], work / "archives")
        else:
            options = [
                "--yes",
                "--no-install-recommends",
                "--download-only",
                "-o",
                f"Dir::Cache::archives={work}/archives",
            ]
            _run([*apt, "install", *options, *self.packages], work)
        return list((work / "archives").glob("*.deb"))


def _apt(work: Path) -> list[str]:
    """Return apt-get with a state of its own, in which nothing is installed."""
    if shutil.which("apt-get", path=environment.search_path()) is None:
        message = "apt-get is not there: the native cluster takes nginx, runc, the CNI plugins and more from Debian 12"
        raise SetupFailed(message)
    for folder in ("archives/partial", "state/lists/partial", "cache"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "state/status").touch()
    settings = {
        "Dir::State": f"{work}/state",
        "Dir::State::lists": f"{work}/state/lists",
        "Dir::State::status": f"{work}/state/status",
        "Dir::State::extended_states": f"{work}/state/extended_states",
        "Dir::Cache": f"{work}/cache",
        # apt's own user cannot reach a folder below the home of root.
        "APT::Sandbox::User": "root",
        # Indexes that no installation needs.
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    return ["apt-get", *(f"-o{name}={value}" for name, value in settings.items())]


def _other_suite(apt: list[str], suite: str, work: Path) -> list[str]:
    """Return the options that let apt take another release of Debian from where the machine's comes from."""
    targets = [*apt, "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages", "Component: main"]
    done = subprocess.run(targets, env=environment.for_downloads(), capture_output=True, text=True, check=False)
    repositories = dict(reversed([line.split(" ", 1) for line in done.stdout.splitlines()]))
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if codename not in repositories:
        message = f"apt does not have Debian {codename}, so Debian {suite} cannot be found beside it: {done.stderr}"
        raise SetupFailed(message)
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {repositories[codename]} {suite} main\n")
    return [f"-oDir::Etc::sourcelist={sources}", "-oDir::Etc::sourceparts=/dev/null"]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment.for_downloads(DEBIAN_FRONTEND="noninteractive"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        raise SetupFailed(message)
