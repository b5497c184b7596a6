"""Keeps the hosts.toml of one cache in step with its probes: a circuit breaker that never gives up."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from common.log import describe_oserror, log

from node_program import containerd_proxy
from node_program.cache_probe import ProbeFailed, probe
from node_program.hosts_toml import CannotMerge, Mirror
from node_program.registry_directory import OwnedByOtherRelease, RegistryDirectory
from node_program.service_address import ServiceAddress

if TYPE_CHECKING:
    from common.endpoint import Endpoint

    from node_program.configuration import Cache, Configuration
    from node_program.metrics import Metrics
    from node_program.readiness import Readiness
    from node_program.trust import Trust

# The share of the interval by which pauses between probes vary.
JITTER = 0.1
# The pause after a failed probe of a cache that is still in use.
RETRY_SECONDS = 1.0
# A cache that is withdrawn twice within this time is unsteady. It then has to answer for FIRST_BACKOFF_SECONDS before
# it is used again, and for twice as long each further time.
UNSTEADY_SECONDS = 600.0
FIRST_BACKOFF_SECONDS = 15.0


class Backoff:
    """How long a cache that comes and goes has to answer before it is used again."""

    def __init__(self, max_seconds: float) -> None:
        """Require at most `max_seconds`; 0 requires nothing."""
        self._max_seconds = max_seconds
        self._withdrawals: deque[float] = deque()

    def note_withdrawal(self, now: float) -> None:
        """Note that the cache was withdrawn at this time."""
        self._withdrawals.append(now)

    def required_seconds(self, now: float) -> float:
        """Return for how long the cache has to answer; that is 0 after a first withdrawal."""
        while self._withdrawals and self._withdrawals[0] < now - UNSTEADY_SECONDS:
            self._withdrawals.popleft()
        doublings = len(self._withdrawals) - 2
        # The exponent is bounded, since 2 to the power of thousands is more than a float can hold.
        return 0.0 if doublings < 0 else min(self._max_seconds, FIRST_BACKOFF_SECONDS * 2 ** min(doublings, 20))


def certificates_for(endpoint: Endpoint) -> Trust | None:
    """Return the certificates for a cache with TLS."""
    if endpoint.ca is None:
        return None
    # Nodes without TLS need not have its library in memory.
    from node_program.trust import Trust  # noqa: PLC0415 - see above

    return Trust(endpoint.ca, endpoint.client)


class Keeper:
    """Activates one cache while its probes succeed, and withdraws it when they fail."""

    def __init__(
        self,
        cache: Cache,
        settings: Configuration,
        directory: RegistryDirectory,
        readiness: Readiness,
        metrics: Metrics,
    ) -> None:
        """Take what to work with; nothing is probed or written yet."""
        self._cache = cache
        self._settings = settings
        self._directory = directory
        self._readiness = readiness
        self._metrics = metrics
        self._proxy = containerd_proxy.read(settings.state_directory)
        self._address = ServiceAddress(cache.endpoint.host, cache.endpoint.port)
        self._trust = certificates_for(cache.endpoint)
        self._client_certificate = ""
        self._backoff = Backoff(settings.probe.max_backoff)
        self._failures = 0
        self._answers_since: float | None = None
        self._in_use = False
        self._last_line = ""
        self._lock = threading.Lock()
        self._closed = False

    def run(self, stop: threading.Event) -> None:
        """Probe and act until the program ends."""
        while not stop.is_set():
            start = time.monotonic()
            try:
                self.probe_once()
            except Exception as error:  # noqa: BLE001 - if this thread ended, nobody would withdraw a cache that hangs
                with suppress(Exception), self._lock:
                    self._withdraw(f"the node program failed: {error!r}", "program_error")
            stop.wait(self._pause(start))

    def _pause(self, start: float) -> float:
        """Return the seconds until the next probe after one that started then; they vary to spread out the nodes."""
        if self._in_use and self._failures:
            return min(RETRY_SECONDS, self._settings.probe.interval)
        interval = self._settings.probe.interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - only spreads
        return max(0.0, start + interval - time.monotonic())

    def probe_once(self) -> None:
        """Probe the cache, and act on the result."""
        start = time.monotonic()
        timeout = self._settings.probe.timeout
        try:
            # DNS gets half of the time at most. The other half is for the cache, which may answer while DNS hangs.
            endpoint = self._cache.endpoint._replace(host=self._address.get(timeout / 2))
            self._probe(endpoint, start + timeout)
        except ProbeFailed as problem:
            self._metrics.count_probe(self._cache.upstream, problem.kind, time.monotonic() - start)
            self._address.note_failed_probe()
            self._failures += 1
            self._answers_since = None
            # One failure is enough to withdraw what an earlier run left: that has not answered to this program yet.
            if self._failures >= self._settings.probe.failure_threshold or not self._last_line:
                with self._lock:
                    self._withdraw(str(problem), problem.kind)
            return
        now = time.monotonic()
        self._metrics.count_probe(self._cache.upstream, "ok", now - start)
        detour = self._find_detour(endpoint)
        if detour:
            with self._lock:
                self._withdraw(detour, "proxy")
            return
        self._failures = 0
        self._answers_since = self._answers_since or now
        required_seconds = self._backoff.required_seconds(now)
        with self._lock:
            if self._in_use or now - self._answers_since >= required_seconds:
                self._activate(endpoint)
            else:
                self._postpone(required_seconds)

    def _probe(self, endpoint: Endpoint, deadline: float) -> None:
        """Probe the cache with each certificate that the node may show, until one is accepted."""
        if self._trust is None:
            probe(endpoint, deadline - time.monotonic(), self._cache.identity, None)
            return
        clients = self._trust.read_client_certificates()
        for client in clients:
            try:
                secure = partial(self._trust.secure, client=client)
                probe(endpoint, deadline - time.monotonic(), self._cache.identity, secure)
            except ProbeFailed as problem:
                if problem.kind != "certificate" or client is clients[-1]:
                    raise
            else:
                self._client_certificate = client
                return

    def _find_detour(self, endpoint: Endpoint) -> str | None:
        """Return why containerd would ask the cache through a proxy, so that each pull would wait for it."""
        if self._proxy is None:
            return None
        detour = self._proxy.describe_detour(endpoint)
        self._metrics.set_uses_proxy(self._cache.upstream, uses_proxy=detour is not None)
        return detour

    def close(self) -> None:
        """Withdraw the cache for good."""
        with self._lock:
            self._closed = True
            self._withdraw("the node program is stopping", "program_ends")

    def _activate(self, endpoint: Endpoint) -> None:
        if self._closed:
            return
        mirror = Mirror(self._cache.server, endpoint, self._settings.dial_timeout)
        try:
            if self._trust:
                authorities = self._trust.read_authorities()
                mirror = mirror._replace(authorities=authorities, client_certificate=self._client_certificate)
            self._directory.activate(self._cache.upstream, mirror)
        except ProbeFailed as problem:
            self._withdraw(str(problem), problem.kind)
        except CannotMerge as problem:
            self._withdraw(str(problem), "foreign_file")
        except OwnedByOtherRelease as problem:
            self._withdraw(str(problem), "other_release")
        except OSError as error:
            # The file may still have an old address, at which nobody answers any more. Removing it needs less room.
            self._withdraw(f"hosts.toml cannot be written: {describe_oserror(error)}", "not_writable")
        else:
            self._in_use = True
            self._metrics.set_active(self._cache.upstream, active=True)
            self._report(f"using the cache at {endpoint.url}", None)

    def _postpone(self, required_seconds: float) -> None:
        if not self._closed:
            reason = f"the cache was unsteady, and has to answer for {required_seconds:.0f} s before it is used again"
            self._report(f"not using the cache: {reason}", reason)

    def _withdraw(self, reason: str, kind: str) -> None:
        try:
            self._directory.withdraw(self._cache.upstream)
        except OSError as error:
            reason = f"hosts.toml cannot be withdrawn: {describe_oserror(error)}"
        if self._in_use:
            self._in_use = False
            self._backoff.note_withdrawal(time.monotonic())
            self._metrics.count_withdrawal(self._cache.upstream, kind)
        self._metrics.set_active(self._cache.upstream, active=False)
        self._report(f"not using the cache: {reason}", reason)

    def _report(self, line: str, reason: str | None) -> None:
        """Log what changed, and only that."""
        if line != self._last_line:
            self._last_line = line
            log(f"{self._cache.upstream}: {line}")
        self._readiness.set(self._cache.upstream, reason)
