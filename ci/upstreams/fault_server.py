"""A server that passes requests on and spoils the responses: `python -m upstreams.fault_server ADDRESS PORT [TARGET]`.

It stands in for a cache with a fault, and between an upstream's nginx and its registry. The fault is the same for all
requests, as JSON in the environment variable FAULT, or it comes with each request in the header X-Fault. nginx sets the
header, so that a fault begins and ends with nginx's configuration.

Each connection carries one request.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from upstreams.listener import Address, Listener, read_head, reset_on_close

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

HEADER = "X-Fault"
HOP_BY_HOP = ("connection", "transfer-encoding")
SUCCESS = (http.client.OK, http.client.PARTIAL_CONTENT)
SIZE_IN_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
PART_BYTES = 64 * 1024
# A limited response is sent in parts of this duration, so that it flows.
PART_SECONDS = 0.02
DRIP_SECONDS = 1.0
TARGET_SECONDS = 30.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with the responses of a server; nothing by default.

    With `kinds`, only requests with one of these in their path are concerned, for example `blobs`. `bytes_per_second`
    is for all responses together, whatever their kind. The other fields but `status`, `silent` and `empty` concern
    bodies of good responses only.
    """

    kinds: tuple[str, ...] = ()
    status: int | None = None
    silent: bool = False
    # Bodies are empty, and announced as such.
    empty: bool = False
    # Of a longer body, only this many bytes of each response come, or this share of the whole content.
    after_bytes: int | None = None
    share: float | None = None
    # What comes then: the end of the connection, silence, or a reset.
    ending: Literal["close", "silence", "reset"] = "close"
    # What comes one byte per second.
    drips: Literal["", "response", "body"] = ""
    bytes_per_second: int | None = None
    # Whether ranges are supported, and lengths of bodies announced.
    ranges: bool = True
    length: bool = True
    corrupt: bool = False

    @classmethod
    def from_json(cls, text: str) -> Fault:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "kinds": tuple(values.get("kinds", ()))})

    def to_json(self) -> str:
        """Return the fields that differ from the default, as JSON."""
        return json.dumps({k: v for k, v in asdict(self).items() if v != getattr(Fault, k)}, separators=(",", ":"))

    def concerns(self, path: str) -> bool:
        """Return whether a request has this fault."""
        return not self.kinds or any(f"/{kind}/" in path for kind in self.kinds)


NO_FAULT = Fault()


@dataclass(frozen=True)
class Request:
    """A request, and the client's connection."""

    client: socket.socket
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class SharedLine:
    """A bandwidth that all responses of one upstream share, in the order in which they ask for it."""

    bytes_per_second: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free_at: float = 0.0

    @property
    def part_bytes(self) -> int:
        return max(1, min(PART_BYTES, int(self.bytes_per_second * PART_SECONDS)))

    def carry(self, count: int) -> None:
        """Return when this many more bytes have gone through."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.bytes_per_second
            done_at = self._free_at
        time.sleep(max(0.0, done_at - time.monotonic()))


class FaultServer:
    """Stands before the server at `target`; `fault` may be replaced at any time.

    Where a request has the header X-Fault, `HOST:PORT NAME FAULT`, that counts instead. Requests with the same NAME
    share a bandwidth.
    """

    def __init__(self, address: Address, target: Address | None = None, fault: Fault = NO_FAULT) -> None:
        """Set it up; `start` begins to listen."""
        self.target = target
        self.fault = fault
        self.request_count = 0
        self._listener = Listener(address, self._serve)
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, int], SharedLine] = {}

    @property
    def address(self) -> Address:
        return self._listener.address

    def start(self) -> None:
        """Begin to listen."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening, end the fault, and cut all connections."""
        self.fault = NO_FAULT
        self._listener.stop()

    def mend(self) -> None:
        """End the fault, and cut all connections."""
        self.fault = NO_FAULT
        self._listener.cut_connections()

    def _serve(self, client: socket.socket) -> None:
        cut = self._listener.cut
        head = read_head(client)
        if not head:
            return
        line, _, rest = head.decode("latin-1").partition("\r\n")
        method, path, _ = line.split(" ", 2)
        pairs = (one.partition(":") for one in rest.splitlines() if one)
        headers: dict[str, str] = {}
        for name, _, value in pairs:
            # A header that comes several times means a list (RFC 9110, section 5.3); distribution sends Accept so.
            headers[name] = ", ".join([*([headers[name]] if name in headers else []), value.strip()])
        self.request_count += 1
        fault, target, name = self.fault, self.target, ""
        if HEADER in headers:
            place, name, text = headers.pop(HEADER).split(" ", 2)
            host, _, port = place.partition(":")
            fault, target = Fault.from_json(text), (host, int(port))
        assert target is not None, f"{HEADER} is missing"
        line_of_all = self._line(name, fault)
        if not fault.concerns(path):
            fault = NO_FAULT
        _Exchange(Request(client, method, path, headers), fault, line_of_all, cut).answer(target)

    def _line(self, name: str, fault: Fault) -> SharedLine | None:
        rate = fault.bytes_per_second
        if rate is None:
            return None
        with self._lock:
            return self._lines.setdefault((name, rate), SharedLine(rate))


@dataclass
class _Exchange:
    """One request with a fault, and its response."""

    request: Request
    fault: Fault
    line: SharedLine | None
    cut: threading.Event

    def answer(self, target: Address) -> None:
        if self.fault.silent:
            self._wait_for_end()
            return
        if self.fault.status is not None:
            reason = http.client.responses.get(self.fault.status, "")
            body = b"" if self.request.method == "HEAD" else b"{}"
            head = f"HTTP/1.1 {self.fault.status} {reason}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            self.request.client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            return
        connection = http.client.HTTPConnection(*target, timeout=TARGET_SECONDS)
        try:
            self._pass_on(self._ask(connection))
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        dropped = {"connection"} | (set() if self.fault.ranges else {"range"})
        connection.putrequest(self.request.method, self.request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.request.headers.items():
            if name.lower() not in dropped:
                connection.putheader(name, value)
        connection.putheader("Connection", "close")
        connection.endheaders()
        return connection.getresponse()

    def _pass_on(self, response: http.client.HTTPResponse) -> None:
        has_body = self.request.method == "GET" and response.status in SUCCESS
        limit = self._limit(response) if has_body else None
        hides_length = has_body and not self.fault.length
        # A body whose end is that of the connection would be complete wherever it ends; one in chunks is not.
        chunked = hides_length and limit is not None
        unwanted = {*HOP_BY_HOP, *(("content-length",) if hides_length or self.fault.empty else ())}
        unwanted |= set() if self.fault.ranges else {"accept-ranges"}
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.getheaders() if name.lower() not in unwanted]
        lines += ["Content-Length: 0"] if self.fault.empty else []
        lines += ["Transfer-Encoding: chunked"] if chunked else []
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        if self._send(head, drips=self.fault.drips == "response") and not self.fault.empty:
            self._send_body(response, limit, spoilt=has_body and self.fault.corrupt, chunked=chunked)

    def _limit(self, response: http.client.HTTPResponse) -> int | None:
        """Return how many bytes of a body are sent, or None for all of it."""
        size = response.length or 0
        if self.fault.share is not None:
            match = SIZE_IN_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            begin, whole = (int(match[1]), int(match[2])) if match else (0, size)
            return max(0, int(whole * self.fault.share) - begin)
        return self.fault.after_bytes if self.fault.after_bytes is not None and size > self.fault.after_bytes else None

    def _send_body(self, response: http.client.HTTPResponse, left: int | None, *, spoilt: bool, chunked: bool) -> None:
        size = self.line.part_bytes if self.line else PART_BYTES
        while left != 0 and (part := response.read1(size if left is None else min(size, left))):
            sent = bytes([part[0] ^ 0xFF]) + part[1:] if spoilt else part
            spoilt = False
            if self.line:
                self.line.carry(len(sent))
            framed = b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent
            if not self._send(framed, drips=self.fault.drips != ""):
                return
            left = None if left is None else left - len(sent)
        if left == 0 and self.fault.ending == "silence":
            self._wait_for_end()
        elif left == 0 and self.fault.ending == "reset":
            reset_on_close(self.request.client)
        elif chunked and left != 0:
            self.request.client.sendall(b"0\r\n\r\n")

    def _send(self, content: bytes, *, drips: bool) -> bool:
        """Send bytes, and return whether the fault was still there at the end."""
        if not drips:
            self.request.client.sendall(content)
            return True
        for byte in content:
            self.request.client.sendall(bytes((byte,)))
            if self.cut.wait(DRIP_SECONDS):
                return False
        return True

    def _wait_for_end(self) -> None:
        """Wait until the client goes away or the connection is cut."""
        while not self.cut.is_set() and self.request.client.recv(PART_BYTES):
            pass


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    address, port = arguments[:2]
    targets = [target.partition(":") for target in arguments[2:]]
    target = next(((host, int(number)) for host, _, number in targets), None)
    server = FaultServer((address, int(port)), target, Fault.from_json(os.environ.get("FAULT", "{}")))
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
