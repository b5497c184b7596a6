"""Downloads a large blob in ranges, on several connections at once, if one connection is slower than the line.

Some upstreams limit the rate of each connection, and a long delay limits it by its window. Whether more connections
help is tried with a small range, beside the response that is running: on a line that is the limit itself, they would
only take their bytes from each other. The ranges are requested in the order in which clients need them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upstream.errors import Denied, Kind, NotFound, Unavailable

from fetching.pieces import CHUNK_BYTES, Pieces
from fetching.threads import start_thread
from fetching.trial import TRIAL_BYTES, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from store.store import IncomingBlob
    from upstream.client import Answer

    from fetching.fetch import Fetch

SEGMENT_BYTES = 4 << 20
# One blob has so many connections at most, and all blobs of a cache together so many additional ones.
MAX_CONNECTIONS = 8
MAX_ADDITIONAL_CONNECTIONS = 16
# How often connections are added while they help, and by how much they have to.
GROW_SECONDS = 0.5
MIN_GROWTH = 1.15
CONNECTIONS_PER_STEP = 2
# How often a segment is requested again after its connection broke, without a byte that is new.
MAX_FRUITLESS_RESPONSES = 3
RETRY_PAUSE_SECONDS = 0.5
APPEND_BYTES = 1 << 20
WAIT_SECONDS = 0.5


@dataclass(slots=True)
class Segment:
    """A range of the blob."""

    start: int
    end: int
    written: int
    """The end of the bytes that are on the volume."""


class Segments:
    """The ranges of one blob, from the first byte that the first response does not have to bring."""

    def __init__(
        self,
        incoming: IncomingBlob,
        size: int,
        open_range: Callable[[int, int], Answer],
        connections: threading.Semaphore,
    ) -> None:
        """Request ranges, by their first and last bytes, with `open_range`; `connections` limits those of all blobs."""
        self._incoming = incoming
        self._size = size
        self._open_range = open_range
        self._connections = connections
        self._changed = threading.Condition()
        self._segments: deque[Segment] = deque()
        self._next_start = 0
        self._received = 0
        self._workers = 0
        self._problem: Unavailable | None = None
        self._is_stopped = False
        self._trial = Trial()

    # While the first response runs.

    def limit(self, start: int, end: int) -> int:
        """Return where a chunk of the first response, which goes from `start` to `end`, has to be cut off.

        This also decides when to try, and then whether to use, more connections.
        """
        now, written = time.monotonic(), self._incoming.written + end - start
        trial = self._trial
        if trial.is_due(now, written, self._size):
            self._next_start = trial.begin()
            if not self._start_worker(only_one=True):
                trial.give_up()
        with self._changed:
            is_passed = bool(self._segments) and written >= self._segments[0].start
            if trial.is_running and (self._problem is not None or is_passed):
                trial.give_up()
            trial.decide(now, written)
        if trial.has_succeeded:
            if self._workers == 0:
                self._add_workers()
            return min(end, start + max(0, self._segments[0].start - self._incoming.written))
        return end

    # After the first response was cut off.

    def append_all(self, fetch: Fetch, check: Callable[[int], None]) -> Unavailable | None:
        """Append the segments to the blob as they come, and return what prevents that, if anything does.

        `check` is called now and then with the number of bytes that were appended since, and may raise.
        """
        grow_at, last_rate = time.monotonic() + GROW_SECONDS, 0.0
        counted, checked = self._received, self._incoming.written
        while self._incoming.written < self._size:
            check(self._incoming.written - checked)
            checked = self._incoming.written
            available = self._wait_for_bytes(self._incoming.written)
            if available:
                self._incoming.append_written(min(available, APPEND_BYTES))
                fetch.note_growth()
            elif self._problem is not None:
                return self._problem
            else:
                fetch.note_break()
            if (now := time.monotonic()) >= grow_at:
                rate = (self._received - counted) / (now - grow_at + GROW_SECONDS)
                if last_rate >= 0 and rate >= last_rate * MIN_GROWTH:
                    self._add_workers()
                    last_rate = rate
                else:
                    last_rate = -1.0  # more connections do not help any more
                grow_at, counted = now + GROW_SECONDS, self._received
        return None

    def stop(self) -> None:
        """Let the connections end. What they still receive is not written any more."""
        self._is_stopped = True

    def _wait_for_bytes(self, offset: int) -> int:
        """Return how many bytes from `offset` on are on the volume, none if that takes long."""

        def available() -> int:
            while self._segments and self._segments[0].end <= offset:
                self._segments.popleft()
            return self._segments[0].written - offset if self._segments else 0

        with self._changed:
            self._changed.wait_for(lambda: available() > 0 or self._problem is not None, WAIT_SECONDS)
            return available()

    def _add_workers(self) -> None:
        for _ in range(CONNECTIONS_PER_STEP):
            if self._workers < MAX_CONNECTIONS and not self._start_worker():
                return

    def _start_worker(self, *, only_one: bool = False) -> bool:
        """Start a thread that fetches one segment after the other, or only one."""
        if not self._connections.acquire(blocking=False):
            return False
        with self._changed:
            self._workers += 1
        try:
            start_thread(self._work, only_one)
        except Unavailable:
            self._end_worker()
            return False
        return True

    def _work(self, only_one: bool) -> None:  # noqa: FBT001 - the argument of a thread
        try:
            while (segment := self._take_segment(TRIAL_BYTES if only_one else SEGMENT_BYTES)) is not None:
                self._fetch_segment(segment)
                if only_one:
                    return
        except (Unavailable, NotFound, Denied) as error:
            self._note_problem(error if isinstance(error, Unavailable) else Unavailable(Kind.CUT, str(error)))
        except BaseException as error:
            # The thread that appends reports it, for example a full disk.
            self._note_problem(Unavailable(Kind.MALFORMED, f"a part could not be stored: {error}"))
            if not isinstance(error, Exception):
                raise
        finally:
            self._end_worker()

    def _end_worker(self) -> None:
        self._connections.release()
        with self._changed:
            self._workers -= 1

    def _note_problem(self, problem: Unavailable) -> None:
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()

    def _take_segment(self, size: int) -> Segment | None:
        with self._changed:
            start = self._next_start
            if self._is_stopped or self._problem is not None or start >= self._size:
                return None
            self._next_start = min(start + size, self._size)
            segment = Segment(start, self._next_start, start)
            self._segments.append(segment)
            return segment

    def _fetch_segment(self, segment: Segment) -> None:
        fruitless_responses = 0
        while segment.written < segment.end and not self._is_stopped:
            written_before = segment.written
            try:
                if not self._receive(segment):
                    return
            except Unavailable:
                fruitless_responses = fruitless_responses + 1 if segment.written == written_before else 0
                if fruitless_responses >= MAX_FRUITLESS_RESPONSES or self._is_stopped:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)

    def _receive(self, segment: Segment) -> bool:
        """Receive the rest of a segment in one response, and return whether it is still needed.

        Raises:
            Unavailable: It is no range, or it broke off.
        """
        with self._open_range(segment.written, segment.end - 1) as answer:
            if answer.offset != segment.written:
                message = "the upstream does not send ranges"
                raise Unavailable(Kind.MALFORMED, message)
            pieces = Pieces()
            while segment.written < segment.end and (chunk := answer.read(CHUNK_BYTES)):
                content = memoryview(chunk)[: segment.end - segment.written]
                if self._is_stopped or not self._incoming.write_ahead(segment.written, content):
                    return False
                with self._changed:
                    segment.written += len(content)
                    self._received += len(content)
                    if self._trial.is_running:
                        self._trial.observe_second(time.monotonic(), segment.written - segment.start)
                    self._changed.notify_all()
                if segment.written < segment.end:
                    pieces.collect_more(len(chunk))
        if segment.written < segment.end:
            message = f"the upstream ended a range {segment.end - segment.written} bytes too early"
            raise Unavailable(Kind.CUT, message)
        return True
