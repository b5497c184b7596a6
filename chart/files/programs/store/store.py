"""The volume: distribution's storage folder, kept by this program alone (distribution, registry/storage/paths.go).

Others read it at the same time: distribution its links and manifests, nginx its blobs. So each file appears by one
rename, with all its bytes on the disk, and what goes is taken out from the end that readers come from: tags, links,
content. A reader sees a whole file or none.

A program killed at any system call leaves a folder that distribution can read and that the next `load` can tidy.
Nothing else is kept of it: a blob's last use is its file's time of change, all else is read from the folder.

Two locks. `_lock` guards what is known and what the names in the folder are, and is held for a few system calls that
touch names alone: nothing is read, written or flushed under it. `_room` is held while room is made and taken, so that
two who do that do not see each other's half: it comes before `_lock` where both are held.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

EXPIRED = "expired"
EVICTED = "evicted"
DAMAGED = "damaged"

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# github.com/distribution/reference, regexp.go
COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(f"{COMPONENT}(?:/{COMPONENT})*")
LONGEST_REPOSITORY = 255
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
NOTHING = "sha256:" + hashlib.sha256().hexdigest()

# Bytes: file systems give room in these.
BLOCK = 4096
# Bytes that are reserved at once for a part of unknown size.
STEP = 16 * 1024 * 1024
# Seconds: a last use is written to the disk no more often.
USE_INTERVAL = 60.0
# Inodes to keep free: each blob takes about six with its folders and one link. On a small volume, its 20th part.
FREE_INODES = 300
INODES_OF_A_FILE = 2
# So many things that a manifest names are known: each takes some 500 bytes of memory for as long as it is there.
MOST_NAMES = 1000
# How many blobs at least are evicted for a disk that says it is full although its figures say otherwise.
PATIENCE = 8

# So many evicted blobs are remembered, the latest ones.
REMEMBERED = 10_000

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {
    errno.ENOSPC: "no space is left on the volume",
    errno.EDQUOT: "the volume's quota is used up",
    errno.EROFS: "the volume is read-only",
    errno.EFBIG: "it is larger than a file on the volume may be",
}
# What says nothing about the file that was to be read.
NOT_THE_FILE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

T = TypeVar("T")


class NoRoom(Exception):
    """It cannot be held; the message says why."""


class WrongContent(Exception):
    """What was written has not the digest or the size that was asked for."""


class Statistics(NamedTuple):
    """What the store is like now; all sizes are bytes."""

    bytes_stored: int
    blobs: int
    """All of them, manifests too."""
    manifests: int
    tags: int
    may_hold: int
    free: int
    """On the file system, whoever may take it."""
    oldest_use: float | None
    """Seconds since the epoch."""
    removed: Counter[str]
    """How many blobs were removed since the start, by reason."""
    came_back: int
    """Bytes that were stored although they had been evicted before, since the start."""
    stuck: int
    """How many files and folders could not be removed or read."""
    high_water: float
    """The share of what may be held that is left to content."""


@dataclass(slots=True, eq=False)
class _Blob:
    size: int
    taken: int
    """Bytes on the disk."""
    used: float
    """Last use, in seconds since the epoch, and as it is on the disk."""
    used_on_disk: float
    layers: set[str] = field(default_factory=set)
    """The repositories in which it is linked as a layer, and as a manifest."""
    manifests: set[str] = field(default_factory=set)
    tags: set[tuple[str, str]] = field(default_factory=set)
    """The tags that point to it or did so before."""
    names: dict[str, int] = field(default_factory=dict)
    """A manifest's config, layers and manifests: their sizes."""
    verified: bool = False
    damaged: bool = False
    """Its content is wrong, and the disk refused to have it removed."""


class _Link(NamedTuple):
    """A file that holds the digest of a blob."""

    kind: str
    repository: str
    tag: str = ""

    def folder(self, digest: str) -> str:
        """Where it lies, below the repositories' folder."""
        hexadecimal = digest.removeprefix("sha256:")
        manifests = f"{self.repository}/_manifests"
        return {
            "layer": f"{self.repository}/_layers/sha256/{hexadecimal}",
            "revision": f"{manifests}/revisions/sha256/{hexadecimal}",
            "index": f"{manifests}/tags/{self.tag}/index/sha256/{hexadecimal}",
            "current": f"{manifests}/tags/{self.tag}/current",
        }[self.kind]


class Part:
    """One blob under way: one thread writes it, many may read it.

    Whoever began it has to commit or to abandon it.
    """

    def __init__(self, store: Store, digest: str, size: int | None, path: Path) -> None:
        """Know where it is to be; `Store.begin` makes it."""
        self.path = path
        self.written = 0
        self.reserved = 0
        self.allocated = False
        self.descriptor = -1
        self.digest = digest
        self.size = size
        self._store = store
        self._hash = hashlib.sha256()

    @property
    def on_disk(self) -> int:
        """How many of its bytes the file system does not count as free any more."""
        return self.reserved if self.allocated else self.written

    def open(self) -> FileIO:
        """Open it for reading, under way or committed.

        Raises:
            OSError: it was abandoned or removed, or cannot be read.
        """
        with self._store._lock:  # noqa: SLF001 - its path changes under it
            return self.path.open("rb", buffering=0)

    def write(self, data: bytes | memoryview) -> None:
        """Add to it.

        Raises:
            WrongContent: that is more than it was to be; it is abandoned.
            NoRoom: the volume cannot hold that.
            OSError: the disk refuses it otherwise.
        """
        if self.size is not None and self.written + len(data) > self.size:
            self.abandon()
            message = f"more came than the {self.size} bytes that it was to have"
            raise WrongContent(message)
        self._store._grow(self, len(data))  # noqa: SLF001 - the store's other half
        left = memoryview(data)
        while left:
            done = self._store._attempt(  # noqa: SLF001
                partial(os.pwrite, self.descriptor, left, self.written), len(left)
            )
            self._hash.update(left[:done])
            self.written += done
            left = left[done:]

    def commit(self, repository: str) -> None:
        """Make it a blob of the store, linked as a layer in a repository.

        Raises:
            WrongContent: it is not what it was to be.
            NoRoom: the volume cannot hold its names.
            OSError: the disk refuses it otherwise. In all these cases it is abandoned, unless it became a blob and
                only its link is missing.
        """
        self._store._commit(self, [_Link("layer", _checked(repository))])  # noqa: SLF001

    def check(self) -> None:
        """Compare it with what it was to be.

        Raises:
            WrongContent: it is something else.
        """
        if self.size is not None and self.written != self.size:
            message = f"{self.written} bytes came of the {self.size} that it was to have"
            raise WrongContent(message)
        if f"sha256:{self._hash.hexdigest()}" != self.digest:
            message = f"what came has the digest sha256:{self._hash.hexdigest()}, not {self.digest}"
            raise WrongContent(message)

    def close(self) -> None:
        """Write no more; for the store."""
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def abandon(self) -> None:
        """Take it away, where it was not committed or abandoned yet."""
        self._store._abandon(self)  # noqa: SLF001


class Store:
    """What the volume holds."""

    def __init__(
        self, root: Path, capacity: int, *, high_water: float = 0.85, now: Callable[[], float] = time.time
    ) -> None:
        """Keep the storage folder `root`, with at most `capacity` bytes of blobs in it.

        That is an upper bound, since the volume may be smaller, or shared. `keep_room` leaves `high_water` of what
        may be held. What was removed or read in vain is in `stuck`, with the reason.
        """
        self._capacity = capacity
        self._high_water = high_water
        self._now = now
        self._root = root
        self._parts_folder = root / "parts"
        self._blobs_folder = root / "docker/registry/v2/blobs"
        self._repositories_folder = root / "docker/registry/v2/repositories"
        self._lock = threading.Lock()
        self._room = threading.Lock()
        self._names = 0
        self._blobs: dict[str, _Blob] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._sizes: dict[str, Counter[int]] = {}
        self._stored = 0
        self._parts: set[Part] = set()
        self._removed: Counter[str] = Counter()
        self._evicted: dict[str, None] = {}
        self._came_back = 0
        self.stuck: dict[str, OSError] = {}

    # Reading what is there at the start.

    def load(self) -> None:
        """Read the folder, and take out what a killed program left or what was damaged since.

        What the disk refuses is in `stuck` then; it stops nothing.
        """
        without_index: list[tuple[str, _Link]] = []
        with self._lock:
            self._blobs, self._tags, self._sizes, self._stored, self.stuck = {}, {}, {}, 0, {}
            for folder in (self._parts_folder, self._blobs_folder, self._repositories_folder):
                with self._noting(folder):
                    folder.mkdir(parents=True, exist_ok=True)
            for path in self._list(self._parts_folder):
                with self._noting(path):
                    path.unlink()
            self._load_blobs()
            for path in self._list(self._repositories_folder):
                self._load_repositories(path.name, without_index)
            self._load_manifests()
            for digest, blob in list(self._blobs.items()):
                said = self._sizes.get(digest)
                if (not blob.size and digest != NOTHING) or (said and not blob.verified and blob.size not in said):
                    self._discard(digest, DAMAGED)
        for digest, link in without_index:
            self._write_again(digest, link)

    def _load_blobs(self) -> None:
        now = self._now()
        for group in self._list_or_prune(self._blobs_folder / "sha256"):
            for folder in self._list_or_prune(group):
                digest = f"sha256:{folder.name}"
                if DIGEST.fullmatch(digest) and folder.name[:2] == group.name:
                    self._take_out_leftovers(folder, "data")
                    with self._noting(folder):
                        self._load_blob(digest, folder / "data", now)

    def _load_blob(self, digest: str, path: Path, now: float) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._prune(path.parent)
            return
        blob = _Blob(status.st_size, _taken(status), min(status.st_mtime, now), status.st_mtime)
        self._blobs[digest] = blob
        self._stored += blob.taken
        if blob.used_on_disk > now:
            # Else each start would let it live longer.
            os.utime(path, (now, now))
            blob.used_on_disk = now

    def _load_repositories(self, name: str, without_index: list[tuple[str, _Link]]) -> None:
        """Read a folder that is a repository, or has some below it, or both."""
        folder = self._repositories_folder / name
        for path in self._list_or_prune(folder):
            if path.name == "_layers":
                self._load_links(path / "sha256", _Link("layer", name))
            elif path.name == "_manifests":
                self._load_links(path / "revisions" / "sha256", _Link("revision", name))
                for tag in self._list_or_prune(path / "tags"):
                    self._load_tag(tag, _Link("current", name, tag.name), without_index)
            elif path.name == "_uploads":
                # Of a distribution that wrote here before this program did.
                with self._noting(path):
                    shutil.rmtree(path)
                self._prune(folder)
            else:
                self._load_repositories(f"{name}/{path.name}", without_index)

    def _load_links(self, folder: Path, link: _Link) -> None:
        """Read the links in a folder that has one for each digest."""
        for path in self._list_or_prune(folder):
            digest = f"sha256:{path.name}"
            if DIGEST.fullmatch(digest) and self._read_link(path, digest) == digest:
                self._record(digest, link)

    def _load_tag(self, folder: Path, current: _Link, without_index: list[tuple[str, _Link]]) -> None:
        index = current._replace(kind="index")
        self._load_links(folder / "index" / "sha256", index)
        digest = self._read_link(folder / "current")
        if digest is not None and current.repository in self._blobs[digest].manifests:
            if not self._is_linked(digest, index):
                without_index.append((digest, index))
            self._record(digest, current)
        else:
            # What it points to may be there and just not be readable now.
            with self._noting(folder):
                if digest is not None or not (folder / "current" / "link").exists():
                    self._remove_tag(current.repository, current.tag)

    def _write_again(self, digest: str, link: _Link) -> None:
        """Write a link that could not be read and so was removed, where what it belongs to is still there."""
        name = self._new_name()
        with self._noting(name):
            try:
                self._write(name, digest.encode())
                with self._lock:
                    if self._is_linked(digest, link):
                        self._rename(name, self._link_path(digest, link), [])
            finally:
                name.unlink(missing_ok=True)

    def _read_link(self, folder: Path, wanted: str | None = None) -> str | None:
        """The blob to which the link in a folder leads; a link that leads nowhere, or not where wanted, goes."""
        self._take_out_leftovers(folder, "link")
        path = folder / "link"
        with self._noting(path):
            try:
                content = path.read_bytes().decode(errors="replace")
            except FileNotFoundError:
                self._prune(folder)
                return None
            except OSError as error:
                if error.errno in NOT_THE_FILE:
                    raise
                content = ""
            if content in self._blobs and wanted in (None, content):
                return content
            if not (DIGEST.fullmatch(content) and wanted in (None, content) and self._may_be_there(content)):
                path.unlink()
                self._prune(folder)
        return None

    def _may_be_there(self, digest: str) -> bool:
        """Whether a blob that was not found could just not be seen."""
        try:
            self.path(digest).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def _load_manifests(self) -> None:
        """Read what the manifests name."""
        for digest, blob in list(self._blobs.items()):
            if not blob.manifests:
                continue
            try:
                content = self.path(digest).read_bytes()
            except OSError as error:
                self.stuck[digest] = error
                if error.errno not in NOT_THE_FILE:
                    self._discard(digest, DAMAGED)
                continue
            if _digest_of(content) == digest:
                blob.verified = True
                self._name(blob, _names(content))
            else:
                self._discard(digest, DAMAGED)

    def _take_out_leftovers(self, folder: Path, name: str) -> None:
        """Remove what distribution left of a file that it did not get done with (filesystem/driver.go, PutContent)."""
        for path in self._list(folder):
            if path.name.startswith(f"{name}."):
                with self._noting(path):
                    path.unlink()

    def _list(self, folder: Path) -> list[Path]:
        with self._noting(folder), suppress(FileNotFoundError):
            return sorted(folder.iterdir())
        return []

    def _list_or_prune(self, folder: Path) -> list[Path]:
        """What is in a folder that is not to be empty."""
        paths = self._list(folder)
        if not paths:
            self._prune(folder)
        return paths

    # What is there.

    def find(self, digest: str, first: int = 0) -> int | None:
        """The size of a whole blob that is there. One whose file was changed, lost or cannot be read goes.

        It is read at its byte `first`: what a disk cannot give breaks off there, and who got as far asks for the rest.
        """
        with self._lock:
            blob = self._blobs.get(digest)
        if blob is None:
            return None
        if not blob.damaged and self._is_readable(digest, blob, first):
            return blob.size
        with self._lock:
            now = self._blobs.get(digest)
            if now is not blob:
                # It went or was replaced in between.
                return now.size if now else None
            self._discard(digest, DAMAGED)
        return None

    def _is_readable(self, digest: str, blob: _Blob, first: int) -> bool:
        try:
            with self.path(digest).open("rb", buffering=0) as file:
                os.pread(file.fileno(), 1, first)
                return os.fstat(file.fileno()).st_size == blob.size
        except FileNotFoundError:
            return False
        except OSError as error:
            return error.errno in NOT_THE_FILE

    def path(self, digest: str) -> Path:
        """Where the content of a blob lies.

        Raises:
            ValueError: that is no digest.
        """
        _checked_digest(digest)
        hexadecimal = digest.removeprefix("sha256:")
        return self._blobs_folder / "sha256" / hexadecimal[:2] / hexadecimal / "data"

    def expected_size(self, digest: str) -> int | None:
        """What the stored manifests say of a blob's size, where they agree."""
        with self._lock:
            said = self._sizes.get(digest, ())
            return next(iter(said)) if len(said) == 1 else None

    def tag(self, repository: str, tag: str) -> str | None:
        """The digest that a tag points to."""
        with self._lock:
            return self._tags.get((repository, tag))

    def manifest(self, repository: str, digest: str) -> bytes | None:
        """A manifest's content, whatever repository it came for; from now on it is in this one too.

        Raises:
            ValueError: that is no repository's name or no digest.
            OSError: too many files are open, or the like.
        """
        _checked(repository)
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None or not blob.manifests:
                return None
            linked = repository in blob.manifests
        content = self._right_content(digest, blob)
        if content is not None and not linked:
            self._link_if_possible(digest, _Link("revision", repository))
        return content

    def verify(self, digest: str, *, anew: bool = False) -> bool:
        """Read a blob and compare it with its digest; a wrong or unreadable one is removed.

        One that was compared since the start, when it came or by this, is not read again unless that is wanted.

        Raises:
            OSError: too many files are open, or the like.
        """
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None or blob.damaged:
                return False
            if blob.verified and not anew:
                return True
        try:
            with self.path(digest).open("rb") as file:
                right = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        except OSError as error:
            if error.errno in NOT_THE_FILE:
                raise
            right = False
        return self._judge(digest, blob, right=right)

    def statistics(self) -> Statistics:
        """What the store is like now."""
        free = 0
        with self._lock:
            with self._noting(self._root):
                free = self._free()
            return Statistics(
                bytes_stored=self._stored,
                blobs=len(self._blobs),
                manifests=sum(bool(blob.manifests) for blob in self._blobs.values()),
                tags=len(self._tags),
                may_hold=self._may_hold(free),
                free=free,
                oldest_use=min((blob.used for blob in self._blobs.values()), default=None),
                removed=self._removed.copy(),
                came_back=self._came_back,
                stuck=len(self.stuck),
                high_water=self._high_water,
            )

    def _right_content(self, digest: str, blob: _Blob) -> bytes | None:
        """The content of a small blob, which is removed where that is wrong."""
        try:
            content = self.path(digest).read_bytes()
        except OSError as error:
            if error.errno in NOT_THE_FILE:
                raise
            content = b""
        return content if self._judge(digest, blob, right=_digest_of(content) == digest) else None

    def _judge(self, digest: str, blob: _Blob, *, right: bool) -> bool:
        """Keep in mind how a blob was found, and return whether it is right."""
        with self._lock:
            if self._blobs.get(digest) is blob:
                blob.verified = right
                if not right:
                    self._discard(digest, DAMAGED)
        return right

    # Its use.

    def use(self, repository: str, digest: str) -> None:
        """Say that a blob is used now, in a repository: it is linked there, and its expiry begins anew.

        A manifest's use is the use of all that it names: nodes ask for no more than the manifest of what they have.
        What the disk refuses of that is in `stuck`.

        Raises:
            ValueError: that is no repository's name or no digest.
        """
        _checked(repository)
        now = self._now()
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None:
                return
            link = _Link("revision" if blob.manifests else "layer", repository)
            linked = repository in (blob.manifests or blob.layers)
            due = []
            for name, used in self._with_all_it_names(digest):
                used.used = now
                if abs(now - used.used_on_disk) >= USE_INTERVAL:
                    used.used_on_disk = now
                    due.append(name)
        for name in due:
            # One that is gone by now needs it no more.
            with self._noting(name), suppress(FileNotFoundError):
                os.utime(self.path(name), (now, now))
                self.stuck.pop(name, None)
        if not linked:
            self._link_if_possible(digest, link)

    def _with_all_it_names(self, digest: str) -> Iterator[tuple[str, _Blob]]:
        seen = {digest}
        following = [digest]
        while following:
            name = following.pop()
            if blob := self._blobs.get(name):
                yield name, blob
                following.extend(blob.names.keys() - seen)
                seen.update(blob.names)

    # What comes.

    def begin(self, digest: str, size: int | None) -> Part:
        """Begin to write a blob, with room for it: what was not used for longest goes for it.

        Without a size the room grows with what is written.

        Raises:
            ValueError: that is no digest.
            NoRoom: the volume cannot hold it. Nothing was evicted where that was clear from the start.
            OSError: the disk refuses it otherwise.
        """
        _checked_digest(digest)
        part = Part(self, digest, size, self._new_name())
        with self._room:
            part.descriptor = self._attempt(partial(self._create, part.path))
            with self._lock:
                self._parts.add(part)
            try:
                if size:
                    self._make_room(size)
                    self._allocate(part, size)
            except BaseException:
                self._abandon(part)
                raise
        return part

    def put_manifest(self, repository: str, content: bytes, tag: str | None = None) -> str:
        """Store a manifest, as one of a repository, and let a tag point to it; return its digest.

        Raises:
            ValueError: that is no repository's name or no tag.
            NoRoom: the volume cannot hold it.
            OSError: the disk refuses it otherwise.
        """
        _checked(repository, tag)
        digest = _digest_of(content)
        links = [_Link("revision", repository)]
        if tag is not None:
            links += [_Link("index", repository, tag), _Link("current", repository, tag)]
        with self._lock:
            blob = self._blobs.get(digest)
        if blob is not None and self._right_content(digest, blob) is not None:
            # It may go in between.
            with suppress(FileNotFoundError):
                self._link(digest, links, _names(content))
                self.use(repository, digest)
                return digest
        part = self.begin(digest, len(content))
        try:
            part.write(content)
        except BaseException:
            part.abandon()
            raise
        self._commit(part, links, _names(content))
        return digest

    def set_tag(self, repository: str, tag: str, digest: str) -> None:
        """Let a tag point to a manifest that is there.

        Raises:
            ValueError: that is no repository's name, no tag or no digest.
            NoRoom: the volume cannot hold it.
            OSError: there is no such manifest, or the disk refuses it otherwise.
        """
        _checked(repository, tag)
        _checked_digest(digest)
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None or not blob.manifests:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), digest)
        kinds = ("revision", "index", "current")
        self._link(digest, [_Link(kind, repository, tag) for kind in kinds])

    def remove_tag(self, repository: str, tag: str) -> None:
        """Let a tag point to nothing.

        Raises:
            ValueError: that is no repository's name or no tag.
            OSError: the disk refuses it.
        """
        _checked(repository, tag)
        with self._lock:
            if (repository, tag) in self._tags:
                self._remove_tag(repository, tag)

    def _commit(self, part: Part, links: list[_Link], names: dict[str, int] | None = None) -> None:
        now = self._now()
        try:
            part.check()
            if part.size is None:
                os.ftruncate(part.descriptor, part.written)
            os.utime(part.descriptor, (now, now))
            os.fsync(part.descriptor)
            changed: list[Path] = []
            blob = _Blob(part.written, _taken(os.fstat(part.descriptor)), now, now, verified=True)
            self._attempt(partial(self._place, part, blob, changed))
        except BaseException:
            part.abandon()
            raise
        self._link(part.digest, links, names, changed)

    def _place(self, part: Part, blob: _Blob, changed: list[Path]) -> None:
        with self._lock:
            self._rename(part.path, self.path(part.digest), changed)
            part.path = self.path(part.digest)
            self._parts.remove(part)
            self._stored += blob.taken
            if before := self._blobs.get(part.digest):
                self._stored -= before.taken
                blob.layers, blob.manifests, blob.tags = before.layers, before.manifests, before.tags
                blob.names = before.names
            self._blobs[part.digest] = blob
            if part.digest in self._evicted:
                del self._evicted[part.digest]
                self._came_back += part.written
            self.stuck.pop(part.digest, None)
            part.close()

    def _link(
        self, digest: str, links: list[_Link], names: dict[str, int] | None = None, changed: list[Path] | None = None
    ) -> None:
        """Link a blob; what is linked already is left as it is.

        Raises:
            NoRoom: the volume cannot hold that.
            OSError: the blob is gone, or the disk refuses it otherwise.
        """
        changed = [] if changed is None else changed
        with self._lock:
            missing = [link for link in links if not self._is_linked(digest, link)]
        waiting: list[tuple[Path, _Link]] = []
        try:
            for link in missing:
                name = self._new_name()
                waiting.append((name, link))
                self._attempt(partial(self._write, name, digest.encode()), but=digest)
            self._attempt(partial(self._place_links, digest, waiting, names, changed), but=digest)
        finally:
            for name, _ in waiting:
                with self._noting(name):
                    if name.exists():
                        name.unlink()
        for folder in dict.fromkeys(changed):
            # One that is gone by now was emptied by a removal.
            with suppress(FileNotFoundError):
                _sync(folder)

    def _place_links(
        self, digest: str, waiting: list[tuple[Path, _Link]], names: dict[str, int] | None, changed: list[Path]
    ) -> None:
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), digest)
            if names and not blob.names:
                self._name(blob, names)
            while waiting:
                name, link = waiting[0]
                self._rename(name, self._link_path(digest, link), changed)
                self._record(digest, link)
                del waiting[0]

    def _link_if_possible(self, digest: str, link: _Link) -> None:
        """Link a blob that can be used without that too."""
        name = str(self._link_path(digest, link))
        try:
            self._link(digest, [link])
            self.stuck.pop(name, None)
        except FileNotFoundError:
            # It was removed in between.
            return
        except NoRoom as problem:
            self.stuck[name] = OSError(errno.ENOSPC, str(problem), name)
        except OSError as error:
            self.stuck[name] = error

    def _is_linked(self, digest: str, link: _Link) -> bool:
        blob = self._blobs.get(digest)
        if blob is None:
            return False
        return {
            "layer": link.repository in blob.layers,
            "revision": link.repository in blob.manifests,
            "index": (link.repository, link.tag) in blob.tags,
            "current": self._tags.get((link.repository, link.tag)) == digest,
        }[link.kind]

    def _record(self, digest: str, link: _Link) -> None:
        """Know that a link is there."""
        blob = self._blobs[digest]
        if link.kind == "layer":
            blob.layers.add(link.repository)
        elif link.kind == "revision":
            blob.manifests.add(link.repository)
        else:
            blob.tags.add((link.repository, link.tag))
            if link.kind == "current":
                self._tags[link.repository, link.tag] = digest

    def _name(self, blob: _Blob, names: dict[str, int]) -> None:
        """Know what a manifest names; nothing where it is none any more."""
        for digest, size in blob.names.items():
            said = self._sizes[digest]
            said[size] -= 1
            if not said[size]:
                del said[size]
            if not said:
                del self._sizes[digest]
        blob.names = names
        for digest, size in names.items():
            self._sizes.setdefault(digest, Counter())[size] += 1

    # What goes.

    def expire(self, ttl: float) -> list[str]:
        """Remove what was not used for more than `ttl` seconds, and return it; a `ttl` of 0 keeps all."""
        if ttl <= 0:
            return []
        now = self._now()
        with self._lock:
            for blob in self._blobs.values():
                # The clock was set back since.
                blob.used = min(blob.used, now)
            old = [(digest, blob, blob.used) for digest, blob in self._blobs.items() if now - blob.used > ttl]
        return [digest for digest, blob, used in old if self._remove_unused(digest, blob, used, EXPIRED)]

    def keep_room(self) -> list[str]:
        """Evict so much that what comes next finds room at once, and return it.

        One layer that is larger than what may be kept stays until something else needs its room.
        """
        evicted = []
        with self._room:
            with self._lock:
                may_hold = self._may_hold(self._free())
                reserved = sum(part.reserved for part in self._parts)
                layers = [blob for blob in self._blobs.values() if not blob.manifests]
                last = max(layers, key=lambda blob: blob.used).taken if layers else 0
                manifests = self._stored - sum(blob.taken for blob in layers)
                allowed = max(int(self._high_water * may_hold), reserved + last + manifests)
                excess = self._stored + reserved - allowed
            for digest, blob, used in self._least_used():
                if excess <= 0:
                    break
                if self._remove_unused(digest, blob, used, EVICTED):
                    excess -= blob.taken
                    evicted.append(digest)
            for digest, blob, used in self._least_used(alike=True):
                if not self._keeps_few_inodes():
                    break
                if self._remove_unused(digest, blob, used, EVICTED):
                    evicted.append(digest)
        return evicted

    def _remove_unused(self, digest: str, blob: _Blob, used: float, reason: str) -> bool:
        """Remove a blob that was not used in between, and return whether it is gone."""
        with self._lock:
            return self._blobs.get(digest) is blob and blob.used == used and self._discard(digest, reason)

    def _least_used(self, *, alike: bool = False, but: str = "") -> list[tuple[str, _Blob, float]]:
        """All blobs, those first that are to go first; manifests last, since they are small, unless all are `alike`."""
        with self._lock:
            found = [(digest, blob, blob.used) for digest, blob in self._blobs.items() if digest != but]
        return sorted(found, key=lambda each: (not alike and bool(each[1].manifests), each[2]))

    def _discard(self, digest: str, reason: str) -> bool:
        """Remove a blob, and return whether the disk let that be done."""
        blob = self._blobs[digest]
        try:
            self._remove(digest, blob)
        except OSError as error:
            self.stuck[digest] = error
            blob.damaged = blob.damaged or reason == DAMAGED
            return False
        self.stuck.pop(digest, None)
        self._removed[reason] += 1
        if reason == EVICTED:
            self._evicted[digest] = None
            if len(self._evicted) > REMEMBERED:
                del self._evicted[next(iter(self._evicted))]
        return True

    def _remove(self, digest: str, blob: _Blob) -> None:
        """Remove a blob with all that leads to it, beginning at the end that readers come from.

        Raises:
            OSError: the disk refuses some of it; what was done so far is known.
        """
        for repository, tag in sorted(blob.tags):
            if self._tags.get((repository, tag)) == digest:
                self._remove_tag(repository, tag)
            else:
                self._unlink(digest, _Link("index", repository, tag))
                blob.tags.remove((repository, tag))
        for repository in sorted(blob.manifests):
            self._unlink(digest, _Link("revision", repository))
            blob.manifests.remove(repository)
        self._name(blob, {})
        for repository in sorted(blob.layers):
            self._unlink(digest, _Link("layer", repository))
            blob.layers.remove(repository)
        path = self.path(digest)
        path.unlink(missing_ok=True)
        del self._blobs[digest]
        self._stored -= blob.taken
        self._prune(path.parent)

    def _remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, with the memory of what it pointed to before.

        Raises:
            OSError: the disk refuses some of it.
        """
        self._unlink(NOTHING, _Link("current", repository, tag))
        self._tags.pop((repository, tag), None)
        for digest, blob in self._blobs.items():
            if (repository, tag) in blob.tags:
                self._unlink(digest, _Link("index", repository, tag))
                blob.tags.remove((repository, tag))

    def _unlink(self, digest: str, link: _Link) -> None:
        path = self._link_path(digest, link)
        path.unlink(missing_ok=True)
        self._prune(path.parent)

    def _abandon(self, part: Part) -> None:
        with self._lock:
            if part.descriptor < 0:
                return
            self._parts.discard(part)
            with self._noting(part.path):
                part.close()
            with self._noting(part.path), suppress(FileNotFoundError):
                part.path.unlink()

    # Room.

    def resize(self, capacity: int, high_water: float) -> bool:
        """Take other limits from now on, and return whether they are others."""
        with self._lock:
            before = self._capacity, self._high_water
            self._capacity, self._high_water = capacity, high_water
        return before != (capacity, high_water)

    def _free(self) -> int:
        """Bytes that anybody may still take from the file system."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def _may_hold(self, free: int) -> int:
        """Bytes that the store may fill."""
        return min(self._capacity, self._stored + sum(part.on_disk for part in self._parts) + free)

    def check_room(self, size: int) -> None:
        """See whether so many bytes could be held, if all that can be evicted was.

        Raises:
            NoRoom: they could not.
            OSError: the disk does not say how full it is.
        """
        self._missing_room(size)

    def _missing_room(self, size: int) -> int:
        """How many bytes are to be evicted to hold so many more.

        Raises:
            NoRoom: nothing that could be evicted would be enough.
            OSError: the disk does not say how full it is.
        """
        needed = _blocks(size)
        with self._lock:
            may_hold = self._may_hold(self._free())
            reserved = sum(part.reserved for part in self._parts)
            missing = needed - (may_hold - self._stored - reserved)
        if needed > may_hold:
            message = f"it takes {needed} bytes, and the volume has room for {may_hold}"
            raise NoRoom(message)
        if needed > may_hold - reserved:
            message = f"it takes {needed} bytes, and what is under way {reserved} of the {may_hold} of the volume"
            raise NoRoom(message)
        return missing

    def _make_room(self, size: int) -> None:
        """Evict what is needed to hold so many bytes more.

        Whether the file system has that room then is seen when it is taken: an evicted file that is being sent takes
        its room until it was sent.

        Raises:
            NoRoom: nothing that could be evicted would be enough; nothing was.
            OSError: the disk does not say how full it is.
        """
        missing = self._missing_room(size)
        for digest, blob, used in self._least_used() if missing > 0 else ():
            if missing <= 0:
                break
            if self._remove_unused(digest, blob, used, EVICTED):
                missing -= blob.taken
        if missing > 0:
            message = f"it takes {_blocks(size)} bytes, and what is stored could not be evicted"
            raise NoRoom(message)

    def _allocate(self, part: Part, size: int) -> None:
        """Take the room that was made for so many bytes more of a part, so that nobody else does.

        Raises:
            NoRoom: the file system does not have it.
            OSError: the disk refuses it otherwise.
        """
        before = part.reserved
        part.reserved += _blocks(size)
        try:
            self._attempt(partial(_allocate, part.descriptor, before, size), size)
            part.allocated = True
        except BaseException as error:
            # Some file systems cannot (posix_fallocate(3)); there it is only counted.
            if not (isinstance(error, OSError) and error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)):
                part.reserved = before
                raise

    def _grow(self, part: Part, size: int) -> None:
        """Have room in a part of unknown size for so many bytes more.

        Raises:
            NoRoom: the volume cannot hold that.
            OSError: the disk refuses it otherwise.
        """
        if part.size is not None or part.written + size <= part.reserved:
            return
        with self._room:
            more = part.written + size - part.reserved
            step = max(STEP, more)
            try:
                self._make_room(step)
            except NoRoom:
                step = more
                self._make_room(step)
            self._allocate(part, step)

    def _attempt(self, action: Callable[[], T], size: int = 0, but: str = "") -> T:
        """Do what takes room, and evict for it where the file system says that it is full after all.

        That is done for a while only: what is evicted may free nothing, or be taken by somebody else.

        Raises:
            NoRoom: it is full all the same, or cannot be written.
            OSError: as `action` does.
        """
        freed = count = 0
        candidates: Iterator[tuple[str, _Blob, float]] | None = None
        while True:
            try:
                return action()
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
                inodes = error.errno in FULL and self._is_short_of_inodes(size)
                reason = "no inodes are left on the volume" if inodes else REFUSED[error.errno]
                if error.errno not in FULL or (freed > 2 * size and count >= PATIENCE):
                    raise NoRoom(reason) from error
                if candidates is None:
                    candidates = iter(self._least_used(alike=inodes, but=but))
                gone = next((each[1] for each in candidates if self._remove_unused(*each, EVICTED)), None)
                if gone is None:
                    raise NoRoom(reason) from error
                freed += gone.taken
                count += 1

    def _is_short_of_inodes(self, size: int) -> bool:
        """Whether that is why so many bytes found no room; what was tried may have been undone since."""
        status = os.statvfs(self._root)
        room = status.f_bavail * status.f_frsize
        return status.f_files > 0 and status.f_favail < FREE_INODES and room > _blocks(size)

    def _keeps_few_inodes(self) -> bool:
        """Whether fewer inodes are free than are to be, on a file system that counts them."""
        status = os.statvfs(self._root)
        with self._lock:
            links = sum(len(blob.layers) + len(blob.manifests) + len(blob.tags) for blob in self._blobs.values())
            ours = INODES_OF_A_FILE * (len(self._blobs) + links)
        return status.f_files > 0 and status.f_favail < min(FREE_INODES, (ours + status.f_favail) // 20)

    # Names and files.

    def _link_path(self, digest: str, link: _Link) -> Path:
        return self._repositories_folder / link.folder(digest) / "link"

    def _new_name(self) -> Path:
        """A name for a file that gets its own later."""
        with self._lock:
            self._names += 1
            return self._parts_folder / str(self._names)

    def _create(self, path: Path) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def _write(self, path: Path, content: bytes) -> None:
        """Write a small file and have it on the disk."""
        descriptor = self._create(path)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _rename(self, source: Path, target: Path, changed: list[Path]) -> None:
        """Give a file its name, in a folder that is made for it; adds the folders that are to be flushed then."""
        missing = []
        parent = target.parent
        while not parent.is_dir():
            missing.append(parent)
            parent = parent.parent
        try:
            for folder in reversed(missing):
                folder.mkdir(0o755)
            source.rename(target)
        except OSError:
            self._prune(target.parent)
            raise
        changed += [target.parent, *(folder.parent for folder in missing)]

    def _prune(self, folder: Path) -> None:
        """Remove a folder and those above it, as far as they are empty and not the roots."""
        while folder not in (self._blobs_folder, self._repositories_folder):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                # Most are not empty. On a read-only disk that is not even looked at.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EROFS):
                    self.stuck[str(folder)] = error
                return
            folder = folder.parent

    def _noting(self, name: str | Path) -> _Noting:
        return _Noting(self.stuck, str(name))


class _Noting:
    """Keeps in mind what the disk refuses, and lets the rest go on."""

    def __init__(self, stuck: dict[str, OSError], name: str) -> None:
        self._stuck = stuck
        self._name = name

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> bool:
        if isinstance(error, OSError):
            self._stuck[self._name] = error
            return True
        return False


def _checked(repository: str, tag: str | None = None) -> str:
    """A repository's name that leads to nowhere else.

    Raises:
        ValueError: it may do so, or the tag may.
    """
    if not REPOSITORY.fullmatch(repository) or len(repository) > LONGEST_REPOSITORY:
        message = f"no repository's name: {repository!r}"
        raise ValueError(message)
    if tag is not None and not TAG.fullmatch(tag):
        message = f"no tag: {tag!r}"
        raise ValueError(message)
    return repository


def _checked_digest(digest: str) -> None:
    """See that a digest leads to nowhere else.

    Raises:
        ValueError: it may do so.
    """
    if not DIGEST.fullmatch(digest):
        message = f"no digest: {digest!r}"
        raise ValueError(message)


def _names(content: bytes) -> dict[str, int]:
    """What a manifest names, with the sizes: config, layers, manifests (OCI image-spec, manifest.md and others).

    Nothing where that is more than images have.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    lists = [document.get("layers"), document.get("manifests"), [document.get("config")]]
    named: Iterable[object] = (each for found in lists if isinstance(found, list) for each in found)
    found = {
        each["digest"]: each["size"]
        for each in named
        if isinstance(each, dict)
        and isinstance(each.get("digest"), str)
        and DIGEST.fullmatch(each["digest"])
        and type(each.get("size")) is int
    }
    return found if len(found) <= MOST_NAMES else {}


def _digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _taken(status: os.stat_result) -> int:
    """The bytes that a file takes on the disk (stat(2))."""
    return status.st_blocks * 512


def _allocate(descriptor: int, begin: int, size: int) -> None:
    """Have the file system give a file its room, all or nothing.

    Raises:
        OSError: it does not.
    """
    try:
        os.posix_fallocate(descriptor, begin, size)
    except OSError:
        os.ftruncate(descriptor, begin)
        raise


def _sync(folder: Path) -> None:
    """Have a folder's renames on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
