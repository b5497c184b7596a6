"""Sends blobs that are not stored.

A blob that is not stored yet is sent while it comes, from the moment when the upstream sends its first bytes. What goes
wrong before that is refused with an error status, and containerd then goes to the upstream itself
(core/remotes/docker/fetcher.go). What goes wrong later breaks the body off, and a request for the rest is refused. The
last byte is sent only after the digest was verified. A client that does not survive a body that breaks off gets a blob
when it is complete, unless that takes long.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fetching.fair_slots import Overloaded
from fetching.ranges import MAX_RANGE_BYTES
from upstream.errors import Denied, Kind, NotFound, Unavailable

from gate.responses import Responses

if TYPE_CHECKING:
    from fetching.fetch import Fetch
    from upstream.reference import Reference

    from gate.pull_request import PullRequest

# A client that does not survive a body that breaks off gets a blob that is complete by then from the volume, and a
# longer one while it comes.
COMPLETE_BLOB_SECONDS = 10.0
# If nothing of what is requested has come by then, the client is refused, and asks the upstream. The fetch goes on.
FIRST_BYTE_SECONDS = 12.0
# How often a response that follows a fetch looks for bytes of which it was not told, since it is told only of many.
FOLLOW_SECONDS = 0.1
# How often a request that waits for a fetch looks whether its client hung up.
WAIT_SECONDS = 0.5
# The location in nginx.conf that asks the gate again, for the body of a blob that is still coming.
INCOMING = "/incoming"


class ColdBlobs(Responses):
    """Answers requests for blobs that are not stored."""

    def _send_blob_size(self, request: PullRequest) -> None:
        """Answer HEAD for a blob that is not on the volume, without fetching it."""
        reference = request.reference
        try:
            length = self._ask_for_length(reference)
        except (Unavailable, NotFound, Denied) as problem:
            self._log_and_refuse(problem, request)
            return
        # A size in a stored manifest counts more than the header.
        size = self._parts.store.expected_size(reference.identifier)
        length = length if size is None else str(size)
        headers = {} if length is None else {"Content-Length": length}
        self._send_blob_head(200, reference.identifier, headers)

    def _ask_for_length(self, reference: Reference) -> str | None:
        """Return the length of a blob at the upstream, as far as it says so.

        Some upstreams answer HEAD wrongly, so that only a GET proves anything. A single byte is enough for it.

        Raises:
            Unavailable, NotFound, Denied: The upstream does not send it.
        """
        deadline = time.monotonic() + COMPLETE_BLOB_SECONDS
        try:
            with self._parts.source.open("HEAD", reference, timeout=COMPLETE_BLOB_SECONDS) as answer:
                return answer.headers.get("Content-Length")
        except (NotFound, Denied):
            pass
        except Unavailable as problem:
            if not problem.may_concern_head_alone:
                raise
        left = max(0.0, deadline - time.monotonic())
        with self._parts.source.open("GET", reference, offset=0, last_byte=0, timeout=left) as answer:
            return None if answer.total_size is None else str(answer.total_size)

    def _send_fetched_blob(self, request: PullRequest, deadline: float) -> None:
        """Start or join a fetch of the blob, and let the front get the blob while it comes.

        If nothing has come by the deadline, the client is refused, and the fetch goes on.
        """
        pullers, reference = self._parts.pullers, request.reference
        while True:
            joins_others = pullers is None or pullers.may_read(reference.repository, reference.identifier)
            try:
                fetch, is_new = self._parts.fetches.get(
                    reference, request.client, joins_others=joins_others, joins_refused=pullers is None
                )
            except (Unavailable, Overloaded) as problem:
                self._log_and_refuse(problem, request)
                return
            is_slow = False
            try:
                size = None if fetch.is_stalled else self._wait_for_fetch(fetch, request, deadline)
                is_refused = isinstance(fetch.failure, (NotFound, Denied))
                is_own = fetch.reference == reference
                if pullers is not None and is_own and (size is not None or fetch.leader):
                    # The upstream has begun to send it for this repository.
                    pullers.note_blob(reference)
                is_stored = self._parts.store.find_blob(reference.identifier) is not None
                if size is not None or (is_stored and not (is_refused and is_own)):
                    if pullers is not None:
                        pullers.prove_blob(request)
                    self._count(request, hit=not is_new, joined=not is_new)
                    if size is None:
                        self._send_stored_blob(request)
                    else:
                        self._redirect(f"{INCOMING}{self.path.partition('?')[0]}", {})
                    return
                is_slow = fetch.failure is None
            except (Unavailable, NotFound, Denied, Overloaded) as problem:
                self._log_and_refuse(problem, request)
                return
            finally:
                fetch.leave(is_kept=is_slow)
            # What the upstream says of another repository, it may not say of this one.
            is_of_another = is_refused and not is_own
            if time.monotonic() > deadline or not (is_of_another or fetch.leader):
                break
        slow = Unavailable(Kind.TIMEOUT, f"nothing of what is requested came within {FIRST_BYTE_SECONDS:.0f} s")
        broken = Unavailable(Kind.CUT, "the upstream broke off and has not sent anything since")
        self._refuse_for(fetch.failure or (broken if fetch.is_stalled else slow), request)

    def _wait_for_fetch(self, fetch: Fetch, request: PullRequest, deadline: float) -> int | None:
        """Wait until the blob is complete, or may be sent while it comes, and return its size in the second case.

        The rest of a blob is sent when its first byte has come: a fetch that began anew may be far behind, and a client
        gives up after a few bodies without a byte. A replica has looked how far the fetch is.

        Raises:
            ConnectionResetError: The client hung up.
        """
        if fetch.is_suspect or not request.can_resume:
            complete_at = min(deadline, time.monotonic() + COMPLETE_BLOB_SECONDS)
            while (left := complete_at - time.monotonic()) > 0:
                if fetch.wait_for_end(min(WAIT_SECONDS, left)):
                    return None
                self._check_client()
        if fetch.is_suspect:
            return None
        first_byte = 0 if request.from_replica else request.first_byte
        while not fetch.wait_for_first_byte(WAIT_SECONDS, first_byte):
            self._check_client()
            if time.monotonic() > deadline or (fetch.is_stalled and request.can_resume):
                return None
        progress = fetch.progress
        return None if progress.has_ended else progress.size

    # Ranges that end before the blob.

    def _last_byte_before_end(self, request: PullRequest) -> int | None:
        """Return the last byte of a range that ends before the end of the blob, as far as that is known."""
        size = self._parts.store.expected_size(request.reference.identifier)
        is_rest = request.last_byte is None or (size is not None and request.last_byte >= size - 1)
        return None if is_rest else request.last_byte

    def _send_range(self, request: PullRequest, last_byte: int) -> None:
        """Send a range of a blob that is not stored, whole or not at all.

        The blob is not fetched for the sake of a short one.
        """
        reference, first_byte = request.reference, request.first_byte
        is_long = last_byte - first_byte >= MAX_RANGE_BYTES
        if last_byte < first_byte:
            self._refuse(416, "RANGE_INVALID", "the range ends before it begins")
            return
        try:
            if self._send_range_of_incoming(request, last_byte, is_started=is_long):
                return
            if is_long:
                # The client gets it from the upstream, and the next ones from the blob.
                self._refuse_for(Overloaded("a long range is sent only if it is there"), request)
                return
            with self._parts.ranges.fetching(reference, first_byte, last_byte, request.client) as fetched:
                self._count(request, hit=False)
                self._send_partial(request, first_byte, len(fetched.content), fetched.blob_size)
                self.wfile.write(fetched.content)
        except (Unavailable, NotFound, Denied, Overloaded) as problem:
            self._log_and_refuse(problem, request)

    def _send_range_of_incoming(self, request: PullRequest, last_byte: int, *, is_started: bool) -> bool:
        """Send a range of an incoming blob if all of it has come, and return whether it has.

        With `is_started`, the blob is fetched from now on.
        """
        fetches, reference = self._parts.fetches, request.reference
        fetch = fetches.get(reference, request.client)[0] if is_started else fetches.find(reference)
        if fetch is None:
            return False
        try:
            progress = fetch.progress
            if progress.has_ended or fetch.is_suspect or progress.written <= last_byte:
                return False
            try:
                file = fetch.open()
            except OSError:
                return False
            with file:
                self._count(request, hit=True)
                length = last_byte + 1 - request.first_byte
                self._send_partial(request, request.first_byte, length, progress.size)
                self.wfile.flush()
                self._send_file(file.fileno(), request.first_byte, last_byte + 1)
            return True
        finally:
            fetch.leave()

    # Blobs that are still coming. The front asks for them after `_send_fetched_blob`.

    def _send_incoming_blob(self, request: PullRequest) -> None:
        if self._parts.store.find_blob(request.reference.identifier) is not None:
            self._send_stored_blob(request)
            return
        fetch = self._parts.fetches.find(request.reference)
        if fetch is None:
            if self._parts.store.find_blob(request.reference.identifier) is not None:
                # It was stored in the meantime.
                self._send_stored_blob(request)
            else:
                self._refuse_for(Unavailable(Kind.CUT, "the fetch of the blob has ended"), request)
            return
        is_kept = False
        try:
            size = fetch.progress.size
            if size is None:
                self._refuse_for(Unavailable(Kind.CUT, "the fetch of the blob has ended"), request)
            else:
                self._follow(fetch, size, request)
                is_kept = fetch.is_stalled
        finally:
            fetch.leave(is_kept=is_kept)

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
            if (first_byte, end) == (0, size):
                self._send_blob_head(200, request.reference.identifier, {"Content-Length": str(size)})
            else:
                self._send_partial(request, first_byte, end - first_byte, size)
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
            if offset >= available:
                self._check_client()
            offset = self._send_file(file, offset, available)
