"""Many nodes that pull from a cache as containerd does, in one program: `python -m experiments.load_clients LOAD`.

Each node has an address of its own, probes the cache as the node program does, and pulls an image at random again and
again: HEAD for the tag, GET for the manifest, then the configuration and the layers on three connections. The program
prints its results as JSON at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

TIMEOUT_SECONDS = 60.0
AT_ONCE = 3
NOISE_SECONDS = 0.05
ACCEPT = "application/vnd.oci.image.manifest.v1+json, */*"
OK = 200


@dataclass(frozen=True)
class Load:
    """What the nodes do; each image is a repository with the tag `1`."""

    host: str
    port: int
    upstream: str
    addresses: list[str]
    """Those of the nodes."""
    repositories: list[str]
    seconds: float
    pull_period: float
    """Seconds from the beginning of a node's pull to that of its next one."""
    probe_period: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Results:
    """What the nodes saw."""

    pulls: int = 0
    requests: int = 0
    probes: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    manifest_seconds: list[float] = field(default_factory=list)
    pull_seconds: list[float] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    """How late this program woke up from short sleeps: the noise of the machine, which is in all other times too."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Refused(Exception):
    """The cache answered with an error status, or with something wrong; the message says which."""


class Connection:
    """A connection of a node that is kept open for one request after the other."""

    def __init__(self, load: Load, address: str) -> None:
        """Connect with the first request."""
        self._load, self._address = load, address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str) -> tuple[dict[str, str], bytes]:
        """Send a request, and return the headers and the body of a good response.

        Raises:
            Refused: The response has an error status.
            OSError, asyncio.IncompleteReadError: It did not come, or broke off.
        """
        load = self._load
        if self._streams is None:
            local = (self._address, 0)
            self._streams = await asyncio.open_connection(load.host, load.port, local_addr=local, limit=1 << 20)
        reader, writer = self._streams
        writer.write(
            f"{method} {path}?ns={load.upstream} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\n"
            f"User-Agent: containerd/v2.4.2\r\nAccept: {ACCEPT}\r\n\r\n".encode()
        )
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if method == "HEAD" else int(headers["content-length"])
        body = await reader.readexactly(length)
        status = int(head.split(" ", 2)[1])
        if status != OK:
            message = f"status {status}"
            raise Refused(message)
        return headers, body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@dataclass
class Nodes:
    """All nodes."""

    load: Load
    results: Results = field(default_factory=Results)

    async def run(self) -> None:
        """Pull and probe for as long as the load says."""
        end = time.monotonic() + self.load.seconds
        workers = [self._repeat(work, period, address, end) for address in self.load.addresses for work, period in (
            (self._pull, self.load.pull_period), (self._probe, self.load.probe_period)
        )]  # fmt: skip
        await asyncio.gather(self._measure_noise(end), *workers)

    async def _measure_noise(self, end: float) -> None:
        while (begun := time.monotonic()) < end:
            await asyncio.sleep(NOISE_SECONDS)
            self.results.late_seconds.append(round(time.monotonic() - begun - NOISE_SECONDS, 5))

    async def _repeat(self, work: object, period: float, address: str, end: float) -> None:
        await asyncio.sleep(random.uniform(0, period))  # noqa: S311 - not a secret
        while (begun := time.monotonic()) < end:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await work(address)  # type: ignore[operator] # one of our two methods
            except (OSError, asyncio.IncompleteReadError, TimeoutError, Refused) as error:
                self.results.problems[str(error) or type(error).__name__] += 1
            await asyncio.sleep(max(0.0, begun + period - time.monotonic()))

    async def _probe(self, address: str) -> None:
        connection = Connection(self.load, address)
        try:
            await connection.send("GET", "/v2/")
            self.results.probes += 1
        finally:
            connection.close()

    async def _pull(self, address: str) -> None:
        begun = time.monotonic()
        repository = random.choice(self.load.repositories)  # noqa: S311 - not a secret
        connections = [Connection(self.load, address) for _ in range(AT_ONCE)]
        try:
            headers, _ = await connections[0].send("HEAD", f"/v2/{repository}/manifests/1")
            digest = headers["docker-content-digest"]
            manifest_begun = time.monotonic()
            _, manifest = await connections[0].send("GET", f"/v2/{repository}/manifests/{digest}")
            self.results.manifest_seconds.append(round(time.monotonic() - manifest_begun, 5))
            _check(manifest, digest)
            document = json.loads(manifest)
            left = [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]
            self.results.requests += 2 + len(left)
            await asyncio.gather(*(self._fetch(connection, repository, left) for connection in connections))
        finally:
            for connection in connections:
                connection.close()
        self.results.pulls += 1
        self.results.pull_seconds.append(round(time.monotonic() - begun, 4))

    async def _fetch(self, connection: Connection, repository: str, left: list[str]) -> None:
        while left:
            digest = left.pop(0)
            _, body = await connection.send("GET", f"/v2/{repository}/blobs/{digest}")
            _check(body, digest)


def _check(content: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        message = "wrong content"
        raise Refused(message)


async def main(arguments: list[str]) -> None:
    """Run the nodes, and print the results."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    nodes = Nodes(Load(**json.loads(arguments[0])))
    await nodes.run()
    print(nodes.results.to_json(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
