"""containerd's registry folder: puts a cache's hosts.toml in, takes it out, and keeps what was there before.

A program killed at any moment leaves a folder that containerd can read and that the next start can tidy:

- hosts.toml of ours has our mark in its first line; all else is somebody else's;
- each file and folder appears, changes and goes by one rename;
- a foreign hosts.toml is kept as ORIGINAL while ours has its name, and renamed back when ours goes. The name has no
  ending that containerd reads;
- a folder is never empty: it appears and goes together with its file, since an empty one hides `_default`.

Everything is done under one lock on the folder, so that neither two caches nor the programs of two releases meet.
Each program also holds a lock file of its own for as long as it lives: the files of a release whose lock nobody holds
were left by a program that was killed, and are ours to take out, whatever that release was called.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from common.files import sync_folder, write_and_sync

from node_program import hosts_toml
from node_program.hosts_toml import CannotMerge, Mirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = "hosts.toml"
ORIGINAL = "hosts.toml.before-registry-cache"
MOVED = "hosts.toml.moved-by-registry-cache"
DEFAULT = "_default"
MODE = 0o644
LOCK = ".registry-cache-{}.lock"


class InUse(Exception):
    """Another release's program looks after this upstream; the message names it."""


class RegistryDirectory:
    """The folder that containerd's config_path names, as seen and changed by the program of one release."""

    # One name is enough: only who holds the lock uses it.
    _temporary = ".registry-cache-new"

    def __init__(self, root: Path, owner: str) -> None:
        """Look after `root` as `owner`, which is `namespace/name` of the release's objects."""
        self._root = root
        self._owner = owner
        self._made: set[str] = set()
        self._alive: int | None = None
        self.stuck: dict[str, OSError] = {}

    def tidy(self, upstreams: list[str]) -> list[str]:
        """Take out what an earlier run left, but for the given upstreams, and return the folders it was taken out of.

        What could not be taken out is in `stuck` then, with the reason.

        Raises:
            OSError: the registry folder itself cannot be read or written.
        """
        kept = {folder for upstream in upstreams for folder in _names(upstream)}
        removed = []
        self.stuck = {}
        with self._alone():
            for folder in sorted(path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()):
                try:
                    if folder.name in kept:
                        self._recover(folder)
                        if self._is_all_ours(folder):
                            self._made.add(folder.name)
                    elif self._take_out(folder):
                        removed.append(folder.name)
                except OSError as error:
                    if self._may_be_ours(folder):
                        self.stuck[folder.name] = error
            for path in self._root.glob(LOCK.format("*")):
                if path != self._lock_file(self._owner) and not _is_held(path):
                    path.unlink()
        return removed

    def activate(self, upstream: str, mirror: Mirror) -> bool:
        """Make containerd ask the cache first, and return whether that took a change.

        Raises:
            CannotMerge: what is there cannot be kept together with it.
            InUse: another release looks after the upstream.
            OSError: the folder cannot be read or written.
        """
        with self._alone():
            chosen = self._folder(upstream)
            for name in _names(upstream):
                if name != chosen.name:
                    self._take_out(self._root / name)
            return self._put_in(chosen, mirror)

    def withdraw(self, upstream: str) -> bool:
        """Put back what was there before, and return whether that took a change.

        Raises:
            OSError: the folder cannot be read or written.
        """
        with self._alone():
            taken = [self._take_out(self._root / name) for name in _names(upstream)]
            return any(taken)

    def close(self) -> None:
        """Say that this program is no more; nothing is to be called after it.

        Raises:
            OSError: the registry folder cannot be written.
        """
        with self._alone():
            if self._alive is not None:
                self._lock_file(self._owner).unlink(missing_ok=True)
                os.close(self._alive)
                self._alive = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock, and have nothing around that an earlier holder did not get done with."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # On a disk that is full a file cannot be made, but one can be taken out, which matters more.
            with suppress(OSError):
                self._show_life()
            self._discard(self._root / self._temporary)
            yield
        finally:
            os.close(descriptor)

    def _show_life(self) -> None:
        """Hold this program's own lock, from now on; the kernel lets go of it whatever ends the program."""
        if self._alive is not None:
            return
        descriptor = os.open(self._lock_file(self._owner), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._alive = descriptor

    def _lock_file(self, owner: str) -> Path:
        return self._root / LOCK.format(sha256(owner.encode()).hexdigest()[:12])

    def _is_ours(self, owner: str | None) -> bool:
        """Whether files with this mark are this program's, or left by one that was killed."""
        return owner is not None and (owner == self._owner or not _is_held(self._lock_file(owner)))

    def _folder(self, upstream: str) -> Path:
        """The folder that containerd would read for an upstream without us; where there is none, its first choice."""
        folders = [self._root / name for name in _names(upstream)]
        taken = (folder for folder in folders if os.path.lexists(folder) and not self._is_all_ours(folder))
        return next(taken, folders[0])

    def _put_in(self, folder: Path, mirror: Mirror) -> bool:
        self._recover(folder)
        current = _read(folder / HOSTS)
        owner = hosts_toml.owner_of(current or "")
        if owner is not None and not self._is_ours(owner):
            message = f"the nodes' program of {owner} looks after it"
            raise InUse(message)
        if current is None:
            # Gone while ours was there: somebody wanted it gone, and what it was made from with it.
            (folder / ORIGINAL).unlink(missing_ok=True)
        foreign = current is not None and owner is None
        all_ours = self._is_all_ours(folder)
        create = not folder.exists() or (all_ours and current is None)
        made = create or (not foreign and hosts_toml.folder_was_made(current or ""))
        if not create:
            (self._made.add if made else self._made.discard)(folder.name)
        default = create or all_ours
        try:
            if default:
                before = self._before_in_default()
            else:
                before = _before(folder, current if foreign else _read(folder / ORIGINAL))
            wanted = hosts_toml.render(mirror, self._owner, before=before, made_folder=made)
        except CannotMerge as problem:
            message = f"{DEFAULT if default else folder.name}/{HOSTS} is left as it is: {problem}"
            raise CannotMerge(message) from problem
        if create:
            self._create(folder, wanted)
            return True
        if wanted == current and stat.S_IMODE((folder / HOSTS).stat().st_mode) == MODE:
            return False
        write_and_sync(folder / self._temporary, _encode(wanted), MODE)
        if foreign:
            _keep(folder)
        (folder / self._temporary).rename(folder / HOSTS)
        self._recover(folder)
        sync_folder(folder)
        return True

    def _take_out(self, folder: Path) -> bool:
        """Leave the folder as it would be without us, and return whether our file was there."""
        if not folder.is_dir():
            return False
        self._recover(folder)
        current = _read(folder / HOSTS)
        owner = hosts_toml.owner_of(current or "")
        if self._is_ours(owner):
            self._restore(folder)
            return True
        if owner is None:
            # Replaced or removed while ours was there: that is what counts now.
            (folder / ORIGINAL).unlink(missing_ok=True)
            if current is None and self._is_all_ours(folder):
                folder.rmdir()
            self._made.discard(folder.name)
        return False

    def _restore(self, folder: Path) -> None:
        if os.path.lexists(folder / ORIGINAL):
            (folder / ORIGINAL).rename(folder / HOSTS)
        elif self._is_all_ours(folder):
            self._remove(folder)
            self._made.discard(folder.name)
            return
        else:
            (folder / HOSTS).unlink()
        sync_folder(folder)

    def _recover(self, folder: Path) -> None:
        """End what a call that was killed or refused began in a folder."""
        (folder / self._temporary).unlink(missing_ok=True)
        if os.path.lexists(folder / MOVED):
            (folder / MOVED).rename(folder / (ORIGINAL if os.path.lexists(folder / HOSTS) else HOSTS))

    def _is_all_ours(self, folder: Path) -> bool:
        """Whether the folder was made for our file, and nobody put anything else into it."""
        names = {path.name for path in folder.iterdir()} - {self._temporary} if folder.is_dir() else {"no folder"}
        if not names:
            return folder.name in self._made
        text = _read(folder / HOSTS) or ""
        return names == {HOSTS} and self._is_ours(hosts_toml.owner_of(text)) and hosts_toml.folder_was_made(text)

    def _may_be_ours(self, folder: Path) -> bool:
        """Whether a folder that cannot be tidied is known to hold a file of ours; one that cannot be read is not."""
        try:
            return self._is_ours(hosts_toml.owner_of(_read(folder / HOSTS) or ""))
        except OSError:
            return False

    def _before_in_default(self) -> str:
        """What counts without us for an upstream that has no folder of its own.

        Raises:
            CannotMerge: it names files by paths that mean something in its own folder alone.
        """
        folder = self._root / DEFAULT
        text = _read(folder / HOSTS)
        if text and hosts_toml.names_relative_files(text):
            message = "it counts for this upstream too, but names files by relative paths"
            raise CannotMerge(message)
        return _before(folder, text, f"../{DEFAULT}/")

    def _create(self, folder: Path, text: str) -> None:
        """Make a folder that is never seen without its file."""
        temporary = self._root / self._temporary
        temporary.mkdir()
        temporary.chmod(0o755)
        write_and_sync(temporary / HOSTS, _encode(text), MODE)
        sync_folder(temporary)
        temporary.rename(folder)
        self._made.add(folder.name)
        sync_folder(self._root)

    def _remove(self, folder: Path) -> None:
        """Take a folder of ours away together with its file."""
        temporary = self._root / self._temporary
        folder.rename(temporary)
        sync_folder(self._root)
        self._discard(temporary)

    def _discard(self, temporary: Path) -> None:
        if os.path.lexists(temporary):
            (temporary / HOSTS).unlink(missing_ok=True)
            temporary.rmdir()


def _names(upstream: str) -> list[str]:
    """The folders in which containerd looks for an upstream, first to last (config_unix.go, hostPaths)."""
    host, colon, port = upstream.rpartition(":")
    return [f"{host}_{port}_", upstream] if colon else [upstream]


def _before(folder: Path, text: str | None, path: str = "") -> str:
    """What containerd reads in a folder, as a hosts.toml: its own `text`, else its certificates, to which `path` leads.

    Raises:
        CannotMerge: only the node itself can see it, or the certificates cannot be said in a hosts.toml.
    """
    if text is None and (folder / HOSTS).is_symlink():
        message = "it is a link to a file outside the registry folder"
        raise CannotMerge(message)
    # An empty file counts as none, for containerd too.
    if text or not folder.is_dir():
        return text or ""
    return hosts_toml.from_certificates([file.name for file in folder.iterdir() if not file.is_dir()], path)


def _is_held(lock: Path) -> bool:
    """Whether a program that lives holds a lock file."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> str | None:
    try:
        return _bytes(path).decode("utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _bytes(path: Path) -> bytes:
    """A file's content, also where its mode forbids it: root without capabilities is bound by it, containerd is not."""
    try:
        return path.read_bytes()
    except PermissionError:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise
        path.chmod(mode | stat.S_IRUSR)
        try:
            return path.read_bytes()
        finally:
            path.chmod(stat.S_IMODE(mode))


def _keep(folder: Path) -> None:
    """Give a foreign hosts.toml a second name, or another one; the same file, so mode, owner and time are kept too."""
    (folder / ORIGINAL).unlink(missing_ok=True)
    try:
        os.link(folder / HOSTS, folder / ORIGINAL, follow_symlinks=False)
    except OSError:
        # Some file systems have no second names; without the capability, another user's file gets none
        # (fs.protected_hardlinks). Then there is no hosts.toml for a moment, and _recover knows by the name that
        # nobody wanted it gone.
        (folder / HOSTS).rename(folder / MOVED)
    sync_folder(folder)
