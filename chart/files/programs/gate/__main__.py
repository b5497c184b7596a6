"""Run the gate of a cache pod."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.config_reader import InvalidConfiguration
from common.http_status import StatusServer
from common.log import log
from common.stacks import set_stack_size
from store.volume import Volume

from gate.configuration import read_configuration, read_limits
from gate.defects import Defects
from gate.housekeeping import keep_house
from gate.parts import build_parts, render_metrics
from gate.sent_bytes import SentBytes
from gate.server import Server

if TYPE_CHECKING:
    from gate.health import Health

GATE_SOCKET = "gate.sock"
DEFECTS_RECORD = "gate-defects"
STATUS_PORT = 5001
# Less than the grace period of the pod, so that responses can end before the kubelet kills the gate.
DRAIN_SECONDS = 25.0
# How often a volume that cannot be used is tried again.
VOLUME_SECONDS = 1.0


def main() -> None:
    """Read the command line and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m gate")
    parser.add_argument("--config", type=Path, required=True, help="the folder with cache.json and room.json")
    parser.add_argument("--root", type=Path, default=Path("/var/lib/registry"), help="the volume")
    parser.add_argument("--run", type=Path, default=Path("/run/registry-cache"), help="the folder of the sockets")
    options = parser.parse_args()
    set_stack_size()
    set_limits()
    try:
        serve(options.config, options.root, options.run)
    except InvalidConfiguration as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from problem


def set_limits() -> None:
    """Allow as many open files as possible, since many container runtimes start programs with a limit of 1024.

    No core is written: it would have what pullers showed, and the credentials of the cache.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def serve(configuration_folder: Path, volume: Path, sockets: Path) -> None:
    """Serve until SIGTERM, then drain.

    Raises:
        InvalidConfiguration: The configuration cannot be read or used.
        OSError: A socket cannot be bound.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configuration = read_configuration(configuration_folder)
    parts = build_parts(configuration, read_limits(configuration_folder), volume, sockets)
    defects = Defects(parts.metrics, parts.health, sockets / DEFECTS_RECORD)
    defects.note_start()
    server = Server(sockets / GATE_SOCKET, parts)
    certificate = [parts.certificate.wrap] if parts.certificate else []
    StatusServer(STATUS_PORT, lambda: render_metrics(parts), lambda: parts.health.is_alive, *certificate).listen()
    sent_bytes = SentBytes(parts.metrics.count_pushed_bytes, parts.metrics.count_uncounted_responses)
    defects.start_forever("server", server.serve_forever)
    defects.start_forever("sent bytes", sent_bytes.receive_forever)
    log(f"cache of {configuration.upstream}, fetching from {configuration.settings.remote_url}")
    # It is locked until the gate ends.
    lock = Volume(volume, log)
    if not wait_for_volume(lock, parts.health, stop):
        defects.note_stop()
        return
    parts.health.find_volume_warning = lock.find_warning
    parts.store.load()
    if parts.public is not None:
        parts.public.load()
    parts.health.is_loaded = True
    housekeeping = partial(keep_house, parts.store, parts.metrics, configuration_folder, stop, parts.public)
    defects.start_forever("housekeeping", housekeeping)
    defects.start_forever("health", partial(parts.health.check_until, stop))
    stop.wait()
    parts.health.is_stopping = True
    parts.health.check()
    deadline = time.monotonic() + DRAIN_SECONDS
    while server.active_requests and time.monotonic() < deadline:
        time.sleep(0.1)
    parts.store.record_incoming_blobs()
    defects.note_stop()


def wait_for_volume(volume: Volume, health: Health, stop: threading.Event) -> bool:
    """Wait until the volume can be used, and return whether it can; it is not if the gate has to stop before that."""
    while (problem := volume.find_problem()) is not None:
        health.volume_problem = problem
        health.check()
        if stop.wait(VOLUME_SECONDS):
            return False
    health.volume_problem = None
    return True


if __name__ == "__main__":
    main()
