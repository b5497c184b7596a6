"""A node without Kubernetes: three releases of containerd, an upstream, its caches and the node program.

They run in a network of their own, in which every address of 127.0.0.0/8 is free: each name of the upstream has one,
and so has each cache.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from cluster.node_program import UNPRIVILEGED_COMMAND, cache_entry, write_configuration
from machine import own_network, tools
from machine.cgroups import Cgroup
from machine.own_network import run
from machine.processes import Place, wait_for
from upstreams import oci
from upstreams.distribution import Distribution
from upstreams.push import push_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

UPSTREAM_PORT = 5000
CACHE_PORT = 5001
# Only a pull that hangs takes this long.
PULL_SECONDS = 400.0
# Ten times the time in which the node program must withdraw a cache, or use it again.
NOTICE_SECONDS = 150.0
OWNER = "space/name"
SEVEN_BITS = 0x7F
RELEASES: dict[str, Callable[[], Path]] = {
    "1.6": tools.containerd_1_6,
    "1.7": tools.containerd_1_7,
    "2.x": lambda: tools.go_binary("containerd", "containerd"),
}
# The releases between those.
OLDER_RELEASES: dict[str, Callable[[], Path]] = {
    f"2.{minor}": partial(tools.containerd_2, minor) for minor in (0, 1, 2, 3)
}


@contextmanager
def _network_with_filter() -> Iterator[None]:
    """Give this thread a network of its own, in which packets can be dropped."""
    with own_network.own_network():
        run("nft", "add table ip faults; add chain ip faults in { type filter hook input priority 0; }")
        yield


def drop_packets(address: str) -> None:
    """Drop every packet to an address."""
    run("nft", f"add rule ip faults in ip daddr {address} drop")


def stop_dropping() -> None:
    """Drop no packets any more."""
    run("nft", "flush chain ip faults in")


@dataclass(frozen=True)
class Pull:
    """A pull: how long it took, and containerd's error message if it failed."""

    seconds: float
    error: str = ""


@dataclass
class Containerd:
    """A real containerd, which is asked as a kubelet asks it."""

    release: str
    place: Place
    certs: Path

    @property
    def folder(self) -> Path:
        return self.place.folder / self.release

    @property
    def program(self) -> Path:
        return (RELEASES | OLDER_RELEASES)[self.release]()

    @property
    def version(self) -> str:
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2].removeprefix("v").partition("~")[0]

    def start(self) -> None:
        """Start it, and wait until its CRI plugin answers."""
        self.folder.mkdir()
        configuration = self.folder / "config.toml"
        configuration.write_text(
            f"""version = 2
root = '{self.folder}/root'
state = '{self.folder}/state'
[grpc]
  address = '{self.folder}/socket'
[ttrpc]
  address = '{self.folder}/socket.ttrpc'
[plugins."io.containerd.internal.v1.opt"]
  path = '{self.folder}/opt'
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = '{self.certs}'
"""
        )
        self.place.start(f"containerd-{self.release}", [self.program, "--config", configuration])
        self._channel = grpc.insecure_channel(f"unix://{self.folder}/socket")
        wait_for(f"containerd {self.release}", self._answers, NOTICE_SECONDS)

    def close(self) -> None:
        """Close the connection to it."""
        if hasattr(self, "_channel"):
            self._channel.close()

    def pull(self, reference: str, login: tuple[str, str] | None = None) -> Pull:
        """Pull an image with its CRI plugin (CRI's api.proto: PullImageRequest.image.image, auth.username, password).

        As a kubelet with a pull secret, it says the user name and the password, and no server address
        (pkg/kubelet/kuberuntime/kuberuntime_image.go).
        """
        request = _field(_field(reference.encode()))
        if login is not None:
            username, password = login
            request += _field(_field(username.encode()) + _field(password.encode(), 2), 2)
        begun = time.monotonic()
        try:
            self._call("ImageService/PullImage", request, PULL_SECONDS)
        except grpc.RpcError as error:
            return Pull(time.monotonic() - begun, error.details())
        return Pull(time.monotonic() - begun)

    def remove(self, reference: str) -> None:
        """Remove an image and its content, if it is there (CRI's api.proto: RemoveImageRequest.image.image)."""
        self._call("ImageService/RemoveImage", _field(_field(reference.encode())), PULL_SECONDS)

    def partial_bytes(self) -> int:
        """Return the size of the largest blob that it is fetching."""
        largest = 0
        for file in (self.folder / "root/io.containerd.content.v1.content/ingest").glob("*/data"):
            with suppress(FileNotFoundError):  # complete in the meantime, so elsewhere
                largest = max(largest, file.stat().st_size)
        return largest

    def _answers(self) -> bool:
        self.place.fail_if_dead(f"containerd-{self.release}")
        try:
            self._call("RuntimeService/Version", b"", 5)
        except grpc.RpcError:
            return False
        return True

    def _call(self, method: str, request: bytes, timeout: float) -> bytes:
        answer: bytes = self._channel.unary_unary(f"/runtime.v1.{method}")(request, timeout=timeout)
        return answer


def versions(containerds: Iterable[Containerd]) -> dict[str, str]:
    """Return the version of each release."""
    return {containerd.release: containerd.version for containerd in containerds}


class Watch:
    """Records in a thread of its own when files appear and disappear."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Begin to watch."""
        self._there = {path: path.exists() for path in paths}
        self._since = dict.fromkeys(paths, time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def wait(self, path: Path, *, there: bool) -> float:
        """Wait for a file to be there or not, and return since when that is so.

        Raises:
            TimeoutError: It takes far longer than it may.
        """
        wait_for(f"{path} {'to be there' if there else 'to go'}", lambda: self._there[path] is there, NOTICE_SECONDS)
        return self._since[path]

    def is_there(self, path: Path) -> bool:
        return self._there[path]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for path, before in self._there.items():
                if path.exists() is not before:
                    self._since[path], self._there[path] = time.monotonic(), not before


@dataclass(frozen=True)
class Upstream:
    """One of the names of the upstream, each of which is a registry of its own for containerd."""

    number: int

    @property
    def name(self) -> str:
        return f"127.0.1.{self.number}:{UPSTREAM_PORT}"

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    @property
    def folder(self) -> str:
        return f"127.0.1.{self.number}_{UPSTREAM_PORT}_"


@dataclass
class BareNode:
    """All of it, running."""

    place: Place
    folder: Path
    containerds: list[Containerd]
    upstream: Distribution
    cache: Distribution
    _pushed: set[str] = field(default_factory=set)

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    def hosts(self, upstream: Upstream) -> Path:
        return self.certs / upstream.folder / "hosts.toml"

    def image(self, name: str, size: int = 200_000) -> str:
        """Push an image, if that was not done yet, and return its reference without the upstream's name."""
        if name not in self._pushed:
            image = oci.Image(layers=(oci.random_layer(name, size), oci.random_layer(f"{name} 2", 50_000)))
            push_image(f"127.0.0.1:{UPSTREAM_PORT}", name, "1", image)
            self._pushed.add(name)
        return f"{name}:1"

    def pull_all(self, upstream: Upstream, image: str) -> dict[str, Pull]:
        """Pull an image with each containerd, one after the other."""
        return {one.release: one.pull(f"{upstream.name}/{image}") for one in self.containerds}

    def start_program(
        self,
        caches: dict[Upstream, tuple[str, int]],
        name: str = "program",
        env: dict[str, str] | None = None,
    ) -> int:
        """Start the node program with the chart's default settings."""
        path = write_configuration(
            self.folder / f"{name}.json",
            certs=self.certs,
            state=self.state(name),
            containerd=self.containerd_configuration(),
            caches=[cache_entry(upstream.name, upstream.url, host, port) for upstream, (host, port) in caches.items()],
        )
        return self.place.start(name, [*UNPRIVILEGED_COMMAND, "--config", path], env)

    def containerd_configuration(self) -> Path:
        """Write a configuration of containerd that means the same for all three releases, and return its path."""
        path = self.folder / "containerd.toml"
        path.write_text(f"version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{self.certs}'\n")
        return path

    def state(self, name: str = "program") -> Path:
        return self.folder / f"{name}-state"

    def not_ready(self, name: str = "program") -> str:
        """Return what the readiness probe would show; nothing if the program is ready or has not started yet."""
        try:
            return (self.state(name) / "not-ready").read_text()
        except FileNotFoundError:
            return ""


@contextmanager
def bare_node(folder: Path) -> Iterator[BareNode]:
    """Start all of it but the node program, with files in `folder`, and print the ends of all logs afterwards."""
    tools.ensure_native()
    tools.ensure_faults()
    place = Place(folder / "run", Cgroup(f"rcache-bare-{os.getpid()}"))
    place.folder.mkdir()
    certs = folder / "certs.d"
    certs.mkdir()
    upstream = Distribution(place, "upstream", UPSTREAM_PORT, host="0.0.0.0")  # noqa: S104 - in a network of its own
    cache = Distribution(place, "cache", CACHE_PORT, remote=f"http://127.0.0.1:{UPSTREAM_PORT}")
    containerds = [Containerd(release, place, certs) for release in RELEASES]
    with ExitStack() as stack:
        place.cgroup.create()
        stack.callback(place.cgroup.remove)
        stack.callback(place.cgroup.kill)
        run("mount", "-t", "tmpfs", "-o", "size=256k", "faults", str(certs))
        stack.callback(run, "umount", str(certs))
        stack.enter_context(_network_with_filter())
        for distribution in (upstream, cache):
            distribution.start()
        for containerd in containerds:
            stack.callback(containerd.close)
            containerd.start()
        yield BareNode(place, folder, containerds, upstream, cache)
        for log in sorted(place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")


def _field(content: bytes, number: int = 1) -> bytes:
    """Return a field of a protocol buffer."""
    length, left = bytearray(), len(content)
    while left > SEVEN_BITS:
        length.append(left & SEVEN_BITS | SEVEN_BITS + 1)
        left >>= 7
    return bytes([number << 3 | 2]) + bytes([*length, left]) + content
