"""Changing containerd on a node where containerd is three scripts, and where the program may die at any moment."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from cluster.node_program import write_configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_program import configure_containerd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PASSWORD = "swordfish"
ORIGINAL = f"""version = 3
[plugins.'io.containerd.cri.v1.images'.registry.configs.'registry.example.com'.auth]
  password = '{PASSWORD}'
"""
SCRIPTS = {
    # What it would run with is what the file says.
    "containerd": '[ "$1" = --version ] && exec echo containerd example.com/containerd v2.4.2\nexec cat "$2"',
    # Stops it, and starts it with the file as it is then; with `broken` it does not start after a change, with `dead`
    # it does not start at all.
    "restart": "cd {folder}; rm -f running; [ -e dead ] && exit 1\n"
    "[ -e broken ] && grep -q config_path config.toml && exit 1\ncp config.toml running",
    "ready": "test -e {folder}/running",
}
SYSTEM_CALLS: list[tuple[Any, str]] = [
    *[(os, name) for name in ("open", "rename", "link", "unlink", "fchmod", "fchown", "fsync")],
    (io, "open"),
    (subprocess, "run"),
]


class Killed(BaseException):
    """The program was killed; nothing in it catches this."""


class Node:
    """A node's folder with containerd's configuration; `running` is what containerd has read."""

    def __init__(self, folder: Path) -> None:
        """Run containerd with the original configuration, which only root may read."""
        self.folder = folder
        self.main = folder / "config.toml"
        self.main.write_text(ORIGINAL)
        self.main.chmod(0o600)
        (folder / "running").write_text(ORIGINAL)
        (folder / "programs").mkdir()
        for name, script in SCRIPTS.items():
            path = folder / "programs" / name
            path.write_text(f"#!/bin/sh\n{script.format(folder=folder)}\n")
            path.chmod(0o755)
        programs = folder / "programs"
        self.configuration = write_configuration(
            programs / "node.json",
            certs=folder / "certs.d",
            state=folder / "run",
            containerd=self.main,
            caches=[],
            configure={
                "onHost": [],
                "containerdBinary": str(programs / "containerd"),
                "restartCommand": [str(programs / "restart")],
                "readyCommand": [str(programs / "ready")],
            },
        )

    @property
    def running(self) -> str:
        return (self.folder / "running").read_text()

    @property
    def changed(self) -> bool:
        return f'config_path = "{self.folder}/certs.d"' in self.main.read_text()

    def run(self) -> int:
        """Run the program until it ends."""
        with mock.patch.object(configure_containerd, "TIMEOUT_SECONDS", 5.0):
            return configure_containerd.main(["--config", str(self.configuration)])

    def run_until(self, call: int) -> bool:
        """Run the program until it is about to make the system call of that number; False where there are fewer."""
        try:
            with killed_at(call):
                self.run()
        except Killed:
            return True
        return False

    def check_files(self) -> None:
        """Whatever happened: whole files, of which those with passwords are as closed as the original was."""
        original = self.folder / "config.toml.before-registry-cache"
        assert not original.exists() or original.read_text() == ORIGINAL
        assert self.main.read_text() == ORIGINAL or (self.changed and PASSWORD in self.main.read_text())
        for path in self.folder.glob("config.toml*"):
            assert PASSWORD not in path.read_text() or path.stat().st_mode & 0o777 == 0o600, path

    def check_end(self) -> None:
        """What is true after a whole run, whatever happened to those before."""
        self.check_files()
        assert self.running == self.main.read_text()
        broken = (self.folder / "broken").exists()
        assert self.changed is not broken
        names = {path.name for path in self.folder.glob("config.toml*")}
        assert names == ({"config.toml"} if broken else {"config.toml", "config.toml.before-registry-cache"})


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """Let the system call of that number kill the program instead of being made."""
    count = iter(range(10_000))

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(count) == number:
                raise Killed
            return real(*arguments, **keywords)

        return call

    with ExitStack() as stack:
        for module, name in SYSTEM_CALLS:
            stack.enter_context(mock.patch.object(module, name, killing(getattr(module, name))))
        yield


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("broken", [False, True], ids=["works", "broken"])
def test_next_start_applies_the_file_after_a_kill_at_any_system_call(tmp_path: Path, *, broken: bool) -> None:
    call, killed = 0, True
    while killed:
        (tmp_path / str(call)).mkdir()
        node = Node(tmp_path / str(call))
        if broken:
            (node.folder / "broken").touch()
        killed = node.run_until(call)
        node.check_files()
        assert node.run() == 0
        node.check_end()
        call += 1
    assert call > 10


@given(calls=st.lists(st.integers(0, 60), min_size=2, max_size=5), broken=st.booleans())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_repeated_kills_do_not_change_the_result(
    tmp_path_factory: pytest.TempPathFactory, calls: list[int], *, broken: bool
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    if broken:
        (node.folder / "broken").touch()
    for call in calls:
        node.run_until(call)
        node.check_files()
    assert node.run() == 0
    node.check_end()


def test_next_start_restarts_containerd_after_a_kill_before_the_restart(node: Node) -> None:
    def restart_killed(command: list[str], **keywords: Any) -> subprocess.CompletedProcess[Any]:
        if command[0].endswith("restart"):
            raise Killed
        return run(command, **keywords)

    run = subprocess.run
    with mock.patch.object(subprocess, "run", restart_killed), pytest.raises(Killed):
        node.run()
    assert node.changed
    assert node.running == ORIGINAL

    assert node.run() == 0
    node.check_end()


def test_containerd_that_starts_with_neither_file_is_tried_again_by_the_next_start(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    (node.folder / "dead").touch()
    assert node.run() == 1
    assert node.main.read_text() == ORIGINAL
    assert "containerd may not be running" in capsys.readouterr().out
    (node.folder / "dead").unlink()
    assert node.run() == 0
    node.check_end()


@pytest.mark.parametrize(("function", "error"), [("open", errno.EROFS), ("link", errno.EPERM)])
def test_file_that_cannot_be_changed_is_left_as_it_is(
    node: Node, capsys: pytest.CaptureFixture[str], function: str, error: int
) -> None:
    """The node program starts anyway, and reports that the registry directory is not read."""
    with mock.patch.object(os, function, side_effect=OSError(error, os.strerror(error))):
        assert node.run() == 0
    assert f"config.toml cannot be changed: {os.strerror(error)}" in capsys.readouterr().out
    assert node.running == node.main.read_text() == ORIGINAL
    assert [path.name for path in node.folder.glob("config.toml*")] == ["config.toml"]


def test_log_has_no_password(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("broken", "dead"):
        (node.folder / name).touch()
        node.run()
    assert PASSWORD not in "".join(capsys.readouterr())


def test_new_file_is_never_readable_by_others(node: Node) -> None:
    """Neither before its mode is set, whatever the umask, nor after."""
    seen = []

    def fchmod(file: int, mode: int) -> None:
        seen.extend(path.stat().st_mode & 0o777 for path in node.folder.glob("config.toml.registry-cache-new"))
        real_fchmod(file, mode)

    real_fchmod, umask = os.fchmod, os.umask(0)
    try:
        with mock.patch.object(os, "fchmod", fchmod):
            assert node.run() == 0
    finally:
        os.umask(umask)
    assert seen == [0o600]
    assert node.main.stat().st_mode & 0o777 == 0o600
