"""The environment in which systemd starts a service, as far as its files in the pod say.

How systemd reads them: systemd.syntax(7), systemd.unit(5) on drop-ins, and systemd.exec(5) on Environment,
EnvironmentFile and UnsetEnvironment. The unit itself may be in a directory that the pod does not see, such as
/usr/lib/systemd/system: vendors set no proxy there.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from node_program.containerd_configuration import NodeFiles

MANAGER_DROP_INS = "system.conf.d"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Variable(NamedTuple):
    """The value of a variable, and the file that sets it."""

    value: str
    file: str


class Setting(NamedTuple):
    """A line `key=value` of a unit or a drop-in."""

    key: str
    value: str
    file: str


Environment = dict[str, Variable]


def read_environment(unit: str, directories: Iterable[str], node: NodeFiles) -> Environment:
    """Return the variables of a service; `directories` are those of the node with units, in systemd's order.

    Raises:
        Unknown: The pod cannot see or cannot read one of the files that count.
    """
    environment: Environment = {}
    for setting in _settings(_files_of_manager(directories, node), "Manager", node):
        if setting.key == "DefaultEnvironment":
            environment.update(_assignments(setting))
    own: Environment = {}
    files: list[str] = []
    unset: list[str] = []
    for setting in _settings(_files_of_unit(unit, directories, node), "Service", node):
        # An empty value resets a list.
        if setting.key == "Environment":
            own = {**own, **_assignments(setting)} if setting.value else {}
        elif setting.key == "EnvironmentFile":
            files = [*files, _unescape(setting.value)] if setting.value else []
        elif setting.key == "UnsetEnvironment":
            unset = [*unset, *_words(setting.value)] if setting.value else []
    environment |= own
    for file in files:
        environment |= _read_environment_files(file, node)
    return {name: found for name, found in environment.items() if not {name, f"{name}={found.value}"} & {*unset}}


def _files_of_manager(directories: Iterable[str], node: NodeFiles) -> Iterator[str]:
    for directory in directories:
        if directory.endswith(f"/{MANAGER_DROP_INS}"):
            yield from node.expand(f"{directory}/*.conf", directory)


def _files_of_unit(unit: str, directories: Iterable[str], node: NodeFiles) -> list[str]:
    """Return the unit and then its drop-ins; in both the first directory that has one of a name wins."""
    kind = unit.rpartition(".")[2]
    units: list[str] = []
    drop_ins: dict[str, str] = {}
    for directory in directories:
        if node.read(f"{directory}/{unit}") is not None:
            units.append(f"{directory}/{unit}")
        for folder in (f"{directory}/{unit}.d", f"{directory}/{kind}.d"):
            for file in node.expand(f"{folder}/*.conf", folder):
                drop_ins.setdefault(file.rpartition("/")[2], file)
    return [*units[:1], *(drop_ins[name] for name in sorted(drop_ins))]


def _settings(files: Iterable[str], section: str, node: NodeFiles) -> Iterator[Setting]:
    for file in files:
        current = ""
        for line in _lines(node.read(file) or ""):
            if line.startswith("["):
                current = line.strip("[]")
            elif current == section:
                key, _, value = line.partition("=")
                yield Setting(key.strip(), value.strip(), file)


def _lines(text: str) -> Iterator[str]:
    """Return the lines without comments; a line that ends with a backslash continues with the next one."""
    pending = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
        elif pending:
            yield pending
            pending = ""
    if pending:
        yield pending


def _assignments(setting: Setting) -> Environment:
    environment = {}
    for word in _words(setting.value):
        name, is_assignment, value = word.partition("=")
        if is_assignment and _ASSIGNMENT.fullmatch(name):
            environment[name] = Variable(_unescape(value), setting.file)
    return environment


def _read_environment_files(pattern: str, node: NodeFiles) -> Environment:
    """Return the variables in the files that a value of EnvironmentFile names; one that does not exist has none."""
    environment: Environment = {}
    path = pattern.removeprefix("-")
    for file in node.expand(path, path):
        for line in _lines(node.read(file) or ""):
            name, is_assignment, value = (part.strip() for part in line.partition("="))
            if is_assignment and _ASSIGNMENT.fullmatch(name):
                is_quoted = value.startswith(("'", '"'))
                environment[name] = Variable(" ".join(_words(value)) if is_quoted else value, file)
    return environment


def _words(text: str) -> list[str]:
    """Return the words of a value without their quotes; systemd leaves a line with an open quote out."""
    with suppress(ValueError):
        return shlex.split(text)
    return []


def _unescape(text: str) -> str:
    """Return the text with `%%` as one %; other specifiers do not occur where it matters."""
    return text.replace("%%", "%")
