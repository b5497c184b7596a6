"""Sends the responses of one connection of the front."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler
from socket import MSG_DONTWAIT, MSG_PEEK
from types import MappingProxyType
from typing import TYPE_CHECKING

from fetching.fair_slots import Overloaded
from upstream.errors import Denied

from gate.metrics import FOREIGN
from gate.refusals import refusal_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetching.fetch import Failure

    from gate.parts import Parts
    from gate.pull_request import PullRequest
    from gate.server import Server

SENDFILE_BYTES = 1 << 20
JSON = {"Content-Type": "application/json"}


class Responses(BaseHTTPRequestHandler):
    """What all responses have in common."""

    protocol_version = "HTTP/1.1"
    wbufsize = 64 << 10
    server: Server
    _from_replica = False

    @property
    def _parts(self) -> Parts:
        return self.server.parts

    def finish(self) -> None:
        """Close both files of the connection; http.server keeps one open if closing the other one fails."""
        try:
            super().finish()
        finally:
            self.rfile.close()

    def log_message(self, *_: object) -> None:
        """Log no requests: every node sends some every few seconds."""

    def address_string(self) -> str:
        """Return a name for the client, since a Unix socket has no address."""
        return "front"

    def _check_client(self) -> None:
        """Look whether the client hung up: the front then closes its connection.

        Raises:
            ConnectionResetError: It did.
        """
        try:
            if self.connection.recv(1, MSG_PEEK | MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        message = "the client hung up"
        raise ConnectionResetError(message)

    def _send_stored_blob(self, request: PullRequest) -> None:
        """Let the front send a blob from the volume."""
        digest = request.reference.identifier
        self._parts.store.mark_used(request.reference.repository, digest)
        self._send_file_of(digest, {"Docker-Content-Digest": digest})

    def _send_file_of(self, digest: str, headers: Mapping[str, str]) -> None:
        """Let the front send the content with a digest from the volume, with some headers of this response."""
        hexadecimal = digest.partition(":")[2]
        self._redirect(f"/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data", headers)

    def _send_partial(self, request: PullRequest, first_byte: int, length: int, blob_size: int | None) -> None:
        total = "*" if blob_size is None else blob_size
        headers = {
            "Content-Length": str(length),
            "Content-Range": f"bytes {first_byte}-{first_byte + length - 1}/{total}",
        }
        self._send_blob_head(206, request.reference.identifier, headers)

    def _send_file(self, file: int, offset: int, end: int) -> int:
        """Send a part of a file, and return where it ends."""
        while offset < end:
            sent = os.sendfile(self.connection.fileno(), file, offset, min(SENDFILE_BYTES, end - offset))
            if not sent:
                message = "the file of the blob was truncated"
                raise OSError(message)
            offset += sent
        return offset

    def _count(self, request: PullRequest, *, hit: bool, joined: bool = False) -> None:
        if not request.from_replica:
            self._parts.metrics.count_request(request.reference.kind, hit=hit, joined=joined)

    def _log_and_refuse(self, problem: Failure | Overloaded, request: PullRequest) -> None:
        """Refuse a request for a problem that nobody else logs; that a puller is refused is not the cache's problem."""
        if self._parts.pullers is None or not isinstance(problem, Denied):
            self._parts.refusal_log.note(problem)
        self._refuse_for(problem, request)

    def _refuse_for(self, problem: Failure | Overloaded, request: PullRequest) -> None:
        pullers = self._parts.pullers
        if pullers is not None and (challenge := pullers.challenge(request, problem)):
            message = "the upstream asks for credentials"
            self._refuse(401, "UNAUTHORIZED", message, headers={"WWW-Authenticate": challenge})
            return
        refusal = refusal_for(problem, request.reference.kind)
        headers = {"Retry-After": "1"} if isinstance(problem, Overloaded) else {}
        self._refuse(*refusal, headers)

    def _refuse_foreign(self) -> None:
        self._refuse(404, "NAME_UNKNOWN", "this cache does not serve this registry or repository", FOREIGN)

    def _refuse(
        self, status: int, code: str, message: str, reason: str = "", headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        if reason:
            self._parts.metrics.count_refused_request(reason)
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._send(status, body, {**JSON, **headers})

    def _redirect(self, location: str, headers: Mapping[str, str]) -> None:
        """Let the front answer, from a location in nginx.conf."""
        self._send_head(200, {"X-Accel-Redirect": location, **headers, "Content-Length": "0"})

    def _send_blob_head(self, status: int, digest: str, headers: Mapping[str, str]) -> None:
        content = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        self._send_head(status, {**content, **headers})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._send_head(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if self._from_replica:
            # The front does not count what it sends to replicas.
            self.send_header("Registry-Cache-Reader", "replica")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
