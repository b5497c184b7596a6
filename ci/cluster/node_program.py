"""The node program without Kubernetes: its configuration, as the chart would write it for paths of this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import yaml
from machine.paths import CHART, PROGRAMS

if TYPE_CHECKING:
    from pathlib import Path

# As the DaemonSet runs it.
COMMAND = ("env", f"PYTHONPATH={PROGRAMS}", sys.executable, "-B", "-u", "-m", "node_program")
CONFIGURE_CONTAINERD = (*COMMAND[:-1], "node_program.configure_containerd")


def shipped_settings() -> dict[str, Any]:
    """What the chart's values say of the program."""
    settings: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())["nodeProgram"]
    return settings


def write_configuration(
    path: Path, *, certs: Path, state: Path, containerd: Path, caches: list[dict[str, Any]], **changes: object
) -> Path:
    """Write the file and return its path.

    `certs` is the registry folder, `containerd` its configuration; `changes` replace what else the chart ships.
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
