"""The certificate of a cache with TLS: served on the port of the metrics too, and its end is a metric."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.log import ProblemLog, describe_oserror, log

if TYPE_CHECKING:
    import socket
    from pathlib import Path

UTC_TIME, SEQUENCE, VERSION = 0x17, 0x30, 0xA0
LONG_LENGTH = 0x80


class Certificate:
    """The files tls.crt and tls.key of a folder, which the kubelet replaces when they are renewed.

    If new ones cannot be used, the old ones stay, as in the front: the kubelet would restart a gate without TLS.
    """

    def __init__(self, folder: Path) -> None:
        """Read nothing yet."""
        self._file = folder / "tls.crt"
        self._key = folder / "tls.key"
        self._lock = threading.Lock()
        self._current: tuple[object, ssl.SSLContext] | None = None
        self._problems = ProblemLog(log)

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Return an accepted connection with TLS.

        Raises:
            ConnectionError: The client speaks no TLS, does not accept the certificate, or hung up.
            OSError: The files could never be used, or the handshake takes too long.
        """
        context = self._context()
        try:
            return context.wrap_socket(connection, server_side=True)
        except ssl.SSLError as error:
            message = f"the handshake failed: {error.reason or error}"
            raise ConnectionError(message) from error

    def read_end(self) -> float | None:
        """Return when the certificate ends, in seconds since 1970, or None if the file is not a certificate."""
        try:
            return end_of_certificate(self._file.read_text())
        except (OSError, ValueError, IndexError):
            return None

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            problem = ""
            try:
                version = self._file.stat().st_ino, self._file.stat().st_mtime_ns
                if self._current is None or self._current[0] != version:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(self._file, self._key)
                    self._current = version, context
            except OSError as error:
                if self._current is None:
                    raise
                problem = f"the new certificate of the cache cannot be used: {describe_oserror(error)}"
            self._problems.note(problem)
            return self._current[1]


def end_of_certificate(pem: str) -> float:
    """Return the end of the first certificate in a PEM file, in seconds since 1970.

    Python's own reader of certificates is not public, so this walks through the DER as far as the validity (RFC 5280,
    section 4.1).

    Raises:
        ValueError, IndexError: It is not a certificate.
    """
    start, end = pem.index("-----BEGIN CERTIFICATE-----"), pem.index("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(pem[start:end] + "-----END CERTIFICATE-----\n")
    _, certificate, _ = _read_element(der)
    _, fields, _ = _read_element(certificate)
    tag, _, rest = _read_element(fields)
    # The version is left out in certificates of version 1. Serial number, signature and issuer precede the validity.
    for _ in range(3 if tag == VERSION else 2):
        _, _, rest = _read_element(rest)
    tag, validity, _ = _read_element(rest)
    if tag != SEQUENCE:
        message = "not a certificate"
        raise ValueError(message)
    _, _, rest = _read_element(validity)
    tag, moment, _ = _read_element(rest)
    text = moment.decode("ascii")
    if tag == UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _read_element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the content of the first element, and what follows it."""
    length, start = der[1], 2
    if length >= LONG_LENGTH:
        start += length - LONG_LENGTH
        length = int.from_bytes(der[2:start])
    return der[0], der[start : start + length], der[start + length :]
