"""Makes containerd read the registry folder, once, where somebody asked for it (nodeProgram.configureContainerd).

It writes one line into containerd's configuration and restarts containerd. Both are undone where containerd does not
take the new file or does not come back. The file as it was stays beside it. What takes more than a line, such as
mirrors that are in the way, is left for a person, and told.

It may be killed at any moment: a file beside the configuration, PENDING, exists from before the change until containerd
answers with it or without it, and a start that finds this file restarts containerd first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from node_program import configuration
from node_program.containerd_configuration import Cure, Host, NotVisible, Refused, cure, look
from node_program.state import log

if TYPE_CHECKING:
    from pathlib import Path

    from node_program.configuration import Configuration, Configure

MARK = "# registry-cache: nodeProgram.configureContainerd wrote this line"
BEFORE = ".before-registry-cache"
NEW = ".registry-cache-new"
PENDING = ".registry-cache-restart-pending"
# Seconds until containerd has to answer again, and for one command.
PATIENCE = 60.0


class Failed(Exception):
    """It was not done, and all is as it was; the message says why."""


class NotBack(OSError):
    """containerd does not answer."""


def main(arguments: list[str]) -> int:
    """Do it where it is needed, and return the exit code: 1 only where containerd may not be as it was."""
    settings = configuration.from_arguments(arguments, __doc__)
    if settings.configure is None:
        print("nodeProgram.configureContainerd is not asked for", file=sys.stderr)
        return 2
    try:
        log(configure(settings, settings.configure))
    except Failed as problem:
        # The node's program says it too, and as long as it is so; the pod is to start all the same.
        log(f"containerd's configuration is left as it is: {problem}")
    except (OSError, subprocess.SubprocessError) as error:
        log(f"containerd has to be looked at: {error}")
        return 1
    return 0


def configure(settings: Configuration, how: Configure) -> str:
    """Write the line, restart containerd, and return what was done.

    Raises:
        Failed: it was not done, and all is as it was.
        OSError, SubprocessError: all may not be as it was.
    """
    files = settings.containerd
    host = Host(files.mounts)
    main = _in_pod(files.configuration, settings)
    if _beside(main, PENDING).exists():
        _restart_or_undo(main, how)
    if look(files.configuration, files.registry_directory, host, files.version).reads is not False:
        return "containerd's configuration needs no change"
    found = _cure(settings, host)
    path = _in_pod(found.path, settings)
    if path != main or not path.exists():
        message = f"it takes more than a line in {files.configuration}: {found}"
        raise Failed(message)
    before = path.read_text(encoding="utf-8")
    if MARK in before:
        message = f"{found.path} was written once, and containerd still does not read {files.registry_directory}"
        raise Failed(message)
    new = _beside(path, NEW)
    _write(new, cured(before, found), path)
    try:
        _check(found.path + NEW, how)
    except Failed:
        new.unlink()
        raise
    kept = _beside(path, BEFORE)
    kept.unlink(missing_ok=True)
    os.link(path, kept)
    _beside(main, PENDING).touch()
    new.rename(path)
    _restart_or_undo(path, how)
    return f"{found.path}: {found.line} written under {found.table}, and containerd restarted"


def _restart_or_undo(path: Path, how: Configure) -> None:
    """Restart containerd with its configuration, or else with the one before.

    Raises:
        Failed: containerd runs with the one before.
        OSError, SubprocessError: containerd may not run.
    """
    try:
        _restart(how)
    except (NotBack, subprocess.SubprocessError, OSError) as problem:
        kept = _beside(path, BEFORE)
        if kept.exists():
            kept.rename(path)
        _restart(how)
        _beside(path, PENDING).unlink()
        message = f"with it containerd did not come back, and was restarted without it: {problem}"
        raise Failed(message) from problem
    _beside(path, PENDING).unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def cured(text: str, found: Cure) -> str:
    """A configuration with the line in it, and all else as it was; of the file's own config_path nothing is left."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    added = f"{found.line} {MARK}\n"
    place = next((number for number, line in enumerate(lines) if _is_table(line, found.table)), None)
    if place is None:
        lines += [f"\n{found.table}\n", f"  {added}"]
    else:
        end = next((n for n in range(place + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        inside = [line for line in lines[place + 1 : end] if not re.match(r"\s*[\"']?config_path[\"']?\s*=", line)]
        lines[place + 1 : end] = [f"  {added}", *inside]
    return "".join(lines)


def _cure(settings: Configuration, host: Host) -> Cure:
    files = settings.containerd
    try:
        found = cure(files.configuration, files.registry_directory, host, files.version)
    except (NotVisible, Refused) as problem:
        raise Failed(str(problem)) from problem
    if found is None:
        message = f"no line in {files.configuration} would make containerd read {files.registry_directory}"
        raise Failed(message)
    if found.clashes or found.version is not None:
        message = f"it takes more than a line: {found}"
        raise Failed(message)
    return found


def _is_table(line: str, table: str) -> bool:
    """Whether a line is the head of a table, however its name is quoted."""
    head = line.partition("#")[0].strip()
    return head.replace("'", '"').replace(" ", "") == table


def _in_pod(path: str, settings: Configuration) -> Path:
    for folder, mounted in settings.containerd.mounts.items():
        if path.startswith(folder.rstrip("/") + "/"):
            return mounted / path[len(folder) :].lstrip("/")
    message = f"{path} is not mounted into this pod"
    raise Failed(message)


def _write(path: Path, text: str, like: Path) -> None:
    """Write a file with the mode and the owner of another, and have it on the disk."""
    path.unlink(missing_ok=True)  # left by one that was killed
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a file descriptor
        file.write(text)
        file.flush()
        status = like.stat()
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), status.st_mode & 0o7777)
        os.fsync(file.fileno())


def _check(path: str, how: Configure) -> None:
    """Have containerd itself read the new file."""
    command = [*how.on_host, how.containerd_binary, "--config", path, "config", "dump"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        message = f"containerd refuses the changed file: {(done.stderr or done.stdout).strip()[-300:]}"
        raise Failed(message)


def _restart(how: Configure) -> None:
    """Restart containerd, and wait until it answers.

    Raises:
        NotBack: it does not.
        SubprocessError: the command to restart it does not end well.
    """
    subprocess.run([*how.on_host, *how.restart_command], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(
            [*how.on_host, *how.ready_command], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            message = f"{' '.join(how.ready_command)}: {done.stderr.strip()[-300:]}"
            raise NotBack(message)
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
