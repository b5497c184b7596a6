"""Every fault of a cache that we could think of: what real containerds and the node program make of it, and how fast.

Most faults are there at the same time, each with a cache and an upstream's name of its own, so that the waiting is done
once. With FAULTS_PAGE=docs/faults-bare.md the figures are written into that page.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from machine import tools
from machine.cgroups import Cgroup
from machine.processes import Place, wait_for
from node import fault_front
from node.fault_bench import (
    OWNER,
    RELEASES,
    UPSTREAM_PORT,
    Bench,
    Containerd,
    Pull,
    Upstream,
    Watch,
    drop,
    drop_nothing,
    own_network,
    run,
)
from node.fault_front import Front
from node.test_node_program import PATIENCE, Registry
from node_program.hosts_toml import owner_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What is not silence costs a pull by containerd 2 three seconds at most, and silence thirty: ten times that is a hang.
SOON = 30.0
HANG = 300.0
BOTH_1 = frozenset({"1.6", "1.7"})
ALL = frozenset(RELEASES)
NOBODY: frozenset[str] = frozenset()
CACHE_PORT = 5001
LINE_PORT = 5002
QUOTED = re.compile(r' ".*"')
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Cache:
    """A cache that can be spoiled and mended again."""

    address: tuple[str, int]
    spoil: Callable[[], None]
    mend: Callable[[], None]
    close: Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One fault. `held` are the releases whose pull goes on for as long as the cache's connection does."""

    title: str
    make: Callable[[Bench, int], Cache]
    falls_open: bool = True
    held: frozenset[str] = NOBODY


def by_front(spoiled: fault_front.Fault) -> Callable[[Bench, int], Cache]:
    """A cache whose answers are spoiled on their way."""

    def make(bench: Bench, number: int) -> Cache:
        front = Front((f"127.0.2.{number}", CACHE_PORT), ("127.0.0.1", bench.cache.port))
        front.start()
        return Cache(front.address, partial(setattr, front, "fault", spoiled), front.mend, front.stop)

    return make


def by_signal(number: signal.Signals) -> Callable[[Bench, int], Cache]:
    """A cache of its own that gets a signal, and is mended as a kubelet does it: killed and started again."""

    def make(bench: Bench, index: int) -> Cache:
        remote = f"http://127.0.0.1:{UPSTREAM_PORT}"
        cache = Registry(bench.place, f"cache-{index}", CACHE_PORT, remote, host=f"127.0.2.{index}")
        cache.start()

        def mend() -> None:
            cache.signal(signal.SIGKILL)
            wait_for("the cache to end", lambda: bench.place.process_id(cache.name) is None, PATIENCE)
            cache.start()

        return Cache((cache.host, cache.port), partial(cache.signal, number), mend, lambda: None)

    return make


def dropped(bench: Bench, number: int) -> Cache:
    """Packets to the cache vanish."""
    front = Front((f"127.0.2.{number}", CACHE_PORT), ("127.0.0.1", bench.cache.port))
    front.start()
    return Cache(front.address, partial(drop, front.address[0]), drop_nothing, front.stop)


def not_accepted(bench: Bench, number: int) -> Cache:
    """The cache listens, and its backlog is full."""
    front = Front((f"127.0.2.{number}", CACHE_PORT), ("127.0.0.1", bench.cache.port))
    front.start()
    held: list[socket.socket] = []

    def spoil() -> None:
        front.stop()
        held.append(socket.create_server(front.address, backlog=0))
        for _ in range(3):
            held.append(socket.socket())
            held[-1].setblocking(False)  # noqa: FBT003 - the standard library's
            held[-1].connect_ex(front.address)

    def mend() -> None:
        close()
        front.start()

    def close() -> None:
        front.stop()
        while held:
            held.pop().close()

    return Cache(front.address, spoil, mend, close)


SEEN = [
    Fault("connection refused: the cache is killed", by_signal(signal.SIGKILL)),
    Fault("packets dropped", dropped),
    Fault("backlog full, nobody accepts", not_accepted),
    Fault("accepts and never answers: the cache is stopped", by_signal(signal.SIGSTOP), held=BOTH_1),
    Fault("one byte a second", by_front(fault_front.slow(1.0)), held=BOTH_1),
    *[Fault(f"status {number}", by_front(fault_front.status(number))) for number in (404, 429, 500, 503)],
    Fault("200, every body breaks off", by_front(fault_front.breaks_off), falls_open=False),
    Fault("200, announced bodies do not come", by_front(fault_front.no_body), falls_open=False),
    Fault("200, every answer empty", by_front(fault_front.no_content), falls_open=False),
]


def _unseen(
    title: str, kind: str, spoiled: fault_front.Fault, *, open_: bool = False, held: frozenset[str] = NOBODY
) -> Fault:
    return Fault(title, by_front(fault_front.only(kind, spoiled)), falls_open=open_, held=held)


UNSEEN = [
    *[
        fault
        for kind in ("manifests", "blobs")
        for fault in (
            _unseen(f"{kind}: status 404", kind, fault_front.status(404), open_=True),
            _unseen(f"{kind}: status 500", kind, fault_front.status(500), open_=True),
            _unseen(f"{kind}: bodies break off half-way", kind, fault_front.breaks_off),
            _unseen(f"{kind}: announced bodies do not come", kind, fault_front.no_body),
            _unseen(f"{kind}: answered as empty", kind, fault_front.no_content),
        )
    ],
    _unseen("blobs: connections reset half-way", "blobs", fault_front.resets),
    _unseen("blobs: bodies stop half-way, connection open", "blobs", fault_front.stalls, open_=True, held=ALL),
]
FAULTS = [*SEEN, *UNSEEN]
SILENCE = {fault.title for fault in FAULTS if fault.held}


@dataclass
class Found:
    """What came of a fault; times in seconds, counted from its begin and its end."""

    before: dict[str, Pull] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    freed: dict[str, float] = field(default_factory=dict)
    withdrawn: float | None = None
    after: dict[str, Pull] = field(default_factory=dict)
    again: dict[str, Pull] = field(default_factory=dict)
    returned: float | None = None


@dataclass
class Measured:
    """All of it; `direct` is how long each release takes for such an image without any cache."""

    direct: dict[str, float]
    faults: dict[str, Found]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All that runs, but the node program; logs are shown where something failed."""
    tools.ensure_native()
    tools.ensure_faults()
    folder = tmp_path_factory.mktemp("f")
    place = Place(folder / "run", Cgroup(f"rcache-fault-tests-{os.getpid()}"))
    place.folder.mkdir()
    certs = folder / "certs.d"
    certs.mkdir()
    upstream = Registry(place, "upstream", UPSTREAM_PORT, host="0.0.0.0")  # noqa: S104 - all there is of its own network
    cache = Registry(place, "cache", CACHE_PORT, remote=f"http://127.0.0.1:{UPSTREAM_PORT}")
    containerds = [Containerd(release, place, certs) for release in RELEASES]
    with ExitStack() as stack:
        place.cgroup.create()
        stack.callback(place.cgroup.remove)
        stack.callback(place.cgroup.kill)
        run("mount", "-t", "tmpfs", "-o", "size=256k", "faults", str(certs))
        stack.callback(run, "umount", str(certs))
        stack.enter_context(own_network())
        for registry in (upstream, cache):
            registry.start()
        for containerd in containerds:
            stack.callback(containerd.close)
            containerd.start()
        yield Bench(place, folder, containerds, upstream, cache)
        for log in sorted(place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")


@pytest.fixture(scope="module")
def measured(bench: Bench, page: Page) -> Measured:
    """Every fault, begun one after the other and gone through together."""
    caches = {fault: (Upstream(number), fault.make(bench, number)) for number, fault in enumerate(FAULTS, start=10)}
    for upstream, _ in caches.values():
        for when in ("before", "after"):
            bench.image(f"{when}-{upstream.number}")
    direct = {
        containerd.release: statistics.median(
            _pull(containerd, Upstream(1), bench.image(f"direct-{number}")).seconds for number in range(3)
        )
        for containerd in bench.containerds
    }
    bench.start_program({upstream: cache.address for upstream, cache in caches.values()})
    watch = Watch([bench.hosts(upstream) for upstream, _ in caches.values()])
    course = Course(bench, caches, watch)
    try:
        for upstream, _ in caches.values():
            watch.wait(bench.hosts(upstream), there=True)
        with ThreadPoolExecutor(max_workers=len(caches) * len(RELEASES)) as pool:
            course.spoil(pool)
            course.leave()
            course.end_what_ends_by_itself()
            course.mend()
        course.pull_again()
    finally:
        watch.close()
        bench.place.stop("program")
        for _, cache in caches.values():
            cache.close()
    page.measured = Measured(direct, {fault.title: found for fault, found in course.found.items()})
    return page.measured


class Course:
    """All faults on their way, from the first one's begin to the last one's end."""

    def __init__(self, bench: Bench, caches: dict[Fault, tuple[Upstream, Cache]], watch: Watch) -> None:
        """Begin with caches that are in use."""
        self.found = {fault: Found() for fault in caches}
        self._bench = bench
        self._caches = caches
        self._watch = watch
        self._pulls: dict[Fault, dict[str, Future[Pull]]] = {}
        self._begun: dict[Fault, float] = {}

    def spoil(self, pool: ThreadPoolExecutor) -> None:
        """Begin each fault, and a pull by each containerd in the same moment."""
        for fault, (upstream, cache) in self._caches.items():
            image = self._bench.image(f"before-{upstream.number}")
            self._begun[fault] = time.monotonic()
            cache.spoil()
            self._pulls[fault] = {
                containerd.release: pool.submit(_pull, containerd, upstream, image)
                for containerd in self._bench.containerds
            }
            # What is fast is measured alone; what is not goes on beside the others.
            concurrent.futures.wait(self._pulls[fault].values(), timeout=2.0)

    def leave(self) -> None:
        """Wait until the program left what it can see, and pull then."""
        for fault in SEEN:
            upstream = self._caches[fault][0]
            gone = self._watch.wait(self._bench.hosts(upstream), there=False)
            self.found[fault].withdrawn = gone - self._begun[fault]
            self.found[fault].after = self._pull_all(upstream, "after")

    def end_what_ends_by_itself(self) -> None:
        """Wait for the pulls that need no help."""
        for fault, pulls in self._pulls.items():
            self.found[fault].before = {release: pulls[release].result() for release in ALL - fault.held}
            self.found[fault].held = {release for release in ALL if not pulls[release].done()}

    def mend(self) -> None:
        """End each fault, with the connections that it holds, and wait for what comes of that."""
        mended = {}
        for fault, (_, cache) in self._caches.items():
            mended[fault] = time.monotonic()
            cache.mend()
        for fault in SEEN:
            back = self._watch.wait(self._bench.hosts(self._caches[fault][0]), there=True)
            self.found[fault].returned = max(0.0, back - mended[fault])
        for fault, pulls in self._pulls.items():
            for release in fault.held:
                pull = pulls[release].result()
                self.found[fault].before[release] = pull
                self.found[fault].freed[release] = self._begun[fault] + pull.seconds - mended[fault]

    def pull_again(self) -> None:
        """Pull what met a fault that the program did not see, once that is over."""
        for fault in UNSEEN:
            upstream = self._caches[fault][0]
            assert self._watch.is_there(self._bench.hosts(upstream)), f"{fault.title}: the program saw it"
            self.found[fault].again = self._pull_all(upstream, "before")

    def _pull_all(self, upstream: Upstream, when: str) -> dict[str, Pull]:
        image = self._bench.image(f"{when}-{upstream.number}")
        return {containerd.release: _pull(containerd, upstream, image) for containerd in self._bench.containerds}


def _pull(containerd: Containerd, upstream: Upstream, image: str) -> Pull:
    return containerd.pull(f"{upstream.name}/{image}")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_pull_at_the_moment_of_the_fault(measured: Measured, fault: Fault, release: str) -> None:
    found = measured.faults[fault.title]
    if fault.falls_open:
        assert found.before[release].error == ""
    assert (release in found.held) is (release in fault.held), "what holds a pull is on the page"
    if release in fault.held:
        assert found.freed[release] < SOON
    else:
        assert found.before[release].seconds < HANG
    if release == "2.x" and fault.title not in SILENCE:
        assert found.before[release].seconds < measured.direct[release] + SOON


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", SEEN, ids=lambda fault: fault.title)
def test_pull_after_the_cache_was_left(measured: Measured, fault: Fault, release: str) -> None:
    pull = measured.faults[fault.title].after[release]
    assert pull.error == ""
    assert pull.seconds < measured.direct[release] + SOON


@pytest.mark.parametrize("fault", SEEN, ids=lambda fault: fault.title)
def test_cache_is_left_and_used_again_in_the_promised_time(measured: Measured, fault: Fault) -> None:
    found = measured.faults[fault.title]
    assert found.withdrawn is not None
    assert found.withdrawn < PATIENCE
    assert found.returned is not None
    assert found.returned < PATIENCE


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", UNSEEN, ids=lambda fault: fault.title)
def test_pull_that_met_a_fault_leaves_nothing_bad_behind(measured: Measured, fault: Fault, release: str) -> None:
    assert measured.faults[fault.title].again[release].error == ""


@dataclass
class Alone:
    """One cache behind a front, an upstream's name for it, and the node program that looks after it."""

    bench: Bench
    front: Front
    upstream: Upstream
    env: dict[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> Path:
        return self.bench.hosts(self.upstream)

    def start_program(self) -> None:
        self.bench.start_program({self.upstream: self.front.address}, "alone", self.env)

    def wait_until_used(self, *, used: bool) -> float:
        """Wait until the file is there, or is not, and return how long that took, in seconds."""
        begun = time.monotonic()
        wait_for(f"the cache to be {'used' if used else 'left'}", lambda: self.hosts.is_file() is used, PATIENCE, 0.02)
        return time.monotonic() - begun

    def wait_until_it_says(self, words: str) -> None:
        wait_for(f"the program to say {words!r}", lambda: words in self.bench.not_ready("alone"), PATIENCE)

    def pull_all(self, name: str) -> dict[str, Pull]:
        """Pull one image with each containerd."""
        image = self.bench.image(f"alone-{name}")
        return {containerd.release: _pull(containerd, self.upstream, image) for containerd in self.bench.containerds}


@pytest.fixture
def alone(bench: Bench) -> Iterator[Alone]:
    upstream = Upstream(200)
    front = Front((f"127.0.2.{upstream.number}", CACHE_PORT), ("127.0.0.1", bench.cache.port))
    front.start()
    try:
        yield Alone(bench, front, upstream)
    finally:
        bench.place.stop("alone")
        print(*bench.place.log("alone").read_text().splitlines()[-20:], sep="\n")
        front.stop()
        shutil.rmtree(bench.certs / upstream.folder, ignore_errors=True)


def test_program_killed_and_started_again(measured: Measured, alone: Alone, page: Page) -> None:
    alone.start_program()
    alone.wait_until_used(used=True)
    alone.bench.place.signal("alone", signal.SIGKILL)
    served = alone.pull_all("orphaned")
    alone.front.stop()
    refused = alone.pull_all("orphaned-and-refused")
    assert alone.hosts.exists()
    alone.start_program()
    left = alone.wait_until_used(used=False)
    alone.front.start()
    back = alone.wait_until_used(used=True)

    page.note("program killed, its file there, cache good", served, "")
    page.note(
        "the same, cache refuses", refused, f"started again: withdrawn after {left:.1f} s, back after {back:.1f} s"
    )
    assert [pull.error for pull in (*served.values(), *refused.values())] == [""] * 6
    assert max(pull.seconds for pull in refused.values()) < SOON


@pytest.mark.parametrize("theirs", [None, 'server = "{url}"\n# theirs\n'], ids=["no-file", "foreign-file"])
def test_disk_full(measured: Measured, alone: Alone, page: Page, theirs: str | None) -> None:
    """What was there stays, the program says why it is not in use, and goes on by itself when there is room."""
    foreign = theirs and theirs.format(url=alone.upstream.url)
    if foreign:
        alone.hosts.parent.mkdir()
        alone.hosts.write_text(foreign)
    with _full(alone.bench.certs):
        alone.start_program()
        alone.wait_until_it_says("hosts.toml cannot be written: No space left on device")
        pulls = alone.pull_all("full-and-foreign" if foreign else "full")
        assert (alone.hosts.read_text() if alone.hosts.exists() else None) == foreign
    begun = time.monotonic()
    wait_for("the cache to be used", lambda: _is_ours(alone.hosts), PATIENCE, 0.02)
    back = time.monotonic() - begun
    with _full(alone.bench.certs):
        alone.front.fault = fault_front.status(503)
        wait_for("the cache to be left without room", lambda: not _is_ours(alone.hosts), PATIENCE)
    assert (alone.hosts.read_text() if alone.hosts.exists() else None) == foreign
    what = "disk full, somebody's file there" if foreign else "disk full, no file there"
    page.note(what, pulls, f"says so; room again: in use after {back:.1f} s; withdraws without room")
    assert [pull.error for pull in pulls.values()] == [""] * 3


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Leave no room on the file system that a folder is on."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left on device"):
            file.writelines(repeat(b"x" * 4096))
        yield
    finally:
        filler.unlink()


def _is_ours(path: Path) -> bool:
    return path.exists() and owner_of(path.read_text()) == OWNER


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("title", "spoil", "words", "falls_open"),
    [
        ("a directory", _directory, "hosts.toml cannot be withdrawn: Is a directory", False),
        ("garbage", lambda path: path.write_bytes(b"\x00\xff[[["), "it is not TOML", True),
        ("a link to nowhere", _dangling, "it is a link to a file outside the registry folder", True),
    ],
    ids=["directory", "garbage", "dangling-link"],
)
def test_hosts_toml_made_unreadable(  # noqa: PLR0913, PLR0917 - a table
    measured: Measured,
    alone: Alone,
    page: Page,
    title: str,
    spoil: Callable[[Path], object],
    words: str,
    falls_open: bool,  # noqa: FBT001 - parametrised
) -> None:
    """It is left to who did it, the program says so, and goes on by itself when it is repaired."""
    alone.start_program()
    alone.wait_until_used(used=True)
    spoil(alone.hosts)
    pulls = alone.pull_all(f"unreadable-{title.replace(' ', '-')}")
    alone.wait_until_it_says(words)

    if alone.hosts.is_dir():
        alone.hosts.rmdir()
    else:
        alone.hosts.unlink()
    begun = time.monotonic()
    wait_for("the cache to be used", lambda: _is_ours(alone.hosts), PATIENCE, 0.02)
    page.note(
        f"hosts.toml is {title}",
        pulls,
        f"leaves it, says `{words}`; taken away: written again after {time.monotonic() - begun:.1f} s",
    )
    if falls_open:
        assert [pull.error for pull in pulls.values()] == [""] * 3
    else:
        assert all("is a directory" in pull.error for pull in pulls.values())


def test_hosts_toml_of_another_mode(measured: Measured, alone: Alone, page: Page) -> None:
    """The program, bound by modes, gives it its own again; containerd, which is not, reads it all the while."""
    alone.start_program()
    alone.wait_until_used(used=True)
    alone.hosts.chmod(0)
    begun = time.monotonic()
    pulls = alone.pull_all("mode")
    wait_for("its mode", lambda: alone.hosts.stat().st_mode & 0o777 == 0o644, PATIENCE, 0.02)
    page.note("hosts.toml is of mode 000", pulls, f"gives it its mode again after {time.monotonic() - begun:.1f} s")
    assert [pull.error for pull in pulls.values()] == [""] * 3


def test_clock_jumps(measured: Measured, alone: Alone, page: Page) -> None:
    """The program's wall clock goes an hour forward and two back; Go programs have none that could be faked."""
    clock = alone.bench.folder / "clock"
    clock.write_text("+0")
    alone.env = {
        "LD_PRELOAD": str(tools.faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    def jump(text: str, seconds: int) -> dict[str, Pull]:
        clock.write_text(text)
        look = [sys.executable, "-c", "import time; print(time.time())"]
        told = float(subprocess.run(look, env={**os.environ, **alone.env}, capture_output=True, check=True).stdout)
        assert told - time.time() == pytest.approx(seconds, abs=60), "it jumped for who looks at it"
        return alone.pull_all(f"jump-{seconds}")

    alone.start_program()
    alone.wait_until_used(used=True)
    process = alone.bench.place.process_id("alone")
    assert str(tools.faketime()) in Path(f"/proc/{process}/maps").read_text()
    written = alone.hosts.stat().st_mtime_ns
    pulls = [jump("+1h", 3600)]
    asked = alone.front.asked
    wait_for("another probe", lambda: alone.front.asked > asked, PATIENCE)
    assert alone.hosts.stat().st_mtime_ns == written, "nothing of it changes the file"
    alone.front.fault = fault_front.silent
    left = alone.wait_until_used(used=False)
    pulls.append(jump("-1h", -3600))
    alone.front.mend()
    back = alone.wait_until_used(used=True)
    page.note(
        "the program's clock an hour forward, then two back",
        pulls[0],
        f"forward, and the cache silent: withdrawn after {left:.1f} s; back, and it answers: in use after {back:.1f} s",
    )
    assert [pull.error for jumped in pulls for pull in jumped.values()] == [""] * 6


def test_cache_killed_in_the_middle_of_a_layer(bench: Bench, measured: Measured, page: Page) -> None:
    """What is there already is kept, and the upstream is asked for the rest."""
    line = Front(("127.0.3.1", LINE_PORT), ("127.0.0.1", UPSTREAM_PORT))
    line.fault = fault_front.only("blobs", fault_front.slow(0.05, 64 * 1024))
    line.start()
    cache = Registry(bench.place, "killed", CACHE_PORT, f"http://127.0.3.1:{LINE_PORT}", host="127.0.2.201")
    cache.start()
    upstream = Upstream(201)
    images = {each.release: bench.image(f"large-{each.release}", 6_000_000) for each in bench.containerds}
    with _written(bench, upstream, f'[host."{cache.url}"]'), ThreadPoolExecutor() as pool:
        pulls = {each.release: pool.submit(_pull, each, upstream, images[each.release]) for each in bench.containerds}
        for containerd in bench.containerds:
            wait_for("a part of it", lambda each=containerd: each.partial_bytes() > 100_000, PATIENCE, 0.02)  # type: ignore[misc]
        assert not any(pull.done() for pull in pulls.values())
        cache.signal(signal.SIGKILL)
        begun = time.monotonic()
        ended = {release: pull.result() for release, pull in pulls.items()}
    line.stop()
    seconds = time.monotonic() - begun
    page.note(
        "cache killed in the middle of a layer of 6 MB",
        ended,
        f"the pulls ended {seconds:.2f} s after that",
        timed=False,
    )
    assert [pull.error for pull in ended.values()] == [""] * 3
    assert seconds < SOON


@contextmanager
def _written(bench: Bench, upstream: Upstream, host: str, extra: str = "") -> Iterator[None]:
    """A hosts.toml written by hand: what the program does not write."""
    path = bench.hosts(upstream)
    path.parent.mkdir()
    path.write_text(f'server = "{upstream.url}"\n{host}\n  capabilities = ["pull", "resolve"]\n{extra}')
    try:
        yield
    finally:
        shutil.rmtree(path.parent)


@pytest.fixture
def tls_cache(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server with a certificate of an authority that nobody trusts: its URL, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD  # noqa: N815 - as the base class calls it

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.2.202").configure_cert(context)
    with ThreadingHTTPServer(("127.0.2.202", CACHE_PORT), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.2.202:{CACHE_PORT}", asked
        server.shutdown()


@pytest.mark.parametrize(
    ("title", "write", "error"),
    [
        (
            "cache's certificate is of another authority",
            lambda path: trustme.CA().cert_pem.write_to_path(str(path)),
            "",
        ),
        ("the file that `ca` names is not there", lambda _: None, "no such file or directory"),
        ("the file that `ca` names is no certificate", lambda path: path.write_text("?"), "unable to load CA cert"),
    ],
    ids=["another-authority", "missing", "no-certificate"],
)
def test_tls(  # noqa: PLR0913, PLR0917 - a table
    bench: Bench,
    measured: Measured,
    page: Page,
    tls_cache: tuple[str, list[str]],
    tmp_path: Path,
    title: str,
    write: Callable[[Path], object],
    error: str,
) -> None:
    """It goes on to the upstream where the cache cannot be trusted, and nowhere where the file is bad."""
    url, asked = tls_cache
    upstream = Upstream(202)
    write(tmp_path / "ca.pem")
    image = bench.image(f"tls-{len(title)}")
    with _written(bench, upstream, f'[host."{url}"]', f'  ca = "{tmp_path}/ca.pem"\n'):
        pulls = {containerd.release: _pull(containerd, upstream, image) for containerd in bench.containerds}
    page.note(title, pulls, "hosts.toml written by hand")
    assert asked == []
    if error:
        assert all(error in pull.error for pull in pulls.values())
    else:
        assert [pull.error for pull in pulls.values()] == [""] * 3
        assert max(pull.seconds for pull in pulls.values()) < SOON


@dataclass
class Page:
    """The figures, as they go into docs/faults-bare.md."""

    versions: dict[str, str]
    measured: Measured | None = None
    notes: list[list[str]] = field(default_factory=list)

    def note(self, what: str, pulls: dict[str, Pull], program: str, *, timed: bool = True) -> None:
        """A row of what has no begin and end of its own."""
        self.notes.append([what, *(self._cell(release, pulls[release], timed=timed) for release in RELEASES), program])

    def write(self, path: Path) -> None:
        """Put the tables between the page's two marks."""
        before, _, rest = path.read_text().partition(f"{BEGIN}\n")
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{BEGIN}\n{self._text()}{END}{after}")

    def _text(self) -> str:
        assert self.measured
        names = [f"containerd {self.versions[release]}" for release in RELEASES]
        faults = self.measured.faults
        direct = ", ".join(
            f"{self.measured.direct[release]:.2f} s with {self.versions[release]}" for release in RELEASES
        )
        seen = [[fault.title, *self._before(faults[fault.title]), *self._later(faults[fault.title])] for fault in SEEN]
        unseen = [[fault.title, *self._before(faults[fault.title])] for fault in UNSEEN]
        return "\n".join(
            [
                f"Without a cache such a pull takes {direct}.",
                "",
                "### Faults that the program sees",
                "",
                *_table(["fault", *names, "withdrawn after", "pulls then", "used again after"], seen),
                "",
                "### Faults that it cannot see: /v2/ stays good",
                "",
                *_table(["fault", *names], unseen),
                "",
                "### The node, the program and TLS",
                "",
                *_table(["what", *names, "the program"], self.notes),
                "",
            ]
        )

    def _before(self, found: Found) -> list[str]:
        return [
            f"held; ends {found.freed[release]:.2f} s after its connection"
            if release in found.held
            else self._cell(release, found.before[release])
            for release in RELEASES
        ]

    def _later(self, found: Found) -> list[str]:
        assert self.measured
        longer = max(pull.seconds - self.measured.direct[release] for release, pull in found.after.items())
        return [f"{found.withdrawn:.1f} s", f"+{max(0.0, longer):.2f} s", f"{found.returned:.1f} s"]

    def _cell(self, release: str, pull: Pull, *, timed: bool = True) -> str:
        if pull.error:
            return f"fails: {QUOTED.sub('', pull.error.rpartition(': ')[2])}"
        if not timed or not self.measured:
            return "pulls"
        return f"+{max(0.0, pull.seconds - self.measured.direct[release]):.2f} s"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


@pytest.fixture(scope="module")
def page(bench: Bench) -> Iterator[Page]:
    """Filled by the tests, and written at the end where FAULTS_PAGE names the page."""
    made = Page({containerd.release: containerd.version for containerd in bench.containerds})
    yield made
    if (path := os.environ.get("FAULTS_PAGE")) and made.measured:
        made.write(Path(path))
