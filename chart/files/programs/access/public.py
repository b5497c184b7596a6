"""Remembers which repositories are public: those of which the upstream sent something to a request without credentials.

Their names are recorded on the volume. So public images are served after a restart too, while the upstream is away.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from common.files import flush_folder, write_and_flush
from common.log import ProblemLog
from common.recent import RecentDict
from store.layout import MAX_REPOSITORY_CHARACTERS, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECORD_NAME = "registry-cache.public"
# The repositories that are remembered, at about 200 bytes each. A forgotten one is only asked about again.
MAX_REPOSITORIES = 10_000
MAX_RECORD_BYTES = MAX_REPOSITORIES * (MAX_REPOSITORY_CHARACTERS + 1)


class PublicRepositories:
    """The public repositories of one upstream, for many threads at once."""

    def __init__(self, record: Path, log: Callable[[str], None]) -> None:
        """Record them in a file, which `load` reads."""
        self._record = record
        self._log = log
        self._lock = threading.Lock()
        # When the upstream was asked last. What was recorded before a restart counts as asked long ago.
        self._asked_at: RecentDict[str, float] = RecentDict(MAX_REPOSITORIES)
        self._is_recorded = True
        self._problems = ProblemLog(log)

    def load(self) -> None:
        """Read the record of an earlier start, if there is one."""
        try:
            with self._record.open("rb") as file:
                names = file.read(MAX_RECORD_BYTES).decode("ascii", "replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self._log(f"the public repositories of the last start are not known: {error}")
            return
        with self._lock:
            for name in names:
                if name not in self._asked_at and REPOSITORY.fullmatch(name):
                    self._asked_at[name] = -math.inf

    def record(self) -> None:
        """Write the record, if it has changed since it was written; one thread calls this again and again."""
        with self._lock:
            if self._is_recorded:
                return
            self._is_recorded = True
            content = "".join(f"{name}\n" for name in sorted(self._asked_at)).encode()
        new = self._record.with_name(f"{RECORD_NAME}.new")
        problem = ""
        try:
            write_and_flush(new, content, 0o600)
            new.rename(self._record)
            flush_folder(self._record.parent)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            with self._lock:
                self._is_recorded = False
            problem = f"the public repositories are not recorded on the volume: {error}"
        self._problems.note(problem)

    def __contains__(self, repository: str) -> bool:
        """Return whether a repository was public when the upstream was asked last."""
        return repository in self._asked_at

    def seconds_since_asked(self, repository: str) -> float | None:
        """Return how long ago the upstream showed that a repository is public, or None if that is unknown."""
        asked_at = self._asked_at.get(repository)
        return None if asked_at is None else time.monotonic() - asked_at

    def note(self, repository: str) -> None:
        """Remember that the upstream just now sent something without credentials."""
        with self._lock:
            self._is_recorded = self._is_recorded and repository in self._asked_at
            self._asked_at[repository] = time.monotonic()

    def forget(self, repository: str) -> None:
        """Remember that the upstream just now wanted credentials."""
        with self._lock:
            if self._asked_at.pop(repository, None) is not None:
                self._is_recorded = False
