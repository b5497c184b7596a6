"""Make containerd read the registry directory, once, on nodes where nodeProgram.configureContainerd asks for it.

The program writes one line into containerd's configuration and restarts containerd. It undoes this if containerd does
not accept the new file or does not come back, and it leaves a copy of the original beside the file. Before and after,
it asks the containerd on the node what its files mean (`containerd config dump`). A change that takes more than a
line, such as replacing registry.mirrors, is left to a person.

The program may be killed at any moment. A file beside the configuration, PENDING, exists from before the change until
containerd answers again, and a start that finds this file restarts containerd first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from common.log import log

from node_program import configuration
from node_program.containerd_configuration import (
    HEADER,
    LINE,
    PLUGIN_OF_VERSION,
    File,
    NodeFiles,
    Release,
    Unknown,
    assess_files,
    describe_change,
    find_obstacles,
    load_files,
    parse_file,
    parse_release,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from node_program.configuration import Configuration, Configure

MARK = "# registry-cache: nodeProgram.configureContainerd wrote this line"
ORIGINAL = ".before-registry-cache"
NEW = ".registry-cache-new"
PENDING = ".registry-cache-restart-pending"
# For one command, and for containerd to answer after its restart.
TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.5


class Failed(Exception):
    """containerd was not changed, and runs as before; the message says why."""


class NotRunning(Exception):
    """containerd does not answer after its restart; the message says why."""


def main(arguments: list[str]) -> int:
    """Change containerd if it needs a change, and return the exit code: 1 only if containerd may not run as before."""
    settings = configuration.from_arguments(arguments, __doc__)
    if settings.configure is None:
        print("nodeProgram.configureContainerd is not enabled", file=sys.stderr)
        return 2
    try:
        log(configure(settings, settings.configure))
    except (Failed, Unknown) as problem:
        # The pod starts anyway, because the node program keeps reporting that containerd does not read the directory.
        log(f"containerd's configuration is left as it is: {problem}")
    except (OSError, NotRunning) as error:
        log(f"containerd may not be running: {error}")
        return 1
    return 0


def configure(settings: Configuration, commands: Configure) -> str:
    """Write the line, restart containerd, and return what was done.

    Raises:
        Failed, Unknown: Nothing was done or it was undone, and containerd runs as before.
        OSError, NotRunning: containerd may not run as before.
    """
    path, registry_directory = settings.containerd.configuration, settings.containerd.registry_directory
    node = NodeFiles(settings.containerd.mounts)
    located = node.locate(path)
    new, original, pending = (located.with_name(located.name + suffix) for suffix in (NEW, ORIGINAL, PENDING))
    if pending.exists():
        log("an earlier start was killed before containerd answered: restarting containerd")
        _restart_or_undo(located, commands)
    _remove(new)
    release = parse_release(_ask_containerd(["--version"], commands))
    current = _dump(path, commands)
    finding = assess_files([current], registry_directory, release)
    if finding.reads:
        return "containerd's configuration needs no change"
    text = node.read(path) or ""
    plugin = PLUGIN_OF_VERSION.get(parse_file(path, text).version)
    if finding.reads is None or plugin is None or find_obstacles(current):
        message = f"it takes more than a line: {describe_change(load_files(path, node), registry_directory)}"
        raise Failed(message)
    if MARK in text:
        message = f"{path} was written once, and containerd still does not read {registry_directory}"
        raise Failed(message)
    line, header = LINE.format(registry_directory), HEADER.format(plugin)
    try:
        _write(new, insert_line(text, header, f"{line} {MARK}"), like=located)
        refusal = _check(path + NEW, registry_directory, release, commands)
        if not refusal:
            original.unlink(missing_ok=True)
            os.link(located, original)
            pending.touch(mode=0o600)
    except OSError as error:
        refusal = f"{path} cannot be changed: {error.strerror}"
    if refusal:
        _remove(new)
        raise Failed(refusal)
    new.rename(located)
    _restart_or_undo(located, commands)
    return f"{path}: {line} written under {header}, and containerd restarted"


def insert_line(text: str, header: str, line: str) -> str:
    """Return a configuration with a line at the beginning of a table, in place of a config_path that is there."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start = next((number for number, found in enumerate(lines, 1) if _is_header(found, header)), None)
    if start is None:
        return "".join([*lines, f"\n{header}\n", f"  {line}\n"])
    end = next((n for n in range(start, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    kept = [found for found in lines[start:end] if not re.match(r"\s*[\"']?config_path[\"']?\s*=", found)]
    return "".join([*lines[:start], f"  {line}\n", *kept, *lines[end:]])


def _is_header(line: str, header: str) -> bool:
    """Return whether a line is the header of a table, however its name is quoted."""
    return line.partition("#")[0].strip().replace("'", '"').replace(" ", "") == header


def _remove(path: Path) -> None:
    """Remove a file if it is there; on a read-only file system, unlink fails even if it is not."""
    if path.exists():
        path.unlink()


def _write(path: Path, text: str, like: Path) -> None:
    """Write a new file with the owner and the mode of another one, and have it on the disk.

    Nobody but root can read it before it has its mode: there may be passwords in it.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        status = like.stat()
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), status.st_mode & 0o7777)
        os.fsync(file.fileno())


def _check(path: str, registry_directory: str, release: Release | None, commands: Configure) -> str:
    """Return why a changed configuration cannot be used, an empty string if it can."""
    try:
        finding = assess_files([_dump(path, commands)], registry_directory, release)
    except (Failed, Unknown) as problem:
        return f"containerd refuses the changed file: {problem}"
    if not finding.reads:
        return "the line has no effect: the CRI plugin is disabled, or an imported file overrides the line"
    return ""


def _dump(path: str, commands: Configure) -> File:
    """Return what containerd makes of a configuration file and its imports."""
    return parse_file(path, _ask_containerd(["--config", path, "config", "dump"], commands))


def _ask_containerd(arguments: Sequence[str], commands: Configure) -> str:
    """Run containerd's program on the node and return what it prints.

    Raises:
        Failed: It cannot be run, or fails.
    """
    command = [*commands.on_host, commands.containerd_binary, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS)
    except subprocess.CalledProcessError as error:
        message = f"{' '.join(command)}: {error.stderr.strip()[-300:]}"
        raise Failed(message) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    return done.stdout


def _restart_or_undo(located: Path, commands: Configure) -> None:
    """Restart containerd with its configuration or, if it does not come back, with the original.

    Raises:
        Failed: containerd runs with the original.
        OSError, NotRunning: containerd may not run.
    """
    original, pending = (located.with_name(located.name + suffix) for suffix in (ORIGINAL, PENDING))
    try:
        _restart(commands)
    except NotRunning as problem:
        if original.exists():
            original.rename(located)
        _restart(commands)
        pending.unlink()
        message = f"with it containerd did not come back, and was restarted without it: {problem}"
        raise Failed(message) from problem
    pending.unlink()


def _restart(commands: Configure) -> None:
    """Restart containerd, and wait until it answers.

    Raises:
        NotRunning: The command to restart it fails, or containerd does not answer.
    """
    try:
        command = [*commands.on_host, *commands.restart_command]
        subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS, stdout=subprocess.DEVNULL)
        command = [*commands.on_host, *commands.ready_command]
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRunning(str(error)) from error
    message = f"{' '.join(command)}: {done.stderr.strip()[-300:]}"
    raise NotRunning(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
