"""Fetches each blob from the upstream once, however many clients request it.

A fetch belongs to no client: it has a thread of its own, continues for a while after every client has left, and resumes
when the connection to the upstream breaks. Clients follow the file while it grows, or wait until the blob is complete.

Clients of one repository join its fetch at once. Clients of another repository join it only when the upstream has begun
to send the blob: until then, it may still be refused, since anyone can request any digest in any repository.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from common.recent import RecentDict
from store.store import NoRoom, WrongContent
from upstream.errors import Denied, Kind, NotFound, Unavailable

from fetching.download import Download
from fetching.fair_slots import FairSlots, Overloaded
from fetching.fetch import Abandoned, Fetch, Superseded
from fetching.segments import MAX_ADDITIONAL_CONNECTIONS
from fetching.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from store.store import Store
    from upstream.reference import Reference
    from upstream.source import Source

    from fetching.fetch import Failure

# How long requests are refused after a fetch failed. A client whose body broke off requests the rest (containerd,
# httpreadseeker.go): if that is refused, it goes to the upstream, but if the body breaks off again, it gives up.
FAILURE_MEMORY_SECONDS = 10.0
MAX_REMEMBERED_FAILURES = 2048
# How long a digest is suspect whose content was wrong. Its clients are sent nothing before it was verified.
SUSPECT_SECONDS = 600.0
MAX_SUSPECTS = 1024
# The other fetches wait for their turn, without a thread. If these ones are slow, the clients of those are refused.
MAX_CONCURRENT_FETCHES = 128
# All fetches, including those that wait. More are refused.
MAX_FETCHES = 512


class Fetches:
    """All fetches of one cache."""

    def __init__(self, store: Store, source: Source, log: Callable[[str], None]) -> None:
        """Fetch from `source` into `store`."""
        self._store = store
        self._source = source
        self._log = log
        self._lock = threading.RLock()
        self._active: dict[Reference, Fetch] = {}
        # The fetches of `_active` to which the upstream has sent a good answer, by digest.
        self._leaders: dict[str, Fetch] = {}
        # The fetches of `_active` that wait for their turn, by the client that caused them.
        self._waiting: dict[str, deque[Fetch]] = {}
        # The key has the repository, since another repository may have the blob, or give it to us.
        self._failed: RecentDict[Reference, tuple[float, Fetch]] = RecentDict(MAX_REMEMBERED_FAILURES)
        # Until when a digest is suspect.
        self._suspects: dict[str, float] = {}
        self._slots = FairSlots(MAX_FETCHES)
        self._turns = FairSlots(MAX_CONCURRENT_FETCHES)
        self._connections = threading.BoundedSemaphore(MAX_ADDITIONAL_CONNECTIONS)

    def get(
        self, reference: Reference, client: str = "", *, joins_others: bool = True, joins_refused: bool = True
    ) -> tuple[Fetch, bool]:
        """Join the fetch of a blob, and return it and whether it was started by this call.

        The caller calls `Fetch.leave` later. `client` is the address of the client, or "" if it is unknown. Without
        `joins_others`, only a fetch for the same repository is joined. Without `joins_refused`, one that was refused a
        moment ago, before the first byte, is started again: it may have shown the upstream what another client has.

        Raises:
            Overloaded: Too many fetches have not ended, for this client or for all.
            Unavailable: The container has as many threads as it may have.
        """
        with self._lock:
            fetch, is_new = self._find(reference, joins_others=joins_others, joins_refused=joins_refused), False
            if fetch is None:
                fetch, is_new = self._start(reference, client, is_wanted=True), True
            fetch.note_wanted()
            fetch.join()
            return fetch, is_new

    def start_ahead(self, reference: Reference) -> None:
        """Start to fetch a blob that clients will probably request, unless it is fetched already or failed lately."""
        with self._lock, suppress(Overloaded, Unavailable):
            if self._find(reference) is None:
                self._start(reference, "", is_wanted=False)

    def find(self, reference: Reference) -> Fetch | None:
        """Join and return the fetch of a blob that is running, or that failed a moment ago."""
        with self._lock:
            fetch = self._find(reference)
            if fetch is not None:
                fetch.join()
            return fetch

    def count_written_bytes(self, digest: str) -> int:
        """Return how many bytes of a blob have come so far, 0 if it is not being fetched."""
        with self._lock:
            fetch = self._leaders.get(digest)
        return 0 if fetch is None else fetch.progress.written

    def count(self) -> int:
        """Return the number of fetches that have not ended."""
        return len(self._active)

    def lead(self, fetch: Fetch) -> None:
        """Let the clients of all repositories join a fetch to which the upstream has sent a good answer.

        Raises:
            Superseded: They join another one already.
        """
        with self._lock:
            leader = self._leaders.setdefault(fetch.reference.identifier, fetch)
            if leader is not fetch:
                if fetch.is_wanted:
                    leader.note_wanted()
                raise Superseded(leader)

    def abandon_unwanted(self, fetch: Fetch) -> None:
        """Let nobody join a fetch any more that no client wants.

        Raises:
            Abandoned: No client wants it.
        """
        with self._lock:
            if fetch.is_deserted or not fetch.is_wanted:
                self._forget(fetch)
                raise Abandoned

    def _find(self, reference: Reference, *, joins_others: bool = True, joins_refused: bool = True) -> Fetch | None:
        now = time.monotonic()
        while self._failed and next(iter(self._failed.values()))[0] <= now:
            del self._failed[next(iter(self._failed))]
        if reference in self._failed:
            failed = self._failed[reference][1]
            if joins_refused or failed.progress.written or not isinstance(failed.failure, Denied):
                return failed
        leader = self._leaders.get(reference.identifier)
        if leader is not None and (joins_others or leader.reference == reference):
            return leader
        return self._active.get(reference)

    def _start(self, reference: Reference, client: str, *, is_wanted: bool) -> Fetch:
        if not self._slots.take(client):
            message = "too many blobs are being fetched"
            raise Overloaded(message)
        is_suspect = time.monotonic() < self._suspects.get(reference.identifier, 0.0)
        fetch = Fetch(reference, client, is_suspect=is_suspect, is_wanted=is_wanted)
        self._active[reference] = fetch
        self._failed.pop(reference, None)
        self._waiting.setdefault(client, deque()).append(fetch)
        self._start_waiting()
        if isinstance(fetch.failure, Unavailable):
            raise fetch.failure
        return fetch

    def _start_waiting(self) -> None:
        """Start the fetches that wait, as far as there are turns; each client gets one after the other."""
        while (client := next(filter(self._turns.take, self._waiting), None)) is not None:
            waiting = self._waiting.pop(client)
            fetch = waiting.popleft()
            if waiting:
                self._waiting[client] = waiting
            try:
                start_thread(self._run, fetch)
            except Unavailable as problem:
                self._end(fetch, problem, is_remembered=False)

    def _run(self, fetch: Fetch) -> None:
        failure: Failure | None = None
        is_remembered = True
        try:
            Download(fetch, self._store, self._source, self._connections, self).run()
        except Superseded as other:
            fetch.leader = other.leader
            failure, is_remembered = Unavailable(Kind.CUT, "the blob comes for another repository"), False
        except Abandoned:
            # It is not among the active ones any more, so no client sees this.
            failure, is_remembered = Unavailable(Kind.CUT, "no client wants the blob"), False
        except NotFound as error:
            # Anyone can request what does not exist, so it is not logged.
            failure = error
        except Denied as error:
            self._log(f"{fetch.reference} was not cached: {error}")
            failure = error
        except (Unavailable, NoRoom, WrongContent, OSError) as error:
            self._log(f"{fetch.reference} was not cached: {error}")
            # A blob that was stored and only could not be linked in its repository can be sent.
            failure = error if self._store.find_blob(fetch.reference.identifier) is None else None
        except BaseException as error:
            failure = Unavailable(Kind.MALFORMED, f"the cache has a defect: {error!r}")
            raise
        finally:
            with self._lock:
                self._end(fetch, failure, is_remembered=is_remembered)
                self._start_waiting()

    def _end(self, fetch: Fetch, failure: Failure | None, *, is_remembered: bool) -> None:
        self._forget(fetch)
        self._turns.release(fetch.client)
        self._slots.release(fetch.client)
        if isinstance(failure, WrongContent):
            self._note_suspect(fetch.reference.identifier)
        if failure is not None and is_remembered:
            self._failed[fetch.reference] = (time.monotonic() + FAILURE_MEMORY_SECONDS, fetch)
        fetch.note_end(failure)

    def _forget(self, fetch: Fetch) -> None:
        """Let nobody join a fetch any more."""
        reference = fetch.reference
        if self._active.get(reference) is fetch:
            del self._active[reference]
        if self._leaders.get(reference.identifier) is fetch:
            del self._leaders[reference.identifier]

    def _note_suspect(self, digest: str) -> None:
        now = time.monotonic()
        suspects = {other: until for other, until in self._suspects.items() if now < until}
        while len(suspects) >= MAX_SUSPECTS:
            del suspects[next(iter(suspects))]
        self._suspects = {**suspects, digest: now + SUSPECT_SECONDS}
