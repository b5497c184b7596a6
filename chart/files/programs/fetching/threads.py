"""Starts threads, and refuses work if no more can be started."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


def start_thread(work: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - whatever `work` takes
    """Run `work` in a thread that ends with the program.

    Raises:
        Unavailable: The container has as many threads as it may have. `work` was not started.
    """
    try:
        threading.Thread(target=work, args=arguments, daemon=True).start()
    except RuntimeError as error:
        raise Unavailable(Kind.UNREACHABLE, str(error)) from error
