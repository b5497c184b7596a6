"""Which authorities a node trusts for a cache with TLS: those in the Secret of the cache, and those of a moment ago."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

from node_program.cache_probe import ProbeFailed

if TYPE_CHECKING:
    import socket
    from pathlib import Path

# How long an authority that was replaced is still trusted, since a cache may get its new certificate later than a node.
OVERLAP_SECONDS = 600.0


class Authorities:
    """The authorities in a file that the kubelet replaces."""

    def __init__(self, file: Path) -> None:
        """Read nothing yet; the file has the name of the Secret that it comes from."""
        self._file = file
        self._seen: dict[str, float] = {}
        self._context: tuple[str, ssl.SSLContext] | None = None

    def read(self) -> str:
        """Return the certificates to trust now, as PEM: those in the file first.

        Raises:
            ProbeFailed: There are none.
        """
        try:
            current = self._file.read_text(encoding="ascii").strip() + "\n"
        except FileNotFoundError:
            message = f"the Secret {self._file.stem} does not exist or has no key ca.crt"
            raise ProbeFailed(message, "certificate") from None
        except (OSError, UnicodeError) as error:
            message = f"ca.crt of the Secret {self._file.stem} cannot be read: {getattr(error, 'strerror', error)}"
            raise ProbeFailed(message, "certificate") from None
        now = time.monotonic()
        self._seen = {pem: seen for pem, seen in self._seen.items() if now - seen < OVERLAP_SECONDS}
        self._seen.pop(current, None)
        trusted = "".join([current, *reversed(self._seen)])
        self._seen[current] = now
        return trusted

    def secure(self, connection: socket.socket, host: str) -> socket.socket:
        """Start TLS on a connection, and check the certificate as containerd does.

        Raises:
            ProbeFailed: containerd would not accept it.
            OSError: The handshake failed for another reason.
        """
        try:
            return self._context_for(self.read()).wrap_socket(connection, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of the cache is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            message = f"the cache does not answer with TLS: {error.reason or error}".lower()
        raise ProbeFailed(message, "certificate")

    def _context_for(self, pem: str) -> ssl.SSLContext:
        if self._context is None or self._context[0] != pem:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # As in Go, and so in containerd: every certificate in the file is trusted, even one that is not a root.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            try:
                context.load_verify_locations(cadata=pem)
            except (ssl.SSLError, ValueError):
                message = f"ca.crt of the Secret {self._file.stem} is not a certificate"
                raise ProbeFailed(message, "certificate") from None
            self._context = pem, context
        return self._context[1]
