"""nodeProgram.configureContainerd: a real containerd reads the registry directory then, or nothing has changed."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cluster.node_program import CONFIGURE_CONTAINERD, write_configuration
from machine import tools
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_SECONDS = 60.0
# As a supervisor does it: the process ends, and a new one reads the configuration.
RESTART = """#!/bin/sh
old=$(cat {folder}/pid)
kill "$old"
while [ -e "/proc/$old/exe" ]; do sleep 0.1; done
{program} --config {folder}/config.toml >> {folder}/log 2>&1 &
echo $! > {folder}/pid
"""
IMAGES = "[plugins.'io.containerd.cri.v1.images'.registry]"


@dataclass
class Machine:
    """A node with a containerd that is restarted by a script; on_host is empty, since the host is this machine."""

    folder: Path
    program: Path

    @property
    def main(self) -> Path:
        return self.folder / "config.toml"

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    @property
    def process(self) -> str:
        return (self.folder / "pid").read_text().strip()

    def write(self, text: str, version: int = 3) -> None:
        self.main.write_text(
            f"version = {version}\nroot = '{self.folder}/root'\nstate = '{self.folder}/state'\n"
            f"[grpc]\naddress = '{self.folder}/sock'\n[ttrpc]\naddress = '{self.folder}/sock.ttrpc'\n{text}"
        )
        self.main.chmod(0o640)

    def run(self, **commands: object) -> subprocess.CompletedProcess[str]:
        """Run the program as its container does."""
        path = write_configuration(
            self.folder / "node.json",
            certs=self.certs,
            state=self.folder / "run",
            containerd=self.main,
            caches=[],
            configure={
                "onHost": [],
                "containerdBinary": str(self.program),
                "restartCommand": [str(self.folder / "restart")],
                "readyCommand": [*self.client, "version"],
                **commands,
            },
        )
        command = [*CONFIGURE_CONTAINERD, "--config", path]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=3 * LIMIT_SECONDS)

    @property
    def client(self) -> list[str]:
        return [str(tools.go_binary("containerd", "ctr")), "--address", str(self.folder / "sock")]

    def config_path(self) -> str:
        """Return the registry directory in the output of `containerd config dump`."""
        command = [self.program, "--config", self.main, "config", "dump"]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return next(
            line.split("=")[1].strip(" '\"") for line in dump.splitlines() if line.split()[:1] == ["config_path"]
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        (self.folder / "restart").write_text(RESTART.format(folder=self.folder, program=self.program))
        (self.folder / "restart").chmod(0o755)
        with (self.folder / "log").open("wb") as log:
            first = subprocess.Popen([self.program, "--config", self.main], stdout=log, stderr=log)
        (self.folder / "pid").write_text(f"{first.pid}\n")
        try:
            wait_for("containerd", (self.folder / "sock").exists, LIMIT_SECONDS)
            yield
        finally:
            subprocess.run(["kill", self.process], check=False)
            first.wait(LIMIT_SECONDS)
            print((self.folder / "log").read_text(errors="replace")[-2000:])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    tools.ensure_native()
    new = Machine(tmp_path, tools.go_binary("containerd", "containerd"))
    new.certs.mkdir()
    return new


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing-there"),
        pytest.param(f"{IMAGES} # theirs\n  config_path = '/elsewhere'\n  [x]\n", id="another-folder"),
        pytest.param(f"{IMAGES}\nconfig_path = '/etc/containerd/certs.d:/etc/docker/certs.d'", id="a-list-and-no-end"),
    ],
)
def test_line_is_written_once_and_containerd_reads_the_registry_directory(machine: Machine, text: str) -> None:
    machine.write(text)
    before = machine.main.read_text()
    with machine.running():
        process = machine.process
        done = machine.run()
        assert (done.returncode, done.stderr) == (0, "")
        assert "written under" in done.stdout
        assert machine.process != process
        assert machine.config_path() == str(machine.certs)
        assert (machine.folder / "config.toml.before-registry-cache").read_text() == before
        assert machine.main.stat().st_mode & 0o777 == 0o640
        after, process = machine.main.read_text(), machine.process
        assert [line for line in after.splitlines() if "config_path" not in line and line] == [
            line
            for line in (before if IMAGES in before else f"{before}{_head(after)}\n").splitlines()
            if "config_path" not in line and line
        ]
        assert machine.run().stdout == "containerd's configuration needs no change\n"
        assert (machine.main.read_text(), machine.process) == (after, process)


def test_containerd_1_gets_the_line_of_its_own_version(machine: Machine) -> None:
    tools.ensure_containerds()
    machine.program = tools.containerd_1_6()
    machine.write("[plugins.'io.containerd.grpc.v1.cri'.registry]\n", version=2)
    with machine.running():
        done = machine.run()
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.config_path() == str(machine.certs)
        assert machine.run().stdout == "containerd's configuration needs no change\n"


def test_line_that_an_import_overrides_takes_no_effect(machine: Machine) -> None:
    imported = machine.folder / "imported.toml"
    imported.write_text(f"version = 3\n{IMAGES}\nconfig_path = '/elsewhere'\n")
    machine.write("")
    before = f"imports = ['{imported}']\n{machine.main.read_text()}"
    machine.main.write_text(before)
    with machine.running():
        process = machine.process
        done = machine.run()
        assert done.returncode == 0
        assert "an imported file overrides the line" in done.stdout
        assert (machine.main.read_text(), machine.process) == (before, process)


def test_next_start_restarts_containerd_after_a_kill_before_the_restart(machine: Machine) -> None:
    machine.write("")
    with machine.running():
        process = machine.process
        # It kills the program that runs it, as a node that goes down in the middle does.
        killed = machine.run(restartCommand=["sh", "-c", "kill -9 $PPID"])
        assert killed.returncode != 0
        assert machine.config_path() == str(machine.certs)
        assert machine.process == process

        done = machine.run()
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.process != process
        assert "restarting containerd" in done.stdout
        assert [path.name for path in machine.folder.glob("config.toml*registry-cache*")] == [
            "config.toml.before-registry-cache"
        ]


def test_line_without_effect_is_not_written_again(machine: Machine) -> None:
    machine.write("")
    with machine.running():
        machine.run()
        text = machine.main.read_text().replace(str(machine.certs), "/elsewhere")
        machine.main.write_text(text)
        done = machine.run()
        assert done.returncode == 0
        assert "was written once, and containerd still does not read" in done.stdout
        assert machine.main.read_text() == text


def test_configuration_is_restored_if_containerd_does_not_come_back(machine: Machine) -> None:
    """The restart succeeds only with the old file."""
    machine.write("")
    before = machine.main.read_text()
    script = f"grep -q config_path {machine.main} && exit 1; exec {machine.folder}/restart"
    with machine.running():
        done = machine.run(restartCommand=["sh", "-c", script])
        assert done.returncode == 0
        assert "did not come back, and was restarted without it" in done.stdout
        assert machine.main.read_text() == before
        assert subprocess.run([*machine.client, "version"], capture_output=True, check=False).returncode == 0
        assert not (machine.folder / "config.toml.registry-cache-new").exists()


def test_file_that_containerd_refuses_is_not_used(machine: Machine) -> None:
    machine.write("")
    before = machine.main.read_text()
    with machine.running():
        process = machine.process
        refusing = machine.folder / "refusing"
        refusing.write_text(f'#!/bin/sh\ncase "$2" in *-new) exit 1;; esac\nexec {machine.program} "$@"\n')
        refusing.chmod(0o755)
        done = machine.run(containerdBinary=str(refusing))
        assert done.returncode == 0
        assert "containerd refuses the changed file" in done.stdout
        assert (machine.main.read_text(), machine.process) == (before, process)
        assert sorted(path.name for path in machine.folder.glob("config.toml*")) == ["config.toml"]


def test_containerd_that_cannot_be_asked_is_left_alone(machine: Machine) -> None:
    machine.write("")
    with machine.running():
        before, process = machine.main.read_text(), machine.process
        for binary in ("false", "/no/such/program"):
            done = machine.run(containerdBinary=binary)
            assert done.returncode == 0
            assert "containerd's configuration is left as it is" in done.stdout
        assert (machine.main.read_text(), machine.process) == (before, process)


def test_conflicting_mirrors_are_reported_and_kept(machine: Machine) -> None:
    mirrors = "[plugins.'io.containerd.cri.v1.images'.registry.mirrors.'docker.io']\nendpoint = ['https://x']\n"
    machine.write(mirrors)
    with machine.running():
        before, process = machine.main.read_text(), machine.process
        done = machine.run()
        assert done.returncode == 0
        assert "it takes more than a line: take registry.mirrors" in done.stdout
        assert (machine.main.read_text(), machine.process) == (before, process)


def _head(text: str) -> str:
    """Return the table in which the line was written."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if "config_path" in line) - 1]
