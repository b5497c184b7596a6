"""TLS with servers: which certificates are trusted, and the sessions that can be resumed."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING

from common.recent import RecentDict

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from upstream.urls import Origin

# Servers are the upstream, its token server, its CDN, and a proxy.
MAX_SESSIONS = 32


class TrustedAuthorities:
    """The certificates that are trusted: those of the system, and those of a file, which may change at any time."""

    def __init__(self, file: Path | None, source: str, client: Path | None = None) -> None:
        """Read nothing yet; `source` is the object whose key ca.crt the file is, for messages.

        `client` is the folder with the certificate to show, and its key.
        """
        self._file = file
        self._client = client
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
        files = [self._file] if self._file else []
        files += [self._client / "tls.crt"] if self._client else []
        statuses = [file.stat() for file in files]
        return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in statuses]

    def _create_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # As in Go, and so in containerd: every certificate in the file is trusted, even one that is not a root, and
        # those are accepted that lack what RFC 5280 requires of an authority. The defaults of Python 3.13 are the
        # opposite of those of 3.11.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # Many servers close a connection without the end that TLS has for it. HTTP knows where a body ends, and with
        # Python 3.13, the error would make a session useless that can be resumed.
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        context.set_alpn_protocols(["http/1.1"])
        if self._file is not None:
            context.load_verify_locations(cafile=self._file)
        if self._client is not None:
            context.load_cert_chain(self._client / "tls.crt", self._client / "tls.key")
        return context


class TlsSessions:
    """The last session with each server. Resuming one saves a round trip or a signature of the server."""

    def __init__(self) -> None:
        """Start without sessions."""
        self._lock = threading.Lock()
        self._sessions: RecentDict[Origin, tuple[ssl.SSLContext, ssl.SSLSession]] = RecentDict(MAX_SESSIONS)

    def find(self, server: Origin, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """Return a session that was made with the context, so that the server's certificate was checked with it."""
        with self._lock:
            made_with, session = self._sessions.get(server, (None, None))
        return session if made_with is context else None

    def remember(self, server: Origin, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        """Replace the session with a server, and forget the one that was replaced least recently if there are many."""
        with self._lock:
            self._sessions[server] = context, session
