"""The registry directory, in which containerd finds its mirrors: adds a cache's hosts.toml, and restores the rest.

If the program is killed at any moment, containerd can read the directory, and the next start can tidy it up:

- A hosts.toml of ours has our mark in its first line; any other file belongs to somebody else.
- Each file and folder appears, changes and disappears with a single rename.
- While a hosts.toml of ours is there, the foreign one that it replaces is kept as ORIGINAL, a name that containerd
  does not read. It is renamed back when ours is withdrawn.
- A folder appears and disappears together with its file, because an empty folder would hide `_default`.

All of this happens under a lock on the directory, so that neither two caches nor the programs of two releases get in
each other's way. Each program also holds a lock file of its own while it runs. If nobody holds the lock file of a
release, its program was killed, and its files may be removed, whatever the release was called.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from common.files import flush_folder, write_and_flush

from node_program import certificate_files, hosts_toml
from node_program.hosts_toml import CannotMerge, Mirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = "hosts.toml"
ORIGINAL = "hosts.toml.before-registry-cache"
MOVED = "hosts.toml.moved-by-registry-cache"
DEFAULT = "_default"
HOSTS_MODE = 0o644
FOLDER_MODE = 0o755
LOCK = ".registry-cache-{}.lock"


class OwnedByOtherRelease(Exception):
    """The program of another release manages this upstream; the message names it."""


class RegistryDirectory:
    """The directory that containerd's config_path names, as the program of one release sees and changes it."""

    # A single name is enough, because it is used under the lock.
    _temporary = ".registry-cache-new"

    def __init__(self, root: Path, owner: str) -> None:
        """Manage `root` for `owner`, which is the namespace/name of the release's objects."""
        self._root = root
        self._owner = owner
        self._created: set[str] = set()
        self._own_lock: int | None = None
        self.not_tidied: dict[str, OSError] = {}

    def tidy(self, upstreams: list[str]) -> list[str]:
        """Withdraw what an earlier run left for other upstreams than these, and return the folders it was in.

        Afterwards, `not_tidied` has the folders in which that failed, with the reason.

        Raises:
            OSError: The registry directory itself cannot be read or written.
        """
        kept = {folder for upstream in upstreams for folder in _folder_names(upstream)}
        tidied = []
        self.not_tidied = {}
        with self._locked():
            for folder in sorted(path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()):
                try:
                    if folder.name in kept:
                        self._recover(folder)
                        if self._is_only_ours(folder):
                            self._created.add(folder.name)
                    elif self._remove_hosts(folder):
                        tidied.append(folder.name)
                except OSError as error:
                    if self._may_be_ours(folder):
                        self.not_tidied[folder.name] = error
            for path in self._root.glob(LOCK.format("*")):
                if path != self._lock_file(self._owner) and not _is_held(path):
                    path.unlink()
            certificate_files.remove_unused(self._root, _read)
        return tidied

    def activate(self, upstream: str, mirror: Mirror) -> bool:
        """Make containerd ask the cache first, and return whether anything had to be changed.

        Raises:
            CannotMerge: What is there cannot be combined with the cache.
            OwnedByOtherRelease: Another release manages the upstream.
            OSError: The folder cannot be read or written.
        """
        with self._locked():
            chosen = self._choose_folder(upstream)
            for name in _folder_names(upstream):
                if name != chosen.name:
                    self._remove_hosts(self._root / name)
            mirror = self._with_certificates(mirror)
            is_changed = self._write_hosts(chosen, mirror)
            if is_changed:
                certificate_files.remove_unused(self._root, _read)
            return is_changed

    def _with_certificates(self, mirror: Mirror) -> Mirror:
        """Write the files with the certificates of a mirror, and return it with their paths."""
        if mirror.authorities:
            path = certificate_files.install(self._root, certificate_files.AUTHORITIES, mirror.authorities)
            mirror = mirror._replace(ca=path)
        if mirror.client_certificate:
            path = certificate_files.install(self._root, certificate_files.WITH_KEY, mirror.client_certificate)
            mirror = mirror._replace(client=path)
        return mirror

    def withdraw(self, upstream: str) -> bool:
        """Restore what was there before, and return whether anything had to be changed.

        Raises:
            OSError: The folder cannot be read or written.
        """
        with self._locked():
            removed = [self._remove_hosts(self._root / name) for name in _folder_names(upstream)]
            return any(removed)

    def close(self) -> None:
        """Show the other programs that this one has ended; no method may be called afterwards.

        Raises:
            OSError: The registry directory cannot be written.
        """
        with self._locked():
            certificate_files.remove_unused(self._root, _read)
            if self._own_lock is not None:
                self._lock_file(self._owner).unlink(missing_ok=True)
                os.close(self._own_lock)
                self._own_lock = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, and remove what an earlier holder left unfinished."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # On a full disk, no file can be created, but one can be removed, which is more important.
            with suppress(OSError):
                self._hold_own_lock()
            self._discard(self._root / self._temporary)
            yield
        finally:
            os.close(descriptor)

    def _hold_own_lock(self) -> None:
        """Hold this program's lock file from now on; the kernel releases it, however the program ends."""
        if self._own_lock is not None:
            return
        descriptor = os.open(self._lock_file(self._owner), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._own_lock = descriptor

    def _lock_file(self, owner: str) -> Path:
        return self._root / LOCK.format(sha256(owner.encode()).hexdigest()[:12])

    def _is_ours(self, owner: str | None) -> bool:
        """Whether files with this mark belong to this program, or to one that was killed."""
        return owner is not None and (owner == self._owner or not _is_held(self._lock_file(owner)))

    def _choose_folder(self, upstream: str) -> Path:
        """Return the folder that containerd would read without us, or its first choice if there is none."""
        folders = [self._root / name for name in _folder_names(upstream)]
        foreign = (folder for folder in folders if os.path.lexists(folder) and not self._is_only_ours(folder))
        return next(foreign, folders[0])

    def _write_hosts(self, folder: Path, mirror: Mirror) -> bool:
        self._recover(folder)
        current = _read(folder / HOSTS)
        owner = hosts_toml.owner_of(current or "")
        if owner is not None and not self._is_ours(owner):
            message = f"the upstream is managed by the node program of {owner}"
            raise OwnedByOtherRelease(message)
        if current is None:
            # Somebody removed ours, and so does not want the file either from which it was made.
            (folder / ORIGINAL).unlink(missing_ok=True)
        is_foreign = current is not None and owner is None
        is_only_ours = self._is_only_ours(folder)
        create = not folder.exists() or (is_only_ours and current is None)
        created = create or (not is_foreign and hosts_toml.folder_was_created(current or ""))
        if not create:
            (self._created.add if created else self._created.discard)(folder.name)
        use_default = create or is_only_ours
        try:
            if use_default:
                before = self._read_default()
            else:
                before = _read_mirrors(folder, current if is_foreign else _read(folder / ORIGINAL))
            wanted = hosts_toml.render(mirror, self._owner, before=before, created_folder=created)
        except CannotMerge as problem:
            message = f"{DEFAULT if use_default else folder.name}/{HOSTS} is left unchanged: {problem}"
            raise CannotMerge(message) from problem
        if create:
            self._create_folder(folder, wanted)
            return True
        if wanted == current and stat.S_IMODE((folder / HOSTS).stat().st_mode) == HOSTS_MODE:
            return False
        write_and_flush(folder / self._temporary, _encode(wanted), HOSTS_MODE)
        if is_foreign:
            _keep_original(folder)
        (folder / self._temporary).rename(folder / HOSTS)
        self._recover(folder)
        flush_folder(folder)
        return True

    def _remove_hosts(self, folder: Path) -> bool:
        """Leave the folder as it would be without us, and return whether a file of ours was there."""
        if not folder.is_dir():
            return False
        self._recover(folder)
        current = _read(folder / HOSTS)
        owner = hosts_toml.owner_of(current or "")
        if self._is_ours(owner):
            self._restore(folder)
            return True
        if owner is None:
            # Somebody replaced or removed ours, and that is what counts now.
            (folder / ORIGINAL).unlink(missing_ok=True)
            if current is None and self._is_only_ours(folder):
                folder.rmdir()
            self._created.discard(folder.name)
        return False

    def _restore(self, folder: Path) -> None:
        if os.path.lexists(folder / ORIGINAL):
            (folder / ORIGINAL).rename(folder / HOSTS)
        elif self._is_only_ours(folder):
            self._remove_folder(folder)
            self._created.discard(folder.name)
            return
        else:
            (folder / HOSTS).unlink()
        flush_folder(folder)

    def _recover(self, folder: Path) -> None:
        """Finish or undo what a call that was killed or failed began in a folder."""
        (folder / self._temporary).unlink(missing_ok=True)
        if os.path.lexists(folder / MOVED):
            (folder / MOVED).rename(folder / (ORIGINAL if os.path.lexists(folder / HOSTS) else HOSTS))

    def _is_only_ours(self, folder: Path) -> bool:
        """Whether the folder was created for our file, and nobody else has put anything into it."""
        names = {path.name for path in folder.iterdir()} - {self._temporary} if folder.is_dir() else {"no folder"}
        if not names:
            return folder.name in self._created
        text = _read(folder / HOSTS) or ""
        return names == {HOSTS} and self._is_ours(hosts_toml.owner_of(text)) and hosts_toml.folder_was_created(text)

    def _may_be_ours(self, folder: Path) -> bool:
        """Whether a folder that cannot be tidied is known to hold a file of ours; an unreadable one is not."""
        try:
            return self._is_ours(hosts_toml.owner_of(_read(folder / HOSTS) or ""))
        except OSError:
            return False

    def _read_default(self) -> str:
        """Return what containerd reads without us for an upstream that has no folder of its own.

        Raises:
            CannotMerge: It names files by paths that are relative to its own folder.
        """
        folder = self._root / DEFAULT
        text = _read(folder / HOSTS)
        if text and hosts_toml.names_relative_files(text):
            message = "it applies to this upstream too, but names files by relative paths"
            raise CannotMerge(message)
        return _read_mirrors(folder, text, f"../{DEFAULT}/")

    def _create_folder(self, folder: Path, text: str) -> None:
        """Create a folder that is never visible without its file."""
        temporary = self._root / self._temporary
        temporary.mkdir()
        temporary.chmod(FOLDER_MODE)
        write_and_flush(temporary / HOSTS, _encode(text), HOSTS_MODE)
        flush_folder(temporary)
        temporary.rename(folder)
        self._created.add(folder.name)
        flush_folder(self._root)

    def _remove_folder(self, folder: Path) -> None:
        """Remove a folder of ours together with its file."""
        temporary = self._root / self._temporary
        folder.rename(temporary)
        flush_folder(self._root)
        self._discard(temporary)

    def _discard(self, temporary: Path) -> None:
        if os.path.lexists(temporary):
            (temporary / HOSTS).unlink(missing_ok=True)
            temporary.rmdir()


def _folder_names(upstream: str) -> list[str]:
    """Return the folders in which containerd looks for an upstream, in its order (config_unix.go, hostPaths)."""
    host, colon, port = upstream.rpartition(":")
    return [f"{host}_{port}_", upstream] if colon else [upstream]


def _read_mirrors(folder: Path, text: str | None, path: str = "") -> str:
    """Return what containerd reads in a folder as a hosts.toml: `text`, or its certificates if there is no hosts.toml.

    `path` leads to the certificates.

    Raises:
        CannotMerge: Only the node itself can see it, or a hosts.toml cannot express the certificates.
    """
    if text is None and (folder / HOSTS).is_symlink():
        message = "it is a link to a file outside the registry directory"
        raise CannotMerge(message)
    # An empty file counts as none, for containerd too.
    if text or not folder.is_dir():
        return text or ""
    return hosts_toml.keys_for_certificates([file.name for file in folder.iterdir() if not file.is_dir()], path)


def _is_held(lock: Path) -> bool:
    """Whether a running program holds a lock file."""
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
        return _read_bytes(path).decode("utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _read_bytes(path: Path) -> bytes:
    """Return a file's content even if its mode forbids that, which binds root without capabilities, not containerd."""
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


def _keep_original(folder: Path) -> None:
    """Give a foreign hosts.toml a second name, or another name; as the same file, it keeps its mode, owner and time."""
    (folder / ORIGINAL).unlink(missing_ok=True)
    try:
        os.link(folder / HOSTS, folder / ORIGINAL, follow_symlinks=False)
    except OSError:
        # Some file systems have no hard links; and a process without the capability cannot link another user's file
        # (fs.protected_hardlinks). Then there is no hosts.toml for a moment. The name MOVED tells _recover that nobody
        # removed it on purpose.
        (folder / HOSTS).rename(folder / MOVED)
    flush_folder(folder)
