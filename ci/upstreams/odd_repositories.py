"""Repositories for which a registry answers oddly, as people report it of real registries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Longer than a cache lets a node wait.
SLOW_SECONDS = 12.0
# Nothing listens there.
CLOSED_PORT = 1
MANIFESTS, BLOBS = "manifests", "blobs"


@dataclass(frozen=True)
class OddAnswer:
    """What the registry does for the repositories `odd/<name>/…`.

    Requests with one of the `methods` for one of the `kinds` wait for `delay_seconds`, and are then answered with
    `status` and `headers`, or as usual if there is no status. HOST in a header stands for the registry's host.
    """

    name: str
    title: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ("GET", "HEAD")
    kinds: tuple[str, ...] = (MANIFESTS, BLOBS)
    delay_seconds: float = 0.0

    def concerns(self, method: str, kind: str) -> bool:
        """Return whether a request is answered oddly."""
        return method in self.methods and kind in self.kinds

    def headers_at(self, host: str) -> dict[str, str]:
        """Return the headers that the registry at this host sends."""
        return {name: value.replace("HOST", host) for name, value in self.headers.items()}


ODD_ANSWERS = (
    OddAnswer(
        "token-server-away",
        "names a token server that is away",
        401,
        {"WWW-Authenticate": f'Bearer realm="http://HOST:{CLOSED_PORT}/token",service="odd"'},
    ),
    OddAnswer("negotiate", "wants `Negotiate` and nothing else", 401, {"WWW-Authenticate": "Negotiate"}),
    OddAnswer("forbidden", "is forbidden", 403),
    OddAnswer("too-many", "has a limit of its own, which is reached", 429, {"Retry-After": "60"}),
    OddAnswer("slow", "sends manifests after 12 s", kinds=(MANIFESTS,), delay_seconds=SLOW_SECONDS),
    *(
        OddAnswer(f"head-{status}", f"answers HEAD with {status}, and GET as usual", status, methods=("HEAD",))
        for status in (403, 404, 405, 500)
    ),
    OddAnswer(
        "blobs-away",
        "redirects for blobs to a host that is away",
        307,
        {"Location": f"http://HOST:{CLOSED_PORT}/blob"},
        kinds=(BLOBS,),
    ),
    OddAnswer("blobs-failing", "answers for blobs with 500", 500, kinds=(BLOBS,)),
)
