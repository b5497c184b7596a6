"""What can be wrong with an upstream, and the nginx configuration for it."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

from upstreams import fault_server, token_server

# distribution, registry/api/errcode/register.go
ERROR_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}


@dataclass(frozen=True)
class UpstreamFault:
    """What is wrong with one host of an upstream.

    Several faults may come together, but with `status` the host sends nothing else. `bytes_per_second` is for each
    response, `shared_bytes_per_second` for all of them together. `after_bytes` and the fields below it concern the
    bodies of blobs.
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
    def needs_fault_server(self) -> bool:
        """Whether nginx alone cannot do it."""
        return self._spoilt() != fault_server.Fault(kinds=("blobs",))

    def directives(self, name: str, address: str, port: int, fault_port: int) -> str:
        """Return the content of nginx's location for the host, whose server listens at `address` and `port`."""
        limit = f"limit_rate {self.bytes_per_second}; " if self.bytes_per_second else ""
        if self.status:
            return limit + self._refusal(self.status)
        headers = {"Host": "$host", "X-Forwarded-Proto": "https"}
        if self.token_seconds is not None:
            headers[token_server.LIFETIME_HEADER] = str(self.token_seconds)
        if not self.needs_fault_server:
            return f"{limit}{_set_headers(headers)} proxy_pass http://{address}:{port};"
        headers[fault_server.HEADER] = f"{address}:{port} {name} {self._spoilt().to_json()}"
        # Without buffers, each part is sent when it comes. 502 is nginx's answer where the fault server was ended.
        return (
            f"{limit}{_set_headers(headers)} proxy_buffering off; proxy_read_timeout 1d; error_page 502 = @nothing; "
            f"proxy_pass http://{address}:{fault_port};"
        )

    def _spoilt(self) -> fault_server.Fault:
        return fault_server.Fault(
            kinds=() if self.silent else ("blobs",),
            silent=self.silent,
            after_bytes=self.after_bytes,
            ending="silence" if self.stalls else "close",
            bytes_per_second=self.shared_bytes_per_second,
            ranges=self.ranges,
            length=self.length,
            corrupt=self.corrupt,
        )

    def _refusal(self, status: int) -> str:
        code = ERROR_CODES.get(status)
        if code is None:
            return f"return {status};"
        body = json.dumps({"errors": [{"code": code, "message": http.client.responses[status].lower()}]})
        headers = "".join(f"add_header {name} '{value}' always; " for name, value in self.headers)
        return f"{headers}default_type application/json; return {status} '{body}';"


def _set_headers(headers: dict[str, str]) -> str:
    return " ".join(f"proxy_set_header {name} '{value}';" for name, value in headers.items())
