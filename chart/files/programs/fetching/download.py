"""Brings one blob from the upstream into the volume: in one response, in ranges, and in spite of broken connections."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from upstream.errors import Denied, Kind, NotFound, Unavailable

from fetching.fetch import Abandoned, Superseded
from fetching.least_rate import LeastRate, TooSlow
from fetching.pieces import CHUNK_BYTES, Pieces
from fetching.segments import APPEND_BYTES, Segments

if TYPE_CHECKING:
    import threading

    from store.store import IncomingBlob, Store
    from upstream.client import Answer
    from upstream.source import Source
    from upstream.urls import Url

    from fetching.fetch import Fetch

# How long the upstream may take to begin its response. Some make a blob, or get it from elsewhere, on request.
# So the first response is waited for longer than clients do, and the blob is there for the next client.
HEAD_TIMEOUT_SECONDS = 10.0
FIRST_HEAD_TIMEOUT_SECONDS = 60.0
# How long a download tries to resume without receiving a byte.
RESUME_SECONDS = 60.0
# An upstream without ranges sends the blob from its start each time, so a download gives up after this many responses
# that bring nothing new.
MAX_FRUITLESS_RESPONSES = 2
RESUME_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)


class Owner(Protocol):
    """The fetches of a cache, as far as one download needs them."""

    def lead(self, fetch: Fetch) -> None:
        """Let the clients of all repositories join a fetch to which the upstream has sent a good answer.

        Raises:
            Superseded: They join another one already.
        """

    def abandon_unwanted(self, fetch: Fetch) -> None:
        """Let nobody join a fetch any more that no client wants.

        Raises:
            Abandoned: No client wants it.
        """


class Download:
    """The work of a fetch."""

    def __init__(
        self,
        fetch: Fetch,
        store: Store,
        source: Source,
        connections: threading.Semaphore,
        owner: Owner,
    ) -> None:
        """`connections` limits the additional connections of all downloads."""
        self._fetch = fetch
        self._store = store
        self._source = source
        self._connections = connections
        self._owner = owner
        self._rate = LeastRate()

    def run(self) -> None:
        """Store the blob, unless it is stored already.

        Raises:
            Unavailable, NotFound, Denied: The upstream does not send it.
            NoRoom, WrongContent, OSError: It cannot be stored.
            Abandoned: No client wants it any more.
            Superseded: Another fetch brings it already.
        """
        digest = self._fetch.reference.identifier
        if self._store.find_blob(digest) is not None:
            # Another fetch ended after the client had looked at the volume.
            return
        expected_size = self._store.expected_size(digest)
        if expected_size is not None:
            # A blob that cannot be held is refused before the upstream is asked for it.
            self._store.check_room(expected_size)
        incoming: IncomingBlob | None = None
        try:
            self._check_wanted()
            with self._open_first() as answer:
                self._owner.lead(self._fetch)
                size = expected_size
                if size is None and answer.length is not None:
                    size = answer.offset + answer.length
                # Content is evicted only now that the upstream is sending.
                incoming = self._store.begin_blob(digest, size)
                self._fetch.note_start(incoming, size)
                self._append_recorded(incoming)
                self._rate = LeastRate()
                broken = self._receive(answer, incoming)
            if broken is not None:
                self._resume(incoming, broken)
            incoming.verify()
            # The clients need not wait until the disk has it.
            self._fetch.note_verified()
            incoming.commit(self._fetch.reference.repository)
        except (Unavailable, NotFound, Denied, Abandoned, Superseded):
            if incoming is not None:
                incoming.interrupt()
            raise
        except BaseException:
            if incoming is not None:
                incoming.abandon()
            raise

    def _open_first(self) -> Answer:
        """Request the blob, or the rest of an interrupted one."""
        reference = self._fetch.reference
        if offset := self._store.interrupted_size(reference.identifier):
            try:
                return self._source.open("GET", reference, offset=offset, timeout=FIRST_HEAD_TIMEOUT_SECONDS)
            except Unavailable as problem:
                # The upstream may support no range, or not this one.
                if problem.kind not in (Kind.CLIENT_ERROR, Kind.MALFORMED):
                    raise
        return self._source.open("GET", reference, timeout=FIRST_HEAD_TIMEOUT_SECONDS)

    def _append_recorded(self, incoming: IncomingBlob) -> None:
        """Append what an earlier fetch has left, which is compared with the digest like everything else."""
        while incoming.written < incoming.recorded:
            self._check_wanted()
            incoming.append_written(min(APPEND_BYTES, incoming.recorded - incoming.written))
            self._fetch.note_growth()

    def _check_wanted(self) -> None:
        if self._fetch.is_deserted or not self._fetch.wait_until_wanted():
            self._owner.abandon_unwanted(self._fetch)

    def _check(self, received: int) -> None:
        """Note how many bytes have come from the upstream, and end the fetch if there is no reason to go on.

        Raises:
            Abandoned: No client wants the blob.
            TooSlow: It comes too slowly.
        """
        self._check_wanted()
        self._rate.add(received)

    def _receive(self, answer: Answer, incoming: IncomingBlob) -> Unavailable | None:
        """Write the first response to the volume, with the help of others if it is slow; return what broke it off."""
        size = incoming.size
        if size is None or not (answer.offset or answer.headers.get("Accept-Ranges") == "bytes"):
            return self._copy(answer, incoming)
        open_range = partial(self._open_range, answer.location)
        segments = Segments(incoming, size, open_range, self._connections)
        try:
            problem = self._copy(answer, incoming, segments)
            if problem is None and incoming.written < size:
                # The rest comes in ranges.
                answer.close()
                problem = segments.append_all(self._fetch, self._check)
        finally:
            segments.stop()
        return problem

    def _open_range(self, location: Url | None, first_byte: int, last_byte: int) -> Answer:
        return self._source.open(
            "GET",
            self._fetch.reference,
            offset=first_byte,
            last_byte=last_byte,
            location=location,
            timeout=HEAD_TIMEOUT_SECONDS,
        )

    def _copy(self, answer: Answer, incoming: IncomingBlob, segments: Segments | None = None) -> Unavailable | None:
        """Append the body of a response, up to where segments begin, and return what broke it off, if anything did."""
        skip = incoming.written - answer.offset
        if skip < 0:
            message = (
                f"the upstream was asked for the bytes from {incoming.written} on and sent those from {answer.offset}"
            )
            return Unavailable(Kind.MALFORMED, message)
        broken = None
        pieces = Pieces()
        try:
            while chunk := answer.read(CHUNK_BYTES):
                self._check(len(chunk))
                skipped = min(skip, len(chunk))
                skip -= skipped
                end = len(chunk) if segments is None else segments.limit(skipped, len(chunk))
                incoming.write(memoryview(chunk)[skipped:end])
                self._fetch.note_growth()
                if end < len(chunk):
                    return None
                if incoming.written != incoming.size:
                    pieces.collect_more(len(chunk))
        except TooSlow:
            raise
        except Unavailable as error:
            broken = error
        if incoming.size is None:
            return broken
        if incoming.written == incoming.size:
            # A connection that breaks after the last byte does no harm.
            return None
        message = f"the body from the upstream ends after {incoming.written} of {incoming.size} bytes"
        return broken or Unavailable(Kind.CUT, message)

    def _resume(self, incoming: IncomingBlob, broken: Unavailable) -> None:
        """Request the rest until it has come, since some upstreams break off every long response.

        Raises:
            Unavailable: Nothing new has come for too long, or little for longer.
        """
        deadline = time.monotonic() + RESUME_SECONDS
        pauses = iter(RESUME_PAUSES_SECONDS)
        fruitless_responses = 0
        while True:
            self._fetch.note_break()
            self._check(0)
            written_before = incoming.written
            try:
                with self._source.open(
                    "GET", self._fetch.reference, offset=written_before, timeout=HEAD_TIMEOUT_SECONDS
                ) as answer:
                    problem = self._copy(answer, incoming)
                    fruitless_responses += 1
            except TooSlow:
                raise
            except Unavailable as error:
                problem = error
            if problem is None:
                return
            if incoming.written > written_before:
                deadline = time.monotonic() + RESUME_SECONDS
                pauses = iter(RESUME_PAUSES_SECONDS)
                fruitless_responses = 0
            pause = next(pauses, RESUME_PAUSES_SECONDS[-1])
            if fruitless_responses >= MAX_FRUITLESS_RESPONSES or time.monotonic() + pause > deadline:
                raise problem from broken
            time.sleep(pause)
