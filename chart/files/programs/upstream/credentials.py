"""A user name and a password from a mounted Secret."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Credentials(NamedTuple):
    """A user name and a password, or an identity token: whatever bytes the Secret holds, which are never printed."""

    username: bytes
    password: bytes
    identity_token: bytes = b""
    """Exchanged for a token at the token server, instead of the user name and the password."""

    def __repr__(self) -> str:
        """Show nothing of them, since this may end up in a log."""
        return "Credentials(…)"

    def basic(self) -> str:
        """Return the value of a header Authorization or Proxy-Authorization (RFC 7617)."""
        return "Basic " + base64.b64encode(self.username + b":" + self.password).decode()


@dataclass(frozen=True, repr=False)
class PullerAuthorization:
    """The header Authorization of a request of a node, which is never printed."""

    header: str

    @property
    def scheme(self) -> str:
        """The scheme in lower case, such as `bearer`."""
        return self.header.partition(" ")[0].lower()


def read_credentials(folder: Path | None) -> Credentials | None:
    """Return what the files `username` and `password` hold now, or None if there is no Secret or an empty one.

    Raises:
        OSError: The files exist and cannot be read.
    """
    values = {} if folder is None else read_secret(folder, ("username", "password"))
    credentials = Credentials(values.get("username", b""), values.get("password", b""))
    return credentials if len(values) > 1 and any(credentials) else None


def read_secret(folder: Path, keys: tuple[str, ...]) -> dict[str, bytes]:
    """Return the values of those keys that a mounted Secret has, all of the same version of it.

    Raises:
        OSError: A file exists and cannot be read.
    """
    while True:
        version = _current_version(folder)
        values = {}
        for key in keys:
            try:
                # Most tools that write files add a newline.
                values[key] = (version / key).read_bytes().removesuffix(b"\n")
            except (FileNotFoundError, NotADirectoryError):
                continue
        # The kubelet may have replaced it in the meantime.
        if len(values) == len(keys) or version == _current_version(folder):
            return values


def _current_version(folder: Path) -> Path:
    """Return the folder with the files of one version: the kubelet swaps the link ..data once a new one is complete."""
    data = folder / "..data"
    return data.resolve() if data.is_symlink() else folder
