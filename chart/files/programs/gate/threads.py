"""Threads that may not be had: where a container has as many as it may, work is refused and nothing waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from upstream.client import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


def start_thread(work: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - what `work` takes
    """Have a thread do it, which ends with the program.

    Raises:
        Unavailable: the system gives none; nothing was begun.
    """
    try:
        threading.Thread(target=work, args=arguments, daemon=True).start()
    except RuntimeError as error:
        raise Unavailable(Kind.UNREACHABLE, str(error)) from error
