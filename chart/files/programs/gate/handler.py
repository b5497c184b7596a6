"""The gate of a cache pod: decides for each request what the front sends, and fetches what is not there.

It never begins a 200 that it cannot end: a blob is sent when it is whole, or, if it is a long one, when it is known to
come, and by then the upstream's failures are this program's own to mend. Everything else is refused with an error
status, upon which containerd asks the upstream itself (core/remotes/docker/fetcher.go).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from store.layout import DIGEST, MAX_REPOSITORY_CHARACTERS, REPOSITORY, TAG
from store.store import NoRoom, Store, WrongContent
from upstream.client import Client, Denied, Kind, NotFound, Settings, Unavailable
from upstream.reference import Reference
from upstream.sources import PEER_CONNECT_TIMEOUT, PeerFirst, Watched

from gate import configuration as cache_configuration
from gate.fetches import Fetches
from gate.manifests import Manifest, Manifests
from gate.metrics import CONTENT, CONTENT_TYPE, DENIED, NO_ROOM, NOT_FOUND, PUSH, VOLUME, Metrics, Now
from gate.repeats import Repeats
from gate.sent_bytes import SentBytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from gate.configuration import Configuration, Room
    from gate.fetches import Failure, Fetch

# Requests for digests of other algorithms are left to the upstream.
MANIFEST = re.compile(
    rf"/v2/(?P<name>{REPOSITORY.pattern})/manifests/(?:(?P<digest>{DIGEST.pattern})|(?P<tag>{TAG.pattern}))"
)
BLOB = re.compile(rf"/v2/(?P<name>{REPOSITORY.pattern})/blobs/(?P<digest>{DIGEST.pattern})")
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")

# Seconds. A blob that is whole by then is sent from the volume, a longer one as it comes; one of which nothing came
# after WAIT_FOR_FIRST_BYTE is refused, before containerd gives up by itself (30 s, since 2.3).
WAIT_FOR_WHOLE = 10.0
WAIT_FOR_FIRST_BYTE = 25.0
# A follower looks this often whether its fetch is still there, in seconds.
FOLLOW = 5.0
SEND = 1 << 20
HOUSEKEEPING = 5.0
CHECK = 2.0
# Less than the pod's grace period: what is being sent ends first.
DRAIN = 25.0
MAIN_SOCKET = "gate.sock"
REGISTRY_SOCKET = "registry.sock"
STATUS_PORT = 5001
REPLICA_AGENT = "registry-cache"


class Cache(NamedTuple):
    """All that a request needs."""

    store: Store
    fetches: Fetches
    manifests: Manifests
    source: Any
    metrics: Metrics
    health: Health
    verifying: threading.Lock
    repeats: Repeats
    refused_credentials: Callable[[], int]
    upstream_away: Callable[[], bool]


class Health:
    """Whether whole bodies can be served now: the store was read, can be read, and distribution answers."""

    def __init__(self, root: Path, registry: Path) -> None:
        """Not ready at first."""
        self._root = root
        self._registry = registry
        self.problem: str | None = "the volume is being read"
        self.loaded = False
        self.stopping = False

    def check(self) -> None:
        """Look at all of it, and say in the log what is new."""
        problem = self._look()
        if problem != self.problem:
            log("ready" if problem is None else f"not ready: {problem}")
        self.problem = problem

    def _look(self) -> str | None:
        if self.stopping:
            return "it is being stopped"
        if not self.loaded:
            return "the volume is being read"
        try:
            next(self._root.iterdir(), None)
        except OSError as error:
            return f"the volume cannot be read: {error.strerror}"
        try:
            with _Unix(str(self._registry)) as connection:
                connection.request("GET", "/v2/")
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"distribution does not answer: {error}"
        return None if status == http.HTTPStatus.OK else f"distribution answers {status}"


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CHECK)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server(socketserver.ThreadingUnixStreamServer):
    """A thread for each of the front's connections."""

    daemon_threads = True
    request_queue_size = 4096

    def __init__(self, path: Path, cache: Cache) -> None:
        """Listen on `path`; what an earlier process left there goes."""
        path.unlink(missing_ok=True)
        self.cache = cache
        self.busy = 0
        self.busy_lock = threading.Lock()
        super().__init__(str(path), Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that hung up; anything else is a defect, and its trace is the log's."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            sys.excepthook(*sys.exc_info())


class Handler(BaseHTTPRequestHandler):
    """Answers the front."""

    protocol_version = "HTTP/1.1"
    wbufsize = 64 << 10
    server: Server

    def finish(self) -> None:
        """Close both sides: http.server leaves the one open where the other fails because the client hung up."""
        try:
            super().finish()
        finally:
            self.rfile.close()

    def do_GET(self) -> None:
        """Answer a GET or a HEAD."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            # Not read, it would be the next question. The front passes none on.
            self.close_connection = True
            self._refuse(400, "UNSUPPORTED", "a pull has no body")
            return
        with self.server.busy_lock:
            self.server.busy += 1
        try:
            self._answer()
        finally:
            with self.server.busy_lock:
                self.server.busy -= 1

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def refuse_change(self) -> None:
        """Answer what would change something."""
        self.close_connection = True  # its body is not read
        self._refuse(405, "UNSUPPORTED", "a cache takes no pushes, push to the upstream", PUSH)

    do_POST = do_PUT = do_PATCH = do_DELETE = refuse_change  # noqa: N815 - the names are http.server's

    def log_message(self, *_: object) -> None:
        """Nothing for each request: all nodes ask every few seconds."""

    def address_string(self) -> str:
        """A unix socket has no address."""
        return "front"

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/v2/":
            problem = self.server.cache.health.problem
            if problem is None:
                self._send(200, b"{}")
            else:
                self._refuse(503, "UNAVAILABLE", problem)
        elif not self.server.cache.health.loaded:
            # What is there is not known yet, and would be fetched again.
            self._refuse(503, "UNAVAILABLE", "the volume is being read")
        elif (found := BLOB.fullmatch(path)) and len(found["name"]) <= MAX_REPOSITORY_CHARACTERS:
            self._blob(found["name"], found["digest"])
        elif (found := MANIFEST.fullmatch(path)) and len(found["name"]) <= MAX_REPOSITORY_CHARACTERS:
            self._manifest(found["name"], found["tag"], found["digest"])
        else:
            self._redirect(f"/registry{self.path}")

    def _manifest(self, repository: str, tag: str | None, digest: str | None) -> None:
        cache = self.server.cache
        try:
            if digest is not None:
                manifest = cache.manifests.by_digest(repository, digest)
            else:
                assert tag is not None  # noqa: S101 - MANIFEST has one of both
                manifest = cache.manifests.by_tag(repository, tag)
        except (Unavailable, NotFound, Denied) as problem:
            self._refuse_for(problem, "MANIFEST_UNKNOWN")
            return
        self._count("manifest", hit=not manifest.fetched)
        self._send_manifest(repository, manifest)

    def _send_manifest(self, repository: str, manifest: Manifest) -> None:
        if manifest.unsaved is not None:
            content, media_type = manifest.unsaved
            self._send(200, content, media_type, manifest.digest)
            return
        self.server.cache.store.mark_used(repository, manifest.digest)
        self._redirect(f"/registry/v2/{repository}/manifests/{manifest.digest}")

    @property
    def _is_replica(self) -> bool:
        """Whether the other replica asks."""
        return self.headers.get("User-Agent", "").startswith(REPLICA_AGENT)

    def _count(self, kind: str, *, hit: bool, joined: bool = False) -> None:
        if not self._is_replica:
            self.server.cache.metrics.requested(kind, hit=hit, joined=joined)

    def _blob(self, repository: str, digest: str) -> None:
        cache = self.server.cache
        first, last = self._range()
        there = cache.store.find_blob(digest, first) is not None
        # Who asks again, or for the rest, got something that was wrong or broke off: perhaps what the volume gives is.
        again = self.command == "GET" and not first and cache.repeats.is_one(self.headers.get("X-Real-IP", ""), digest)
        if there and (first or again):
            with cache.verifying:
                there = cache.store.verify_blob(digest, anew=again)
        if there:
            self._count("blob", hit=True)
            self._send_whole(repository, digest)
        elif self.command == "HEAD":
            self._size_of(repository, digest)
        else:
            try:
                fetch, new = cache.fetches.get(repository, digest)
            except Unavailable as problem:
                self._refuse_for(problem, "BLOB_UNKNOWN")
                return
            self._send_fetched(repository, fetch, new, first, last)

    def _send_fetched(self, repository: str, fetch: Fetch, new: bool, first: int, last: int | None) -> None:  # noqa: FBT001
        cache = self.server.cache
        if fetch.is_stuck:
            self._refuse_for(Unavailable(Kind.CUT, "the upstream broke off and sends nothing more yet"), "BLOB_UNKNOWN")
            return
        began = time.monotonic()
        # A replica mends what breaks off by itself.
        ended = fetch.wait_for_end(0 if self._is_replica else WAIT_FOR_WHOLE)
        if not ended and fetch.wait_until_certain(began + WAIT_FOR_FIRST_BYTE - time.monotonic()):
            seen = fetch.wait_beyond(-1, 0)
            if not seen.ended and seen.size is not None:
                self._count("blob", hit=not new, joined=not new)
                self._follow(fetch, seen.size, first, last)
                return
        if cache.store.find_blob(fetch.digest) is not None:
            self._count("blob", hit=not new, joined=not new)
            self._send_whole(repository, fetch.digest)
        elif isinstance(fetch.failure, (NotFound, Denied)) and fetch.repository != repository:
            # That was said of another repository.
            self._blob(repository, fetch.digest)
        elif fetch.failure is not None:
            self._refuse_for(fetch.failure, "BLOB_UNKNOWN")
        else:
            self._refuse_for(
                Unavailable(Kind.TIMEOUT, f"nothing came within {WAIT_FOR_FIRST_BYTE:.0f} s"), "BLOB_UNKNOWN"
            )

    def _send_whole(self, repository: str, digest: str) -> None:
        self.server.cache.store.mark_used(repository, digest)
        code = digest.partition(":")[2]
        self._redirect(f"/blobs/sha256/{code[:2]}/{code}/data", digest)

    def _size_of(self, repository: str, digest: str) -> None:
        """Answer HEAD for a blob that is not there; it costs no fetch."""
        try:
            with self.server.cache.source.open(
                "HEAD", Reference("blob", repository, digest), timeout=WAIT_FOR_WHOLE
            ) as answer:
                # Not the body's, which an answer to HEAD has not. What a manifest says of it counts more.
                known = self.server.cache.store.expected_size(digest)
                length = answer.headers.get("Content-Length") if known is None else str(known)
        except (Unavailable, NotFound, Denied) as problem:
            self._refuse_for(problem, "BLOB_UNKNOWN")
            return
        self.send_response(200)
        self._send_common(digest)
        self.send_header("Content-Type", "application/octet-stream")
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()

    def _follow(self, fetch: Fetch, size: int, first: int, last: int | None) -> None:
        """Send a blob, or a part, while it comes; its last byte goes out when all was compared with the digest."""
        end = size if last is None else min(last + 1, size)
        if first >= end:
            self._refuse(416, "RANGE_INVALID", f"the blob has {size} bytes")
            return
        try:
            file = fetch.open()
        except OSError as error:
            self._refuse_for(fetch.failure or error, "BLOB_UNKNOWN")
            return
        with file:
            partial = (first, end) != (0, size)
            self.send_response(206 if partial else 200)
            self._send_common(fetch.digest)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(end - first))
            if partial:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            self._send_growing(fetch, file.fileno(), first, end)

    def _send_growing(self, fetch: Fetch, file: int, offset: int, end: int) -> None:
        while offset < end:
            if offset < end - 1:
                seen = fetch.wait_beyond(offset, FOLLOW)
                ended, written = seen.ended, seen.written
            else:
                ended, written = fetch.wait_for_end(FOLLOW), 0
            if ended and fetch.failure is not None:
                # The body cannot be ended: the connection breaks off, and who asks for the rest is refused.
                self.close_connection = True
                return
            there = end if ended else min(written, end - 1)
            while offset < there:
                sent = os.sendfile(self.connection.fileno(), file, offset, min(SEND, there - offset))
                if not sent:
                    message = "the file was cut off"
                    raise OSError(message)
                offset += sent

    def _range(self) -> tuple[int, int | None]:
        """First and last byte that are asked for; other forms of a range are answered with all, as HTTP lets us."""
        found = RANGE.fullmatch(self.headers.get("Range", "").strip())
        if found is None:
            return 0, None
        return int(found[1]), int(found[2]) if found[2] else None

    def _redirect(self, location: str, digest: str = "") -> None:
        """Have the front send it."""
        self.send_response(200)
        self.send_header("X-Accel-Redirect", location)
        self._send_common(digest)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse_for(self, problem: Failure, unknown: str) -> None:
        if isinstance(problem, NotFound):
            self._refuse(404, unknown, str(problem), NOT_FOUND)
        elif isinstance(problem, Denied):
            self._refuse(403, "DENIED", str(problem), DENIED)
        elif isinstance(problem, Unavailable):
            # Never 429: containerd asks five times more at once (core/remotes/docker/resolver.go).
            self._refuse(503, "UNAVAILABLE", str(problem), problem.kind)
        elif isinstance(problem, WrongContent):
            self._refuse(503, "UNAVAILABLE", str(problem), CONTENT)
        else:
            self._refuse(503, "UNAVAILABLE", str(problem), NO_ROOM if isinstance(problem, NoRoom) else VOLUME)

    def _refuse(self, status: int, code: str, message: str, reason: str = "") -> None:
        if reason:
            self.server.cache.metrics.refused(reason)
        self._send(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode())

    def _send(self, status: int, body: bytes, media_type: str = "application/json", digest: str = "") -> None:
        self.send_response(status)
        self._send_common(digest)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_common(self, digest: str) -> None:
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if digest:
            self.send_header("Docker-Content-Digest", digest)


class StatusServer(socketserver.ThreadingTCPServer):
    """Metrics, and an answer for who wants to know whether the program lives."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    cache: Cache

    def __init__(self, port: int, cache: Cache) -> None:
        """Listen on every address of the pod."""
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self.cache = cache
        super().__init__(("", port), StatusHandler)

    def server_bind(self) -> None:
        """Take both families where there are both."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class StatusHandler(BaseHTTPRequestHandler):
    """Answers Prometheus and the kubelet."""

    server: StatusServer
    timeout = 5
    answers: ClassVar = {"/metrics": CONTENT_TYPE, "/healthz": "text/plain"}

    def do_GET(self) -> None:
        """Answer."""
        found = self.path in self.answers
        cache = self.server.cache
        text = _metrics(cache) if self.path == "/metrics" else "ok\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", self.answers.get(self.path, "text/plain"))
        self.end_headers()
        self.wfile.write(text.encode() if found else b"")

    def log_message(self, *_: object) -> None:
        """Nothing for each request."""


def _metrics(cache: Cache) -> str:
    return cache.metrics.text(
        Now(
            stored=cache.store.statistics(),
            ready=cache.health.problem is None,
            upstream_away=cache.upstream_away(),
            fetches=cache.fetches.count(),
            refused_credentials=cache.refused_credentials(),
        )
    )


def build(configuration: Configuration, room: Room, root: Path, run: Path) -> Cache:
    """Put the parts together."""
    metrics = Metrics(configuration.upstream, _about(configuration), max(1, len(configuration.replicas)))
    metrics.configured(room.version, room.ttl)
    store = Store(root, room.capacity, high_water=room.high_water)
    client = Client(configuration.settings, observe=metrics.upstream, log=log, received=metrics.pulled)
    upstream = Watched(client, configuration.settings.remote_url, log)
    source: Any = upstream
    if configuration.replicas:
        ordinal = int(socket.gethostname().rpartition("-")[2])
        other = f"http://{configuration.replicas[1 - ordinal]}:5000"
        bare = Settings(other, no_proxy=("*",), connect_timeout=PEER_CONNECT_TIMEOUT)
        other_client = Client(bare, observe=lambda *_: None, log=log, received=metrics.from_replica)
        peer = Watched(other_client, "the other replica", log)
        source = PeerFirst(source, peer, ordinal)
    return Cache(
        store=store,
        fetches=Fetches(store, source, log),
        manifests=Manifests(store, source, window=configuration.tag_window, observe=metrics.tag, log=log),
        source=source,
        metrics=metrics,
        health=Health(root, run / REGISTRY_SOCKET),
        verifying=threading.Lock(),
        repeats=Repeats(),
        refused_credentials=lambda: client.credentials_refused,
        upstream_away=lambda: upstream.is_away,
    )


def _about(configuration: Configuration) -> dict[str, str]:
    """What the metrics tell of it: labels and their values, and no secret."""
    settings = configuration.settings
    return {
        "remote_url": settings.remote_url,
        "tag_window": f"{configuration.tag_window:g}s",
        "credentials": str(settings.credentials is not None).lower(),
        "proxy": str(bool(settings.http_proxy or settings.https_proxy)).lower(),
        "ca": str(settings.ca_file is not None).lower(),
    }


def keep_house(cache: Cache, folder: Path, stop: threading.Event) -> None:
    """Remove what is too old, and keep room ahead of need, as the configuration has it by now."""
    said = ""
    while not stop.wait(HOUSEKEEPING):
        try:
            _tidy(cache, cache_configuration.read_room(folder))
            problem = ""
        except (OSError, ValueError, KeyError) as error:
            problem = f"nothing is removed: {error}"
        if problem not in ("", said):
            log(problem)
        said = problem


def _tidy(cache: Cache, room: Room) -> None:
    cache.metrics.configured(room.version, room.ttl)
    if cache.store.set_limits(room.capacity, room.high_water):
        log(f"the volume is used up to {room.high_water:.0%} of {room.capacity} bytes")
    for why, removed in (
        ("not used for too long", cache.store.expire(room.ttl)),
        ("for room", cache.store.evict_above_high_water()),
    ):
        if removed:
            log(f"removed {why}: {len(removed)}")


def watch(cache: Cache, stop: threading.Event) -> None:
    """Know at any time whether whole bodies can be served."""
    cache.health.check()
    while not stop.wait(CHECK):
        cache.health.check()


def serve(folder: Path, root: Path, run: Path) -> None:
    """Run until SIGTERM, and then until what is being sent has ended."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configuration = cache_configuration.read(folder)
    cache = build(configuration, cache_configuration.read_room(folder), root, run)
    server = Server(run / MAIN_SOCKET, cache)
    status = StatusServer(STATUS_PORT, cache)
    sent = SentBytes(cache.metrics.pushed, cache.metrics.untold)
    for work in (server.serve_forever, status.serve_forever, sent.listen):
        threading.Thread(target=work, daemon=True).start()
    log(f"cache of {configuration.upstream}, from {configuration.settings.remote_url}")
    cache.store.load()
    cache.health.loaded = True
    for thread in (
        threading.Thread(target=keep_house, args=(cache, folder, stop), daemon=True),
        threading.Thread(target=watch, args=(cache, stop), daemon=True),
    ):
        thread.start()
    stop.wait()
    cache.health.stopping = True
    cache.health.check()
    deadline = time.monotonic() + DRAIN
    while server.busy and time.monotonic() < deadline:
        time.sleep(0.1)


def log(line: str) -> None:
    """A line for the pod's log, whole even where several threads write."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Read the command line, and serve."""
    # Many container runtimes give a program 1024 descriptors, and may have it ask for more.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Path("/var/lib/registry"))
    parser.add_argument("--run", type=Path, default=Path("/run/registry-cache"))
    chosen = parser.parse_args(arguments)
    serve(chosen.config, chosen.root, chosen.run)
