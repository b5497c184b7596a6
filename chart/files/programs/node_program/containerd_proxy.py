"""Which caches containerd would ask through an HTTP proxy, as node_program.find_proxy found out before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from common.no_proxy import NoProxy

if TYPE_CHECKING:
    from pathlib import Path

    from common.endpoint import Endpoint

FILE = "containerd-proxy.json"


class Service(NamedTuple):
    """A service whose environment names a proxy: the files that do so for http and https, or empty texts."""

    http: str
    https: str
    no_proxy: str


class ContainerdProxy(NamedTuple):
    """The services that start containerd and name a proxy."""

    services: tuple[Service, ...]

    def describe_detour(self, endpoint: Endpoint) -> str | None:
        """Return why containerd would ask a cache through a proxy and what to do, or None if it asks the cache."""
        for service in self.services:
            file = service.https if endpoint.scheme == "https" else service.http
            if file and not NoProxy([service.no_proxy]).covers(endpoint.host, endpoint.port):
                return (
                    f"containerd would ask it through the proxy that {file} sets, because NO_PROXY does not cover "
                    f"{endpoint.host}: add the range of the cluster's Services to NO_PROXY, restart containerd, and "
                    "delete this pod so that it looks again"
                )
        return None


def write(folder: Path, found: ContainerdProxy | None) -> None:
    """Leave the result in a folder; None, which is unknown, leaves no file.

    Raises:
        OSError: The folder cannot be written.
    """
    path = folder / FILE
    if found is None:
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([service._asdict() for service in found.services]), encoding="utf-8")


def read(folder: Path) -> ContainerdProxy | None:
    """Return the result that is in a folder, or None if it is unknown."""
    try:
        content: list[dict[str, Any]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ContainerdProxy(tuple(Service(**service) for service in content))
