"""Whether containerd reads the registry directory, as far as its configuration files tell.

containerd does not report it: without a config_path that names the directory, it pulls from the upstreams and logs
nothing. The rules here are those of all releases, and a few on which many nodes depend. A configuration that needs
more rules, or that the pod cannot see, is unknown. docs/decisions/0009 says what was left out.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Release = tuple[int, int]
T = TypeVar("T")

# The plugin that has the registry settings: in a file without a version, of version 2, and of version 3 or 4.
SHORT = "cri"
SERVICE = "io.containerd.grpc.v1.cri"
IMAGES = "io.containerd.cri.v1.images"
PLUGIN_OF_VERSION = {2: SERVICE, 3: IMAGES, 4: IMAGES}
HEADER = '[plugins."{}".registry]'
LINE = 'config_path = "{}"'
# What containerd 2.2 and later take if no file sets config_path (plugins/cri/images/plugin.go).
DEFAULT_CONFIG_PATH = "/etc/containerd/certs.d:/etc/docker/certs.d"
# The last release that takes a list in config_path for one directory. Compare it with each new release of containerd.
LAST_RELEASE_WITHOUT_LISTS = (2, 4)
# The data of a snap are in a directory for each revision, and the symbolic link `current` leads to one of them.
SNAP_REVISION = re.compile(r"^(/var/snap/[^/]+)/x?[0-9]+(?=/|$)")


class Unknown(Exception):
    """The pod cannot tell what containerd reads; the message says why."""


class Finding(NamedTuple):
    """Whether containerd reads the registry directory, None if unknown; `problem` says why not and what to change."""

    reads: bool | None
    problem: str = ""


class File(NamedTuple):
    """One configuration file; `version` is 0 if the file does not set it."""

    path: str
    version: int
    plugins: dict[str, Any]
    disabled: list[Any]
    imports: list[Any]

    def registry(self, plugin: str) -> dict[str, Any]:
        """Return the registry settings of a plugin."""
        return _get(self.path, _get(self.path, self.plugins, plugin, dict), "registry", dict)


class NodeFiles:
    """The node's files, as far as their directories are mounted into the pod."""

    def __init__(self, mounts: Mapping[str, Path]) -> None:
        """Remember where the node's directories are in the pod."""
        self._mounts = mounts

    def locate(self, path: str) -> Path:
        """Return where a file or a directory of the node is in the pod.

        Raises:
            Unknown: It is not mounted, or it is a symbolic link to something that is not.
        """
        for directory, mounted in self._mounts.items():
            if f"{path}/".startswith(f"{directory}/"):
                located = mounted / path[len(directory) :].lstrip("/")
                if Path(os.path.realpath(located)).is_relative_to(os.path.realpath(mounted)):
                    return located
                message = f"{path} is a symbolic link that leads out of {directory}"
                raise Unknown(message)
        message = f"{path} is not mounted into this pod"
        raise Unknown(message)

    def read(self, path: str) -> str | None:
        """Return the text of one of the node's files, None if the file does not exist.

        Raises:
            Unknown: The pod cannot see it or cannot read it.
        """
        located = self.locate(path)
        try:
            return located.read_text(encoding="utf-8") if os.path.lexists(located) else None
        except (OSError, UnicodeDecodeError) as error:
            message = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise Unknown(message) from error

    def expand(self, entry: str, importer: str) -> list[str]:
        """Return the files that an entry of `imports` names, in the order in which containerd loads them.

        Raises:
            Unknown: The pod cannot see them, or the entry is a pattern that some release does not resolve like this.
        """
        path = posixpath.normpath(posixpath.join(posixpath.dirname(importer), entry))
        if "*" not in entry:
            return [path]
        directory, name = posixpath.split(path)
        # 1.6 takes a relative pattern as relative to its working directory.
        if re.search(r"\*.*/|[\[\\]", path) or not posixpath.isabs(entry):
            message = f"{importer} imports {entry}, a pattern other than a * in the last part of an absolute path"
            raise Unknown(message)
        return [f"{directory}/{found.name}" for found in sorted(self.locate(directory).glob(name))]


def check_registry_directory(configuration: str, registry_directory: str, node: NodeFiles, version: str) -> Finding:
    """Return whether containerd reads the registry directory.

    The paths are the node's. `version` is containerd's, or empty if it is not known.
    """
    try:
        finding = assess_files(load_files(configuration, node), registry_directory, parse_release(version))
        exists = node.read(configuration) is not None
    except Unknown as problem:
        finding, exists = Finding(None, str(problem)), True
    if finding.reads is None:
        return Finding(None, f"whether containerd reads {registry_directory} is unknown: {finding.problem}")
    if not exists:
        hint = "if containerd has its configuration elsewhere, set nodeProgram.containerdConfig"
        return Finding(finding.reads, f"{configuration} does not exist; {hint}; {finding.problem}")
    return finding


def parse_release(version: str) -> Release | None:
    """Return the release in a version such as "v2.2.1", or in what `containerd --version` prints."""
    numbers = re.search(r"\bv?([0-9]+)\.([0-9]+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def load_files(path: str, node: NodeFiles) -> list[File]:
    """Return the files that containerd loads, in its order: imports come after all files that were found before.

    Without the first file, containerd does what it does with an empty one (cmd/containerd/command/main.go, and
    cmd/containerd/server/config/config.go, LoadConfigWithPlugins).

    Raises:
        Unknown: The pod cannot see or cannot understand one of the files.
    """
    files: list[File] = []
    pending = [path]
    while pending:
        path = pending.pop(0)
        if path in {file.path for file in files}:
            continue
        text = node.read(path) if files else node.read(path) or ""
        if text is None:
            message = f"{path} is imported and does not exist"
            raise Unknown(message)
        files.append(parse_file(path, text))
        for entry in files[-1].imports:
            pending += node.expand(str(entry), path)
    return files


def parse_file(path: str, text: str) -> File:
    """Return what matters of a configuration file.

    Raises:
        Unknown: containerd would not accept it.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides what is not TOML, the parser rejects numbers with thousands of digits, and recurses with each bracket.
        message = f"{path} is not valid TOML: {error}"
        raise Unknown(message) from error
    return File(
        path,
        version=_get(path, content, "version", int),
        plugins=_get(path, content, "plugins", dict),
        disabled=_get(path, content, "disabled_plugins", list),
        imports=_get(path, content, "imports", list),
    )


def assess_files(files: list[File], registry_directory: str, release: Release | None) -> Finding:
    """Return whether containerd reads the registry directory once it has loaded these files.

    Raises:
        Unknown: Releases differ in what they make of the files, in ways that are not known here.
    """
    for file in files:
        if {SHORT, SERVICE, IMAGES}.intersection(map(str, file.disabled)):
            problem = f"{file.path} has the CRI plugin in disabled_plugins: take it out, and restart containerd"
            return Finding(reads=False, problem=problem)
    change = describe_change(files, registry_directory)
    plugin = PLUGIN_OF_VERSION.get(files[0].version, "")
    settings = _merge(files, plugin, release, change)
    path, config_path = settings.get("config_path", (files[0].path, ""))
    problem = f"{path}: config_path is {config_path}" if config_path else f"{path} sets no config_path"
    is_default = not config_path and (release is None or release >= (2, 2))
    if is_default:
        config_path = DEFAULT_CONFIG_PATH
        problem += f", and containerd 2.2 and later take the default {config_path}"
    wanted, *directories = map(_normalize, (registry_directory, *config_path.split(":")))
    reads: bool | None = False
    if settings.get("mirrors"):
        problem = "with registry.mirrors containerd reads no registry directory"
    elif wanted in directories:
        reads = len(directories) == 1 or _reads_lists(settings, files[0].version, release, is_default=is_default)
        if reads and directories[0] == wanted:
            return Finding(reads=True)
        if reads:
            reads = None
            problem += f", and what {directories[0]} has for an upstream hides {registry_directory}"
        else:
            problem += ", a list, which containerd 2.1 to 2.4 takes for one directory (its issue 12808)"
    elif config_path:
        problem += f", not {registry_directory}"
    return Finding(reads, f"{problem}: {change}")


def describe_change(files: list[File], registry_directory: str) -> str:
    """Return what to change so that containerd reads the registry directory, as a part of a sentence."""
    main = files[0]
    plugin = IMAGES if main.version > 2 else SERVICE  # noqa: PLR2004 - as in PLUGIN_OF_VERSION
    # Of several files with the plugin's table, the last one wins in every release.
    last = next((file for file in reversed(files) if plugin in file.plugins), main)
    steps = [f"take {settings} out of {file.path}" for file in files if (settings := find_obstacles(file))]
    if main.version not in PLUGIN_OF_VERSION:
        # 1.x does not start with the names of version 1 in a file of version 2.
        short = any("." not in name for name in (*main.plugins, *map(str, main.disabled)))
        steps.append(f"make {main.path} a file of version 2" if short else f"begin {main.path} with version = 2")
    steps.append(f"write {LINE.format(registry_directory)} under {HEADER.format(plugin)} in {last.path}")
    return f"{', '.join(steps)}, and restart containerd"


def find_obstacles(file: File) -> str:
    """Return the settings beside which a config_path stops the CRI plugin of some release from starting."""
    registries = [file.registry(plugin) for plugin in (SHORT, SERVICE, IMAGES)]
    configs = [config for registry in registries for config in _get(file.path, registry, "configs", dict).values()]
    names = ["registry.mirrors"] if any(registry.get("mirrors") for registry in registries) else []
    names += (
        ["registry.configs.*.tls"] if any("tls" in config for config in configs if isinstance(config, dict)) else []
    )
    return " and ".join(names)


def _merge(files: list[File], plugin: str, release: Release | None, change: str) -> dict[str, Any]:
    """Return the settings that decide how containerd pulls, and with config_path the file that sets it.

    1.x takes a plugin's table from the last file that has it, and 2.x merges the tables key by key (mergeConfig in
    config.go). Releases rename the plugins of older versions by rules of their own, some in each file and some in all
    files at once (cmd/containerd/server/server.go, New), so all files have to be of one version and name its plugin.
    """
    main = files[0]
    for file in files:
        others = [name for name in (SHORT, SERVICE, IMAGES) if name != plugin and file.registry(name)]
        if others or file.version not in (0, main.version) or file.version > max(PLUGIN_OF_VERSION):
            version = f"{file.path} (version {file.version or main.version or 'not set'})"
            place = f"{HEADER.format(others[0])} in {version}" if others else version
            message = f"{place} does not count in every release of containerd: {change}"
            raise Unknown(message)
    tables = [_settings(file, plugin) for file in files if plugin in file.plugins]
    if plugin == SERVICE and (release is None or release < (2, 0)):
        if release is None and len(tables) > 1:
            message = f"containerd 1.x and 2.x merge {HEADER.format(plugin)} of several files differently: {change}"
            raise Unknown(message)
        tables = tables[-1:]
    return {key: value for table in tables for key, value in table.items()}


def _settings(file: File, plugin: str) -> dict[str, Any]:
    registry = file.registry(plugin)
    config_path = _get(file.path, registry, "config_path", str)
    # In version 2 some are elsewhere, and only count beside a table of runtimes (plugins/cri/images/plugin.go).
    layers = _get(file.path, file.plugins[plugin], "containerd", dict)
    table: dict[str, Any] = file.plugins[plugin] | (layers if "runtimes" in layers else {}) | registry
    # Only the one in the registry's table counts.
    table.pop("config_path", None)
    return table | ({"config_path": (file.path, config_path)} if "config_path" in registry else {})


def _reads_lists(settings: dict[str, Any], version: int, release: Release | None, *, is_default: bool) -> bool | None:
    """Return whether containerd takes a list in config_path for a list.

    Since 2.1 it does so only if it pulls without its transfer service: internal/cri/config/config.go,
    CheckLocalImagePullConfigs, and internal/cri/server/images/image_pull.go, pullImageWithTransferService.
    """
    if release is not None and release < (2, 1):
        return True
    switches = ["discard_unpacked_layers", "image_pull_with_sync_fs", "configs", "auths"]
    switches += ["use_local_image_pull"] if PLUGIN_OF_VERSION.get(version) == IMAGES else []
    if (
        settings.get("max_concurrent_downloads", 3) != 3  # noqa: PLR2004 - the default
        or not settings.get("disable_snapshot_annotations", True)
        or any(settings.get(switch) for switch in switches)
    ):
        # 2.0 and 2.1 have no default, and 2.2 has none if config_path is there and empty.
        return None if is_default and (release is None or release < (2, 3)) else True
    if release is not None:
        return None if release > LAST_RELEASE_WITHOUT_LISTS else False
    # containerd before 2.1 would read the list, but has no default, no version 4, and no such switch.
    is_since_2_1 = is_default or version == max(PLUGIN_OF_VERSION) or "use_local_image_pull" in settings
    return False if is_since_2_1 else None


def _normalize(path: str) -> str:
    return SNAP_REVISION.sub(r"\1/current", posixpath.normpath(path))


def _get(path: str, table: dict[str, Any], key: str, kind: type[T]) -> T:
    value = table.get(key, kind())
    if type(value) is not kind:
        message = f"{path} is not valid: {key} has the wrong type"
        raise Unknown(message)
    return value
