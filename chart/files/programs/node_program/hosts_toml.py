"""The text of a hosts.toml that asks the cache first, and what was there before next.

What containerd makes of it: core/remotes/docker/config/hosts.go. Hosts are tried in the order of their tables, the
server comes last. `dial_timeout` is known since containerd 2.1; older versions ignore it.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from common.endpoint import Endpoint

MARK = "# registry-cache: written by "
MADE_FOLDER = "# registry-cache: the folder was made for it"
TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


class CannotMerge(Exception):
    """What is there cannot be kept together with the cache; the message says why. It is left as it is."""


class Mirror(NamedTuple):
    """A cache to be asked first; `server` is the URL of the upstream, `dial_timeout` a Go duration."""

    server: str
    endpoint: Endpoint
    dial_timeout: str


def render(mirror: Mirror, owner: str, *, before: str = "", made_folder: bool = False) -> str:
    """The whole file. `before` is the hosts.toml that counts without us: its keys stay, its hosts follow the cache.

    Raises:
        CannotMerge: `before` is no TOML, or is written so that no table can be put in front of its own.
    """
    found = _parse(before)
    if mirror.endpoint.url in found.get("host", {}):
        message = f"it names {mirror.endpoint.url} already"
        raise CannotMerge(message)
    top, tables = _split(before)
    lines = [f"{MARK}{owner}", *([MADE_FOLDER] if made_folder else [])]
    # Without a server containerd asks the upstream by its own name, where it serves no images if it has another URL.
    # A server that is there already stays: somebody wants these pulls to end there.
    if "server" not in found:
        lines.append(f"server = {_quoted(mirror.server)}")
    lines += [line for line in (top.rstrip("\n"),) if line]
    lines += [
        "",
        f"[host.{_quoted(mirror.endpoint.url)}]",
        '  capabilities = ["pull", "resolve"]',
        f"  dial_timeout = {_quoted(mirror.dial_timeout)}",
    ]
    text = "\n".join(lines) + "\n"
    if tables:
        text += f"\n{tables}"
    _check(text, found, mirror)
    return text


def owner_of(text: str) -> str | None:
    """Who wrote the file, `namespace/name`; None where it is somebody else's and not a registry cache's."""
    first = text.partition("\n")[0]
    return first.removeprefix(MARK).strip() if first.startswith(MARK) else None


def folder_was_made(text: str) -> bool:
    """Whether the file's folder was made for it, so that it goes with it."""
    return MADE_FOLDER in text.splitlines()[:2]


def from_certificates(names: list[str], folder: str = "") -> str:
    """The keys that do what the certificate files of a folder without hosts.toml do (hosts.go, loadCertFiles).

    `folder` stands before each name: how to get there from the folder of the file that the keys are for.

    Raises:
        CannotMerge: some client certificates have keys and some have none, which the keys cannot say.
    """
    authorities = sorted(name for name in names if name.endswith(".crt"))
    clients = sorted(name for name in names if name.endswith(".cert"))
    with_key = [name for name in clients if f"{name.removesuffix('.cert')}.key" in names]
    lines = []
    if authorities:
        lines.append(f"ca = [{', '.join(_quoted(folder + name) for name in authorities)}]")
    if clients and with_key == clients:
        keys = [f"{name.removesuffix('.cert')}.key" for name in clients]
        pairs = [
            f"[{_quoted(folder + name)}, {_quoted(folder + key)}]" for name, key in zip(clients, keys, strict=True)
        ]
        lines.append(f"client = [{', '.join(pairs)}]")
    elif clients and not with_key:
        lines.append(f"client = [{', '.join(_quoted(folder + name) for name in clients)}]")
    elif clients:
        message = "of its client certificates some have a key and some have none"
        raise CannotMerge(message)
    return "\n".join(lines) + "\n" if lines else ""


def names_relative_files(text: str) -> bool:
    """Whether it names certificates by a path that means something in its own folder alone."""
    try:
        found = _parse(text)
    except CannotMerge:
        return False
    tables = [found, *found.get("host", {}).values()]
    files = [_strings(table.get(key, [])) for table in tables for key in ("ca", "client")]
    return any(not name.startswith("/") for names in files for name in names)


def _parse(text: str) -> dict[str, Any]:
    try:
        text.encode()  # what is no UTF-8 was read with surrogates; containerd ignores such a file
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeEncodeError) as error:
        message = f"it is not TOML: {error}"
        raise CannotMerge(message) from error
    hosts = found.get("host", {})
    if not isinstance(hosts, dict) or not all(isinstance(host, dict) for host in hosts.values()):
        message = "its hosts are no tables"
        raise CannotMerge(message)
    return found


def _split(text: str) -> tuple[str, str]:
    """What stands before the first table, and the rest."""
    table = TABLE.search(text)
    return (text[: table.start()], text[table.start() :]) if table else (text, "")


def _check(text: str, before: dict[str, Any], mirror: Mirror) -> None:
    """Make sure, by reading it as containerd will, that all that was there is there, and the cache in front."""
    ours = {"capabilities": ["pull", "resolve"], "dial_timeout": mirror.dial_timeout}
    hosts = {mirror.endpoint.url: ours, **before.get("host", {})}
    wanted = {"server": mirror.server, **before, "host": hosts}
    try:
        merged = _parse(text)
    except CannotMerge:
        merged = {}
    if merged != wanted or list(merged["host"]) != list(hosts):
        message = "it is written so that no host can be put in front of its own"
        raise CannotMerge(message)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
