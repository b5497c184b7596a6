"""Fetches each blob from the upstream once, however many clients request it.

A fetch belongs to no client: it has a thread of its own, continues after every client has left, and resumes when the
connection to the upstream breaks. Clients wait until the blob is complete, or follow the file while it grows.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from store.store import NoRoom, WrongContent
from upstream.errors import Denied, Kind, NotFound, Unavailable

from gate.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from store.store import IncomingBlob, Store
    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.source import Source

# The most that a fetch holds in memory.
CHUNK_BYTES = 1 << 18
# How long the upstream may take to begin its response.
HEAD_TIMEOUT_SECONDS = 10.0
# How long a fetch tries to resume without receiving a byte.
RESUME_SECONDS = 60.0
# An upstream without ranges sends the blob from its start each time, so a fetch gives up after this many responses
# that bring nothing new.
MAX_FRUITLESS_RESPONSES = 2
# A fetch that received nothing for this long after a break refuses new clients, although it may still resume: a client
# that waited until its own timeout would otherwise wait a second time.
STALLED_AFTER_SECONDS = 5.0
RESUME_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
# How long requests are refused after a fetch failed. A client whose body broke off requests the rest (containerd,
# httpreadseeker.go): if that is refused, it goes to the upstream, but if the body breaks off again, it gives up.
FAILURE_MEMORY_SECONDS = 10.0
# The other fetches wait for their turn. If these ones are slow, their clients are refused before that.
MAX_CONCURRENT_FETCHES = 128

Failure = Unavailable | NotFound | Denied | NoRoom | WrongContent | OSError


class Progress(NamedTuple):
    """How far a fetch has come."""

    written: int
    size: int | None
    """The size of the blob, or None if it is not known yet."""
    has_ended: bool


class Fetch:
    """One blob on its way into the volume."""

    def __init__(self, reference: Reference) -> None:
        """Start as a fetch that has received nothing."""
        self.reference = reference
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # A blob comes in thousands of chunks, and these must not wake the clients that wait for the end.
        self._has_ended_condition = threading.Condition(lock)
        self._incoming: IncomingBlob | None = None
        self._size: int | None = None
        self._is_complete = False
        self._broken_since: float | None = None
        self._failure: Failure | None = None

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the blob is complete or the fetch has failed, and return whether either happened in time."""
        with self._has_ended_condition:
            return self._has_ended_condition.wait_for(self._has_ended, seconds)

    def wait_for_first_byte(self, seconds: float) -> bool:
        """Wait until the blob can be followed or the fetch has ended, and return whether either happened in time.

        A blob can be followed if its size is known, its first bytes have come and the upstream is sending.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended() or self._can_be_followed(), seconds)

    def wait_for_more(self, offset: int, seconds: float) -> Progress:
        """Wait until more than `offset` bytes are there or the fetch has ended, and return the progress."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended() or self._written() > offset, seconds)
            return self.progress

    @property
    def progress(self) -> Progress:
        """How far the fetch has come."""
        with self._changed:
            return Progress(self._written(), self._size, self._has_ended())

    def _has_ended(self) -> bool:
        return self._is_complete or self._failure is not None

    def _can_be_followed(self) -> bool:
        return self._written() > 0 and self._size is not None and self._broken_since is None

    def _written(self) -> int:
        return 0 if self._incoming is None else self._incoming.written

    def open(self) -> FileIO:
        """Open the file of the blob, which may still grow.

        Raises:
            OSError: The file cannot be read, or it is not there yet or no longer.
        """
        with self._changed:
            incoming = self._incoming
        if incoming is None:
            message = "the upstream has not sent anything yet"
            raise OSError(message)
        return incoming.open_for_reading()

    @property
    def is_stalled(self) -> bool:
        """Whether the connection broke a while ago and nothing has come since."""
        with self._changed:
            return self._broken_since is not None and time.monotonic() - self._broken_since > STALLED_AFTER_SECONDS

    @property
    def failure(self) -> Failure | None:
        """Why the fetch failed, or None if it did not."""
        return self._failure

    def note_start(self, incoming: IncomingBlob, size: int | None) -> None:
        """Note that the upstream has begun to answer and that there is room for the blob."""
        with self._changed:
            self._incoming, self._size = incoming, size
            self._changed.notify_all()

    def note_growth(self) -> None:
        """Wake the clients that follow the file."""
        with self._changed:
            self._broken_since = None
            self._changed.notify_all()

    def note_break(self) -> None:
        """Note that the connection to the upstream broke."""
        with self._changed:
            if self._broken_since is None:
                self._broken_since = time.monotonic()

    def note_end(self, failure: Failure | None) -> None:
        """Wake all clients."""
        with self._changed:
            self._is_complete, self._failure = failure is None, failure
            self._changed.notify_all()
            self._has_ended_condition.notify_all()


class Fetches:
    """All fetches of one cache."""

    def __init__(self, store: Store, source: Source, log: Callable[[str], None]) -> None:
        """Fetch from `source` into `store`."""
        self._store = store
        self._source = source
        self._log = log
        self._lock = threading.Lock()
        self._active: dict[str, Fetch] = {}
        # The key has the repository, since another repository may have the blob, or give it to us.
        self._failed: dict[Reference, tuple[float, Fetch]] = {}
        self._turn = threading.BoundedSemaphore(MAX_CONCURRENT_FETCHES)

    def get(self, reference: Reference) -> tuple[Fetch, bool]:
        """Return the fetch of a blob, and whether it was started by this call.

        Raises:
            Unavailable: The container has as many threads as it may have.
        """
        with self._lock:
            now = time.monotonic()
            self._failed = {key: failed for key, failed in self._failed.items() if failed[0] > now}
            if reference in self._failed:
                return self._failed[reference][1], False
            if reference.identifier in self._active:
                return self._active[reference.identifier], False
            fetch = Fetch(reference)
            start_thread(self._run, fetch)
            self._active[reference.identifier] = fetch
        return fetch, True

    def count(self) -> int:
        """Return the number of fetches that have not ended."""
        return len(self._active)

    def _run(self, fetch: Fetch) -> None:
        digest = fetch.reference.identifier
        failure: Failure | None = None
        try:
            with self._turn:
                self._fetch(fetch)
        except (Unavailable, NotFound, Denied, NoRoom, WrongContent, OSError) as error:
            self._log(f"{fetch.reference} was not cached: {error}")
            # A blob that was stored and only could not be linked in its repository can be sent.
            failure = error if self._store.find_blob(digest) is None else None
        except BaseException as error:
            failure = Unavailable(Kind.MALFORMED, f"the cache has a defect: {error!r}")
            raise
        finally:
            with self._lock:
                del self._active[digest]
                if failure is not None:
                    self._failed[fetch.reference] = (time.monotonic() + FAILURE_MEMORY_SECONDS, fetch)
            fetch.note_end(failure)

    def _fetch(self, fetch: Fetch) -> None:
        digest = fetch.reference.identifier
        if self._store.find_blob(digest) is not None:
            # Another fetch ended after the client had looked at the volume.
            return
        expected_size = self._store.expected_size(digest)
        if expected_size is not None:
            # A blob that cannot be held is refused before the upstream is asked for it.
            self._store.check_room(expected_size)
        incoming: IncomingBlob | None = None
        try:
            with self._source.open("GET", fetch.reference, timeout=HEAD_TIMEOUT_SECONDS) as answer:
                size = answer.length if expected_size is None else expected_size
                # Content is evicted only now that the upstream is sending.
                incoming = self._store.begin_blob(digest, size)
                fetch.note_start(incoming, size)
                broken = _copy(answer, incoming, fetch)
            if broken is not None:
                self._resume(fetch, incoming, broken)
            incoming.commit(fetch.reference.repository)
        except BaseException:
            if incoming is not None:
                incoming.abandon()
            raise

    def _resume(self, fetch: Fetch, incoming: IncomingBlob, broken: Unavailable) -> None:
        """Request the rest until it has come, since some upstreams break off every long response.

        Raises:
            Unavailable: Nothing new has come for too long.
        """
        deadline = time.monotonic() + RESUME_SECONDS
        pauses = iter(RESUME_PAUSES_SECONDS)
        fruitless_responses = 0
        while True:
            fetch.note_break()
            written_before = incoming.written
            try:
                with self._source.open(
                    "GET", fetch.reference, offset=written_before, timeout=HEAD_TIMEOUT_SECONDS
                ) as answer:
                    problem = _copy(answer, incoming, fetch)
                    fruitless_responses += 1
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


def _copy(answer: Answer, incoming: IncomingBlob, fetch: Fetch) -> Unavailable | None:
    """Write the body of a response to the volume, and return what broke it off, if anything did."""
    skip = incoming.written - answer.offset
    if skip < 0:
        message = f"the upstream was asked for the bytes from {incoming.written} on and sent those from {answer.offset}"
        return Unavailable(Kind.MALFORMED, message)
    broken = None
    try:
        while chunk := answer.read(CHUNK_BYTES):
            skipped = min(skip, len(chunk))
            skip -= skipped
            incoming.write(chunk[skipped:])
            fetch.note_growth()
    except Unavailable as error:
        broken = error
    if incoming.size is None:
        return broken
    if incoming.written == incoming.size:
        # A connection that breaks after the last byte does no harm.
        return None
    message = f"the body from the upstream ends after {incoming.written} of {incoming.size} bytes"
    return broken or Unavailable(Kind.CUT, message)
