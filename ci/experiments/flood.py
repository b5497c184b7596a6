"""Many connections to a cache at once, in a program of its own: `python -m experiments.flood FLOOD`, with JSON.

The program opens as many connections at once as the flood says, and a new one for each that ends. It prints a line of
JSON at its end, or when it gets SIGTERM: how many responses had each status.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import signal
import ssl
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field

RESPONSE_SECONDS = 120.0
RECONNECT_SECONDS = 0.05


@dataclass(frozen=True)
class Flood:
    """What the connections do.

    Each sends a request for `path`, in which `{n}` is the number of the request and `{d}` is a digest of it, as in the
    values of `headers`. With `tls`, it does not check the server's certificate. It reads the response, or hangs up
    `hangs_up` seconds later. With `unfinished` bytes, the connection sends that many bytes of a head and keeps the head
    unfinished; with `drips`, it sends a byte of a head each second.
    """

    host: str
    port: int
    path: str = "/"
    tls: bool = False
    at_once: int = 10
    total: int | None = None
    hangs_up: float | None = None
    unfinished: int = 0
    drips: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    accept: str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    max_read: int | None = None
    """How many bytes of a body are read before the connection waits."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def request(self, number: int) -> bytes:
        """Return the bytes that a connection sends."""
        request = f"GET {_filled(self.path, number)} HTTP/1.1"
        lines = [request, "Host: cache", "User-Agent: containerd/v2.4.2", f"Accept: {self.accept}"]
        lines += [f"{name}: {_filled(value, number)}" for name, value in self.headers.items()]
        if self.unfinished:
            # Lines of 1 kB, which each server accepts by itself.
            lines += [f"X-{line}: {'x' * 1000}" for line in range(self.unfinished // 1010)]
            return "\r\n".join([*lines, "X-Unfinished: "]).encode()
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def _filled(text: str, number: int) -> str:
    return text.replace("{n}", str(number)).replace("{d}", f"sha256:{number:064x}")


@dataclass
class Flooding:
    """A flood that is running."""

    flood: Flood
    statuses: Counter[str] = field(default_factory=Counter)
    context: ssl.SSLContext | None = None

    async def run(self) -> None:
        """Send all requests, or requests until the task is cancelled."""
        if self.flood.tls:
            self.context = ssl._create_unverified_context()  # noqa: S323, SLF001 - an attacker
        numbers = iter(range(self.flood.total)) if self.flood.total is not None else itertools.count()
        await asyncio.gather(*(self._work(numbers) for _ in range(self.flood.at_once)))

    async def _work(self, numbers: object) -> None:
        for number in numbers:  # type: ignore[attr-defined] # an iterator that all workers share
            try:
                await self._connect(number)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.statuses[type(error).__name__] += 1
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self, number: int) -> None:
        reader, writer = await asyncio.open_connection(self.flood.host, self.flood.port, ssl=self.context)
        try:
            content = self.flood.request(number)
            if self.flood.drips:
                for byte in content:
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(1)
            writer.write(content)
            await writer.drain()
            if self.flood.hangs_up is not None:
                await asyncio.sleep(self.flood.hangs_up)
                self.statuses["hung up"] += 1
                return
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self._read(reader)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if self.flood.max_read is not None:
            await reader.readexactly(self.flood.max_read)
            await asyncio.sleep(RESPONSE_SECONDS)
        self.statuses[head.split(b" ", 2)[1].decode()] += 1
        while await reader.read(1 << 16):
            pass


async def main(arguments: list[str]) -> None:
    """Flood until all requests were sent, or SIGTERM."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    flooding = Flooding(Flood(**json.loads(arguments[0])))
    task = asyncio.ensure_future(flooding.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    print(json.dumps(flooding.statuses), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
