"""Stands between an upstream's nginx and its registry and spoils answers: `python -m upstreams.spoiler ADDRESS PORT`.

What is wrong stands in the header X-Spoiler of each request, JSON of what `Plan` says. So a fault begins and ends with
the configuration of nginx, and this program knows of none by itself.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from upstreams.plain_server import PlainServer

HEADER = "X-Spoiler"
HOP_BY_HOP = ("connection", "transfer-encoding")
PART_BYTES = 64 * 1024
# A limited answer goes in parts of which each takes so long, so that it flows. Seconds.
PART_SECONDS = 0.02


@dataclass(frozen=True)
class Plan:
    """One request's way: `name` is whose answers share a bandwidth, `port` where the registry is.

    `after_bytes`, `length`, `ranges` and `corrupt` are about the bodies of blobs, the others about every answer.
    """

    name: str
    port: int
    silent: bool = False
    bytes_per_second: int | None = None
    after_bytes: int | None = None
    stalls: bool = False
    ranges: bool = True
    length: bool = True
    corrupt: bool = False


class Line:
    """Bytes a second that all answers of one upstream share, in the order in which they ask for them."""

    def __init__(self, bytes_per_second: int) -> None:
        """Begin with a line on which nothing is."""
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def part_bytes(self) -> int:
        return max(1, min(PART_BYTES, int(self._rate * PART_SECONDS)))

    def carry(self, count: int) -> None:
        """Return when so many more bytes are through."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            through = self._free_at
        time.sleep(max(0.0, through - time.monotonic()))


class Server(PlainServer):
    """Has what the answers of one upstream share."""

    def __init__(self, address: str, port: int) -> None:
        """Listen."""
        super().__init__((address, port), Handler)
        self.address = address
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, int], Line] = {}

    def line(self, plan: Plan) -> Line | None:
        """What the answers of one upstream have to share, if anything."""
        if plan.bytes_per_second is None:
            return None
        with self._lock:
            return self._lines.setdefault((plan.name, plan.bytes_per_second), Line(plan.bytes_per_second))


class Handler(BaseHTTPRequestHandler):
    """Answers one request by its plan."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        plan = Plan(**json.loads(self.headers[HEADER]))
        if plan.silent:
            self._wait_until_left()
            return
        connection = http.client.HTTPConnection(self.server.address, plan.port)
        try:
            self._ask(connection, plan)
            self._answer(connection.getresponse(), plan)
        except ConnectionError:
            pass  # whoever asked went away: that is what this is for
        finally:
            connection.close()

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Nothing: nginx has the access log."""

    def _ask(self, connection: http.client.HTTPConnection, plan: Plan) -> None:
        dropped = {HEADER.lower(), "connection"} | (set() if plan.ranges else {"range"})
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in dropped:
                connection.putheader(name, value)
        connection.endheaders()

    def _answer(self, response: http.client.HTTPResponse, plan: Plan) -> None:
        of_blob = self.command == "GET" and "/blobs/" in self.path and response.status in {200, 206}
        without_length = of_blob and not plan.length
        cut = of_blob and plan.after_bytes is not None and (response.length or 0) > plan.after_bytes
        # A body that ends with its connection would be whole for nginx, wherever it ends; one in chunks is not.
        chunked = without_length and cut
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            unwanted = ("content-length",) if without_length else ("accept-ranges",) if not plan.ranges else ()
            if name.lower() not in (*HOP_BY_HOP, *unwanted):
                self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        self._send_body(
            response, plan, left=plan.after_bytes if cut else None, spoilt=of_blob and plan.corrupt, chunked=chunked
        )

    def _send_body(
        self, response: http.client.HTTPResponse, plan: Plan, *, left: int | None, spoilt: bool, chunked: bool
    ) -> None:
        line = self.server.line(plan)
        size = line.part_bytes if line else PART_BYTES
        while left != 0 and (part := response.read1(size if left is None else min(size, left))):
            sent = bytes([part[0] ^ 0xFF]) + part[1:] if spoilt else part
            spoilt = False
            if line:
                line.carry(len(sent))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent)
            left = None if left is None else left - len(sent)
        if left == 0 and plan.stalls:
            self._wait_until_left()
        elif chunked and left != 0:
            self.wfile.write(b"0\r\n\r\n")

    def _wait_until_left(self) -> None:
        while self.connection.recv(PART_BYTES):
            pass


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    address, port = arguments
    Server(address, int(port)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
