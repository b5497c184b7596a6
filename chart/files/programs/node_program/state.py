"""What the readiness probe sees."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from common.log import describe_oserror, log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class State:
    """The file `ready`, or `not-ready` with a line for each thing that is not as it should be."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Say at first that nothing was looked at yet."""
        self._folder = folder
        self._reasons: dict[str, str | None] = dict.fromkeys(names, "it was not asked yet")
        self._lock = threading.Lock()
        self._written: str | None = None
        self._trouble = ""
        self._write()

    def set(self, name: str, reason: str | None) -> bool:
        """Note why something, such as a cache, is not in use, or with None that it is; return whether that is new."""
        with self._lock:
            new = self._reasons.get(name) != reason
            self._reasons[name] = reason
            self._write()
        return new

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
            if self._trouble != (trouble := describe_oserror(error)):
                self._trouble = trouble
                log(f"the state cannot be written: {trouble}")
            return
        self._written, self._trouble = text, ""
