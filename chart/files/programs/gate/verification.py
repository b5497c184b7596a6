"""Compares stored blobs with their digests, one after the other, so that the disk has to read one at a time.

A large blob takes longer than a client waits. The client is then refused, and the comparison goes on for the next one.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from fetching.fair_slots import Overloaded
from fetching.threads import start_thread

if TYPE_CHECKING:
    from store.store import Store

# Less than the front and containerd wait for a response.
MAX_WAIT_SECONDS = 10.0
# Comparisons that run or wait for their turn. Each has a thread.
MAX_COMPARISONS = 64


class Verification:
    """The comparisons of one cache."""

    def __init__(self, store: Store) -> None:
        """Compare what is in `store`."""
        self._store = store
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._running: dict[tuple[str, bool], Future[bool]] = {}

    def is_right(self, digest: str, *, anew: bool) -> bool:
        """Return whether a stored blob has its digest, as `Store.verify_blob` does.

        Raises:
            Overloaded: That takes too long.
            Unavailable: The container has as many threads as it may have.
            OSError: Too many files are open, or there is a similar lack.
        """
        key = digest, anew
        with self._lock:
            comparison = self._running.get(key)
            if comparison is None:
                if len(self._running) >= MAX_COMPARISONS:
                    message = "too many blobs are being compared with their digests"
                    raise Overloaded(message)
                comparison = Future()
                start_thread(self._compare, key, comparison)
                self._running[key] = comparison
        try:
            return comparison.result(MAX_WAIT_SECONDS)
        except TimeoutError as error:
            message = "the blob is being compared with its digest"
            raise Overloaded(message) from error

    def _compare(self, key: tuple[str, bool], comparison: Future[bool]) -> None:
        digest, anew = key
        try:
            with self._turn:
                result = self._store.verify_blob(digest, anew=anew)
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads of the clients
            self._forget(key)
            comparison.set_exception(error)
        else:
            self._forget(key)
            comparison.set_result(result)

    def _forget(self, key: tuple[str, bool]) -> None:
        with self._lock:
            del self._running[key]
