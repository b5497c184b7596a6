"""What TLS needs on a node: the authorities that it trusts for a cache, and the certificate that it shows to it."""

from __future__ import annotations

import os
import ssl
import time
from typing import TYPE_CHECKING

from node_program.cache_probe import ProbeFailed

if TYPE_CHECKING:
    import socket
    from pathlib import Path

# How long what was replaced is still used, since a cache may get its part of the new certificates later than a node.
OVERLAP_SECONDS = 600.0


class Recent:
    """What a file has now, and what it had a moment ago."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seen: dict[str, float] = {}

    def update(self, current: str) -> list[str]:
        """Note what the file has now, and return that and what it had, the latest first."""
        now = time.monotonic()
        self._seen = {content: seen for content, seen in self._seen.items() if now - seen < OVERLAP_SECONDS}
        self._seen.pop(current, None)
        contents = [current, *reversed(self._seen)]
        self._seen[current] = now
        return contents


class Trust:
    """The certificates for one cache, in files that the kubelet replaces."""

    def __init__(self, authorities: Path, client: Path | None = None) -> None:
        """Read nothing yet; the file and the folder have the names of the Secrets that they come from."""
        self._file = authorities
        self._folder = client
        self._authorities = Recent()
        self._clients = Recent()
        self._context: tuple[tuple[str, str], ssl.SSLContext] | None = None

    def read_authorities(self) -> str:
        """Return the authorities to trust now, as PEM: those in the file first.

        Raises:
            ProbeFailed: There are none.
        """
        current = _read(self._file, f"the Secret {self._file.stem}", "ca.crt").strip() + "\n"
        return "".join(self._authorities.update(current))

    def read_client_certificates(self) -> list[str]:
        """Return the certificates to show, with their keys, as PEM: the one in the folder first; "" is none.

        Raises:
            ProbeFailed: There should be one, and there is none.
        """
        if self._folder is None:
            return [""]
        # The kubelet replaces both files at once, by another target of this link.
        folder = (self._folder / "..data").resolve() if (self._folder / "..data").exists() else self._folder
        secret = f"the Secret {self._folder.name}"
        parts = [_read(folder / key, secret, key).strip() for key in ("tls.crt", "tls.key")]
        return self._clients.update("".join(f"{part}\n" for part in parts))

    def secure(self, connection: socket.socket, host: str, client: str = "") -> socket.socket:
        """Start TLS on a connection, showing a certificate of the node, and check that of the cache as containerd does.

        Raises:
            ProbeFailed: containerd would not accept it.
            OSError: The handshake failed for another reason.
        """
        try:
            return self._context_for(self.read_authorities(), client).wrap_socket(connection, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of the cache is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            message = f"the cache does not answer with TLS: {error.reason or error}".lower()
        raise ProbeFailed(message, "certificate")

    def _context_for(self, authorities: str, client: str) -> ssl.SSLContext:
        if self._context is None or self._context[0] != (authorities, client):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # As in Go, and so in containerd: every certificate in the file is trusted, even one that is not a root.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            try:
                context.load_verify_locations(cadata=authorities)
            except (ssl.SSLError, ValueError):
                message = f"ca.crt of the Secret {self._file.stem} is not a certificate"
                raise ProbeFailed(message, "certificate") from None
            if client:
                self._load_client_certificate(context, client)
            self._context = (authorities, client), context
        return self._context[1]

    def _load_client_certificate(self, context: ssl.SSLContext, client: str) -> None:
        # The library reads certificates with keys from files alone. This one is in memory.
        with os.fdopen(os.memfd_create("client"), "wb") as file:
            file.write(client.encode())
            file.flush()
            try:
                # A password that is asked for would be read from a terminal.
                context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
            except (ssl.SSLError, ValueError, OSError):
                secret = self._folder.name if self._folder else ""
                message = f"tls.crt and tls.key of the Secret {secret} are not a certificate and its key"
                raise ProbeFailed(message, "certificate") from None


def _read(file: Path, secret: str, key: str) -> str:
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        message = f"{secret} does not exist or has no key {key}"
        raise ProbeFailed(message, "certificate") from None
    except (OSError, UnicodeError) as error:
        message = f"{key} of {secret} cannot be read: {getattr(error, 'strerror', error)}"
        raise ProbeFailed(message, "certificate") from None
