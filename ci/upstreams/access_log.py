"""The access log of the upstreams, which tells who fetched what."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from upstreams.sites import HOSTS

if TYPE_CHECKING:
    from collections.abc import Iterable

# A blob, by its name in a registry or by that of the file behind it (distribution, registry/storage/paths.go).
BLOB = re.compile(r"/blobs/sha256(?::|/[0-9a-f]{2}/)([0-9a-f]{64})")
NAMES = {host: name for name, (host, _) in HOSTS.items()}
# nginx's log_format.
FORMAT = (
    '{"host":"$host","client":"$remote_addr","method":"$request_method","uri":"$request_uri",'
    '"status":$status,"bytes":$body_bytes_sent,"received":"$upstream_response_length",'
    '"encoding":"$sent_http_transfer_encoding","agent":"$http_user_agent","range":"$http_range",'
    '"scheme":"$authorization_scheme"}'
)


@dataclass(frozen=True)
class Request:
    """One line of the log.

    `body_bytes` is how much of the body was sent; where a response without a length broke off, the marks between its
    chunks are included. `range` is the requested range, for example `bytes=5-`, and `scheme` that of the client's
    credentials, for example `Bearer`.
    """

    upstream: str
    client: str
    method: str
    path: str
    status: int
    body_bytes: int
    agent: str
    range: str = ""
    scheme: str = ""

    @property
    def is_blob(self) -> bool:
        return self.method == "GET" and BLOB.search(self.path) is not None

    @property
    def digest(self) -> str:
        """The requested blob or manifest, `sha256:…`, or the tag."""
        blob = BLOB.search(self.path)
        return f"sha256:{blob[1]}" if blob else self.path.partition("?")[0].rpartition("/")[2]


def read_requests(lines: Iterable[bytes]) -> list[Request]:
    """Return the requests in these lines, except those of the test bed itself."""
    return [
        Request(
            upstream=NAMES.get(entry["host"], entry["host"]),
            client=entry["client"],
            method=entry["method"],
            path=entry["uri"],
            status=entry["status"],
            body_bytes=_body_bytes(entry),
            agent=entry["agent"],
            range=entry["range"],
            scheme=entry["scheme"],
        )
        for entry in map(json.loads, lines)
        if not entry["uri"].startswith("/-/")
    ]


def _body_bytes(entry: dict[str, Any]) -> int:
    """Return the bytes of a body: nginx counts the marks between chunks as sent, but not as received."""
    sent: int = entry["bytes"]
    return min(sent, int(entry["received"])) if entry["encoding"] == "chunked" and entry["received"].isdigit() else sent
