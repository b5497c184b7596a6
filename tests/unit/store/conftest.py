"""Stores for tests, on the disk of the machine or on small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from made_stores import MIB, Clock, small_disk
from store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(clock: Clock) -> Callable[..., Store]:
    def opened(root: Path, capacity: int = 1024 * MIB, **options: Any) -> Store:
        store = Store(root, capacity, now=clock, monotonic=clock, **options)
        store.load()
        return store

    return opened


@pytest.fixture
def store(open_store: Callable[..., Store], tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of 8 MiB."""
    with small_disk(tmp_path / "disk", "size=8m") as folder:
        yield folder
