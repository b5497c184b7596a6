"""The text of a hosts.toml that names the cache first, followed by what was there before.

How containerd reads it: core/remotes/docker/config/hosts.go. It tries hosts in the order of their tables, and the
server last. containerd 2.1 and newer know `dial_timeout`; older versions ignore it.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from common.endpoint import Endpoint

MARK = "# registry-cache: written by "
CREATED_FOLDER = "# registry-cache: the folder was made for it"
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


class CannotMerge(Exception):
    """What is there cannot be combined with the cache, and is left unchanged; the message says why."""


class Mirror(NamedTuple):
    """A cache to be asked first; `server` is the URL of the upstream, `dial_timeout` a Go duration."""

    server: str
    endpoint: Endpoint
    dial_timeout: str


def render(mirror: Mirror, owner: str, *, before: str = "", created_folder: bool = False) -> str:
    """Return the whole file. It keeps the keys of `before`, which is what containerd reads without us, and its hosts.

    Raises:
        CannotMerge: `before` is not TOML, or no table can be put in front of its own.
    """
    existing = _parse(before)
    if mirror.endpoint.url in existing.get("host", {}):
        message = f"it names {mirror.endpoint.url} already"
        raise CannotMerge(message)
    top, tables = _split(before)
    lines = [f"{MARK}{owner}", *([CREATED_FOLDER] if created_folder else [])]
    # Without a server, containerd asks the upstream at its own name, which fails if its images are at another URL.
    # A server that is there already stays: somebody wants these pulls to end there.
    if "server" not in existing:
        lines.append(f"server = {_quote(mirror.server)}")
    lines += [line for line in (top.rstrip("\n"),) if line]
    lines += [
        "",
        f"[host.{_quote(mirror.endpoint.url)}]",
        '  capabilities = ["pull", "resolve"]',
        f"  dial_timeout = {_quote(mirror.dial_timeout)}",
    ]
    text = "\n".join(lines) + "\n"
    if tables:
        text += f"\n{tables}"
    _check_merged(text, existing, mirror)
    return text


def owner_of(text: str) -> str | None:
    """Return the namespace/name of the release that wrote the file, or None if no registry cache did."""
    first = text.partition("\n")[0]
    return first.removeprefix(MARK).strip() if first.startswith(MARK) else None


def folder_was_created(text: str) -> bool:
    """Whether the folder of the file was created for it, and so has to be removed with it."""
    return CREATED_FOLDER in text.splitlines()[:2]


def keys_for_certificates(names: list[str], path: str = "") -> str:
    """Return the keys that stand for the certificate files of a folder without hosts.toml (hosts.go, loadCertFiles).

    `path` leads to the files from the folder of the hosts.toml.

    Raises:
        CannotMerge: Some client certificates have keys and some do not, which a hosts.toml cannot express.
    """
    authorities = sorted(name for name in names if name.endswith(".crt"))
    clients = sorted(name for name in names if name.endswith(".cert"))
    with_key = [name for name in clients if f"{name.removesuffix('.cert')}.key" in names]
    lines = []
    if authorities:
        lines.append(f"ca = [{', '.join(_quote(path + name) for name in authorities)}]")
    if clients and with_key == clients:
        keys = [f"{name.removesuffix('.cert')}.key" for name in clients]
        pairs = [f"[{_quote(path + name)}, {_quote(path + key)}]" for name, key in zip(clients, keys, strict=True)]
        lines.append(f"client = [{', '.join(pairs)}]")
    elif clients and not with_key:
        lines.append(f"client = [{', '.join(_quote(path + name) for name in clients)}]")
    elif clients:
        message = "some of its client certificates have a key and some do not"
        raise CannotMerge(message)
    return "\n".join(lines) + "\n" if lines else ""


def names_relative_files(text: str) -> bool:
    """Whether it names certificates by paths that are relative to its own folder."""
    try:
        existing = _parse(text)
    except CannotMerge:
        return False
    tables = [existing, *existing.get("host", {}).values()]
    files = [_strings(table.get(key, [])) for table in tables for key in ("ca", "client")]
    return any(not name.startswith("/") for names in files for name in names)


def _parse(text: str) -> dict[str, Any]:
    try:
        text.encode()  # bytes that are not UTF-8 were read as surrogates; containerd ignores such a file
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides what is not TOML, the parser rejects numbers with thousands of digits, and recurses with each bracket.
        message = f"it is not TOML: {error}"
        raise CannotMerge(message) from error
    hosts = content.get("host", {})
    if not isinstance(hosts, dict) or not all(isinstance(host, dict) for host in hosts.values()):
        message = "its hosts are not tables"
        raise CannotMerge(message)
    return content


def _split(text: str) -> tuple[str, str]:
    """Return what precedes the first table, and the rest."""
    table = _TABLE.search(text)
    return (text[: table.start()], text[table.start() :]) if table else (text, "")


def _check_merged(text: str, before: dict[str, Any], mirror: Mirror) -> None:
    """Read the text as containerd will, and check that it has all that was there before, after the cache."""
    ours = {"capabilities": ["pull", "resolve"], "dial_timeout": mirror.dial_timeout}
    hosts = {mirror.endpoint.url: ours, **before.get("host", {})}
    wanted = {"server": mirror.server, **before, "host": hosts}
    try:
        merged = _parse(text)
    except CannotMerge:
        merged = {}
    if merged != wanted or list(merged["host"]) != list(hosts):
        message = "no host can be put in front of its own, the way it is written"
        raise CannotMerge(message)


def _strings(value: object) -> list[str]:
    """Return a string, or all strings in nested lists."""
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
