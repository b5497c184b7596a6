"""The node program without Kubernetes: its commands, and its configuration for paths of this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import yaml
from machine.paths import CHART, PROGRAMS

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = ("env", f"PYTHONPATH={PROGRAMS}", sys.executable, "-B", "-u", "-m", "node_program")
# As the DaemonSet runs it: as root without any capability.
UNPRIVILEGED_COMMAND = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *COMMAND)
FIND_PROXY = (*UNPRIVILEGED_COMMAND[:-1], "node_program.find_proxy")
CONFIGURE_CONTAINERD = (*COMMAND[:-1], "node_program.configure_containerd")


def shipped_settings() -> dict[str, Any]:
    """Return the chart's default values for the program."""
    settings: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())["nodeProgram"]
    return settings


def cache_entry(upstream: str, server: str, host: str, port: int) -> dict[str, Any]:
    """An upstream's cache, as the chart describes it."""
    return {"upstream": upstream, "server": server, "endpoint": {"scheme": "http", "host": host, "port": port}}


def write_configuration(
    path: Path, *, certs: Path, state: Path, containerd: Path, caches: list[dict[str, Any]], **changes: object
) -> Path:
    """Write the configuration and return its path.

    `certs` is the registry directory, and `containerd` the path of containerd's configuration. `changes` replace other
    settings.
    """
    settings = shipped_settings()
    folder = str(containerd.parent)
    configuration = {
        "owner": "space/name",
        "registryDirectory": str(certs),
        "stateDirectory": str(state),
        "dialTimeout": settings["dialTimeout"],
        "probe": settings["probe"],
        "metricsPort": 0,
        "containerd": {
            "configuration": str(containerd),
            "registryDirectory": str(certs),
            "version": "",
            "mounts": {folder: folder},
        },
        "caches": caches,
        **changes,
    }
    path.write_text(json.dumps(configuration))
    return path
