"""Points containerd on this node to the caches that answer, and away from those that do not.

One thread for each cache asks it again and again and keeps its hosts.toml in step with the answers. When the program
is told to end, it withdraws all of them: no program running means that no cache is asked.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
from pathlib import Path

import configuration
from cache_probe import Address, NoAnswer, probe, url
from configuration import Cache, Configuration, Invalid
from hosts_toml import CannotMerge, Mirror
from registry_directory import InUse, RegistryDirectory

JITTER = 0.2


class State:
    """What the readiness probe sees: the file `ready`, or `not-ready` with a line for each cache not in use."""

    def __init__(self, folder: Path, upstreams: list[str]) -> None:
        """Say at first that nothing is in use yet."""
        self._folder = folder
        self._reasons = dict.fromkeys(upstreams, "it was not asked yet")
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def set(self, upstream: str, reason: str | None) -> None:
        """Note why a cache is not in use, or that it is."""
        with self._lock:
            if self._reasons.get(upstream) == reason:
                return
            if reason is None:
                self._reasons.pop(upstream, None)
            else:
                self._reasons[upstream] = reason
            self._write()

    def _write(self) -> None:
        text = "".join(f"{upstream}: {reason}\n" for upstream, reason in self._reasons.items())
        wanted, other = ("not-ready", "ready") if text else ("ready", "not-ready")
        temporary = self._folder / ".next"
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(self._folder / wanted)
        (self._folder / other).unlink(missing_ok=True)


class Keeper:
    """Keeps one cache's hosts.toml in step with what the cache answers."""

    def __init__(self, cache: Cache, settings: Configuration, directory: RegistryDirectory, state: State) -> None:
        """Take note of it all; nothing is asked or written yet."""
        self._cache = cache
        self._settings = settings
        self._directory = directory
        self._state = state
        self._address = Address(cache.service, cache.port)
        self._failures = 0
        self._said = ""
        self._lock = threading.Lock()
        self._closed = False

    def run(self, stop: threading.Event) -> None:
        """Ask and act until the program is to end."""
        while not stop.is_set():
            self.step()
            stop.wait(self._settings.interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - only spreads

    def step(self) -> None:
        """Ask once, and act on the answer."""
        timeout = self._settings.timeout
        try:
            address = self._address.current(timeout)
            probe(address, self._cache.port, timeout)
        except NoAnswer as problem:
            self._failures += 1
            with self._lock:
                if self._failures >= self._settings.failure_threshold or not self._said:
                    self._leave(f"the cache does not answer: {problem}")
            return
        self._failures = 0
        with self._lock:
            self._use(url(address, self._cache.port))

    def close(self) -> None:
        """Withdraw the cache for good."""
        with self._lock:
            self._closed = True
            self._leave("the program ends")

    def _use(self, address: str) -> None:
        if self._closed:
            return
        mirror = Mirror(self._cache.server, address, self._settings.dial_timeout)
        try:
            self._directory.activate(self._cache.upstream, mirror)
        except (CannotMerge, InUse) as problem:
            self._report(f"not used: {problem}", f"the node's own hosts.toml is left as it is: {problem}")
        except OSError as error:
            self._report(f"not used: {_words(error)}", f"hosts.toml cannot be written: {_words(error)}")
        else:
            self._report(f"in use at {address}", None)

    def _leave(self, reason: str) -> None:
        try:
            self._directory.withdraw(self._cache.upstream)
        except OSError as error:
            self._report(f"cannot be withdrawn: {_words(error)}", f"hosts.toml cannot be withdrawn: {_words(error)}")
        else:
            self._report(f"not used: {reason}", reason)

    def _report(self, line: str, reason: str | None) -> None:
        """Log a change, and only a change."""
        if line != self._said:
            self._said = line
            log(f"{self._cache.upstream}: {line}")
        try:
            self._state.set(self._cache.upstream, reason)
        except OSError as error:
            log(f"the state cannot be written: {_words(error)}")


def main(arguments: list[str]) -> int:
    """Run until told to end, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        settings = configuration.read(parser.parse_args(arguments).config)
    except Invalid as problem:
        print(problem, file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)
    return 0


def run(settings: Configuration, stop: threading.Event) -> None:
    """Look after all caches until `stop` is set, then withdraw them."""
    upstreams = [cache.upstream for cache in settings.caches]
    state = State(settings.state_directory, upstreams)
    directory = RegistryDirectory(settings.registry_directory, settings.owner)
    tidied = False
    while not tidied and not stop.is_set():
        try:
            for folder in directory.tidy(upstreams):
                log(f"{folder}: withdrawn, left by an earlier run")
            tidied = True
        except OSError as error:
            log(f"{settings.registry_directory} cannot be tidied: {_words(error)}")
            stop.wait(settings.interval)
    keepers = [Keeper(cache, settings, directory, state) for cache in settings.caches]
    for keeper in keepers:
        # As daemons they end with the program, even in the middle of a probe.
        threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
    stop.wait()
    for keeper in keepers:
        keeper.close()


def log(line: str) -> None:
    """A line for the pod's log."""
    print(line, flush=True)


def _words(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else f"{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
