"""containerd's registry folder: puts a cache's hosts.toml in, takes it out, and keeps what was there before.

Every step is one rename, so that a program killed at any moment leaves a folder that containerd can read and that the
next start can tidy:

- hosts.toml of ours has our mark in its first line; all else is somebody else's;
- a foreign hosts.toml is linked to ORIGINAL before ours takes its name, and renamed back when ours goes. The name has
  no ending that containerd reads;
- a folder is never empty: it appears and goes together with its file, since an empty one hides `_default`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

import hosts_toml
from hosts_toml import CannotMerge, Mirror

if TYPE_CHECKING:
    from pathlib import Path

HOSTS = "hosts.toml"
ORIGINAL = "hosts.toml.before-registry-cache"
DEFAULT = "_default"


class InUse(Exception):
    """Another release's program looks after this upstream; the message names it."""


class RegistryDirectory:
    """The folder that containerd's config_path names, as seen and changed by the program of one release."""

    def __init__(self, root: Path, owner: str) -> None:
        """Look after `root` as `owner`, which is `namespace/name` of the release's objects."""
        self._root = root
        self._owner = owner
        self._temporary = f".registry-cache-{hashlib.sha256(owner.encode()).hexdigest()[:8]}"

    def tidy(self, upstreams: list[str]) -> list[str]:
        """Remove what an earlier run left, but for the given upstreams, and return the upstreams that were left."""
        kept = {folder for upstream in upstreams for folder in _folder_names(upstream)}
        removed = []
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()):
            if folder.name == self._temporary:
                shutil.rmtree(folder)
                continue
            (folder / self._temporary).unlink(missing_ok=True)
            if folder.name not in kept and self._is_ours(_read(folder / HOSTS)):
                self._withdraw(folder)
                removed.append(folder.name)
        return removed

    def activate(self, upstream: str, mirror: Mirror) -> bool:
        """Make containerd ask the cache first, and return whether that took a change.

        Raises:
            CannotMerge: what is there cannot be kept together with it.
            InUse: another release looks after the upstream.
            OSError: the folder cannot be written.
        """
        folder = self._folder(upstream)
        current = _read(folder / HOSTS)
        owner = hosts_toml.owner_of(current) if current is not None else None
        if owner is not None and owner != self._owner:
            message = f"the nodes' program of {owner} looks after it"
            raise InUse(message)
        if current is None:
            # Gone while ours was there: somebody wanted it gone, and what it was made from with it.
            (folder / ORIGINAL).unlink(missing_ok=True)
        if not folder.exists():
            self._create(folder, self._render(mirror, self._before_in_default(), made_folder=True))
            return True
        made = owner is not None and hosts_toml.folder_was_made(current or "")
        before = self._before_in_default() if made else self._before_in_folder(folder, current, owner)
        wanted = self._render(mirror, before, made_folder=made)
        if wanted == current:
            return False
        if current is not None and owner is None:
            _keep(folder / HOSTS, folder / ORIGINAL)
        self._replace(folder / HOSTS, wanted)
        return True

    def withdraw(self, upstream: str) -> bool:
        """Put back what was there before, and return whether that took a change.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = self._folder(upstream)
        if not self._is_ours(_read(folder / HOSTS)):
            # Replaced or removed while ours was there: that is what counts now.
            if hosts_toml.owner_of(_read(folder / HOSTS) or "") is None:
                (folder / ORIGINAL).unlink(missing_ok=True)
            return False
        self._withdraw(folder)
        return True

    def _withdraw(self, folder: Path) -> None:
        made = hosts_toml.folder_was_made(_read(folder / HOSTS) or "")
        if (folder / ORIGINAL).exists():
            (folder / ORIGINAL).rename(folder / HOSTS)
            _sync(folder)
        elif made and [path.name for path in folder.iterdir()] == [HOSTS]:
            shutil.rmtree(self._root / self._temporary, ignore_errors=True)
            folder.rename(self._root / self._temporary)
            shutil.rmtree(self._root / self._temporary)
            _sync(self._root)
        else:
            (folder / HOSTS).unlink()
            _sync(folder)

    def _folder(self, upstream: str) -> Path:
        """The folder that containerd reads for an upstream, or that it would look for first."""
        names = _folder_names(upstream)
        return next((self._root / name for name in names if (self._root / name).is_dir()), self._root / names[0])

    def _before_in_folder(self, folder: Path, current: str | None, owner: str | None) -> str:
        """The hosts.toml that counts for an upstream whose folder was there before us.

        Raises:
            CannotMerge: there is none, and its certificate files cannot be said in one.
        """
        foreign = current if owner is None else _read(folder / ORIGINAL)
        # containerd takes an empty file for none, too.
        return foreign or hosts_toml.from_certificates([path.name for path in folder.iterdir() if path.is_file()])

    def _before_in_default(self) -> str:
        """The hosts.toml that counts for an upstream without a folder of its own.

        Raises:
            CannotMerge: it names files that only its own folder has.
        """
        text = _read(self._root / DEFAULT / HOSTS) or ""
        if hosts_toml.names_relative_files(text):
            message = f"{DEFAULT}/{HOSTS}, which counts for it too, names files by relative paths"
            raise CannotMerge(message)
        return text

    def _render(self, mirror: Mirror, before: str, *, made_folder: bool) -> str:
        return hosts_toml.render(mirror, self._owner, before=before, made_folder=made_folder)

    def _is_ours(self, text: str | None) -> bool:
        return text is not None and hosts_toml.owner_of(text) == self._owner

    def _create(self, folder: Path, text: str) -> None:
        """Make a folder that is never seen without its file."""
        temporary = self._root / self._temporary
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o755)
        temporary.chmod(0o755)
        _write(temporary / HOSTS, text)
        temporary.rename(folder)
        _sync(self._root)

    def _replace(self, path: Path, text: str) -> None:
        temporary = path.with_name(self._temporary)
        _write(temporary, text)
        temporary.rename(path)
        _sync(path.parent)


def _folder_names(upstream: str) -> list[str]:
    """The names under which containerd looks for an upstream, first to last (config_unix.go, hostPaths)."""
    host, colon, port = upstream.partition(":")
    return [f"{host}_{port}_", upstream] if colon else [upstream]


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file and have it on the disk before it takes its name."""
    try:
        with path.open("wb") as file:
            file.write(text.encode("utf-8", errors="surrogateescape"))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _keep(path: Path, kept: Path) -> None:
    """Give a foreign file a second name; the same file, so its mode, owner and time are kept too."""
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(path)
    except OSError as error:
        # fs.protected_hardlinks: not for a file of another user, without the capability.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copy2(path, kept)


def _sync(folder: Path) -> None:
    """Have a folder's renames on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
