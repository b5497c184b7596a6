"""One blob on its way from the upstream into the volume, as its clients see it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from store.store import NoRoom, WrongContent
from upstream.errors import Denied, NotFound, Unavailable

if TYPE_CHECKING:
    from io import FileIO

    from store.store import IncomingBlob
    from upstream.reference import Reference

# A fetch that received nothing for this long after a break loses its clients and refuses new ones, although it may
# still resume: they go to the upstream before their own timeouts end.
STALLED_AFTER_SECONDS = 5.0
# Clients that follow a fetch learn about its progress in steps: to wake fifty of them for each chunk would cost more
# than to send it. A step is a share of what has come or of what is missing, so that neither the beginning nor the end
# of a blob has to wait, but at least a number of bytes for each client, and at most a size or a time.
STEP_SHARE = 1 / 8
STEP_BYTES_PER_CLIENT = 1 << 16
MAX_STEP_BYTES = 1 << 20
MAX_STEP_SECONDS = 0.05

# A fetch that was started before any client requested the blob receives this much, and then waits for a client.
AHEAD_BYTES = 1 << 20
AHEAD_SECONDS = 10.0

# A fetch ends if all of its clients have hung up for this long. One that hangs up by mistake is back earlier.
DESERTED_SECONDS = 15.0
# But it goes on if no more than this share of the blob is missing.
NEARLY_COMPLETE_SHARE = 0.25

Failure = Unavailable | NotFound | Denied | NoRoom | WrongContent | OSError


class Abandoned(Exception):
    """No client wants the blob: nobody requested one that was fetched ahead, or all clients have hung up."""


class Superseded(Exception):
    """Another fetch brings the same blob, for another repository."""

    def __init__(self, leader: Fetch) -> None:
        """Take the other fetch."""
        super().__init__()
        self.leader = leader


class Progress(NamedTuple):
    """How far a fetch has come."""

    written: int
    size: int | None
    """The size of the blob, or None if it is not known yet."""
    has_ended: bool
    is_verified: bool
    """Whether all of the blob is there and has its digest."""


class Fetch:
    """One blob on its way into the volume."""

    def __init__(
        self, reference: Reference, client: str = "", *, is_suspect: bool = False, is_wanted: bool = True
    ) -> None:
        """Start as a fetch that has received nothing.

        `client` is the one that caused it, `is_suspect` says that the content was wrong lately, `is_wanted` that a
        client has requested the blob.
        """
        self.reference = reference
        self.client = client
        self.leader: Fetch | None = None
        """The fetch that brings the blob instead, after this one has ended."""
        self.is_suspect = is_suspect
        self.is_wanted = is_wanted
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # A blob comes in thousands of chunks, and these must not wake the clients that wait for the end.
        self._has_ended_condition = threading.Condition(lock)
        self._incoming: IncomingBlob | None = None
        self._size: int | None = None
        self._is_verified = False
        self._is_complete = False
        self._reported_bytes = 0
        self._reported_at = 0.0
        self._broken_since: float | None = None
        self._failure: Failure | None = None
        self._clients = 0
        self._deserted_since: float | None = None
        self._is_kept = False

    def join(self) -> None:
        """Note that one more client waits for the blob or follows it."""
        with self._changed:
            self._clients += 1
            self._deserted_since = None

    def leave(self, *, is_kept: bool = False) -> None:
        """Note that a client of `join` is gone.

        With `is_kept`, the client did not hang up but was refused because the blob comes too slowly. The fetch then
        goes on to its end, and the blob is there for the next client.
        """
        with self._changed:
            self._clients -= 1
            self._is_kept = self._is_kept or is_kept
            if not self._clients and not self._is_kept:
                self._deserted_since = time.monotonic()

    @property
    def is_deserted(self) -> bool:
        """Whether all clients hung up a while ago, and much of the blob is missing."""
        since = self._deserted_since
        if since is None or time.monotonic() - since < DESERTED_SECONDS:
            return False
        return self._size is None or self._size - self._written() > NEARLY_COMPLETE_SHARE * self._size

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the blob is complete or the fetch has failed, and return whether either happened in time."""
        with self._has_ended_condition:
            return self._has_ended_condition.wait_for(self._has_ended, seconds)

    def wait_for_first_byte(self, seconds: float, offset: int = 0) -> bool:
        """Wait until the blob can be followed or the fetch has ended, and return whether either happened in time.

        A blob can be followed from `offset` on if its size is known, this byte has come and the upstream is sending.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended() or self._can_be_followed(offset), seconds)

    def wait_for_more(self, offset: int, seconds: float) -> Progress:
        """Wait until more than `offset` bytes are there or all are verified or failed, and return the progress."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_verified or self._has_ended() or self._written() > offset, seconds)
            return self.progress

    @property
    def progress(self) -> Progress:
        """How far the fetch has come."""
        with self._changed:
            return Progress(self._written(), self._size, self._has_ended(), self._is_verified)

    def _has_ended(self) -> bool:
        return self._is_complete or self._failure is not None

    def _can_be_followed(self, offset: int) -> bool:
        if self._size is None or self._broken_since is not None:
            return False
        # A byte that the blob does not have is not waited for.
        return self._written() > (offset if offset < self._size else 0)

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

    def note_wanted(self) -> None:
        """Note that a client has requested the blob."""
        if not self.is_wanted:
            with self._changed:
                self.is_wanted = True
                self._changed.notify_all()

    def wait_until_wanted(self) -> bool:
        """Wait for a client for a while if enough was received without one, and return whether to go on."""
        if self.is_wanted or self._written() < AHEAD_BYTES:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self.is_wanted, AHEAD_SECONDS)

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
        """Wake the clients that follow the file, if much has come or some time has passed."""
        now = time.monotonic()
        written = self._written()
        if (
            self._broken_since is None
            and written - self._reported_bytes < self._step_bytes(written)
            and now - self._reported_at < MAX_STEP_SECONDS
        ):
            return
        with self._changed:
            self._broken_since = None
            self._reported_bytes, self._reported_at = written, now
            self._changed.notify_all()

    def _step_bytes(self, written: int) -> float:
        left = written if self._size is None else self._size - written
        step = max(STEP_BYTES_PER_CLIENT * self._clients, min(written, left) * STEP_SHARE)
        return min(step, MAX_STEP_BYTES)

    def note_verified(self) -> None:
        """Let the clients that follow the file have the last byte."""
        with self._changed:
            self._is_verified = True
            self._size = self._written()
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
            self._is_verified = self._is_verified or self._is_complete
            self._changed.notify_all()
            self._has_ended_condition.notify_all()
