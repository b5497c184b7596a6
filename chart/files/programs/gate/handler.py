"""Answers the requests that the front passes on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from common.identity import UPSTREAM_HEADER
from fetching.fair_slots import Overloaded
from fetching.replica_first import ALL, HOLDINGS_HEADER, HOLDINGS_TYPE, ZONE_HEADER
from store.store import NoRoom
from upstream.errors import Denied, NotFound, Unavailable
from upstream.reference import BLOB

from gate.cold_blobs import FIRST_BYTE_SECONDS, INCOMING, ColdBlobs
from gate.metrics import PUSH, UNKNOWN
from gate.pull_request import is_allowed, is_for_registry, parse_pull_request
from gate.responses import JSON

if TYPE_CHECKING:
    from gate.manifests import Manifest
    from gate.pull_request import PullRequest


class Handler(ColdBlobs):
    """Answers the requests of one connection."""

    def do_GET(self) -> None:  # noqa: N802 - http.server expects this name
        """Answer a GET or a HEAD."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            # An unread body would be taken for the next request. The front does not pass bodies on.
            self.close_connection = True
            self._refuse(400, "UNSUPPORTED", "requests to a cache have no body")
            return
        self._answer()

    do_HEAD = do_GET  # noqa: N815 - http.server expects this name

    def refuse_change(self) -> None:
        """Refuse a request that would change something."""
        self.close_connection = True  # the body is not read
        self._refuse(405, "UNSUPPORTED", "a cache does not accept pushes, push to the upstream instead", PUSH)

    do_POST = do_PUT = do_PATCH = do_DELETE = refuse_change  # noqa: N815 - http.server expects these names

    def _answer(self) -> None:
        self._from_replica = False  # the front sends many requests on a connection
        path, _, query = self.path.partition("?")
        health = self._parts.health
        if path == "/v2/":
            if not is_for_registry(query, self._parts.upstream):
                self._refuse_foreign()
            elif health.problem is None:
                # `helm test` shows the warning. A registry's answer is a JSON object too.
                body = {"warning": health.warning} if health.warning else {}
                self._send(200, json.dumps(body).encode(), {**JSON, UPSTREAM_HEADER: self._parts.upstream})
            else:
                self._refuse(503, "UNAVAILABLE", health.problem)
        elif not health.is_loaded:
            # The gate does not know yet what is on the volume, and would fetch it again.
            self._refuse(503, "UNAVAILABLE", health.volume_problem or "the volume is being read")
        else:
            self._answer_pull(path, query)

    def _answer_pull(self, path: str, query: str) -> None:
        content_path = path.removeprefix(INCOMING)
        request = parse_pull_request(self.command, content_path, self.headers, self._parts.replica_addresses.includes)
        if request is None:
            self._refuse(404, "NAME_INVALID", "this is not the path of a manifest or a blob", UNKNOWN)
        elif not (
            is_for_registry(query, self._parts.upstream)
            and is_allowed(request.reference.repository, self._parts.allowed_repositories)
        ):
            self._refuse_foreign()
        elif not self.server.pulls.take(request.client):
            self._refuse_for(Overloaded("it has too many requests"), request)
        else:
            try:
                self._answer_request(request, is_incoming=content_path != path)
            finally:
                self.server.pulls.release(request.client)

    def _answer_request(self, request: PullRequest, *, is_incoming: bool) -> None:
        is_open = self._parts.pullers is None or request.from_replica
        if self.headers.get("Accept") == HOLDINGS_TYPE and is_open:
            # A replica that only asks this does not wait for the content.
            self._send_holdings(request)
            return
        self._from_replica = request.from_replica
        with self._parts.replicas.answering(request.reference, request.replica_zone):
            if is_incoming:
                self._send_incoming_blob(request)
            elif request.reference.kind == BLOB:
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
        self._send(200, b"", {HOLDINGS_HEADER: held, ZONE_HEADER: self._parts.replicas.zone})

    # Manifests.

    def _answer_manifest(self, request: PullRequest) -> None:
        try:
            manifest = self._get_manifest(request)
        except (Unavailable, NotFound, Denied, Overloaded, NoRoom, OSError) as problem:
            self._log_and_refuse(problem, request)
            return
        self._parts.store.mark_used(request.reference.repository, manifest.digest)
        self._count(request, hit=not manifest.was_fetched)
        self._send_manifest(manifest)
        if self.command == "GET" and not request.from_replica:
            self.wfile.flush()
            self._parts.ahead.note_manifest(request.reference.repository, manifest)

    def _get_manifest(self, request: PullRequest) -> Manifest:
        """Return what a client requests, if it may pull it.

        Raises:
            Unavailable, NotFound, Denied, Overloaded, NoRoom, OSError: As `Manifests.get`, or the client may not.
        """
        manifests, pullers = self._parts.manifests, self._parts.pullers
        if pullers is None:
            return manifests.get(request.reference, request.client)
        is_stored, is_tag = manifests.is_stored(request.reference), not request.reference.is_digest
        # If the upstream was asked about what the client shows, it has said what the tag means too.
        answered = pullers.check(request, is_asked_anyway=is_tag or not is_stored, is_fetched=not is_stored)
        try:
            manifest = manifests.get(request.reference, request.client, answered)
        except Denied:
            if request.authorization is None:
                raise
            # It may have been asked for with what somebody else showed.
            answered = pullers.check(request)
            manifest = manifests.get(request.reference, request.client, answered)
        if not answered:
            pullers.check(request)
        return manifest

    def _send_manifest(self, manifest: Manifest) -> None:
        etag = f'"{manifest.digest}"'
        if {etag, manifest.digest} & set(self.headers.get_all("If-None-Match", ())):
            self._send_head(304, {})
            return
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": manifest.digest, "ETag": etag}
        if manifest.content is None:
            self._send_file_of(manifest.digest, headers)
        else:
            self._send(200, manifest.content, headers)

    # Blobs.

    def _answer_blob(self, request: PullRequest) -> None:
        # The checks before a fetch take a part of the time that the front waits.
        deadline = time.monotonic() + FIRST_BYTE_SECONDS
        last_byte = self._last_byte_before_end(request)
        try:
            if self._parts.pullers is not None:
                self._parts.pullers.check(request)
                if last_byte is not None or self._parts.store.find_blob(request.reference.identifier) is not None:
                    self._parts.pullers.prove_blob(request)
            is_stored = self._is_stored(request)
        except (Unavailable, NotFound, Denied, Overloaded, OSError) as problem:
            self._log_and_refuse(problem, request)
            return
        if is_stored:
            self._count(request, hit=True)
            self._send_stored_blob(request)
        elif request.method == "HEAD":
            self._send_blob_size(request)
        elif last_byte is not None:
            self._send_range(request, last_byte)
        else:
            if not request.from_replica:
                self._parts.ahead.note_blob(request.reference.identifier)
            self._send_fetched_blob(request, deadline)

    def _is_stored(self, request: PullRequest) -> bool:
        """Return whether the volume has the blob, and verify a blob that may be damaged.

        A client that requests a blob again, or the rest of one, was sent something that was wrong or broke off. One
        that requests other ranges pulls lazily.

        Raises:
            Overloaded, Unavailable, OSError: As `Verification.is_right`.
        """
        store, digest = self._parts.store, request.reference.identifier
        is_stored = store.find_blob(digest, request.first_byte) is not None
        is_repeat = (
            request.method == "GET" and not request.first_byte and self._parts.repeats.is_repeat(request.client, digest)
        )
        is_rest = request.first_byte > 0 and request.last_byte is None
        if is_stored and (is_rest or is_repeat):
            return self._parts.verification.is_right(digest, anew=is_repeat)
        return is_stored
