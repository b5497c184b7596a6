"""Starts and ends programs, each with a log file, in a cgroup and in given namespaces."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from machine.cgroups import Cgroup


class ProgramDied(Exception):
    """A program ended by itself; the message has the end of its log."""


@dataclass(frozen=True)
class Place:
    """Where programs run; `enter` is the beginning of the command that runs them in other namespaces.

    They find programs in the folders `programs` before the others of the test bed.
    """

    folder: Path
    cgroup: Cgroup
    enter: tuple[str, ...] = ()
    programs: tuple[Path, ...] = ()

    def start(self, name: str, command: Sequence[object], env: Mapping[str, str] | None = None) -> int:
        """Start a program in the background, and return its process id; its output goes to `<folder>/<name>.log`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The shell ends at once, so that init becomes the parent of the program and reaps it.
        script = f'{self.cgroup.join_command()}; setsid "$@" </dev/null >>"$0" 2>&1 & echo $!'
        process = self._shell(script, str(self.log(name)), command, env or {}).strip()
        self._pid_file(name).write_text(process)
        return int(process)

    def run(self, command: Sequence[object], *, check: bool = True, text: str | None = None) -> str:
        """Run a command, and return its output.

        Raises:
            RuntimeError: It failed and `check` is set; the message has its output.
        """
        script = f'{self.cgroup.join_command()}; exec "$@"'
        return self._shell(script, "run", command, {}, check=check, text=text)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def process_id(self, name: str) -> int | None:
        """Return the id of a program that was started here, or None if it does not run any more."""
        pid_file = self._pid_file(name)
        if not pid_file.exists():
            return None
        process = int(pid_file.read_text())
        return process if process in self.cgroup.processes() and not _is_zombie(process) else None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program that was started here."""
        process = self.process_id(name)
        if process is not None:
            os.kill(process, number)

    def stop(self, name: str, timeout: float = 10.0) -> None:
        """End a program and wait for it; kill it after `timeout` seconds."""
        self.signal(name, signal.SIGCONT)
        self.signal(name, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.process_id(name) is not None:
            if time.monotonic() > deadline:
                self.signal(name, signal.SIGKILL)
            time.sleep(0.02)
        self._pid_file(name).unlink(missing_ok=True)

    def fail_if_dead(self, name: str) -> None:
        """Check that a program that was started here still runs.

        Raises:
            ProgramDied: It does not.
        """
        if self.process_id(name) is None:
            tail = self.log(name).read_text(errors="replace")[-3000:]
            message = f"{name} ended by itself. The end of its log:\n{tail}"
            raise ProgramDied(message)

    def _shell(  # noqa: PLR0913 - the two callers differ in all arguments
        self,
        script: str,
        name: str,
        command: Sequence[object],
        env: Mapping[str, str],
        *,
        check: bool = True,
        text: str | None = None,
    ) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", script, name, *self.enter, *map(str, command)],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            cwd="/",
            env={**tools.program_environment(*self.programs), **env},
        )
        if check and done.returncode != 0:
            message = f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            raise RuntimeError(message)
        return done.stdout

    def _pid_file(self, name: str) -> Path:
        return self.folder / f"{name}.pid"


def wait_for(event: str, condition: Callable[[], object], timeout: float, interval: float = 0.1) -> None:
    """Call `condition` until it returns something true.

    Raises:
        TimeoutError: It did not within `timeout` seconds; the message names the event.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            message = f"waited {timeout:.0f} s for {event}"
            raise TimeoutError(message)
        time.sleep(interval)


def _is_zombie(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def free_port() -> int:
    """Return the number of a port on loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
