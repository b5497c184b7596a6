"""Fetches each blob from the upstream once, however many clients request it.

A fetch belongs to no client: it has a thread of its own, continues after every client has left, and resumes when the
connection to the upstream breaks. Clients follow the file while it grows, or wait until the blob is complete.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from store.store import NoRoom, WrongContent
from upstream.errors import Denied, Kind, NotFound, Unavailable

from fetching.download import Download
from fetching.fetch import Abandoned, Fetch
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
# How long a digest is suspect whose content was wrong. Its clients are sent nothing before it was verified.
SUSPECT_SECONDS = 600.0
MAX_SUSPECTS = 1024
# The other fetches wait for their turn. If these ones are slow, their clients are refused before that.
MAX_CONCURRENT_FETCHES = 128


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
        # Until when a digest is suspect.
        self._suspects: dict[str, float] = {}
        self._turn = threading.BoundedSemaphore(MAX_CONCURRENT_FETCHES)
        self._connections = threading.BoundedSemaphore(MAX_ADDITIONAL_CONNECTIONS)

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
            if (active := self._active.get(reference.identifier)) is not None:
                active.note_wanted()
                return active, False
            return self._start(reference, is_wanted=True), True

    def start_ahead(self, reference: Reference) -> None:
        """Start to fetch a blob that clients will probably request, unless it is fetched already or failed lately."""
        with self._lock, suppress(Unavailable):
            if reference.identifier not in self._active and reference not in self._failed:
                self._start(reference, is_wanted=False)

    def _start(self, reference: Reference, *, is_wanted: bool) -> Fetch:
        is_suspect = time.monotonic() < self._suspects.get(reference.identifier, 0.0)
        fetch = Fetch(reference, is_suspect=is_suspect, is_wanted=is_wanted)
        start_thread(self._run, fetch)
        self._active[reference.identifier] = fetch
        return fetch

    def _abandon_unwanted(self, fetch: Fetch) -> None:
        """Let nobody join a fetch that no client wants.

        Raises:
            Abandoned: No client wants it.
        """
        with self._lock:
            if not fetch.is_wanted:
                del self._active[fetch.reference.identifier]
                raise Abandoned

    def find(self, reference: Reference) -> Fetch | None:
        """Return the fetch of a blob that is running, or that failed a moment ago."""
        with self._lock:
            failed = self._failed.get(reference)
            return self._active.get(reference.identifier) or (failed[1] if failed else None)

    def count_written_bytes(self, digest: str) -> int:
        """Return how many bytes of a blob have come so far, 0 if it is not being fetched."""
        with self._lock:
            fetch = self._active.get(digest)
        return 0 if fetch is None else fetch.progress.written

    def count(self) -> int:
        """Return the number of fetches that have not ended."""
        return len(self._active)

    def _run(self, fetch: Fetch) -> None:
        digest = fetch.reference.identifier
        failure: Failure | None = None
        is_remembered = True
        try:
            with self._turn:
                Download(fetch, self._store, self._source, self._connections, self._abandon_unwanted).run()
        except Abandoned:
            # It is not among the active ones any more, so no client sees this.
            failure, is_remembered = Unavailable(Kind.CUT, "no client requested the blob"), False
        except (Unavailable, NotFound, Denied, NoRoom, WrongContent, OSError) as error:
            self._log(f"{fetch.reference} was not cached: {error}")
            # A blob that was stored and only could not be linked in its repository can be sent.
            failure = error if self._store.find_blob(digest) is None else None
        except BaseException as error:
            failure = Unavailable(Kind.MALFORMED, f"the cache has a defect: {error!r}")
            raise
        finally:
            with self._lock:
                if self._active.get(digest) is fetch:
                    del self._active[digest]
                if isinstance(failure, WrongContent):
                    self._note_suspect(digest)
                if failure is not None and is_remembered:
                    self._failed[fetch.reference] = (time.monotonic() + FAILURE_MEMORY_SECONDS, fetch)
            fetch.note_end(failure)

    def _note_suspect(self, digest: str) -> None:
        now = time.monotonic()
        suspects = {other: until for other, until in self._suspects.items() if now < until}
        while len(suspects) >= MAX_SUSPECTS:
            del suspects[next(iter(suspects))]
        self._suspects = {**suspects, digest: now + SUSPECT_SECONDS}
