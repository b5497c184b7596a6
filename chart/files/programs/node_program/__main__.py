"""Points containerd on this node to the caches that answer, and away from those that do not.

One thread for each cache asks it again and again and keeps its hosts.toml in step with the answers. When the program
is told to end, it withdraws all of them: no program running means that no cache is asked.
"""

import signal

# Waited for and not handled: a handler could interrupt just the code whose lock it needs. Threads inherit it. First of
# all, since the first process of a container does not get a signal that it neither handles nor blocks.
END = {signal.SIGTERM, signal.SIGINT}
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, END)

import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

from common.log import describe_oserror, log  # noqa: E402

from node_program import configuration  # noqa: E402
from node_program.configuration import Configuration  # noqa: E402
from node_program.containerd_configuration import Finding, NodeFiles, check_registry_directory  # noqa: E402
from node_program.keeper import Keeper  # noqa: E402
from node_program.metrics import Metrics, MetricsServer  # noqa: E402
from node_program.registry_directory import RegistryDirectory  # noqa: E402
from node_program.state import State  # noqa: E402

LEFT = "left by an earlier run"
CONTAINERD = "containerd"
# Seconds between two looks at what seldom changes.
SELDOM = 60.0


def main(arguments: list[str]) -> int:
    """Run until told to end, and return the exit code."""
    run(configuration.from_arguments(arguments, __doc__))
    return 0


def run(settings: Configuration) -> None:
    """Look after all caches until told to end, then withdraw them."""
    upstreams = [cache.upstream for cache in settings.caches]
    state = State(settings.state_directory, upstreams)
    directory = RegistryDirectory(settings.registry_directory, settings.owner)
    metrics = Metrics(upstreams)
    server = MetricsServer(metrics, settings.metrics_port)
    containerd = Containerd(settings, state, metrics)
    keepers = [Keeper(cache, settings, directory, state, metrics) for cache in settings.caches]
    stop = threading.Event()
    tidied = tidy(directory, upstreams, state)
    for keeper in keepers:
        # As daemons they end with the program, even in the middle of a probe.
        threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
    again = 0.0
    while True:
        if time.monotonic() >= again:
            again = time.monotonic() + SELDOM
            containerd.check()
            server.ensure_listening()
        tidied = tidied or tidy(directory, upstreams, state)
        received = signal.sigtimedwait(END, settings.probe.interval)
        # A process that was stopped for longer than that and goes on gets an empty answer instead of none.
        if received is not None and received.si_signo in END:
            break
    stop.set()
    for keeper in keepers:
        keeper.close()
    try:
        directory.close()
    except OSError as error:
        log(f"the lock file cannot be withdrawn: {describe_oserror(error)}")


class Containerd:
    """Reports whether containerd reads the registry directory; its configuration is read and never changed."""

    def __init__(self, settings: Configuration, state: State, metrics: Metrics) -> None:
        """Remember where the configuration is; nothing is read yet."""
        self._files = settings.containerd
        self._node = NodeFiles(settings.containerd.mounts)
        self._state = state
        self._metrics = metrics
        self._reported: Finding | None = None

    def check(self) -> None:
        """Read the configuration, and report what changed since the last time."""
        files = self._files
        finding = check_registry_directory(files.configuration, files.registry_directory, self._node, files.version)
        if finding == self._reported:
            return
        self._reported = finding
        self._metrics.set_containerd_reads_directory(finding.reads)
        if finding.problem:
            log(f"{CONTAINERD}: {finding.problem}")
        self._state.set(CONTAINERD, finding.problem if finding.reads is False else None)


def tidy(directory: RegistryDirectory, upstreams: list[str], state: State) -> bool:
    """Take out what an earlier run left, and return whether nothing of it stays."""
    try:
        for folder in directory.tidy(upstreams):
            log(f"{folder}: withdrawn, left by an earlier run")
        problems = [f"{folder}: {describe_oserror(error)}" for folder, error in directory.stuck.items()]
    except OSError as error:
        problems = [describe_oserror(error)]
    reason = f"cannot be withdrawn: {'; '.join(problems)}" if problems else None
    if state.set(LEFT, reason) and reason:
        log(f"{LEFT}: {reason}")
    return not problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
