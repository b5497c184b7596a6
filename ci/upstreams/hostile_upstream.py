"""An upstream registry that is hostile in some repositories: `python -m upstreams.hostile_upstream HOST PORT TARGET`.

It passes requests on to the registry at TARGET. A request for a repository `hostile/<behaviour>/…` gets what the
behaviour of that name sends instead, and one for `odd/<name>/…` what `odd_repositories` says. `/-/sent` says how many
bytes of bodies were sent for each repository, and `/-/asked` how many requests there were for each behaviour.

It runs in one thread, so that it can hold thousands of connections.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upstreams import hostile_content, oci
from upstreams.odd_repositories import CLOSED_PORT, ODD_ANSWERS, SLOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HOSTILE = re.compile(r"/v2/hostile/([a-z0-9-]+)/(.*?)/?(?:blobs|manifests)/([^/?]+)")
ODD = re.compile(r"/v2/odd/([a-z0-9-]+)/.*?(blobs|manifests)/")
REPOSITORY = re.compile(r"/v2/(.+)/(?:blobs|manifests)/")
BIG = 1 << 20
MISSING_SECONDS = 0.2
DRIP_SECONDS = 5.0
SLOW_BYTES_PER_SECOND = 2 << 20
PART_BYTES = 1 << 16
LONG_BYTES = 100 << 20
LONG_BYTES_PER_SECOND = 1 << 20
# http.client accepts at most 100 lines of 64 KiB.
HEADER_LINES = 95
HEADER_LINE_BYTES = 65_000
TOKEN_BYTES = 32768
# Where clouds tell a machine its credentials.
LINK_LOCAL = "169.254.169.254"
# How a token for a private repository begins.
RIGHT = "Bearer right"


@dataclass(frozen=True)
class Exchange:
    """A request, and the connection for the response."""

    method: str
    path: str
    headers: Mapping[str, str]
    writer: asyncio.StreamWriter
    own: str
    """The address of this server."""
    sent: Counter[str]

    async def send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a response with a length."""
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
        if not {"Content-Length", "Transfer-Encoding"} & headers.keys():
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if self.method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()

    async def send_manifest(self, content: bytes, media_type: str = oci.MANIFEST) -> None:
        digest = oci.digest(content)
        await self.send(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, content)


@dataclass
class HostileUpstream:
    """The server, and what it has sent."""

    own: str
    target: tuple[str, int]
    sent: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        # Either side may go away at any moment.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        request, *lines = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = request.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        exchange = Exchange(method, path, headers, writer, self.own, self.sent)
        match, odd = HOSTILE.match(path), ODD.match(path)
        if match is not None:
            self.asked[match[1]] += 1
        if path == "/-/sent":
            await exchange.send(200, {}, json.dumps(self.sent).encode())
        elif path == "/-/asked":
            await exchange.send(200, {}, json.dumps(self.asked).encode())
        elif path.startswith("/token"):
            await _send_token(exchange)
        elif odd is not None:
            await self._answer_oddly(exchange, odd[1], odd[2])
        elif match is None:
            await self._pass_on(exchange, path)
        elif match[1] == "slow":
            await self._pass_on(exchange, path.replace("/hostile/slow/", "/", 1), SLOW_BYTES_PER_SECOND)
        else:
            return await BEHAVIOURS[match[1]](exchange, match[3])
        return True

    async def _answer_oddly(self, exchange: Exchange, name: str, kind: str) -> None:
        answer = next(answer for answer in ODD_ANSWERS if answer.name == name)
        is_concerned = answer.concerns(exchange.method, kind)
        if is_concerned:
            await asyncio.sleep(answer.delay_seconds)
        if is_concerned and answer.status is not None:
            await exchange.send(answer.status, answer.headers_at(exchange.own.partition(":")[0]))
        else:
            await self._pass_on(exchange, exchange.path)

    async def _pass_on(self, exchange: Exchange, path: str, rate: int | None = None) -> None:
        """Send what the registry sends, at a rate."""
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            lines = [f"{exchange.method} {path} HTTP/1.1", f"Host: {self.own}", "Connection: close"]
            lines += [f"{name}: {exchange.headers[name]}" for name in ("accept", "range") if name in exchange.headers]
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            head = await reader.readuntil(b"\r\n\r\n")
            exchange.writer.write(head.replace(b"Connection: close\r\n", b""))
            repository = match[1] if (match := REPOSITORY.match(exchange.path)) else ""
            while part := await reader.read(PART_BYTES):
                exchange.writer.write(part)
                self.sent[repository] += len(part)
                await exchange.writer.drain()
                if rate is not None:
                    await asyncio.sleep(len(part) / rate)
        finally:
            writer.close()


async def _send_token(exchange: Exchange) -> None:
    """Send a token, which is large and lasts for an hour unless the query says otherwise."""
    lifetime = "9" * 400 if "endless" in exchange.path else "3600"
    length = 1 if "short" in exchange.path else TOKEN_BYTES
    body = b'{"token": "%b", "expires_in": %b}' % (b"t" * length, lifetime.encode())
    await exchange.send(200, {"Content-Type": "application/json"}, body)


async def _missing(exchange: Exchange, _: str) -> bool:
    await asyncio.sleep(MISSING_SECONDS)
    await exchange.send(404, {})
    return True


async def _silent(_exchange: Exchange, _: str) -> bool:
    await asyncio.sleep(3600)
    return False


async def _slow_answer(exchange: Exchange, _: str) -> bool:
    await asyncio.sleep(SLOW_SECONDS)
    await exchange.send(404, {})
    return True


async def _endless(exchange: Exchange, _: str) -> bool:
    """Send a blob in chunks, without an end."""
    await exchange.send(200, {"Transfer-Encoding": "chunked"})
    chunk = b"%x\r\n%b\r\n" % (BIG, bytes(BIG))
    while True:
        exchange.writer.write(chunk)
        await exchange.writer.drain()


async def _drip(exchange: Exchange, _: str) -> bool:
    """Send a byte of a blob each few seconds."""
    await exchange.send(200, {"Content-Length": str(60 * BIG)})
    while True:
        exchange.writer.write(b"x")
        await exchange.writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


async def _long(exchange: Exchange, _: str) -> bool:
    """Send a large blob at a moderate rate; its content is wrong."""
    await exchange.send(200, {"Content-Length": str(LONG_BYTES)})
    for _sent in range(LONG_BYTES // PART_BYTES):
        exchange.writer.write(bytes(PART_BYTES))
        await exchange.writer.drain()
        exchange.sent["hostile/long"] += PART_BYTES
        await asyncio.sleep(PART_BYTES / LONG_BYTES_PER_SECOND)
    return True


async def _trailers(exchange: Exchange, _: str) -> bool:
    """Send a short blob in chunks, and then trailers without an end."""
    await exchange.send(200, {"Transfer-Encoding": "chunked"})
    exchange.writer.write(b"1\r\nx\r\n0\r\n")
    while True:
        exchange.writer.write(b"X-Trailer: x\r\n")
        await exchange.writer.drain()
        await asyncio.sleep(0.05)


async def _headers(exchange: Exchange, _: str) -> bool:
    """Send headers of 6 MB."""
    await exchange.send(404, {f"X-{number}": "x" * HEADER_LINE_BYTES for number in range(HEADER_LINES)})
    return True


async def _redirect_refused(exchange: Exchange, _: str) -> bool:
    host = exchange.own.partition(":")[0]
    await exchange.send(307, {"Location": f"http://{host}:{CLOSED_PORT}/blob"})
    return True


async def _redirect_link_local(exchange: Exchange, _: str) -> bool:
    await exchange.send(307, {"Location": f"http://{LINK_LOCAL}/latest/meta-data/"})
    return True


async def _relative_realm(exchange: Exchange, _: str) -> bool:
    await exchange.send(401, {"WWW-Authenticate": 'Bearer realm="/token",service="x"'})
    return True


def _asking_for_tokens(query: str) -> Callable[[Exchange, str], Awaitable[bool]]:
    async def ask(exchange: Exchange, _: str) -> bool:
        if "authorization" in exchange.headers:
            await exchange.send(404, {})
        else:
            realm = f"http://{exchange.own}/token{query}"
            await exchange.send(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})
        return True

    return ask


async def _private(exchange: Exchange, _: str) -> bool:
    """Send a manifest to whoever shows a token that begins as the right ones do."""
    if exchange.headers.get("authorization", "").startswith(RIGHT):
        await exchange.send_manifest(oci.Image(()).manifest)
    else:
        realm = f"http://{exchange.own}/token?short"
        await exchange.send(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})
    return True


def _manifest(make: Callable[[str], bytes], media_type: str = oci.MANIFEST) -> Callable[..., Awaitable[bool]]:
    async def send(exchange: Exchange, identifier: str) -> bool:
        await exchange.send_manifest(make(identifier), media_type)
        return True

    return send


BEHAVIOURS: dict[str, Callable[[Exchange, str], Awaitable[bool]]] = {
    "missing": _missing,
    "silent": _silent,
    "slow-answer": _slow_answer,
    "endless": _endless,
    "drip": _drip,
    "long": _long,
    "trailers": _trailers,
    "headers": _headers,
    "redirect-refused": _redirect_refused,
    "redirect-link-local": _redirect_link_local,
    "relative-realm": _relative_realm,
    "tokens": _asking_for_tokens(""),
    "private": _private,
    "endless-tokens": _asking_for_tokens("?endless"),
    "nested": _manifest(hostile_content.nested_manifest),
    "huge": _manifest(hostile_content.huge_manifest),
    "padded": _manifest(hostile_content.padded_manifest),
    "many-layers": _manifest(hostile_content.manifest_of_many_layers),
    "index": _manifest(hostile_content.index_of_manifests, oci.INDEX),
}


async def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    host, port, target_port = arguments
    upstream = HostileUpstream(f"{host}:{port}", (host, int(target_port)))
    server = await asyncio.start_server(upstream.serve, host, int(port), backlog=4096, limit=BIG)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
