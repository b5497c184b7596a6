"""What else can happen to a node without Kubernetes: to the node program, its files, its clock, and with TLS.

Each scenario returns how pulls went, and which of its checks passed; tests/node/test_faults.py asserts both.
"""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import trustme
from machine import tools
from machine.processes import wait_for
from node_program.hosts_toml import owner_of
from upstreams.distribution import Distribution
from upstreams.fault_server import Fault, FaultServer
from upstreams.plain_server import PlainServer

from experiments.bare_faults import server_before_cache
from experiments.bare_node import CACHE_PORT, NOTICE_SECONDS, OWNER, UPSTREAM_PORT, BareNode, Containerd, Pull, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW_PORT = 5002
SLOW_BYTES_PER_SECOND = 1_300_000
LARGE_IMAGE_BYTES = 6_000_000
ENOUGH_BYTES = 100_000
HOUR = 3600
MODE = 0o644
CLOCK_TOLERANCE_SECONDS = 60


@dataclass
class Outcome:
    """How the pulls of a scenario went, and a remark for the page; `timed` says whether their times mean something."""

    pulls: dict[str, Pull]
    remark: str = ""
    timed: bool = True
    further_pulls: list[Pull] = field(default_factory=list)
    failed_checks: list[str] = field(default_factory=list)

    def check(self, title: str, *, passed: bool) -> None:
        """Record a check."""
        if not passed:
            self.failed_checks.append(title)

    @property
    def all_pulls(self) -> list[Pull]:
        return [*self.pulls.values(), *self.further_pulls]


@dataclass(frozen=True)
class Scenario:
    """A scenario; where `error` is set, its pulls must fail with that message."""

    title: str
    run: Callable[[BareNode], Outcome]
    error: str = ""


@dataclass
class Mirrored:
    """An upstream with one cache behind a server that can have faults, and the node program that looks after it."""

    node: BareNode
    server: FaultServer
    upstream: Upstream
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> Path:
        return self.node.hosts(self.upstream)

    def start_program(self) -> None:
        """Start the node program."""
        self.node.start_program({self.upstream: self.server.address}, "alone", self.variables)

    def wait_until_used(self, *, used: bool) -> float:
        """Wait until hosts.toml is there, or is not, and return how long that took."""
        return _seconds_until(
            f"the cache to be {'used' if used else 'withdrawn'}", lambda: self.hosts.is_file() is used
        )

    def wait_until_written(self) -> float:
        """Wait until hosts.toml is one of the node program, and return how long that took."""
        return _seconds_until("the cache to be used", lambda: _is_ours(self.hosts))

    def wait_for_message(self, text: str) -> None:
        """Wait until the node program says why it is not ready."""
        wait_for(f"the message {text!r}", lambda: text in self.node.not_ready("alone"), NOTICE_SECONDS)

    def pull_all(self, name: str) -> dict[str, Pull]:
        """Pull a new image with each containerd."""
        return self.node.pull_all(self.upstream, self.node.image(f"alone-{name}"))


@contextmanager
def _mirrored(node: BareNode) -> Iterator[Mirrored]:
    upstream = Upstream(200)
    server = server_before_cache(node, upstream.number)
    try:
        yield Mirrored(node, server, upstream)
    finally:
        node.place.stop("alone")
        print(*node.place.log("alone").read_text().splitlines()[-20:], sep="\n")
        server.stop()
        shutil.rmtree(node.certs / upstream.folder, ignore_errors=True)


def _program_killed(node: BareNode) -> Outcome:
    with _mirrored(node) as mirrored:
        mirrored.start_program()
        mirrored.wait_until_used(used=True)
        node.place.signal("alone", signal.SIGKILL)
        return Outcome(mirrored.pull_all("orphaned"))


def _program_and_cache_killed(node: BareNode) -> Outcome:
    with _mirrored(node) as mirrored:
        mirrored.start_program()
        mirrored.wait_until_used(used=True)
        node.place.signal("alone", signal.SIGKILL)
        mirrored.server.stop()
        outcome = Outcome(mirrored.pull_all("orphaned-and-refused"))
        outcome.check("hosts.toml is still there", passed=mirrored.hosts.exists())
        mirrored.start_program()
        withdrawn = mirrored.wait_until_used(used=False)
        mirrored.server.start()
        back = mirrored.wait_until_used(used=True)
        outcome.remark = f"restarted: withdrawn after {withdrawn:.1f} s, used again after {back:.1f} s"
        return outcome


def _disk_full(node: BareNode, theirs: str = "") -> Outcome:
    """The file that is there stays, the program says why the cache is not in use, and continues when there is room."""

    def content() -> str:
        return mirrored.hosts.read_text() if mirrored.hosts.exists() else ""

    with _mirrored(node) as mirrored:
        foreign = theirs.format(url=mirrored.upstream.url)
        if foreign:
            mirrored.hosts.parent.mkdir()
            mirrored.hosts.write_text(foreign)
        with _full(node.certs):
            mirrored.start_program()
            mirrored.wait_for_message("hosts.toml cannot be written: No space left on device")
            outcome = Outcome(mirrored.pull_all("full-and-foreign" if foreign else "full"))
            outcome.check("hosts.toml is as it was", passed=content() == foreign)
        back = mirrored.wait_until_written()
        with _full(node.certs):
            mirrored.server.fault = Fault(status=503)
            wait_for("the cache to be withdrawn", lambda: not _is_ours(mirrored.hosts), NOTICE_SECONDS)
        outcome.check("hosts.toml is as it was after the withdrawal", passed=content() == foreign)
        outcome.remark = f"reports it; uses the cache {back:.1f} s after there is room again; withdraws it without room"
        return outcome


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Leave no room on the file system of a folder."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            file.writelines(repeat(b"x" * 4096))
        yield
    finally:
        filler.unlink()


def _is_ours(path: Path) -> bool:
    return path.exists() and owner_of(path.read_text()) == OWNER


def _unreadable(node: BareNode, name: str, spoil: Callable[[Path], object], message: str) -> Outcome:
    """The program leaves it alone, says what it is, and continues when it is gone."""
    with _mirrored(node) as mirrored:
        mirrored.start_program()
        mirrored.wait_until_used(used=True)
        spoil(mirrored.hosts)
        outcome = Outcome(mirrored.pull_all(f"unreadable-{name}"))
        mirrored.wait_for_message(message)
        if mirrored.hosts.is_dir():
            mirrored.hosts.rmdir()
        else:
            mirrored.hosts.unlink()
        seconds = mirrored.wait_until_written()
        outcome.remark = f"leaves it, reports `{message}`; writes hosts.toml {seconds:.1f} s after it was removed"
        return outcome


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff[[[")


def _replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _other_mode(node: BareNode) -> Outcome:
    """The program, which modes apply to, restores it; containerd, which they do not apply to, reads it all the time."""
    with _mirrored(node) as mirrored:
        mirrored.start_program()
        mirrored.wait_until_used(used=True)
        mirrored.hosts.chmod(0)
        begun = time.monotonic()
        outcome = Outcome(mirrored.pull_all("mode"))
        wait_for("its mode", lambda: mirrored.hosts.stat().st_mode & 0o777 == MODE, NOTICE_SECONDS, 0.02)
        outcome.remark = f"restores its mode after {time.monotonic() - begun:.1f} s"
        return outcome


def _clock_jumps(node: BareNode) -> Outcome:
    """The wall clock of the program goes an hour forward and two back; that of a Go program cannot be replaced."""
    clock = node.folder / "clock"
    clock.write_text("+0")
    variables = {
        "LD_PRELOAD": str(tools.faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with _mirrored(node) as mirrored:
        mirrored.variables = variables

        def jump(text: str, seconds: int) -> dict[str, Pull]:
            clock.write_text(text)
            command = [sys.executable, "-c", "import time; print(time.time())"]
            env = tools.program_environment(**variables)
            faked = float(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
            jumped = abs(faked - time.time() - seconds) < CLOCK_TOLERANCE_SECONDS
            outcome.check(f"the clock has jumped by {seconds} s", passed=jumped)
            return mirrored.pull_all(f"jump-{seconds}")

        outcome = Outcome({})
        mirrored.start_program()
        mirrored.wait_until_used(used=True)
        process = node.place.process_id("alone")
        maps = Path(f"/proc/{process}/maps").read_text()
        outcome.check("the program has the library", passed=str(tools.faketime()) in maps)
        written = mirrored.hosts.stat().st_mtime_ns
        outcome.pulls = jump("+1h", HOUR)
        count = mirrored.server.request_count
        wait_for("another probe", lambda: mirrored.server.request_count > count, NOTICE_SECONDS)
        outcome.check("hosts.toml is unchanged", passed=mirrored.hosts.stat().st_mtime_ns == written)
        mirrored.server.fault = Fault(silent=True)
        withdrawn = mirrored.wait_until_used(used=False)
        outcome.further_pulls += jump("-1h", -HOUR).values()
        mirrored.server.mend()
        back = mirrored.wait_until_used(used=True)
        outcome.remark = (
            f"after the jump forward, a silent cache is withdrawn after {withdrawn:.1f} s; "
            f"after the jump back, it is used again after {back:.1f} s"
        )
        return outcome


def _cache_killed_while_a_layer_is_sent(node: BareNode) -> Outcome:
    """Containerd keeps what it has, and fetches the rest from the upstream."""
    slow = Fault(kinds=("blobs",), bytes_per_second=SLOW_BYTES_PER_SECOND)
    line = FaultServer(("127.0.3.1", SLOW_PORT), ("127.0.0.1", UPSTREAM_PORT), slow)
    line.start()
    cache = Distribution(node.place, "killed", CACHE_PORT, f"http://127.0.3.1:{SLOW_PORT}", host="127.0.2.201")
    cache.start()
    upstream = Upstream(201)
    images = {one.release: node.image(f"large-{one.release}", LARGE_IMAGE_BYTES) for one in node.containerds}
    with _written(node, upstream, f'[host."{cache.url}"]'), ThreadPoolExecutor() as pool:
        pulls = {
            one.release: pool.submit(one.pull, f"{upstream.name}/{images[one.release]}") for one in node.containerds
        }
        for containerd in node.containerds:
            wait_for("a part of the layer", partial(_has_a_part, containerd), NOTICE_SECONDS, 0.02)
        none_ended = not any(pull.done() for pull in pulls.values())
        cache.signal(signal.SIGKILL)
        begun = time.monotonic()
        outcome = Outcome({release: pull.result() for release, pull in pulls.items()}, timed=False)
        seconds = time.monotonic() - begun
    line.stop()
    outcome.check("no pull had ended before", passed=none_ended)
    outcome.remark = f"the pulls ended {seconds:.2f} s later"
    return outcome


def _has_a_part(containerd: Containerd) -> bool:
    return containerd.partial_bytes() > ENOUGH_BYTES


@contextmanager
def _written(node: BareNode, upstream: Upstream, host: str, settings: str = "") -> Iterator[None]:
    """A hosts.toml that the node program would not write."""
    path = node.hosts(upstream)
    path.parent.mkdir()
    path.write_text(f'server = "{upstream.url}"\n{host}\n  capabilities = ["pull", "resolve"]\n{settings}')
    try:
        yield
    finally:
        shutil.rmtree(path.parent)


def _tls(node: BareNode, name: str, write: Callable[[Path], object]) -> Outcome:
    """A cache whose certificate is of an unknown authority, and a hosts.toml whose `ca` names a file."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD  # noqa: N815 - the name is http.server's

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.2.202").configure_cert(context)
    upstream, file = Upstream(202), node.folder / f"{name}.pem"
    write(file)
    with PlainServer(("127.0.2.202", CACHE_PORT), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        host = f'[host."https://127.0.2.202:{CACHE_PORT}"]'
        with _written(node, upstream, host, f'  ca = "{file}"\n'):
            outcome = Outcome(node.pull_all(upstream, node.image(f"tls-{name}")), "hosts.toml is written by hand")
        server.shutdown()
    outcome.check("the cache was not asked", passed=requests == [])
    return outcome


def _write_other_authority(path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(path))


def _seconds_until(title: str, condition: Callable[[], bool]) -> float:
    begun = time.monotonic()
    wait_for(title, condition, NOTICE_SECONDS, 0.02)
    return time.monotonic() - begun


FOREIGN_FILE = 'server = "{url}"\n# theirs\n'
LINK = "it is a link to a file outside the registry directory"
SCENARIOS = (
    Scenario("node program killed, its file exists, the cache works", _program_killed),
    Scenario("node program killed, its file exists, nothing listens", _program_and_cache_killed),
    Scenario("disk full, no hosts.toml exists", _disk_full),
    Scenario("disk full, a foreign hosts.toml exists", partial(_disk_full, theirs=FOREIGN_FILE)),
    Scenario(
        "hosts.toml is a directory",
        partial(
            _unreadable,
            name="directory",
            spoil=_replace_by_directory,
            message="hosts.toml cannot be withdrawn: Is a directory",
        ),
        error="is a directory",
    ),
    Scenario(
        "hosts.toml is not TOML",
        partial(_unreadable, name="garbage", spoil=_replace_by_garbage, message="it is not TOML"),
    ),
    Scenario(
        "hosts.toml is a dangling link",
        partial(_unreadable, name="link", spoil=_replace_by_dangling_link, message=LINK),
    ),
    Scenario("hosts.toml has the mode 000", _other_mode),
    Scenario("the clock of the node program jumps an hour forward, then two back", _clock_jumps),
    Scenario("cache killed while a layer of 6 MB is sent", _cache_killed_while_a_layer_is_sent),
    Scenario(
        "the cache's certificate is from an unknown authority",
        partial(_tls, name="another-authority", write=_write_other_authority),
    ),
    Scenario(
        "the file in `ca` does not exist",
        partial(_tls, name="missing", write=lambda _: None),
        error="no such file or directory",
    ),
    Scenario(
        "the file in `ca` is not a certificate",
        partial(_tls, name="no-certificate", write=lambda path: path.write_text("?")),
        error="unable to load CA cert",
    ),
)
