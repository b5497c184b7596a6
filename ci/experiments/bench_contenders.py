"""The caches that `make bench` compares: the chart's cache pod, and distribution alone as a pull-through cache.

Each has a network, a control group and a volume of its own on this machine's disk. They have the same upstream.
"""

from __future__ import annotations

import http.client
import json
import shlex
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cluster.cache_pod import CachePod
from machine import own_network, tools
from machine.cgroups import Cgroup
from machine.processes import Place, wait_for
from upstreams import pki

from experiments.pod_bench import UPSTREAM

if TYPE_CHECKING:
    import ssl

    from experiments.pod_bench import Bench

PORT = 5000
READY_SECONDS = 60.0
# Gardener's registry-cache extension, which runs distribution alone, writes this (pkg/component/registrycaches).
CONFIGURATION: dict[str, Any] = {
    "version": 0.1,
    "log": {"fields": {"service": "registry"}},
    "storage": {"delete": {"enabled": True}, "tag": {"concurrencylimit": 5}},
    "http": {
        "addr": f":{PORT}",
        "draintimeout": "25s",
        "debug": {"addr": ":5001", "prometheus": {"enabled": True, "path": "/metrics"}},
        "headers": {"X-Content-Type-Options": ["nosniff"]},
    },
    "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    "proxy": {"remoteurl": "https://registry-1.docker.io", "ttl": "168h"},
}


class Contender(Protocol):
    """A cache of docker.io."""

    cgroup: Cgroup

    @property
    def url(self) -> str:
        """The URL at which containerd finds it."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client of it needs for TLS, if it speaks TLS."""

    def start(self) -> None:
        """Start it, and wait until it is ready."""

    def stop(self) -> None:
        """Stop it and keep its volume."""

    def processes(self) -> dict[str, list[int]]:
        """Return the ids of each container's processes."""


@dataclass
class ChartPod:
    """The chart's cache pod, with default settings except for `fields` of the cache and other `values`."""

    bench: Bench
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    cgroup: Cgroup = field(init=False)
    pod: CachePod = field(init=False)

    def __post_init__(self) -> None:
        """Render the pod."""
        self.cgroup = Cgroup(f"{self.bench.cgroup.name}/chart-{self.number}")
        self.cgroup.create()
        folder = self.bench.folder / f"chart-{self.number}"
        self.pod = CachePod(
            Place(folder, self.cgroup),
            {"upstream": UPSTREAM, **self.fields},
            folder / "volume",
            values=self.values,
            secrets=self.secrets,
            hosts=self.bench.upstream.host_lines(),
            number=self.number,
        )

    @property
    def url(self) -> str:
        return self.pod.url

    def start(self) -> None:
        self.pod.start()

    def stop(self) -> None:
        self.pod.stop()

    def processes(self) -> dict[str, list[int]]:
        return {name: self.pod.processes(name) for name in self.pod.containers}


@dataclass
class Alone:
    """distribution with its `proxy` section only."""

    bench: Bench
    number: int
    tls: ssl.SSLContext | None = None
    cgroup: Cgroup = field(init=False)
    _place: Place = field(init=False)

    def __post_init__(self) -> None:
        """Write its configuration and create its namespaces, in which the upstreams' names resolve as in a pod."""
        self.cgroup = Cgroup(f"{self.bench.cgroup.name}/alone-{self.number}")
        self.cgroup.create()
        folder = self.bench.folder / f"alone-{self.number}"
        self._place = Place(folder, self.cgroup)
        (folder / "volume").mkdir(parents=True)
        storage = {**CONFIGURATION["storage"], "filesystem": {"rootdirectory": str(folder / "volume")}}
        (folder / "registry.json").write_text(json.dumps({**CONFIGURATION, "storage": storage}))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.bench.upstream.host_lines()}")
        prepared = folder / "prepared"
        quoted = shlex.quote(str(folder))
        script = f"mount --bind {quoted}/hosts /etc/hosts; touch {quoted}/prepared; exec sleep 2147483647"
        command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-euc", script]
        self._holder = self._place.start("holder", command)
        wait_for("the namespaces of distribution", prepared.exists, READY_SECONDS, 0.02)
        own_network.join(self._holder, self.number)

    @property
    def url(self) -> str:
        return f"http://{own_network.pod_address(self.number)}:{PORT}"

    def start(self) -> None:
        # A copy of the program, so that it shares no memory with the upstreams' registries.
        program = self._place.folder / "registry"
        shutil.copy(tools.go_binary("distribution", "registry"), program)
        enter = ["nsenter", "--target", self._holder, "--mount", "--net"]
        environment = {"OTEL_TRACES_EXPORTER": "none", "SSL_CERT_FILE": str(pki.authority_file())}
        self._place.start("distribution", [*enter, program, "serve", self._place.folder / "registry.json"], environment)
        wait_for("distribution to be ready", self._is_ready, READY_SECONDS)

    def stop(self) -> None:
        self._place.stop("distribution", READY_SECONDS)

    def processes(self) -> dict[str, list[int]]:
        process = self._place.process_id("distribution")
        assert process is not None, "distribution does not run"
        return {"distribution": [process]}

    def _is_ready(self) -> bool:
        self._place.fail_if_dead("distribution")
        try:
            return probe_cache(self.url) == http.client.OK
        except OSError:
            return False


def probe_cache(url: str) -> int:
    """Return the status of /v2/, which is requested with a connection of its own as the node program does."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/v2/", headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def seconds_to_ready(contender: Contender) -> float:
    """Return how long a start takes, with the resolution of `wait_for`, which is 0.1 s."""
    begun = time.monotonic()
    contender.start()
    return time.monotonic() - begun


def print_markdown(heads: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    for cells in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(cells)} |")
