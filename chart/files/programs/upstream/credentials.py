"""A user name and a password out of a mounted Secret, and how HTTP's Basic scheme says them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Credentials(NamedTuple):
    """Whatever bytes the Secret holds; what is printed of them are neither."""

    username: bytes
    password: bytes

    def __repr__(self) -> str:
        """Nothing of them, since what is shown ends in logs."""
        return "Credentials(…)"

    def basic(self) -> str:
        """The value of a header Authorization or Proxy-Authorization (RFC 7617)."""
        return "Basic " + base64.b64encode(self.username + b":" + self.password).decode()


def read(folder: Path | None) -> Credentials | None:
    """What the folder's files `username` and `password` say now; None where there is no Secret, or an empty one.

    Raises:
        OSError: they are there and cannot be read.
    """
    if folder is None:
        return None
    place = _current(folder)
    while True:
        try:
            found = Credentials(_value(place / "username"), _value(place / "password"))
        except (FileNotFoundError, NotADirectoryError):
            before, place = place, _current(folder)
            # Replaced while we read.
            if place != before:
                continue
            return None
        return found if any(found) else None


def _current(folder: Path) -> Path:
    """Where the files of one version of the Secret lie: kubelet swaps the link ..data when it has a new one whole."""
    data = folder / "..data"
    return data.resolve() if data.is_symlink() else folder


def _value(path: Path) -> bytes:
    # Most tools that write files add a newline.
    return path.read_bytes().removesuffix(b"\n")
