"""Blobs are compared with their digests one after the other, and no client waits for long."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from fetching.fair_slots import Overloaded
from gate import verification
from gate.verification import Verification
from machine.processes import wait_for

if TYPE_CHECKING:
    from store.store import Store

TIMEOUT_SECONDS = 30.0


class SlowStore:
    """A store whose disk reads only when the test lets it."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self.may_read = threading.Event()
        self.read: list[str] = []

    def verify_blob(self, digest: str, *, anew: bool) -> bool:
        self.read.append(digest)
        assert self.may_read.wait(TIMEOUT_SECONDS)
        if digest == "unreadable":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return anew


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
def compared(store: SlowStore) -> Verification:
    return Verification(cast("Store", store))


def test_client_does_not_wait_for_a_slow_disk_and_the_comparison_goes_on(
    store: SlowStore, compared: Verification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_WAIT_SECONDS", 0.05)
    for _ in range(2):
        with pytest.raises(Overloaded, match="is being compared"):
            compared.is_right("a", anew=True)
    assert store.read == ["a"], "the second client waits for the same comparison"
    store.may_read.set()
    wait_for("its end", lambda: not compared._running, TIMEOUT_SECONDS, 0.01)
    assert compared.is_right("a", anew=True)
    assert not compared.is_right("a", anew=False)


def test_one_blob_at_a_time_is_read_and_few_wait(
    store: SlowStore, compared: Verification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_COMPARISONS", 3)
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(compared.is_right, name, anew=True) for name in "abc"]
        wait_for("three comparisons", lambda: len(compared._running) == 3, TIMEOUT_SECONDS, 0.01)
        with pytest.raises(Overloaded, match="too many"):
            compared.is_right("d", anew=True)
        assert len(store.read) <= 1
        store.may_read.set()
        assert all(result.result(TIMEOUT_SECONDS) for result in results)
    assert sorted(store.read) == ["a", "b", "c"]


def test_lack_of_the_disk_is_reported_to_the_client(store: SlowStore, compared: Verification) -> None:
    store.may_read.set()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        compared.is_right("unreadable", anew=True)
    assert not compared._running
