"""Knows whether the cache pod can serve whole bodies."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING, Self

from common.log import log

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

CHECK_SECONDS = 2.0


class Health:
    """The readiness of the pod: the volume has been read and is readable, and distribution answers."""

    def __init__(
        self, volume: Path, distribution_socket: Path, find_warning: Callable[[], str | None] = lambda: None
    ) -> None:
        """Start as not ready; `find_warning` returns what limits a pod that is ready."""
        self._find_warning = find_warning
        self._volume = volume
        self._distribution_socket = distribution_socket
        self.problem: str | None = "the volume is being read"
        self.warning: str | None = None
        self.is_loaded = False
        self.volume_problem: str | None = None
        """Why the volume cannot be used, while the gate waits until it can."""
        self.find_volume_warning: Callable[[], str | None] = lambda: None
        """Returns why only what is on the volume is served."""
        self._volume_warning: str | None = None
        self.is_stopping = False
        self._ended = ""

    @property
    def is_alive(self) -> bool:
        """Whether the gate can go on without a restart."""
        return not self._ended

    @property
    def is_volume_usable(self) -> bool:
        """Whether the volume can take new content, as far as the gate has looked."""
        return not (self.volume_problem or self._volume_warning)

    def note_ended(self, thread: str) -> None:
        """Note that a thread ended that must not end before the program does; only a restart mends that."""
        if not self.is_stopping:
            self._ended = thread
            self.check()

    def check(self) -> None:
        """Look for a problem, and log it when it has changed."""
        problem = self._find_problem()
        self._volume_warning = self.find_volume_warning()
        warning = "; ".join(filter(None, (self._find_warning(), self._volume_warning))) or None
        if (problem, warning) != (self.problem, self.warning):
            ready = f"ready, but {warning}" if warning else "ready"
            log(ready if problem is None else f"not ready: {problem}")
        self.problem, self.warning = problem, warning

    def check_until(self, stop: threading.Event) -> None:
        """Check every few seconds until `stop` is set."""
        self.check()
        while not stop.wait(CHECK_SECONDS):
            self.check()

    def _find_problem(self) -> str | None:
        if self.is_stopping:
            return "the pod is stopping"
        if self._ended:
            return f"the gate needs a restart: its thread {self._ended} ended"
        if not self.is_loaded:
            return self.volume_problem or "the volume is being read"
        try:
            next(self._volume.iterdir(), None)
        except OSError as error:
            return f"the volume cannot be read: {error.strerror}"
        try:
            with _UnixConnection(self._distribution_socket) as connection:
                connection.request("GET", "/v2/")
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"distribution does not answer: {error}"
        return None if status == http.HTTPStatus.OK else f"distribution answers with status {status}"


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CHECK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
