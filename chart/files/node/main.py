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
import time
from contextlib import suppress
from pathlib import Path

import configuration
from cache_probe import Address, NoAnswer, probe, url
from configuration import Cache, Configuration, Invalid
from hosts_toml import CannotMerge, Mirror
from registry_directory import InUse, RegistryDirectory

JITTER = 0.2
END = {signal.SIGTERM, signal.SIGINT}
LEFT = "left by an earlier run"


class State:
    """What the readiness probe sees: the file `ready`, or `not-ready` with a line for each cache not in use."""

    def __init__(self, folder: Path, upstreams: list[str]) -> None:
        """Say at first that nothing is in use yet."""
        self._folder = folder
        self._reasons: dict[str, str | None] = dict.fromkeys(upstreams, "it was not asked yet")
        self._lock = threading.Lock()
        self._written: str | None = None
        self._trouble = ""
        self._write()

    def set(self, name: str, reason: str | None) -> bool:
        """Note why a cache is not in use, or with None that it is; return whether that is new."""
        with self._lock:
            new = self._reasons.get(name) != reason
            self._reasons[name] = reason
            self._write()
        return new

    def _write(self) -> None:
        text = "".join(f"{name}: {reason}\n" for name, reason in self._reasons.items() if reason is not None)
        if text == self._written:
            return
        wanted, other = ("not-ready", "ready") if text else ("ready", "not-ready")
        temporary = self._folder / ".next"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.rename(self._folder / wanted)
            (self._folder / other).unlink(missing_ok=True)
        except OSError as error:
            if self._trouble != (trouble := _words(error)):
                self._trouble = trouble
                log(f"the state cannot be written: {trouble}")
            return
        self._written, self._trouble = text, ""


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
            begun = time.monotonic()
            try:
                self.step()
            except Exception as error:  # noqa: BLE001 - if this thread ended, nobody would withdraw a cache that hangs
                with suppress(Exception), self._lock:
                    self._leave(f"it cannot be looked after: {error!r}")
            interval = self._settings.interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - only spreads
            stop.wait(max(0.0, begun + interval - time.monotonic()))

    def step(self) -> None:
        """Ask once, and act on the answer."""
        deadline = time.monotonic() + self._settings.timeout
        try:
            # Half of the time at most is for DNS: the other half is the cache's, which may answer while DNS hangs.
            address = self._address.current(self._settings.timeout / 2)
            probe(address, self._cache.port, deadline - time.monotonic())
        except NoAnswer as problem:
            self._address.unanswered()
            self._failures += 1
            # What an earlier run left behind has no good answers to its credit: one bad one is enough.
            if self._failures >= self._settings.failure_threshold or not self._said:
                with self._lock:
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
            self._leave(str(problem))
        except OSError as error:
            # The file may be an older one, with an address that nobody answers at any more; taking it out needs less.
            self._leave(f"hosts.toml cannot be written: {_words(error)}")
        else:
            self._report(f"in use at {address}", None)

    def _leave(self, reason: str) -> None:
        try:
            self._directory.withdraw(self._cache.upstream)
        except OSError as error:
            reason = f"hosts.toml cannot be withdrawn: {_words(error)}"
        self._report(f"not used: {reason}", reason)

    def _report(self, line: str, reason: str | None) -> None:
        """Log a change, and only a change."""
        if line != self._said:
            self._said = line
            log(f"{self._cache.upstream}: {line}")
        self._state.set(self._cache.upstream, reason)


def main(arguments: list[str]) -> int:
    """Run until told to end, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        settings = configuration.read(parser.parse_args(arguments).config)
    except Invalid as problem:
        print(problem, file=sys.stderr)
        return 2
    # Waited for and not handled: a handler could interrupt just the code whose lock it needs. Threads inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, END)
    run(settings)
    return 0


def run(settings: Configuration) -> None:
    """Look after all caches until told to end, then withdraw them."""
    upstreams = [cache.upstream for cache in settings.caches]
    state = State(settings.state_directory, upstreams)
    directory = RegistryDirectory(settings.registry_directory, settings.owner)
    keepers = [Keeper(cache, settings, directory, state) for cache in settings.caches]
    stop = threading.Event()
    tidied = tidy(directory, upstreams, state)
    for keeper in keepers:
        # As daemons they end with the program, even in the middle of a probe.
        threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
    while signal.sigtimedwait(END, settings.interval) is None:
        tidied = tidied or tidy(directory, upstreams, state)
    stop.set()
    for keeper in keepers:
        keeper.close()


def tidy(directory: RegistryDirectory, upstreams: list[str], state: State) -> bool:
    """Take out what an earlier run left, and return whether nothing of it stays."""
    try:
        for folder in directory.tidy(upstreams):
            log(f"{folder}: withdrawn, left by an earlier run")
        problems = [f"{folder}: {_words(error)}" for folder, error in directory.stuck.items()]
    except OSError as error:
        problems = [_words(error)]
    reason = f"cannot be withdrawn: {'; '.join(problems)}" if problems else None
    if state.set(LEFT, reason) and reason:
        log(f"{LEFT}: {reason}")
    return not problems


def log(line: str) -> None:
    """A line for the pod's log, whole even where several threads write."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _words(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else f"{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
