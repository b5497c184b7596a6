"""Fuzz targets: hypothesis makes inputs, and a target says what must hold for each.

Inputs that failed, and those that lead near other code, are kept in a folder and are tried first the next time.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

HANG_SECONDS = 5.0
EXAMPLES_OF_A_ROUND = 200
MAX_NESTING = 12_000


class Hang(Exception):
    """Something took longer than it may."""


@dataclass(frozen=True)
class Target:
    """Something that gets input from others. `check` raises an exception if something does not hold."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    weight: float = 1.0
    """Its share of the time, relative to the others."""


def run_target(target: Target, seconds: float, seeds: Path | None) -> int:
    """Try inputs for some seconds, and return how many were tried. Without `seeds`, the inputs are always the same.

    Raises:
        Exception: Whatever `check` raised, for the smallest input that hypothesis found, which it prints.
    """
    deadline, count = time.monotonic() + seconds, 0

    def check(value: object) -> None:
        nonlocal count
        count += 1
        if time.monotonic() < deadline:
            with limit(HANG_SECONDS):
                target.check(value)

    database = DirectoryBasedExampleDatabase(seeds / target.name) if seeds else None
    phases = [Phase.reuse, Phase.generate, Phase.target, Phase.shrink]
    options = settings(
        max_examples=EXAMPLES_OF_A_ROUND,
        deadline=None,
        database=database,
        derandomize=database is None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    check.__qualname__ = target.name
    test = options(given(target.inputs)(check))
    while time.monotonic() < deadline:
        test()
        if database is None:
            break  # the same inputs would come again
    return count


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Limit how long the main thread may take for the block.

    Raises:
        Hang: It took longer.
    """

    def end(*_: object) -> None:
        message = f"took longer than {seconds:g} s"
        raise Hang(message)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutated(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for any bytes, and for samples in which pieces were replaced, removed and repeated."""
    pieces = st.one_of(st.binary(max_size=8), st.sampled_from(samples), st.sampled_from(ODD_PIECES))
    changes = st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), pieces, st.sampled_from([1, 1, 1, 2, 300]))
    return st.one_of(
        st.binary(max_size=64),
        st.builds(_change, st.sampled_from(samples), st.lists(changes, max_size=6)),
    )


def mutated_text(samples: Sequence[str]) -> st.SearchStrategy[str]:
    """Return the same for text."""
    return mutated([sample.encode() for sample in samples]).map(lambda content: content.decode("utf-8", "replace"))


def nested(opening: str, closing: str, text: str) -> st.SearchStrategy[bytes]:
    """Return a strategy for text in which `{}` is replaced by brackets that are nested up to 12,000 deep."""
    return st.integers(1, MAX_NESTING).map(lambda n: text.replace("{}", opening * n + closing * n).encode())


def replaced(document: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy for JSON documents that have odd values in some places of this one."""
    paths = list(_paths(document))
    changes = st.lists(st.tuples(st.sampled_from(paths), ODD_VALUES), min_size=1, max_size=3)
    return changes.map(lambda chosen: json.dumps(_replace(document, chosen)).encode())


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _replace(document: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    document = copy.deepcopy(document)
    for path, value in changes:
        place = document
        # A change before this one may have removed the place.
        with suppress(KeyError, TypeError, IndexError):
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
    return document


ODD_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([10**400, -(10**400), 1 << 63, math.inf, -math.inf, math.nan, 1e-300, 1e300, -1, 0]),
    st.sampled_from([None, True, False, [], {}, [[]], [{}]]),
    st.sampled_from(["", "\n", "\0", "x" * 300, "/", "..", "0s", "9" * 400 + "h", "sha256:", "\ud800"]),
    st.one_of(st.text(max_size=8), st.integers(), st.floats()),
)
ODD_PIECES = (
    *(b"\0", b"\r\n", b"\n", b"\r", b"\xff\xfe", b'"', b"\\", b"[", b"{", b"-1", b"0", b"1e999", b"NaN", b"null"),
    *(b"9" * 400, b"9" * 5000, b"\xed\xa0\x80", b"true", b",", b"=", b"..", b"/", b"%2f", b"sha256:", b"Infinity"),
)


def _change(content: bytes, changes: list[tuple[int, int, bytes, int]]) -> bytes:
    for position, removed, inserted, times in changes:
        start = position % (len(content) + 1)
        content = content[:start] + inserted * times + content[start + removed :]
    return content
