"""Stands in front of a real cache and spoils its answers, from one moment to the next.

Each connection carries one request. Without a fault the answer is passed on as it comes.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

Address = tuple[str, int]
LARGEST_HEAD = 64 * 1024


@dataclass
class Exchange:
    """One request and who waits for its answer."""

    client: socket.socket
    request: bytes
    target: Address
    ended: threading.Event

    @property
    def method(self) -> str:
        return self.request.split(b" ", 1)[0].decode()

    @property
    def path(self) -> str:
        return self.request.split(b" ", 2)[1].decode()

    def pass_on(self) -> None:
        with self._asked() as answer:
            while part := answer.recv(64 * 1024):
                self.client.sendall(part)

    def good_answer(self) -> tuple[bytes, bytes]:
        """What the cache itself answers: head and body."""
        whole = b""
        with self._asked() as answer:
            while part := answer.recv(64 * 1024):
                whole += part
        head, end, body = whole.partition(b"\r\n\r\n")
        return head + end, body

    def _asked(self) -> socket.socket:
        line, end, rest = self.request.partition(b"\r\n")
        kept = b"".join(b"\r\n" + text for text in rest.split(b"\r\n") if not text.lower().startswith(b"connection:"))
        connection = socket.create_connection(self.target)
        connection.sendall(line + end + b"Connection: close" + kept)
        return connection


Fault = Callable[[Exchange], None]


@dataclass
class Front:
    """Listens on `address` for the cache at `target`, with at most one fault at a time."""

    address: Address
    target: Address
    fault: Fault | None = None
    asked: int = 0
    _listener: socket.socket | None = None
    _clients: set[socket.socket] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._ended = threading.Event()
        self._listener = socket.create_server(self.address, backlog=128)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and end what goes on."""
        if self._listener:
            with suppress(OSError):  # wakes `accept`, also where the socket is not connected
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.mend()

    def mend(self) -> None:
        """Be without a fault, and cut what the fault holds."""
        self.fault = None
        self._ended.set()
        self._ended = threading.Event()
        for client in list(self._clients):
            with suppress(OSError):  # gone by itself in the meantime
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # stopped
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._clients.add(client)
        ended = self._ended
        # Either side may go away at any moment: that is what this is for.
        with client, suppress(ConnectionError):
            if request := _head(client):
                self.asked += 1
                exchange = Exchange(client, request, self.target, ended)
                (self.fault or Exchange.pass_on)(exchange)
        self._clients.discard(client)


def _head(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < LARGEST_HEAD:
        part = client.recv(4096)
        if not part:
            return b""
        head += part
    return head


def status(number: int) -> Fault:
    """That status, and nothing else."""
    return partial(_send, b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % number)


def silent(exchange: Exchange) -> None:
    """Never a byte."""
    exchange.ended.wait()


def no_content(exchange: Exchange) -> None:
    """As if all that was asked for were empty."""
    _send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", exchange)


def breaks_off(exchange: Exchange) -> None:
    """The head, and half of what it announces."""
    head, body = exchange.good_answer()
    exchange.client.sendall(head + body[: len(body) // 2])


def no_body(exchange: Exchange) -> None:
    """The head, and nothing of what it announces."""
    head, _ = exchange.good_answer()
    exchange.client.sendall(head)


def stalls(exchange: Exchange) -> None:
    """The head, half of what it announces, and then silence."""
    breaks_off(exchange)
    exchange.ended.wait()


def resets(exchange: Exchange) -> None:
    """The head, half of what it announces, and a reset in place of an end."""
    breaks_off(exchange)
    # Closed without patience (man 7 socket, SO_LINGER), a connection ends with RST.
    exchange.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slow(seconds: float, size: int = 1) -> Fault:
    """So many bytes, and again after so many seconds."""

    def send(exchange: Exchange) -> None:
        whole = b"".join(exchange.good_answer())
        for begin in range(0, len(whole), size):
            exchange.client.sendall(whole[begin : begin + size])
            if exchange.ended.wait(seconds):
                return

    return send


def only(kind: str, fault: Fault) -> Fault:
    """The fault in answers to paths with /`kind`/ alone, so that /v2/ stays good."""

    def choose(exchange: Exchange) -> None:
        (fault if f"/{kind}/" in exchange.path else Exchange.pass_on)(exchange)

    return choose


def _send(answer: bytes, exchange: Exchange) -> None:
    exchange.client.sendall(answer)
