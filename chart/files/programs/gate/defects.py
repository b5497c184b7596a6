"""Notices what must never happen: unexpected exceptions, threads that end, and a program that ends by itself."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from common.log import log

from gate.metrics import PROCESS, THREAD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gate.health import Health
    from gate.metrics import Metrics

_RUNNING = "running"
_STOPPED = "stopped"


class Defects:
    """Counts defects, and makes the pod unready and the gate restart if something ends that it cannot do without."""

    def __init__(self, metrics: Metrics, health: Health, record: Path) -> None:
        """`record` is a file that survives the program, but not the pod."""
        self._metrics = metrics
        self._health = health
        self._record = record
        self._crashes = 0

    def note_start(self) -> None:
        """Count exceptions in threads from now on, and earlier ends of the program that nobody asked for."""
        threading.excepthook = self._note_exception
        with suppress(OSError, ValueError):
            state, crashes = self._record.read_text().split()
            self._crashes = int(crashes) + (state == _RUNNING)
            if state == _RUNNING:
                log(f"the gate ended without being asked to, {self._crashes} times in this pod")
        self._metrics.count_defect(PROCESS, self._crashes)
        self._write(_RUNNING)

    def note_stop(self) -> None:
        """Note that the program ends because it was asked to."""
        self._write(_STOPPED)

    def start_forever(self, name: str, work: Callable[[], None]) -> None:
        """Run in a thread what must not end before the program does."""

        def run() -> None:
            try:
                work()
            finally:
                self._health.note_ended(name)

        threading.Thread(target=run, daemon=True, name=name).start()

    def _note_exception(self, arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not SystemExit:
            self._metrics.count_defect(THREAD)
            value = arguments.exc_value or arguments.exc_type()
            sys.excepthook(arguments.exc_type, value, arguments.exc_traceback)

    def _write(self, state: str) -> None:
        with suppress(OSError):
            self._record.write_text(f"{state} {self._crashes}\n")
