"""Starts threads, and refuses work if no more can be started."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


def start_thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:  # noqa: ANN401 - whatever `work` takes
    """Run `work` in a thread that ends with the program, and return the thread.

    Raises:
        Unavailable: The container has as many threads as it may have. `work` was not started.
    """
    try:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
    except RuntimeError as error:
        raise Unavailable(Kind.UNREACHABLE, str(error)) from error
    return thread
