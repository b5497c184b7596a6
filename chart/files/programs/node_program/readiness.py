"""What the pod's readiness probe reads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from common.log import ProblemLog, describe_oserror, log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Readiness:
    """The file `ready`, or the file `not-ready` with a line for each thing that is not as it should be."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Report at first that nothing was probed yet."""
        self._folder = folder
        self._reasons: dict[str, str | None] = dict.fromkeys(names, "not probed yet")
        self._lock = threading.Lock()
        self._written: str | None = None
        self._problems = ProblemLog(log)
        self._write()

    def set(self, name: str, reason: str | None) -> bool:
        """Report why something, such as a cache, is not in use, or None if it is; return whether that is new."""
        with self._lock:
            is_new = self._reasons.get(name) != reason
            self._reasons[name] = reason
            self._write()
        return is_new

    def _write(self) -> None:
        text = "".join(f"{name}: {reason}\n" for name, reason in self._reasons.items() if reason is not None)
        if text == self._written:
            return
        wanted, other = ("not-ready", "ready") if text else ("ready", "not-ready")
        temporary = self._folder / ".next"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.rename(self._folder / wanted)
            (self._folder / other).unlink(missing_ok=True)
        except OSError as error:
            self._problems.note(f"the readiness file cannot be written: {describe_oserror(error)}")
            return
        self._written = text
        self._problems.note("")
