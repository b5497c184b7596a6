"""A real distribution on this machine: an upstream registry, or a cache of one."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machine import tools
from machine.processes import wait_for

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from machine.processes import Place

LISTEN_SECONDS = 60.0


def start_distribution(place: Place, name: str, configuration: dict[str, Any]) -> None:
    """Start a distribution with this configuration; nothing waits until it listens."""
    path = place.folder / f"{name}.json"
    path.write_text(json.dumps({"version": 0.1, **configuration}))
    program = tools.go_binary("distribution", "registry")
    place.start(name, [program, "serve", path], {"OTEL_TRACES_EXPORTER": "none"})


@dataclass
class Distribution:
    """A distribution that listens at `host` and `port`; with `remote`, it is a cache of the registry at that URL."""

    place: Place
    name: str
    port: int
    remote: str | None = None
    htpasswd: Path | None = None
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        root = str(self.place.folder / f"{self.name}-storage")
        configuration: dict[str, Any] = {
            "storage": {"filesystem": {"rootdirectory": root}, "delete": {"enabled": True}},
            "http": {"addr": f"{self.host}:{self.port}"},
        }
        if self.remote:
            configuration["proxy"] = {"remoteurl": self.remote, "ttl": "1h"}
        if self.htpasswd:
            configuration["auth"] = {"htpasswd": {"realm": "closed", "path": str(self.htpasswd)}}
        start_distribution(self.place, self.name, configuration)
        wait_for(f"{self.name} to listen", self._listens, LISTEN_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.place.signal(self.name, number)

    def blob_requests(self) -> list[str]:
        """Return the paths of all requests for blobs, from its access log."""
        lines = self.place.log(self.name).read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines if '"GET /v2/' in line and "/blobs/" in line]

    def _listens(self) -> bool:
        self.place.fail_if_dead(self.name)
        with socket.socket() as connection:
            return connection.connect_ex((self.host, self.port)) == 0
