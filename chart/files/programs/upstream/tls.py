"""TLS with servers: which certificates are trusted."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from pathlib import Path


class TrustedAuthorities:
    """The certificates that are trusted: those of the system, and those of a file, which may change at any time."""

    def __init__(self, file: Path | None, source: str) -> None:
        """Read nothing yet; `source` is the object whose key ca.crt the file is, for messages."""
        self._file = file
        self._source = source
        self._lock = threading.Lock()
        self._current: tuple[object, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for new connections.

        Raises:
            Unavailable: The file cannot be read, or does not contain certificates.
        """
        with self._lock:
            try:
                version = self._read_version()
                if self._current is None or self._current[0] != version:
                    self._current = version, self._create_context()
            except FileNotFoundError:
                # These look alike here, because the kubelet mounts an empty folder for an object that does not exist.
                message = f"{self._source} does not exist or has no key ca.crt"
                raise Unavailable(Kind.TLS, message) from None
            except OSError as error:
                message = f"ca.crt of {self._source} cannot be read: {error.strerror or error}"
                raise Unavailable(Kind.TLS, message) from None
            return self._current[1]

    def _read_version(self) -> object:
        if self._file is None:
            return None
        status = self._file.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _create_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # As in Go, and so in containerd: every certificate in the file is trusted, even one that is not a root, and
        # those are accepted that lack what RFC 5280 requires of an authority. The defaults of Python 3.13 are the
        # opposite of those of 3.11.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        if self._file is not None:
            context.load_verify_locations(cafile=self._file)
        return context
