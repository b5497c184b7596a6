"""Loading: the volume is read at the start, and leftovers of a killed program and damaged content are removed.

An error of the disk does not stop it. Content that cannot be read is kept if it may be intact, since a later start may
be able to read it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from store.files import RESOURCE_ERRORS, disk_bytes, write_file
from store.index import Blob
from store.interrupted import keep_interrupted
from store.layout import DIGEST, INTERRUPTED, LAYER, REVISION, TAG_CURRENT, TAG_INDEX, Link, digest_of, read_references
from store.removal import DAMAGED

if TYPE_CHECKING:
    from pathlib import Path

    from store.files import Files
    from store.index import Index
    from store.removal import Removal

EMPTY_DIGEST = digest_of(b"")


class Loader:
    """Reads the volume into an index."""

    def __init__(self, index: Index, files: Files, removal: Removal, now: float) -> None:
        """Read `files` into `index`; `now` is in seconds since the epoch."""
        self._index = index
        self._files = files
        self._layout = files.layout
        self._removal = removal
        self._now = now
        self._missing_links: list[tuple[str, Link]] = []

    def load(self) -> None:
        """Read everything, and record the errors of the disk in `Files.inaccessible`."""
        layout = self._layout
        with self._index.lock:
            self._index.clear()
            self._files.inaccessible.clear()
            for folder in (layout.incoming, layout.blobs, layout.repositories):
                with self._files.recording_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
            self._load_blobs()
            self._load_interrupted()
            for path in self._files.list_folder(layout.repositories):
                self._load_repositories(path.name)
            self._verify_manifests()
            self._remove_truncated_blobs()
        for digest, link in self._missing_links:
            self._restore_link(digest, link)

    def _load_blobs(self) -> None:
        for group in self._list_or_prune(self._layout.blobs / "sha256"):
            for folder in self._list_or_prune(group):
                digest = f"sha256:{folder.name}"
                if DIGEST.fullmatch(digest) and folder.name[:2] == group.name:
                    self._remove_leftovers(folder, "data")
                    with self._files.recording_errors(folder):
                        self._load_blob(digest, folder / "data")

    def _load_blob(self, digest: str, path: Path) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._files.prune(path.parent)
            return
        blob = Blob(status.st_size, disk_bytes(status), min(status.st_mtime, self._now), status.st_mtime)
        self._index.add_blob(digest, blob)
        if blob.last_use_on_disk > self._now:
            # The clock was set back. Without this, each start would prolong the blob's life.
            os.utime(path, (self._now, self._now))
            blob.last_use_on_disk = self._now

    def _load_interrupted(self) -> None:
        """Keep the interrupted blobs, and remove other files that are not complete."""
        for path in self._files.list_folder(self._layout.incoming):
            with self._files.recording_errors(path):
                if name := INTERRUPTED.fullmatch(path.name):
                    keep_interrupted(self._index, f"sha256:{name[1]}", path, int(name[2]), self._now)
                else:
                    path.unlink()

    def _load_repositories(self, name: str) -> None:
        """Read a folder that is a repository, or contains some, or both."""
        folder = self._layout.repositories / name
        for path in self._list_or_prune(folder):
            if path.name == "_layers":
                self._load_links(path / "sha256", Link(LAYER, name))
            elif path.name == "_manifests":
                self._load_links(path / "revisions" / "sha256", Link(REVISION, name))
                for tag in self._list_or_prune(path / "tags"):
                    self._load_tag(tag, name)
            elif path.name == "_uploads":
                # Left by a distribution that wrote to this volume before.
                with self._files.recording_errors(path):
                    shutil.rmtree(path)
                self._files.prune(folder)
            else:
                self._load_repositories(f"{name}/{path.name}")

    def _load_links(self, folder: Path, link: Link) -> None:
        """Read the links in a folder that has one for each digest."""
        for path in self._list_or_prune(folder):
            digest = f"sha256:{path.name}"
            if DIGEST.fullmatch(digest) and self._read_link(path, digest) == digest:
                self._index.add_link(digest, link)

    def _load_tag(self, folder: Path, repository: str) -> None:
        history = Link(TAG_INDEX, repository, folder.name)
        self._load_links(folder / "index" / "sha256", history)
        digest = self._read_link(folder / "current")
        if digest is not None and Link(REVISION, repository) in self._index.blobs[digest].links:
            if not self._index.has_link(digest, history):
                self._missing_links.append((digest, history))
            self._index.add_link(digest, history._replace(kind=TAG_CURRENT))
            return
        # Without a manifest the tag is removed, unless its link exists and only cannot be read now.
        with self._files.recording_errors(folder):
            if digest is not None or not (folder / "current" / "link").exists():
                self._removal.remove_tag(repository, folder.name)

    def _read_link(self, folder: Path, expected: str | None = None) -> str | None:
        """Return the digest of the stored blob that the link in a folder leads to, or remove a wrong link."""
        self._remove_leftovers(folder, "link")
        path = folder / "link"
        with self._files.recording_errors(path):
            try:
                digest = path.read_bytes().decode(errors="replace")
            except FileNotFoundError:
                self._files.prune(folder)
                return None
            except OSError as error:
                if error.errno in RESOURCE_ERRORS:
                    raise
                digest = ""
            valid = DIGEST.fullmatch(digest) and expected in (None, digest)
            if valid and digest in self._index.blobs:
                return digest
            if not (valid and self._may_exist(digest)):
                self._files.remove(path)
        return None

    def _may_exist(self, digest: str) -> bool:
        """Return whether a blob may exist that was not found, since the disk reported an error."""
        try:
            self._layout.blob_path(digest).lstat()
        except OSError as error:
            return not isinstance(error, (FileNotFoundError, NotADirectoryError))
        return True

    def _verify_manifests(self) -> None:
        """Read the references of all manifests, and discard damaged ones."""
        for digest, blob in list(self._index.blobs.items()):
            if not blob.revisions:
                continue
            try:
                content = self._layout.blob_path(digest).read_bytes()
            except OSError as error:
                self._files.inaccessible[digest] = error
                if error.errno not in RESOURCE_ERRORS:
                    self._removal.remove_blob(digest, DAMAGED)
                continue
            if digest_of(content) == digest:
                blob.verified = True
                self._index.set_references(blob, read_references(content))
            else:
                self._removal.remove_blob(digest, DAMAGED)

    def _remove_truncated_blobs(self) -> None:
        """Discard blobs that are empty, or whose size no manifest states although some state others."""
        for digest, blob in list(self._index.blobs.items()):
            sizes = set() if blob.verified else self._index.stated_sizes(digest)
            wrong = sizes and blob.size not in sizes
            if wrong or (not blob.size and digest != EMPTY_DIGEST):
                self._removal.remove_blob(digest, DAMAGED)

    def _restore_link(self, digest: str, link: Link) -> None:
        """Write a link again that was damaged, if the index still has it."""
        temporary = self._files.temporary_path()
        with self._files.recording_errors(temporary):
            try:
                write_file(temporary, digest.encode())
                with self._index.lock:
                    if self._index.has_link(digest, link):
                        self._files.rename(temporary, self._layout.link_path(link, digest))
            finally:
                temporary.unlink(missing_ok=True)

    def _remove_leftovers(self, folder: Path, name: str) -> None:
        """Remove files that distribution began to write and did not complete (filesystem/driver.go, PutContent)."""
        for path in self._files.list_folder(folder):
            if path.name.startswith(f"{name}."):
                with self._files.recording_errors(path):
                    path.unlink()

    def _list_or_prune(self, folder: Path) -> list[Path]:
        """Return what is in a folder, and remove the folder if it is empty."""
        paths = self._files.list_folder(folder)
        if not paths:
            self._files.prune(folder)
        return paths
