"""What `make bench` compares: the chart's cache pod, and distribution alone as the pull-through cache that it replaces.

Both have a network, a control group and a volume on this machine's disk of their own, and the same upstream.
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
    from experiments.pod_bench import Bench

PORT = 5000
PATIENCE = 60.0
# As Gardener's registry-cache extension writes it (pkg/component/registrycaches), whose caches are distribution alone.
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
    """A cache of docker.io that runs, or can be started."""

    cgroup: Cgroup

    @property
    def url(self) -> str:
        """Where containerd finds it."""

    def start(self) -> None:
        """Start it and wait until it is ready."""

    def stop(self) -> None:
        """End it; its volume stays."""

    def processes(self) -> dict[str, list[int]]:
        """The ids of each container's processes."""


@dataclass
class ChartPod:
    """The chart's cache pod, with the settings that the chart ships."""

    bench: Bench
    number: int
    cgroup: Cgroup = field(init=False)
    pod: CachePod = field(init=False)

    def __post_init__(self) -> None:
        """Render it."""
        self.cgroup = Cgroup(f"{self.bench.cgroup.name}/chart-{self.number}")
        self.cgroup.create()
        folder = self.bench.folder / f"chart-{self.number}"
        self.pod = CachePod(
            Place(folder, self.cgroup),
            {"upstream": UPSTREAM},
            folder / "volume",
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
    """distribution with its `proxy` section, and nothing before it."""

    bench: Bench
    number: int
    cgroup: Cgroup = field(init=False)
    _place: Place = field(init=False)

    def __post_init__(self) -> None:
        """Write its configuration and make its namespaces, in which the upstreams' names resolve as in a pod."""
        self.cgroup = Cgroup(f"{self.bench.cgroup.name}/alone-{self.number}")
        self.cgroup.create()
        folder = self.bench.folder / f"alone-{self.number}"
        self._place = Place(folder, self.cgroup)
        (folder / "volume").mkdir(parents=True)
        storage = {**CONFIGURATION["storage"], "filesystem": {"rootdirectory": str(folder / "volume")}}
        (folder / "registry.json").write_text(json.dumps({**CONFIGURATION, "storage": storage}))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.bench.upstream.host_lines()}")
        prepared = folder / "prepared"
        script = f"mount --bind {shlex.quote(str(folder))}/hosts /etc/hosts; touch {prepared}; exec sleep 2147483647"
        command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-euc", script]
        self._holder = self._place.start("holder", command)
        wait_for("the namespaces of distribution", prepared.exists, PATIENCE, 0.02)
        own_network.join(self._holder, self.number)

    @property
    def url(self) -> str:
        return f"http://{own_network.pod_address(self.number)}:{PORT}"

    def start(self) -> None:
        # A copy of its own, so that it shares no memory with the upstreams' registries, which are the same program.
        program = self._place.folder / "registry"
        shutil.copy(tools.go_binary("distribution", "registry"), program)
        enter = ["nsenter", "--target", self._holder, "--mount", "--net"]
        environment = {"OTEL_TRACES_EXPORTER": "none", "SSL_CERT_FILE": str(pki.authority_file())}
        self._place.start("distribution", [*enter, program, "serve", self._place.folder / "registry.json"], environment)
        wait_for("distribution to be ready", self._is_ready, PATIENCE)

    def stop(self) -> None:
        self._place.stop("distribution", PATIENCE)

    def processes(self) -> dict[str, list[int]]:
        process = self._place.process_id("distribution")
        assert process is not None, "distribution does not run"
        return {"distribution": [process]}

    def _is_ready(self) -> bool:
        self._place.fail_if_dead("distribution")
        try:
            return ask_whether_it_answers(self.url) == http.client.OK
        except OSError:
            return False


def ask_whether_it_answers(url: str) -> int:
    """The status of /v2/, asked for as the program on the nodes does: by a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/v2/", headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def seconds_to_ready(contender: Contender) -> float:
    """How long it takes to start, where it does not run; the clock's steps are the 0.1 s of `wait_for`."""
    begun = time.monotonic()
    contender.start()
    return time.monotonic() - begun
