"""What the program did and saw, for Prometheus (text format 0.0.4, prometheus/docs, "Exposition formats")."""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from typing import TYPE_CHECKING

from common.log import describe_oserror, log

if TYPE_CHECKING:
    from collections.abc import Iterator

# What can be wrong with an answer (cache_probe.NoAnswer), and why a cache is left (keeper.Keeper).
NO_ANSWER = ("no_address", "no_connection", "timeout", "status", "wrong_answer")
REASONS = (*NO_ANSWER, "program_ends", "foreign_file", "other_release", "not_writable", "program_error")
BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds that a client may be silent.
PATIENCE = 5
LONGEST_LINE = 4096
MOST_HEADERS = 100


class Metrics:
    """Counters and gauges of one program, safe for its threads."""

    def __init__(self, upstreams: list[str]) -> None:
        """Have every series there from the start, so that a first withdrawal is an increase."""
        self._lock = threading.Lock()
        self._upstreams = upstreams
        self._active = dict.fromkeys(upstreams, 0)
        self._probes: Counter[tuple[str, str]] = Counter(
            {(upstream, result): 0 for upstream in upstreams for result in ("ok", *NO_ANSWER)}
        )
        self._withdrawals: Counter[tuple[str, str]] = Counter(
            {(upstream, reason): 0 for upstream in upstreams for reason in REASONS}
        )
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds = dict.fromkeys(upstreams, 0.0)
        self._reads: bool | None = None

    def probed(self, upstream: str, result: str, seconds: float) -> None:
        """Note one question: `ok`, or what was wrong with the answer (NoAnswer.kind), and how long it took."""
        with self._lock:
            self._probes[upstream, result] += 1
            self._seconds[upstream] += seconds
            for bucket in BUCKETS:
                self._buckets[upstream, bucket] += seconds <= bucket

    def active(self, upstream: str, *, active: bool) -> None:
        """Note whether containerd is pointed to the cache."""
        with self._lock:
            self._active[upstream] = int(active)

    def withdrawn(self, upstream: str, reason: str) -> None:
        """Note that the cache was in use and is no longer."""
        with self._lock:
            self._withdrawals[upstream, reason] += 1

    def containerd(self, reads: bool | None) -> None:  # noqa: FBT001 - a value
        """Note whether containerd reads the registry folder; None where that is not known."""
        with self._lock:
            self._reads = reads

    def text(self) -> str:
        """All of it."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        name = "registry_cache_node_mirror_active"
        yield from _head(name, "gauge", "Whether containerd on this node is pointed to the cache of the upstream.")
        for upstream, value in self._active.items():
            yield f'{name}{{upstream_host="{upstream}"}} {value}'
        name = "registry_cache_node_probes_total"
        yield from _head(name, "counter", "Questions to the cache by what came back: ok, or what was wrong.")
        for (upstream, result), count in sorted(self._probes.items()):
            yield f'{name}{{upstream_host="{upstream}",result="{result}"}} {count}'
        name = "registry_cache_node_probe_duration_seconds"
        yield from _head(name, "histogram", "How long the answers took, those that did not come included.")
        for upstream in self._upstreams:
            total = sum(count for (of, _), count in self._probes.items() if of == upstream)
            for bucket in BUCKETS:
                yield f'{name}_bucket{{upstream_host="{upstream}",le="{bucket}"}} {self._buckets[upstream, bucket]}'
            yield f'{name}_bucket{{upstream_host="{upstream}",le="+Inf"}} {total}'
            yield f'{name}_sum{{upstream_host="{upstream}"}} {self._seconds[upstream]:.6f}'
            yield f'{name}_count{{upstream_host="{upstream}"}} {total}'
        name = "registry_cache_node_withdrawals_total"
        yield from _head(name, "counter", "How often the cache was in use and was left, by reason.")
        for (upstream, reason), count in sorted(self._withdrawals.items()):
            yield f'{name}{{upstream_host="{upstream}",reason="{reason}"}} {count}'
        if self._reads is not None:
            name = "registry_cache_node_containerd_reads_registry_directory"
            yield from _head(name, "gauge", "Whether containerd's configuration names the folder; absent if unknown.")
            yield f"{name} {int(self._reads)}"


class Server:
    """Serves /metrics on the node's network; a port that is taken is told, tried again, and stops nothing else."""

    def __init__(self, metrics: Metrics, port: int) -> None:
        """`port` 0 serves nothing."""
        self._metrics = metrics
        self._port = port
        self._listens = port == 0
        self._trouble = ""

    def ensure(self) -> None:
        """Listen, if it does not yet."""
        if self._listens:
            return
        try:
            server = _Listener(("", self._port), _handler(self._metrics))
        except OSError as error:
            if self._trouble != (trouble := describe_oserror(error)):
                self._trouble = trouble
                log(f"no metrics, port {self._port} cannot be listened on: {trouble}")
            return
        self._listens = True
        threading.Thread(target=server.serve_forever, daemon=True).start()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up: one line for each change is the log's."""


def _handler(metrics: Metrics) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """Answers one request for a fixed path: http.server would take five more MB, with all of email in it."""

        timeout = PATIENCE

        def handle(self) -> None:
            request = self.rfile.readline(LONGEST_LINE).split()
            for _ in range(MOST_HEADERS):
                if self.rfile.readline(LONGEST_LINE) in (b"\r\n", b"\n", b""):
                    break
            found = request[:1] == [b"GET"] and request[1:2] == [b"/metrics"]
            status, body = ("200 OK", metrics.text()) if found else ("404 Not Found", "write /metrics\n")
            head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body.encode())}\r\n"
            self.wfile.write(f"{head}Connection: close\r\n\r\n{body}".encode())

    return Handler


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
