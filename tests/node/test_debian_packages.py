"""The choice of Debian packages does not depend on those that the machine has, and what is unpacked is complete."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from machine import environment, tools
from machine.debian import LIBRARIES, PackageSet

if TYPE_CHECKING:
    from pathlib import Path

# libc6 has these, and the machine's are used.
C_LIBRARY = re.compile(r"lib(c|m|dl|rt|pthread|resolv|util|anl)\.so\.\d+|ld-linux-x86-64\.so\.2")
PACKAGES = ("nginx", "runc", "nftables")


@pytest.fixture
def machine_with_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package state that satisfies each dependency by another package, and has a newer version of one package."""
    (tmp_path / "clean").mkdir()
    downloaded = PackageSet("x", PACKAGES, 1).download(tmp_path / "clean")
    resolved = [archive.name.split("_")[0] for archive in downloaded]
    entries = [_installed(f"other-{name}", f"Provides: {name} (= 99)\n") for name in resolved if name not in PACKAGES]
    entries.append(_installed("nginx", ""))
    (tmp_path / "status").write_text("\n".join(entries))
    (tmp_path / "apt.conf").write_text(f'Dir::State::status "{tmp_path}/status";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def _installed(name: str, more: str) -> str:
    return (
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 99\nMulti-Arch: same\n"
        f"Maintainer: nobody\nDescription: something else\n{more}"
    )


def test_packages_that_the_machine_has_are_downloaded_anyway(machine_with_other_packages: None, tmp_path: Path) -> None:
    control = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES],
        env=environment.for_downloads(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Inst libpcre2-8-0" not in control.stdout, "the machine's own apt uses what is installed"

    for whole in (False, True):
        work = tmp_path / f"work-{whole}"
        work.mkdir()
        names = sorted(archive.name for archive in PackageSet("x", PACKAGES, 1, whole=whole).download(work))
        expected = sorted(path.name for path in (tmp_path / "clean/archives").glob("*.deb"))
        if whole:
            expected = [name for name in expected if name.split("_")[0] in PACKAGES]
        assert names == expected


def test_unpacked_programs_need_nothing_of_the_machine_but_its_c_library() -> None:
    tools.ensure_registry()
    root = tools.debian_root()
    folders = ":".join(str(root / folder) for folder in LIBRARIES)
    for program in tools.pinned()["debian"]["tools"]["programs"]:
        for name, path in _libraries(root / program, folders).items():
            assert C_LIBRARY.fullmatch(name) or path.startswith(str(root)), f"{program} uses {path}"
    for plugin in (root / "usr/lib/cni").iterdir():
        # No script sets where they find others.
        assert all(map(C_LIBRARY.fullmatch, _libraries(plugin, ""))), plugin


def _libraries(program: Path, folders: str) -> dict[str, str]:
    """Return the path of each library that a program is loaded with, by name."""
    command = ["/lib64/ld-linux-x86-64.so.2", "--library-path", folders, "--list", str(program)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^\s+(\S+) => (.+) \(0x", listed, re.MULTILINE))


@pytest.mark.parametrize("name", ["conntrack", "ip", "mkfs.btrfs", "nft", "nginx", "prometheus", "promtool", "runc"])
def test_unpacked_program_runs_whatever_its_caller_has_set(name: str) -> None:
    tools.ensure_registry()
    option = {"ip": "-Version", "nginx": "-v"}.get(name, "--version")
    command = [tools.debian_program(name), option]
    odd = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/nowhere"}
    done = subprocess.run(command, env=odd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(tools.debian_program(name), os.X_OK)
