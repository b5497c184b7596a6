"""Whether containerd reads the registry folder at all, from its configuration files.

No program tells: containerd with another configuration pulls from the upstreams and logs nothing. What it makes of
its files differs from release to release; each rule here names the function that it was read in, with the paths of
2.4 (1.x has them without cmd/containerd, core and internal), and tests/node compares the whole with real ones.

Where the release is not known, all that are supported are tried. Those that would not start with the files are left
out, since one runs.
"""

from __future__ import annotations

import copy
import glob
import os
import posixpath
import re
import tomllib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# The plugin that pulls images, as version 1 and 2 of the files call it, and its parts in later versions.
SHORT = "cri"
SERVICE = "io.containerd.grpc.v1.cri"
IMAGES = "io.containerd.cri.v1.images"
RUNTIME = "io.containerd.cri.v1.runtime"
TABLES = {
    SHORT: "[plugins.cri.registry]",
    SERVICE: f'[plugins."{SERVICE}".registry]',
    IMAGES: f'[plugins."{IMAGES}".registry]',
}
# Since 2.2, where neither it nor `mirrors` is set (plugins/cri/images/plugin.go, init).
DEFAULT = "/etc/containerd/certs.d:/etc/docker/certs.d"
DEFAULT_SINCE = (2, 2)
# The version of the files that every release knows.
SERVICE_VERSION = 2
# Releases that read their files differently, one for each group, and the group's name.
RELEASES = {(1, 7): "1.x", (2, 0): "2.0", (2, 1): "2.1", (2, 2): "2.2", (2, 4): "2.3 and 2.4"}
NEWEST = max(RELEASES)
# What may run where it is not said. 2.0 ended in 2025, and alone reads a list in a file of version 3: with it in mind,
# nobody could be told that the default of 2.2 and later is not read.
SUPPORTED = [release for release in RELEASES if release != (2, 0)]
# A snap's data are in a folder for each of its revisions, to which a link `current` leads.
SNAP_REVISION = re.compile(r"^(/var/snap/[^/]+)/x?[0-9]+(?=/|$)")
WILDCARD = re.compile(r"[*?\[\\]")
MOST_LINKS = 40

Release = tuple[int, int]


class NotVisible(Exception):
    """A file of the node that the pod cannot see, or not read; the message says which."""


class Refused(Exception):
    """containerd, or its CRI plugin, does not start with these files; the message says why.

    `curable` where a config_path in place of what is there is the cure.
    """

    def __init__(self, message: str, *, curable: bool = False) -> None:
        """Take note of both."""
        super().__init__(message)
        self.curable = curable


@dataclass(frozen=True)
class Reading:
    """The answer, None where it cannot be known; `problems` are sentences for people, with True what to look for."""

    reads: bool | None
    problems: tuple[str, ...] = ()


class Host:
    """The node's files, as far as its folders are mounted into the pod."""

    def __init__(self, mounts: Mapping[str, Path]) -> None:
        """Take note of where the node's folders are in the pod."""
        self._mounts = mounts

    def read(self, path: str) -> bytes:
        """The content of one of the node's files.

        Raises:
            NotVisible: it may be there, but the pod cannot tell.
            FileNotFoundError: it is not there.
        """
        try:
            return self._mounted(self.resolve(path)).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(path) from error
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror or error}"
            raise NotVisible(message) from error

    def glob(self, pattern: str) -> list[str]:
        """The node's files of a pattern, in the order and with the signs of Go's filepath.Glob.

        Raises:
            NotVisible: there may be some, but the pod cannot tell.
        """
        parts = pattern.split("/")
        first = next(index for index, part in enumerate(parts) if WILDCARD.search(part))
        folder = "/".join(parts[:first])
        rest = "/".join(parts[first:]).replace("[^", "[!")
        found = glob.glob(rest, root_dir=self._mounted(self.resolve(folder or "/")), include_hidden=True)  # noqa: PTH207
        return [f"{folder}/{name}" for name in sorted(found, key=lambda name: name.split("/"))]

    def resolve(self, path: str) -> str:
        """The path without the links that can be seen."""
        path = posixpath.normpath(path)
        for _ in range(MOST_LINKS):
            followed = next(self._follow(path), None)
            if followed is None:
                break
            path = followed
        return path

    def _follow(self, path: str) -> Iterator[str]:
        """The path after its first link."""
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            try:
                mounted = self._mounted("/".join(parts[:end]) or "/")
                target = os.readlink(mounted)  # noqa: PTH115 - as it is written: it is the node's path, not the pod's
            except (NotVisible, OSError):
                continue  # nothing to see there, or no link
            yield posixpath.normpath(posixpath.join("/".join(parts[: end - 1]) or "/", target, *parts[end:]))

    def _mounted(self, path: str) -> Path:
        for folder in sorted(self._mounts, key=len, reverse=True):
            if path == folder or path.startswith(folder.rstrip("/") + "/"):
                return self._mounts[folder] / path[len(folder) :].lstrip("/")
        message = f"{path} is not mounted into this pod"
        raise NotVisible(message)


class File(NamedTuple):
    """One file: `version` is 0 where it has none, `plugins` are the tables below [plugins]."""

    path: str
    version: int
    plugins: dict[str, Any]
    disabled: list[str]
    imports: list[str]


class Settings(NamedTuple):
    """What comes out for pulls: `local` is a pull that takes `config_path` for a list of folders."""

    config_path: str
    mirrors: bool
    local: bool


class Cure(NamedTuple):
    """What to write in which file: a line under a table; `version` where the file's first line has to say one.

    `clashes` is a file from which mirrors have to be taken out first, which is for a person to do.
    """

    path: str
    version: int | None
    table: str
    line: str
    clashes: str | None

    def __str__(self) -> str:
        """As the end of a sentence."""
        removal = f"take registry.mirrors and registry.configs.*.tls out of {self.clashes}, " if self.clashes else ""
        first = "" if self.version is None else f"version = {self.version} in its first line and "
        return f"{removal}write {first}{self.line} under {self.table} in {self.path}, and restart containerd"


class Finding(NamedTuple):
    """What one release does: `problem` is a sentence, to which what to write is added if it is `curable` so."""

    reads: bool | None
    problem: str = ""
    curable: bool = True


def look(configuration: str, registry_directory: str, host: Host, version: str | None = None) -> Reading:
    """Whether containerd reads a registry folder; paths are the node's, `version` is such as "2.2.1" or "v1.7.0"."""
    try:
        files = load(configuration, host)
    except NotVisible as problem:
        return Reading(None, (f"whether containerd reads {registry_directory} cannot be known: {problem}",))
    except Refused as problem:
        return Reading(reads=False, problems=(f"{problem}",))
    absent = not files
    # What containerd does without a file is what it does with an empty one.
    files = files or [File(configuration, 0, {}, [], [])]
    findings = _findings(files, registry_directory, host, _releases(version))
    answers = {finding.reads for finding in findings.values()}
    problems = _sentences(findings, files, registry_directory, host)
    if absent and problems:
        problems = (
            f"{configuration} is not there; if containerd has its configuration elsewhere, say where",
            *problems,
        )
    return Reading(answers.pop() if len(answers) == 1 else None, problems)


def load(path: str, host: Host) -> list[File]:
    """The file and all that it imports, in the order in which containerd merges them; none where there is no file.

    cmd/containerd/server/config/config.go, LoadConfigWithPlugins: imports of a file come after all that were found
    before, each file once. cmd/containerd/command/main.go, App: without a file it takes its defaults, but an imported
    one has to be there.

    Raises:
        NotVisible: a file may be there, but the pod cannot tell.
        Refused: containerd does not start with them.
    """
    files: list[File] = []
    pending = [(path, "")]
    while pending:
        path, importer = pending.pop(0)
        if path in {file.path for file in files}:
            continue
        try:
            file = _parse(path, host.read(path))
        except FileNotFoundError:
            if not importer:
                return []
            message = f"{importer} imports {path}, which is not there: containerd does not start with it"
            raise Refused(message) from None
        files.append(file)
        pending += [(found, path) for pattern in file.imports for found in _imported(pattern, path, host)]
    return files


def settings(files: list[File], release: Release) -> Settings:
    """What counts for pulls with these files; `config_path` is empty where none is set.

    internal/cri/config/config.go, ValidateImageConfig (until 1.7 pkg/cri/config/config.go, ValidatePluginConfig):
    with both `mirrors` and `config_path` the CRI plugin does not start, until 1.7 nor with both `configs.*.tls` and
    `config_path`.

    Raises:
        Refused: containerd or its CRI plugin does not start with them.
    """
    old = release < (2, 0)
    table = _table_before_2(files) if old else _table_since_2(files, release)
    registry = _below(table, "registry")
    config_path = registry.get("config_path", "")
    if not isinstance(config_path, str):
        message = f"{_where(files, 'config_path')}: config_path is no text, and containerd does not start with it"
        raise Refused(message)
    configs = _below(registry, "configs")
    for key, clashes in (
        ("mirrors", bool(registry.get("mirrors"))),
        ("configs", old and any(_below(configs, name).get("tls") for name in configs)),
    ):
        if clashes and config_path:
            name = "registry.mirrors" if key == "mirrors" else "registry.configs.*.tls"
            message = f"{_where(files, key)} sets {name} beside config_path, and containerd's CRI plugin does not start"
            raise Refused(message, curable=True)
    return Settings(config_path, bool(registry.get("mirrors")), local=release < (2, 1) or _pulls_locally(table))


def _parse(path: str, content: bytes) -> File:
    try:
        found = tomllib.loads(content.decode())
    except ValueError as error:
        message = f"{path} is no TOML, and containerd does not start with it: {error}"
        raise Refused(message) from error
    # Their values are not repeated in a message: there may be passwords among them.
    kinds = {
        "version": ("number", _is_number),
        "plugins": ("table of tables", _is_tables),
        "disabled_plugins": ("list of texts", _is_texts),
        "imports": ("list of texts", _is_texts),
    }
    for key, (kind, is_one) in kinds.items():
        if key in found and not is_one(found[key]):
            message = f"{path}: {key} is no {kind}, and containerd does not start with it"
            raise Refused(message)
    return File(
        path,
        version=found.get("version", 0),
        plugins=found.get("plugins", {}),
        disabled=found.get("disabled_plugins", []),
        imports=found.get("imports", []),
    )


def _is_number(value: object) -> bool:
    return type(value) is int


def _is_tables(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _imported(pattern: str, importer: str, host: Host) -> list[str]:
    """The files that one entry of `imports` names (config.go, resolveImports): only a `*` makes it a pattern."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(importer), pattern))
    return host.glob(path) if "*" in path else [path]


def _table_before_2(files: list[File]) -> dict[str, Any]:
    """The CRI plugin's table in 1.x (services/server/config/config.go, mergeConfig, ValidateV2 and Decode).

    A plugin's table replaces the one of an earlier file as a whole. The last version that is not 0 counts for all.
    """
    version = next((file.version for file in reversed(files) if file.version), 1)
    plugins: dict[str, Any] = {}
    for file in files:
        plugins |= file.plugins
    disabled = [name for file in files for name in file.disabled]
    if version > SERVICE_VERSION:
        message = f"{_where_version(files, version)} has version = {version}, and containerd does not start with it"
        raise Refused(message)
    name = SHORT if version <= 1 else SERVICE
    if version > 1:
        _check_names([*plugins, *disabled], files, parts=4)
    if name in disabled:
        raise Refused(_disabled(files, name))
    table: dict[str, Any] = plugins.get(name, {})
    return table


def _table_since_2(files: list[File], release: Release) -> dict[str, Any]:
    """The table of the CRI plugin's part for images in 2.x (config.go, LoadConfigWithPlugins and mergeConfig).

    Tables are merged key by key, the later file wins. Until 2.2 the tables of version 2 are moved after that, and only
    if the last version that is not 0 or 1 is 2 (server.go, New; so those of version 1 never are); since 2.3 they are
    moved in each file that is not of version 4. What is moved wins.
    """
    each = release >= (2, 3)
    known = 4 if each else 3
    version = known
    plugins: dict[str, Any] = {}
    disabled: list[str] = []
    for file in files:
        names = {name: SERVICE if file.version <= 1 and name == SHORT else name for name in file.plugins}
        tables = {names[name]: copy.deepcopy(table) for name, table in file.plugins.items()}
        disabled += [SERVICE if file.version <= 1 and name == SHORT else name for name in file.disabled]
        if each and file.version < known:
            _move(tables)
        if file.version > known or (not each and file.version > 1):
            version = file.version
        elif each:
            version = known
        _merge(plugins, tables)
    if version > known and release <= NEWEST:
        message = f"{_where_version(files, version)} has version = {version}, and containerd does not start with it"
        raise Refused(message)
    if version < known:
        _move(plugins)
    _check_names(disabled, files, parts=2)
    for name in (SERVICE, IMAGES, RUNTIME):
        if name in disabled:
            raise Refused(_disabled(files, name))
    table: dict[str, Any] = plugins.get(IMAGES, {})
    return table


def _move(plugins: dict[str, Any]) -> None:
    """Move what has to do with pulls out of version 2's table (plugins/cri/images/plugin.go, migrateConfig)."""
    old = plugins.get(SERVICE)
    if old is None:
        return
    new = plugins.setdefault(IMAGES, {})
    containerd = _below(old, "containerd")
    layers = ("disable_snapshot_annotations", "discard_unpacked_layers") if "runtimes" in containerd else ()
    new |= {key: old[key] for key in ("registry", "max_concurrent_downloads", "image_pull_with_sync_fs") if key in old}
    new |= {key: containerd[key] for key in layers if key in containerd}
    plugins[SERVICE] = {}


def _pulls_locally(table: dict[str, Any]) -> bool:
    """Whether pulls go past the transfer service, which takes `config_path` for one folder.

    internal/cri/config/config.go, CheckLocalImagePullConfigs, and internal/cri/server/images/image_pull.go,
    pullImageWithTransferService, with core/transfer/registry/registry.go, NewOCIRegistry. Known to containerd as its
    issue 12808, and so until 2.4.
    """
    registry = table.get("registry", {})
    return bool(
        table.get("use_local_image_pull")
        or not table.get("disable_snapshot_annotations", True)
        or table.get("discard_unpacked_layers")
        or table.get("image_pull_with_sync_fs")
        or table.get("max_concurrent_downloads", 3) != 3  # noqa: PLR2004 - the default
        or any(registry.get(key) for key in ("mirrors", "configs", "auths"))
    )


def _below(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        message = f"{key} is no table below containerd's CRI plugin, which does not start with it"
        raise Refused(message)
    return value


def _merge(into: dict[str, Any], tables: dict[str, Any]) -> None:
    for key, value in tables.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _check_names(names: list[str], files: list[File], parts: int) -> None:
    for name in names:
        if len(name.split(".")) < parts:
            holders = [file.path for file in files if name in file.plugins or name in file.disabled]
            message = f'{holders[-1]} calls a plugin "{name}", which is a name of version 1 alone, and does not start'
            raise Refused(message)


def _disabled(files: list[File], name: str) -> str:
    holders = [file.path for file in files if name in file.disabled or SHORT in file.disabled]
    return f"{holders[-1]} has the CRI plugin in disabled_plugins: take it out there, and restart containerd"


def _where_version(files: list[File], version: int) -> str:
    holders = [file.path for file in files if file.version == version]
    return holders[-1]


def _where(files: list[File], key: str) -> str:
    """The last file that has a key below `registry`, else the first of all."""
    holders = [file.path for file in files for name in TABLES if key in _registry(file, name)]
    return holders[-1] if holders else files[0].path


def _registry(file: File, name: str) -> dict[str, Any]:
    registry = file.plugins.get(name, {}).get("registry")
    return registry if isinstance(registry, dict) else {}


def _releases(version: str | None) -> list[Release]:
    """The release itself, or one of each group that is supported where it is not known."""
    numbers = re.match(r"v?([0-9]+)\.([0-9]+)", version or "")
    return [(int(numbers[1]), int(numbers[2]))] if numbers else SUPPORTED


def _findings(files: list[File], directory: str, host: Host, releases: list[Release]) -> dict[Release, Finding]:
    """What each release does; those that do not start with the files only where none does."""
    findings, refusals = {}, {}
    for release in releases:
        try:
            findings[release] = _judge(files, settings(files, release), directory, host, release)
        except Refused as problem:
            refusals[release] = Finding(reads=False, problem=f"{problem}", curable=problem.curable)
    return findings or refusals


def _judge(files: list[File], found: Settings, directory: str, host: Host, release: Release) -> Finding:
    """What a release does with its settings (internal/cri/server/images/image_pull.go, hostDirFromRoots)."""
    said = _said(files, found.config_path)
    if found.mirrors:
        return Finding(reads=False, problem=f"{_where(files, 'mirrors')} sets registry.mirrors and no config_path")
    if not found.config_path and release < DEFAULT_SINCE:
        return Finding(reads=False, problem=said)
    if not found.config_path:
        said += f", and containerd takes its default {DEFAULT}"
    folders = (found.config_path or DEFAULT).split(":")
    mine = [_is_same(folder, directory, host) for folder in folders]
    if not any(mine):
        return Finding(reads=False, problem=f"{said}, and not {directory}")
    if len(folders) > 1 and not found.local:
        said += ", a list, which containerd 2.1 to 2.4 takes for the name of one folder (its issue 12808)"
        return Finding(reads=False if release <= NEWEST else None, problem=said)
    if not mine[0]:
        said += f": what {folders[0]} has for an upstream, or in _default, hides {directory}"
        return Finding(reads=True, problem=said, curable=False)
    return Finding(reads=True)


def _said(files: list[File], config_path: str) -> str:
    if config_path:
        return f"{_where(files, 'config_path')}: config_path is {config_path}"
    elsewhere = [(file.path, name) for file in files for name in TABLES if _registry(file, name).get("config_path")]
    if elsewhere:
        path, name = elsewhere[-1]
        return f"the config_path under {TABLES[name]} in {path} does not count"
    return f"{files[0].path} sets no config_path"


def _is_same(one: str, other: str, host: Host) -> bool:
    return _plain(host.resolve(one)) == _plain(host.resolve(other))


def _plain(path: str) -> str:
    """A path with one way to write it; two slashes in front stay for normpath."""
    written = re.sub("^/+", "/", posixpath.normpath(path))
    return SNAP_REVISION.sub(r"\1/current", written)


def _sentences(findings: dict[Release, Finding], files: list[File], directory: str, host: Host) -> tuple[str, ...]:
    """A sentence for each problem, with the releases that have it where others have not."""
    common = _cure(files, directory, host, list(findings))
    sentences: dict[str, list[Release]] = {}
    for release, finding in findings.items():
        cure = (common or _cure(files, directory, host, [release])) if finding.curable else None
        if finding.problem:
            said = f"{finding.problem}: {cure}" if cure else finding.problem
            sentences.setdefault(said, []).append(release)
    return tuple(
        said if len(having) == len(findings) else f"containerd {', '.join(RELEASES[one] for one in having)}: {said}"
        for said, having in sentences.items()
    )


def cure(configuration: str, registry_directory: str, host: Host, version: str | None = None) -> Cure | None:
    """What makes containerd read a registry folder, with arguments as of `look`; none where nothing does.

    Raises:
        NotVisible: a file may be there, but the pod cannot tell.
        Refused: containerd does not start with the files.
    """
    files = load(configuration, host) or [File(configuration, 0, {}, [], [])]
    findings = _findings(files, registry_directory, host, _releases(version))
    return _cure(files, registry_directory, host, list(findings))


def _cure(files: list[File], directory: str, host: Host, releases: list[Release]) -> Cure | None:
    """The first that helps in all of the releases.

    It is tried before it is said: the rules are too many for a table of advice.
    """
    cleared = [_without_what_clashes(file) for file in files]
    holders = [file.path for file, clear in zip(files, cleared, strict=True) if file != clear]
    # Where there is a config_path already, then where people look, then where nothing comes after it.
    paths = [_where(files, "config_path"), *(file.path for file in (files[0], *reversed(files)))]
    for path, (version, name) in product(paths, _ways(files[0])):
        trial = [_with_config_path(file, name, directory) if file.path == path else file for file in cleared]
        trial[0] = trial[0]._replace(version=version)
        findings = _findings(trial, directory, host, releases)
        if len(findings) == len(releases) and all(found.reads and not found.problem for found in findings.values()):
            return Cure(
                path,
                version=None if version == files[0].version else version,
                table=TABLES[name],
                line=f'config_path = "{directory}"',
                clashes=holders[-1] if holders else None,
            )
    return None


def _ways(main: File) -> list[tuple[int, str]]:
    """The versions and tables by which a config_path can be said, given what the first file has."""
    if main.version == SERVICE_VERSION:
        return [(main.version, SERVICE), (main.version, IMAGES)]
    if main.version > SERVICE_VERSION:
        return [(main.version, IMAGES), (main.version, SERVICE)]
    # Every release knows version 2, but it has no short names.
    is_free = all("." in name for name in (*main.plugins, *main.disabled))
    return [*([(SERVICE_VERSION, SERVICE)] if is_free else []), (main.version, SHORT), (main.version, IMAGES)]


def _with_config_path(file: File, name: str, directory: str) -> File:
    plugins = copy.deepcopy(file.plugins)
    _merge(plugins, {name: {"registry": {"config_path": directory}}})
    return file._replace(plugins=plugins)


def _without_what_clashes(file: File) -> File:
    plugins = copy.deepcopy(file.plugins)
    cleared = file._replace(plugins=plugins)
    for registry in (_registry(cleared, name) for name in TABLES):
        registry.pop("mirrors", None)
        configs = registry.get("configs")
        for entry in configs.values() if isinstance(configs, dict) else ():
            if isinstance(entry, dict):
                entry.pop("tls", None)
    return cleared
