"""The configuration of the node program in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node_program.configuration import Cache, Configuration, Containerd, Probe

if TYPE_CHECKING:
    from pathlib import Path


def settings_for(certs: Path, state: Path, *caches: Cache, interval: float = 5.0) -> Configuration:
    """Return the configuration for caches, with a registry directory and a folder for the state."""
    return Configuration(
        owner="a/b",
        registry_directory=certs,
        state_directory=state,
        dial_timeout="500ms",
        probe=Probe(interval=interval, timeout=1.0, failure_threshold=2, max_backoff=0.0),
        metrics_port=0,
        containerd=Containerd("/none", str(certs), "", {}),
        configure=None,
        proxy_check=None,
        caches=caches,
    )
