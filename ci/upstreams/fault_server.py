"""Stands in for a cache with a fault: `python -m upstreams.fault_server ADDRESS PORT FAULT ORIGIN [contents]`.

FAULT is a status for every request, or `drip`, `drip-body`, `cut` or `empty`. What is not faulty comes from
ORIGIN, a registry. With `contents`, /v2/ is answered well, so that only what is pulled has the fault.
"""

from __future__ import annotations

import http.client
import re
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

from upstreams.plain_server import PlainServer

RANGE = re.compile(r"bytes=(\d+)-")
PASSED_ON = ("Accept", "Range")
HOP_BY_HOP = ("connection", "content-length", "date", "transfer-encoding")
DRIP_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """One answer; `length` is what its head announces, whatever comes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    length: int
    body: bytes

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, f"Content-Length: {self.length}", "", ""]).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers with the fault."""

    protocol_version = "HTTP/1.1"
    fault: ClassVar[str]
    origin: ClassVar[str]
    contents_only: ClassVar[bool]

    def do_GET(self) -> None:
        fault = "" if self.contents_only and self.path == "/v2/" else self.fault
        if fault.isdigit():
            self._send(Answer(int(fault), (("Content-Type", "application/json"),), 2, b"{}"))
        else:
            self._send_from_origin(fault)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _send_from_origin(self, fault: str) -> None:
        answer = self._ask_origin()
        if fault == "empty":
            answer = Answer(answer.status, answer.headers, 0, b"")
        if fault == "cut":
            # The second half never comes, neither to who asks for the rest.
            asked = RANGE.fullmatch(self.headers.get("Range", ""))
            begin = int(asked[1]) if asked and answer.status == http.client.PARTIAL_CONTENT else 0
            there = max(0, (begin + answer.length) // 2 - begin)
            answer = Answer(answer.status, answer.headers, answer.length, answer.body[:there])
            self.close_connection = True
        self._send(answer, slow_head=fault == "drip", slow_body=fault in ("drip", "drip-body"))

    def _ask_origin(self) -> Answer:
        connection = http.client.HTTPConnection(self.origin, timeout=30)
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        connection.request(self.command, self.path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        kept = tuple((name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP)
        return Answer(response.status, kept, int(response.headers["Content-Length"]), body)

    def _send(self, answer: Answer, *, slow_head: bool = False, slow_body: bool = False) -> None:
        self._write(answer.head(), slow=slow_head)
        if self.command != "HEAD":
            self._write(answer.body, slow=slow_body)

    def _write(self, content: bytes, *, slow: bool) -> None:
        if not slow:
            self.wfile.write(content)
            return
        for byte in content:
            self.wfile.write(bytes((byte,)))
            time.sleep(DRIP_SECONDS)


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    address, port, Handler.fault, Handler.origin = arguments[:4]
    Handler.contents_only = arguments[4:] == ["contents"]
    PlainServer((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
