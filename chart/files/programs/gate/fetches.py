"""One fetch for all: a blob that many ask for leaves the upstream once, into the volume, whatever its clients do.

A fetch belongs to no client. It has a thread of its own, goes on when every client hung up, and when the upstream's
connection breaks it asks for the rest. Clients wait until the blob is whole, or follow the file as it grows.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from store.store import NoRoom, WrongContent
from upstream.client import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB, Reference

from gate.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from store.store import IncomingBlob, Store
    from upstream.client import Answer
    from upstream.sources import Source

# Bytes that a fetch holds in memory at most.
CHUNK = 1 << 18
# Seconds until the upstream must have begun to answer, and how long it may be asked for the rest without a byte.
HEAD_TIMEOUT = 10.0
RESUME_SECONDS = 60.0
# So many answers without a byte of what is missing are enough: an upstream without ranges begins anew each time.
IN_VAIN = 2
# Seconds from a break to when new clients are refused, although the rest may still come: who waited for it by then, and
# gave up, is not to wait once more.
STUCK = 5.0
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
# Seconds for which what failed is refused at once. A client whose body broke off asks for the rest (containerd,
# httpreadseeker.go): refused, it asks the upstream; given another body that breaks off, it gives up.
REMEMBERED = 10.0
# So many at a time; the others wait for their turn, and are refused before they get it where these are slow ones.
AT_ONCE = 128

Failure = Unavailable | NotFound | Denied | NoRoom | WrongContent | OSError


class Progress(NamedTuple):
    """How far a fetch is: bytes that can be read, and of how many; None where that is not known yet."""

    written: int
    size: int | None
    ended: bool


class Fetch:
    """One blob on its way into the volume."""

    def __init__(self, repository: str, digest: str) -> None:
        """Nothing is asked yet."""
        self.repository = repository
        self.digest = digest
        self.reference = Reference(BLOB, repository, digest)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Of its own: it comes in thousands of pieces, and those who wait for the end are not to be woken by each.
        self._at_end = threading.Condition(lock)
        self._part: IncomingBlob | None = None
        self._size: int | None = None
        self._done = False
        self._troubled_since: float | None = None
        self._failure: Failure | None = None

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the blob is whole or failed, so many seconds at most, and return whether it is either."""
        with self._at_end:
            return self._at_end.wait_for(self._has_ended, seconds)

    def wait_until_certain(self, seconds: float) -> bool:
        """Wait until the blob is known to come, or ended, so many seconds at most, and return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended() or self._comes(), seconds)

    def wait_beyond(self, offset: int, seconds: float) -> Progress:
        """Wait until there are more than `offset` bytes, or the end, so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended() or self._written() > offset, seconds)
            return Progress(self._written(), self._size, self._has_ended())

    def _has_ended(self) -> bool:
        return self._done or self._failure is not None

    def _comes(self) -> bool:
        return self._written() > 0 and self._size is not None and self._troubled_since is None

    def _written(self) -> int:
        return 0 if self._part is None else self._part.written

    def open(self) -> FileIO:
        """What there is of it, for reading while it grows.

        Raises:
            OSError: it cannot be read, or not any more.
        """
        with self._changed:
            if self._part is None:
                message = "nothing came yet"
                raise OSError(message)
            part = self._part
        return part.open_for_reading()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing has come for a while since it broke off: who asks now is not to wait for it."""
        with self._changed:
            return self._troubled_since is not None and time.monotonic() - self._troubled_since > STUCK

    @property
    def failure(self) -> Failure | None:
        """Why there is no blob; None while it comes, and when it is there."""
        return self._failure

    def began(self, part: IncomingBlob, size: int | None) -> None:
        """Have room for the blob, and an answer of the upstream."""
        with self._changed:
            self._part, self._size = part, size
            self._changed.notify_all()

    def grew(self) -> None:
        """Tell those who follow that there is more."""
        with self._changed:
            self._troubled_since = None
            self._changed.notify_all()

    def broke_off(self) -> None:
        """Have it known that the rest may not come."""
        with self._changed:
            if self._troubled_since is None:
                self._troubled_since = time.monotonic()

    def ended(self, failure: Failure | None) -> None:
        """Tell all who wait."""
        with self._changed:
            self._done, self._failure = failure is None, failure
            self._changed.notify_all()
            self._at_end.notify_all()


class Fetches:
    """All fetches of one upstream."""

    def __init__(self, store: Store, source: Source, log: Callable[[str], None]) -> None:
        """Fetch from `source` into `store`."""
        self._store = store
        self._source = source
        self._log = log
        self._lock = threading.Lock()
        self._under_way: dict[str, Fetch] = {}
        # By repository too: what one has not, or not for us, another one may have.
        self._failed: dict[tuple[str, str], tuple[float, Fetch]] = {}
        self._turn = threading.BoundedSemaphore(AT_ONCE)

    def get(self, repository: str, digest: str) -> tuple[Fetch, bool]:
        """The fetch of a blob, one under way or a new one, and whether it is new.

        Raises:
            Unavailable: the system gives no thread.
        """
        with self._lock:
            now = time.monotonic()
            self._failed = {key: value for key, value in self._failed.items() if value[0] > now}
            if (repository, digest) in self._failed:
                return self._failed[repository, digest][1], False
            if digest in self._under_way:
                return self._under_way[digest], False
            fetch = Fetch(repository, digest)
            start_thread(self._run, fetch)
            self._under_way[digest] = fetch
        return fetch, True

    def count(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def _run(self, fetch: Fetch) -> None:
        failure: Failure | None = None
        try:
            with self._turn:
                self._fetch(fetch)
        except (Unavailable, NotFound, Denied, NoRoom, WrongContent, OSError) as error:
            self._log(f"{fetch.repository}@{fetch.digest} is not cached: {error}")
            # Without a link to it, it can be sent all the same.
            failure = error if self._store.find_blob(fetch.digest) is None else None
        except BaseException as error:
            failure = Unavailable(Kind.MALFORMED, f"the cache has a defect: {error!r}")
            raise
        finally:
            with self._lock:
                del self._under_way[fetch.digest]
                if failure is not None:
                    self._failed[fetch.repository, fetch.digest] = (time.monotonic() + REMEMBERED, fetch)
            fetch.ended(failure)

    def _fetch(self, fetch: Fetch) -> None:
        if self._store.find_blob(fetch.digest) is not None:
            # It came between the look at the volume and the start of this fetch.
            return
        expected = self._store.expected_size(fetch.digest)
        if expected is not None:
            # What cannot be held is not asked for, and nothing goes for what does not come.
            self._store.check_room(expected)
        part: IncomingBlob | None = None
        try:
            with self._source.open("GET", fetch.reference, timeout=HEAD_TIMEOUT) as answer:
                size = answer.length if expected is None else expected
                part = self._store.begin_blob(fetch.digest, size)
                fetch.began(part, size)
                broken = _copy(answer, part, fetch)
            if broken is not None:
                self._resume(fetch, part, broken)
            part.commit(fetch.repository)
        except BaseException:
            if part is not None:
                part.abandon()
            raise

    def _resume(self, fetch: Fetch, part: IncomingBlob, broken: Unavailable) -> None:
        """Ask for what is missing until it came; some upstreams break off every long answer."""
        deadline = time.monotonic() + RESUME_SECONDS
        pauses = iter(PAUSES)
        in_vain = 0
        while True:
            fetch.broke_off()
            before = part.written
            try:
                with self._source.open("GET", fetch.reference, offset=before, timeout=HEAD_TIMEOUT) as answer:
                    again = _copy(answer, part, fetch)
                    in_vain += 1
            except Unavailable as error:
                again = error
            if again is None:
                return
            if part.written > before:
                deadline, pauses, in_vain = time.monotonic() + RESUME_SECONDS, iter(PAUSES), 0
            pause = next(pauses, PAUSES[-1])
            if in_vain >= IN_VAIN or time.monotonic() + pause > deadline:
                raise again from broken
            time.sleep(pause)


def _copy(answer: Answer, part: IncomingBlob, fetch: Fetch) -> Unavailable | None:
    """Write a body where it belongs, and return what broke it off."""
    skip = part.written - answer.offset
    if skip < 0:
        return Unavailable(Kind.MALFORMED, f"asked from byte {part.written}, the upstream sent from {answer.offset}")
    broken = None
    try:
        while content := answer.read(CHUNK):
            if skip:
                dropped = min(skip, len(content))
                skip -= dropped
                content = content[dropped:]
            part.write(content)
            fetch.grew()
    except Unavailable as error:
        broken = error
    if part.size is None:
        return broken
    if part.written == part.size:
        # Whatever the connection does then.
        return None
    return broken or Unavailable(Kind.CUT, f"the upstream's body ends after {part.written} of {part.size} bytes")
