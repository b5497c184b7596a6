"""A registry on this machine for the time of a release or a test, which needs no rights."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from machine import tools
from machine.processes import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTEN_SECONDS = 60.0


@contextmanager
def local_registry(folder: Path) -> Iterator[str]:
    """Run a distribution that stores into `folder`, and provide its address."""
    tools.ensure_distribution()
    folder.mkdir(parents=True, exist_ok=True)
    address = f"localhost:{free_port()}"
    configuration = folder / "configuration.json"
    storage = {"filesystem": {"rootdirectory": str(folder / "storage")}}
    configuration.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    with (
        (folder / "registry.log").open("wb") as log,
        subprocess.Popen(
            [str(tools.go_binary("distribution", "registry")), "serve", str(configuration)],
            env=tools.program_environment(OTEL_TRACES_EXPORTER="none"),
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            wait_for("the registry to listen", lambda: _listens(address), LISTEN_SECONDS)
            yield address
        finally:
            process.terminate()


def _listens(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
            return True
    except urllib.error.URLError:
        return False
