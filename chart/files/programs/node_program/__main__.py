"""Points containerd on this node to the caches that answer, and away from those that do not.

A thread for each cache probes it again and again, and keeps its hosts.toml in step with the results. When the program
is told to end, it withdraws all of them, so that no cache is asked while the program does not run.
"""

import os
import signal

# These are blocked and waited for, and not handled: a handler could interrupt just the code whose lock it needs.
# Threads inherit that. It comes first, because the first process of a container does not get a signal that it neither
# handles nor blocks.
END_SIGNALS = {signal.SIGTERM, signal.SIGINT}
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)

import sys  # noqa: E402 - after the signals
import threading  # noqa: E402
import time  # noqa: E402

from common.log import describe_oserror, log  # noqa: E402
from common.stacks import set_stack_size  # noqa: E402

from node_program import configuration  # noqa: E402
from node_program.configuration import Configuration  # noqa: E402
from node_program.containerd_configuration import Finding, NodeFiles, check_registry_directory  # noqa: E402
from node_program.directory_watch import DirectoryWatch  # noqa: E402
from node_program.keeper import Keeper  # noqa: E402
from node_program.metrics import Metrics, MetricsServer  # noqa: E402
from node_program.readiness import Readiness  # noqa: E402
from node_program.registry_directory import RegistryDirectory  # noqa: E402

EARLIER_RUN = "earlier run"
CONTAINERD = "containerd"
PROGRAM = "the node program"
# The chart sets it to the node's internal address.
METRICS_ADDRESS = "METRICS_ADDRESS"
# The time between two checks of what seldom changes.
CHECK_SECONDS = 60.0


def main(arguments: list[str]) -> int:
    """Run until told to end, and return the exit code."""
    set_stack_size()
    run(configuration.from_arguments(arguments, __doc__))
    return 0


def run(settings: Configuration) -> None:
    """Manage all caches until told to end, then withdraw them."""
    upstreams = [cache.upstream for cache in settings.caches]
    readiness = Readiness(settings.state_directory, upstreams)
    directory = RegistryDirectory(settings.registry_directory, settings.owner)
    metrics = Metrics(upstreams)
    server = MetricsServer(metrics, settings.metrics_port, os.environ.get(METRICS_ADDRESS, ""))
    containerd = ContainerdCheck(settings, readiness, metrics)
    keepers = [Keeper(cache, settings, directory, readiness, metrics) for cache in settings.caches]
    watch = DirectoryWatch(settings.registry_directory, settings.containerd)
    stop = threading.Event()
    threading.excepthook = DefectReport(readiness, metrics)
    try:
        is_tidy = tidy(directory, upstreams, readiness)
        for keeper in keepers:
            # Daemon threads end with the program, even in the middle of a probe.
            threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
        next_check = 0.0
        while True:
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + CHECK_SECONDS
                containerd.check()
                server.ensure_listening()
            if watch.is_replaced():
                log(f"{settings.containerd.registry_directory} was replaced on the node: restarting")
                raise SystemExit(1)
            is_tidy = is_tidy or tidy(directory, upstreams, readiness)
            received = signal.sigtimedwait(END_SIGNALS, settings.probe.interval)
            # A process that was stopped for longer than the interval and continues gets an empty result, not None.
            if received is not None and received.si_signo in END_SIGNALS:
                break
    finally:
        # Whatever ends the program: no cache is asked while it does not run.
        stop.set()
        withdraw_all(keepers, directory)


def withdraw_all(keepers: list[Keeper], directory: RegistryDirectory) -> None:
    """Withdraw all caches for good, each of them even if another one cannot be withdrawn."""
    for keeper in keepers:
        try:
            keeper.close()
        except Exception as error:  # noqa: BLE001 - the others must be withdrawn too
            log(f"a cache cannot be withdrawn: {error!r}")
    try:
        directory.close()
    except OSError as error:
        log(f"the lock file cannot be removed: {describe_oserror(error)}")


class DefectReport:
    """Reports threads that end by a defect, in the log, in a metric and in the readiness of the pod."""

    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        """Take where to report."""
        self._readiness = readiness
        self._metrics = metrics

    def __call__(self, crash: threading.ExceptHookArgs) -> None:
        """Report a thread that ended."""
        threading.__excepthook__(crash)
        self._metrics.count_defect()
        self._readiness.set(PROGRAM, f"a part of it ended by a defect: {crash.exc_value!r}; see the log")


class ContainerdCheck:
    """Reports whether containerd reads the registry directory; its configuration is read and never changed."""

    def __init__(self, settings: Configuration, readiness: Readiness, metrics: Metrics) -> None:
        """Remember where the configuration is; nothing is read yet."""
        self._files = settings.containerd
        self._node = NodeFiles(settings.containerd.mounts)
        self._readiness = readiness
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
        self._readiness.set(CONTAINERD, finding.problem if finding.reads is False else None)


def tidy(directory: RegistryDirectory, upstreams: list[str], readiness: Readiness) -> bool:
    """Withdraw what an earlier run left, and return whether nothing of it remains."""
    try:
        for folder in directory.tidy(upstreams):
            log(f"{folder}: withdrew the hosts.toml that an earlier run left")
        problems = [f"{folder}: {describe_oserror(error)}" for folder, error in directory.not_tidied.items()]
    except OSError as error:
        problems = [describe_oserror(error)]
    reason = f"what it left cannot be withdrawn: {'; '.join(problems)}" if problems else None
    if readiness.set(EARLIER_RUN, reason) and reason:
        log(f"{EARLIER_RUN}: {reason}")
    return not problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
