"""A user name and a password from a mounted Secret."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Credentials(NamedTuple):
    """A user name and a password: whatever bytes the Secret holds, which are never printed."""

    username: bytes
    password: bytes

    def __repr__(self) -> str:
        """Show nothing of them, since this may end up in a log."""
        return "Credentials(…)"

    def basic(self) -> str:
        """Return the value of a header Authorization or Proxy-Authorization (RFC 7617)."""
        return "Basic " + base64.b64encode(self.username + b":" + self.password).decode()


def read_credentials(folder: Path | None) -> Credentials | None:
    """Return what the files `username` and `password` hold now, or None if there is no Secret or an empty one.

    Raises:
        OSError: The files exist and cannot be read.
    """
    if folder is None:
        return None
    version = _current_version(folder)
    while True:
        try:
            credentials = Credentials(_read_value(version / "username"), _read_value(version / "password"))
        except (FileNotFoundError, NotADirectoryError):
            previous, version = version, _current_version(folder)
            # The kubelet may have replaced it in the meantime.
            if version != previous:
                continue
            return None
        return credentials if any(credentials) else None


def _current_version(folder: Path) -> Path:
    """Return the folder with the files of one version: the kubelet swaps the link ..data once a new one is complete."""
    data = folder / "..data"
    return data.resolve() if data.is_symlink() else folder


def _read_value(path: Path) -> bytes:
    # Most tools that write files add a newline.
    return path.read_bytes().removesuffix(b"\n")
