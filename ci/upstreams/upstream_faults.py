"""What can be wrong with an upstream, and how nginx is told so."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

from upstreams import spoiler, token_server

# distribution, registry/api/errcode/register.go
ERROR_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one name; any of these may come together, but with a status nothing else is answered.

    `bytes_per_second` is for each answer, `shared_bytes_per_second` for all of them together. `after_bytes` and what
    stands below it are about the bodies of blobs.
    """

    bytes_per_second: int | None = None
    shared_bytes_per_second: int | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    expired: bool = False
    silent: bool = False
    token_seconds: int | None = None
    after_bytes: int | None = None
    stalls: bool = False
    ranges: bool = True
    length: bool = True
    corrupt: bool = False

    @property
    def spoils(self) -> bool:
        """Whether it is more than nginx itself can do."""
        return self != Fault(
            bytes_per_second=self.bytes_per_second,
            status=self.status,
            headers=self.headers,
            expired=self.expired,
            token_seconds=self.token_seconds,
        )

    def directives(self, name: str, address: str, port: int, spoiler_port: int) -> str:
        """The inside of nginx's location for it: what it answers, or whom it asks at `address`."""
        limit = f"limit_rate {self.bytes_per_second}; " if self.bytes_per_second else ""
        if self.status:
            return limit + self._refusal(self.status)
        headers = {"Host": "$host", "X-Forwarded-Proto": "https"}
        if self.token_seconds is not None:
            headers[token_server.LIFETIME_HEADER] = str(self.token_seconds)
        if not self.spoils:
            return f"{limit}{_set_headers(headers)} proxy_pass http://{address}:{port};"
        headers[spoiler.HEADER] = self._plan(name, port)
        # Unbuffered, so that what has come goes on at once; 502 is what nginx says where the spoiler was ended.
        return (
            f"{limit}{_set_headers(headers)} proxy_buffering off; proxy_read_timeout 1d; error_page 502 = @nothing; "
            f"proxy_pass http://{address}:{spoiler_port};"
        )

    def _refusal(self, status: int) -> str:
        code = ERROR_CODES.get(status)
        if code is None:
            return f"return {status};"
        body = json.dumps({"errors": [{"code": code, "message": http.client.responses[status].lower()}]})
        headers = "".join(f"add_header {name} '{value}' always; " for name, value in self.headers)
        return f"{headers}default_type application/json; return {status} '{body}';"

    def _plan(self, name: str, port: int) -> str:
        plan = spoiler.Plan(
            name=name,
            port=port,
            silent=self.silent,
            bytes_per_second=self.shared_bytes_per_second,
            after_bytes=self.after_bytes,
            stalls=self.stalls,
            ranges=self.ranges,
            length=self.length,
            corrupt=self.corrupt,
        )
        return json.dumps(vars(plan), separators=(",", ":"))


def _set_headers(headers: dict[str, str]) -> str:
    return " ".join(f"proxy_set_header {name} '{value}';" for name, value in headers.items())
