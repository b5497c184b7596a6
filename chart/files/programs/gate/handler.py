"""Answers the requests that the front passes on.

A blob that is not stored yet is sent while it comes, from the moment when the upstream sends its first bytes. What goes
wrong before that is refused with an error status, and containerd then goes to the upstream itself
(core/remotes/docker/fetcher.go). What goes wrong later breaks the body off, and a request for the rest is refused. The
last byte is sent only after the digest was verified. A client that does not survive a body that breaks off gets a blob
when it is complete, unless that takes long.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from fetching.replica_first import ALL, HOLDINGS_HEADER, HOLDINGS_TYPE, ZONE_HEADER
from store.store import NoRoom, WrongContent
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB

from gate.metrics import CONTENT, DENIED, NO_ROOM, NOT_FOUND, PUSH, VOLUME
from gate.pull_request import parse_pull_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fetching.fetch import Failure, Fetch

    from gate.manifests import Manifest
    from gate.parts import Parts
    from gate.pull_request import PullRequest

# A client that does not survive a body that breaks off gets a blob that is complete by then from the volume, and a
# longer one while it comes.
COMPLETE_BLOB_SECONDS = 10.0
# A blob of which nothing has come by then is refused, before containerd gives up (after 30 s, since 2.3).
FIRST_BYTE_SECONDS = 25.0
# How often a response that follows a fetch looks for bytes of which it was not told, since it is told only of many.
FOLLOW_SECONDS = 0.1
SENDFILE_BYTES = 1 << 20
# The location in nginx.conf that asks the gate again, for the body of a blob that is still coming.
INCOMING = "/incoming"
# The location in nginx.conf that passes a request on to distribution.
DISTRIBUTION = "@distribution"
JSON = {"Content-Type": "application/json"}


class Server(socketserver.ThreadingUnixStreamServer):
    """An HTTP server on a Unix socket, with a thread for each connection of the front."""

    daemon_threads = True
    request_queue_size = 4096

    def __init__(self, path: Path, parts: Parts) -> None:
        """Listen on `path`, and replace a socket that an earlier process left there."""
        path.unlink(missing_ok=True)
        self.parts = parts
        self.active_requests = 0
        self.lock = threading.Lock()
        super().__init__(str(path), Handler)

    def handle_error(self, *_: object) -> None:
        """Log the traceback of a defect, and nothing for a client that hung up."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            sys.excepthook(*sys.exc_info())


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

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

    def do_GET(self) -> None:
        """Answer a GET or a HEAD."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            # An unread body would be taken for the next request. The front does not pass bodies on.
            self.close_connection = True
            self._refuse(400, "UNSUPPORTED", "requests to a cache have no body")
            return
        with self.server.lock:
            self.server.active_requests += 1
        try:
            self._answer()
        finally:
            with self.server.lock:
                self.server.active_requests -= 1

    do_HEAD = do_GET  # noqa: N815 - http.server expects this name

    def refuse_change(self) -> None:
        """Refuse a request that would change something."""
        self.close_connection = True  # the body is not read
        self._refuse(405, "UNSUPPORTED", "a cache does not accept pushes, push to the upstream instead", PUSH)

    do_POST = do_PUT = do_PATCH = do_DELETE = refuse_change  # noqa: N815 - http.server expects these names

    def log_message(self, *_: object) -> None:
        """Log no requests: every node sends some every few seconds."""

    def address_string(self) -> str:
        """Return a name for the client, since a Unix socket has no address."""
        return "front"

    def _answer(self) -> None:
        self._from_replica = False  # the front sends many requests on a connection
        path = self.path.partition("?")[0]
        health = self._parts.health
        if path == "/v2/":
            if health.problem is None:
                # `helm test` shows the warning. A registry's answer is a JSON object too.
                body = {"warning": health.warning} if health.warning else {}
                self._send(200, json.dumps(body).encode(), JSON)
            else:
                self._refuse(503, "UNAVAILABLE", health.problem)
        elif not health.is_loaded:
            # The gate does not know yet what is on the volume, and would fetch it again.
            self._refuse(503, "UNAVAILABLE", health.volume_problem or "the volume is being read")
        elif path.startswith(INCOMING):
            self._send_incoming_blob(path.removeprefix(INCOMING))
        elif (
            request := parse_pull_request(self.command, path, self.headers, self._parts.replica_addresses.includes)
        ) is None:
            self._redirect(DISTRIBUTION, {})
        elif self.headers.get("Accept") == HOLDINGS_TYPE:
            self._send_holdings(request)
        else:
            self._from_replica = request.from_replica
            with self._parts.source.answering(request.reference, request.replica_zone):
                if request.reference.kind == BLOB:
                    self._answer_blob(request)
                else:
                    self._answer_manifest(request)

    def _send_holdings(self, request: PullRequest) -> None:
        """Tell another replica how much of a blob or manifest this one has, and in which zone it is."""
        reference, store = request.reference, self._parts.store
        if reference.kind == BLOB:
            is_stored = store.find_blob(reference.identifier) is not None
        else:
            is_stored = reference.is_digest and store.read_manifest(*reference[1:]) is not None
        held = ALL if is_stored else str(self._parts.fetches.count_written_bytes(reference.identifier))
        self._send(200, b"", {HOLDINGS_HEADER: held, ZONE_HEADER: self._parts.source.zone})

    # Manifests.

    def _answer_manifest(self, request: PullRequest) -> None:
        try:
            manifest = self._parts.manifests.get(request.reference)
        except (Unavailable, NotFound, Denied) as problem:
            self._refuse_for(problem, request)
            return
        self._parts.store.mark_used(request.reference.repository, manifest.digest)
        self._count(request, hit=not manifest.was_fetched)
        self._send_manifest(manifest)
        if self.command == "GET" and not request.from_replica:
            self.wfile.flush()
            self._parts.ahead.note_manifest(request.reference.repository, manifest)

    def _send_manifest(self, manifest: Manifest) -> None:
        etag = f'"{manifest.digest}"'
        if {etag, manifest.digest} & set(self.headers.get_all("If-None-Match", ())):
            self._send_head(304, {})
            return
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": manifest.digest, "ETag": etag}
        self._send(200, manifest.content, headers)

    # Blobs.

    def _answer_blob(self, request: PullRequest) -> None:
        if self._is_stored(request):
            self._count(request, hit=True)
            self._send_stored_blob(request)
        elif request.method == "HEAD":
            self._send_blob_size(request)
        else:
            if not request.from_replica:
                self._parts.ahead.note_blob(request.reference.identifier)
            self._send_fetched_blob(request)

    def _is_stored(self, request: PullRequest) -> bool:
        """Return whether the volume has the blob, and verify a blob that may be damaged.

        A client that requests a blob again, or the rest of one, was sent something that was wrong or broke off.
        """
        store, digest = self._parts.store, request.reference.identifier
        is_stored = store.find_blob(digest, request.first_byte) is not None
        is_repeat = (
            request.method == "GET" and not request.first_byte and self._parts.repeats.is_repeat(request.client, digest)
        )
        if is_stored and (request.first_byte or is_repeat):
            with self._parts.verifying:
                return store.verify_blob(digest, anew=is_repeat)
        return is_stored

    def _send_stored_blob(self, request: PullRequest) -> None:
        """Let the front send a blob from the volume."""
        digest = request.reference.identifier
        self._parts.store.mark_used(request.reference.repository, digest)
        hexadecimal = digest.partition(":")[2]
        self._redirect(f"/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data", {"Docker-Content-Digest": digest})

    def _send_blob_size(self, request: PullRequest) -> None:
        """Answer HEAD for a blob that is not on the volume, without fetching it."""
        reference = request.reference
        try:
            with self._parts.source.open("HEAD", reference, timeout=COMPLETE_BLOB_SECONDS) as answer:
                # A size in a stored manifest counts more than the header.
                size = self._parts.store.expected_size(reference.identifier)
                length = answer.headers.get("Content-Length") if size is None else str(size)
        except (Unavailable, NotFound, Denied) as problem:
            self._refuse_for(problem, request)
            return
        headers = {} if length is None else {"Content-Length": length}
        self._send_blob_head(200, reference.identifier, headers)

    def _send_fetched_blob(self, request: PullRequest) -> None:
        """Start or join a fetch of the blob, and let the front get the blob while it comes."""
        digest = request.reference.identifier
        while True:
            try:
                fetch, is_new = self._parts.fetches.get(request.reference)
            except Unavailable as problem:
                self._refuse_for(problem, request)
                return
            size = None if fetch.is_stalled else self._wait_for_fetch(fetch, request)
            if size is not None or self._parts.store.find_blob(digest) is not None:
                self._count(request, hit=not is_new, joined=not is_new)
                if size is None:
                    self._send_stored_blob(request)
                else:
                    self._redirect(f"{INCOMING}{self.path.partition('?')[0]}", {})
                return
            if not isinstance(fetch.failure, (NotFound, Denied)) or fetch.reference == request.reference:
                break
            # The upstream said so of another repository. It is asked again for this one.
        slow = Unavailable(Kind.TIMEOUT, f"the upstream sent nothing within {FIRST_BYTE_SECONDS:.0f} s")
        broken = Unavailable(Kind.CUT, "the upstream broke off and has not sent anything since")
        self._refuse_for(fetch.failure or (broken if fetch.is_stalled else slow), request)

    def _wait_for_fetch(self, fetch: Fetch, request: PullRequest) -> int | None:
        """Wait until the blob is complete, or may be sent while it comes, and return its size in the second case."""
        deadline = time.monotonic() + FIRST_BYTE_SECONDS
        is_careful = fetch.is_suspect or not request.can_resume
        if fetch.wait_for_end(COMPLETE_BLOB_SECONDS if is_careful else 0) or fetch.is_suspect:
            return None
        while not fetch.wait_for_first_byte(FOLLOW_SECONDS):
            if time.monotonic() > deadline or (fetch.is_stalled and request.can_resume):
                return None
        progress = fetch.progress
        return None if progress.has_ended else progress.size

    def _send_incoming_blob(self, path: str) -> None:
        """Send a blob, or a range of it, while it comes; the front asks for it after `_send_fetched_blob`."""
        request = parse_pull_request(self.command, path, self.headers, self._parts.replica_addresses.includes)
        if request is None:
            self._refuse(404, "NAME_INVALID", "this is not the path of a blob")
            return
        self._from_replica = request.from_replica
        with self._parts.source.answering(request.reference, request.replica_zone):
            self._answer_incoming_blob(request)

    def _answer_incoming_blob(self, request: PullRequest) -> None:
        if self._parts.store.find_blob(request.reference.identifier) is not None:
            self._send_stored_blob(request)
        elif (fetch := self._parts.fetches.find(request.reference)) is None or (size := fetch.progress.size) is None:
            self._refuse_for(Unavailable(Kind.CUT, "the fetch of the blob has ended"), request)
        else:
            self._follow(fetch, size, request)

    def _follow(self, fetch: Fetch, size: int, request: PullRequest) -> None:
        first_byte = request.first_byte
        end = size if request.last_byte is None else min(request.last_byte + 1, size)
        if first_byte >= end:
            self._refuse(416, "RANGE_INVALID", f"the blob has {size} bytes")
            return
        try:
            file = fetch.open()
        except OSError as error:
            self._refuse_for(fetch.failure or error, request)
            return
        with file:
            headers = {"Content-Length": str(end - first_byte)}
            is_partial = (first_byte, end) != (0, size)
            if is_partial:
                headers["Content-Range"] = f"bytes {first_byte}-{end - 1}/{size}"
            self._send_blob_head(206 if is_partial else 200, request.reference.identifier, headers)
            self.wfile.flush()
            self._send_growing_file(fetch, file.fileno(), request, first_byte, end)

    def _send_growing_file(self, fetch: Fetch, file: int, request: PullRequest, offset: int, end: int) -> None:
        """Send a file while it grows, and its last byte only after the blob has been compared with its digest."""
        while offset < end:
            progress = fetch.wait_for_more(offset if offset < end - 1 else end, FOLLOW_SECONDS)
            available = end if progress.is_verified else min(progress.written, end - 1)
            is_lost = fetch.failure is not None or (fetch.is_stalled and request.can_resume)
            if is_lost and not progress.is_verified:
                # The connection breaks off, and a request for the rest is refused.
                self.close_connection = True
                return
            while offset < available:
                sent = os.sendfile(self.connection.fileno(), file, offset, min(SENDFILE_BYTES, available - offset))
                if not sent:
                    message = "the file of the blob was truncated"
                    raise OSError(message)
                offset += sent

    # Responses.

    def _count(self, request: PullRequest, *, hit: bool, joined: bool = False) -> None:
        if not request.from_replica:
            self._parts.metrics.count_request(request.reference.kind, hit=hit, joined=joined)

    def _refuse_for(self, problem: Failure, request: PullRequest) -> None:
        if isinstance(problem, NotFound):
            self._refuse(404, f"{request.reference.kind.upper()}_UNKNOWN", str(problem), NOT_FOUND)
        elif isinstance(problem, Denied):
            self._refuse(403, "DENIED", str(problem), DENIED)
        elif isinstance(problem, Unavailable):
            # Never 429: containerd would repeat the request five times at once (core/remotes/docker/resolver.go).
            self._refuse(503, "UNAVAILABLE", str(problem), problem.kind)
        elif isinstance(problem, WrongContent):
            self._refuse(503, "UNAVAILABLE", str(problem), CONTENT)
        else:
            self._refuse(503, "UNAVAILABLE", str(problem), NO_ROOM if isinstance(problem, NoRoom) else VOLUME)

    def _refuse(self, status: int, code: str, message: str, reason: str = "") -> None:
        if reason:
            self._parts.metrics.count_refused_request(reason)
        self._send(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), JSON)

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
