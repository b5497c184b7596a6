"""What the tests of faults run: three releases of containerd, an upstream, its caches and the node program.

All of it in a network of its own, in which every address of 127.0.0.0/8 is there to be taken: one for each upstream's
name and one for each cache.
"""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import yaml
from cluster.node_program import write_configuration
from machine import tools
from machine.own_network import own_network as bare_network
from machine.own_network import run
from machine.paths import CHART
from machine.processes import Place, wait_for
from node.test_node_program import COMMAND, PATIENCE, Registry
from upstreams import oci
from upstreams.push import push_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

UPSTREAM_PORT = 5000
# Long after what anything here takes: only what hangs gets so far. Seconds.
PULL_TIMEOUT = 400.0
OWNER = "space/name"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())["nodeProgram"]
RELEASES: dict[str, Callable[[], Path]] = {
    "1.6": tools.containerd_1_6,
    "1.7": tools.containerd_1_7,
    "2.x": lambda: tools.go_binary("containerd", "containerd"),
}


@contextmanager
def own_network() -> Iterator[None]:
    """A network of this thread's own, with a loopback device alone, in which packets can be dropped."""
    with bare_network():
        run("nft", "add table ip faults; add chain ip faults in { type filter hook input priority 0; }")
        yield


def drop(address: str) -> None:
    """Have every packet to an address vanish."""
    run("nft", f"add rule ip faults in ip daddr {address} drop")


def drop_nothing() -> None:
    run("nft", "flush chain ip faults in")


@dataclass(frozen=True)
class Pull:
    """How one pull went: how long it took in seconds, and containerd's reason if it failed."""

    seconds: float
    error: str = ""


@dataclass
class Containerd:
    """One real containerd, asked as a kubelet asks it."""

    release: str
    place: Place
    certs: Path

    @property
    def folder(self) -> Path:
        return self.place.folder / self.release

    @property
    def version(self) -> str:
        said = subprocess.run([RELEASES[self.release](), "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[2].removeprefix("v").partition("~")[0]

    def start(self) -> None:
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
        self.place.start(f"containerd-{self.release}", [RELEASES[self.release](), "--config", configuration])
        self._channel = grpc.insecure_channel(f"unix://{self.folder}/socket")
        wait_for(f"containerd {self.release}", self._answers, PATIENCE)

    def close(self) -> None:
        if hasattr(self, "_channel"):
            self._channel.close()

    def pull(self, reference: str) -> Pull:
        """Have its CRI plugin pull an image (CRI's api.proto: PullImageRequest.image.image)."""
        begun = time.monotonic()
        try:
            self._call("ImageService/PullImage", _field(_field(reference.encode())), PULL_TIMEOUT)
        except grpc.RpcError as error:
            return Pull(time.monotonic() - begun, error.details())
        return Pull(time.monotonic() - begun)

    def partial_bytes(self) -> int:
        """How much it has of what it is pulling: the largest file of its content store that is not whole yet."""
        found = 0
        for file in (self.folder / "root/io.containerd.content.v1.content/ingest").glob("*/data"):
            with suppress(FileNotFoundError):  # whole in the meantime, so elsewhere
                found = max(found, file.stat().st_size)
        return found

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


class Watch:
    """Notes from a thread of its own when files appear and go."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Begin to look."""
        self._there = {path: path.exists() for path in paths}
        self._since = dict.fromkeys(paths, time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait(self, path: Path, *, there: bool) -> float:
        """The moment from which a file is there, or is not.

        Raises:
            TimeoutError: after far more time than it may take.
        """
        wait_for(f"{path} {'to be there' if there else 'to go'}", lambda: self._there[path] is there, PATIENCE)
        return self._since[path]

    def is_there(self, path: Path) -> bool:
        return self._there[path]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            for path, before in self._there.items():
                if path.exists() is not before:
                    self._since[path], self._there[path] = time.monotonic(), not before


@dataclass(frozen=True)
class Upstream:
    """One of the many names of the one upstream: what containerd takes for a registry of its own."""

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
class Bench:
    """All of it, running."""

    place: Place
    folder: Path
    containerds: list[Containerd]
    upstream: Registry
    cache: Registry
    _pushed: set[str] = field(default_factory=set)

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    def hosts(self, upstream: Upstream) -> Path:
        return self.certs / upstream.folder / "hosts.toml"

    def image(self, name: str, size: int = 200_000) -> str:
        """Put an image of its own content into the upstream; the part of its reference after the upstream's name."""
        if name not in self._pushed:
            image = oci.Image(layers=(oci.random_layer(name, size), oci.random_layer(f"{name} 2", 50_000)))
            push_image(f"127.0.0.1:{UPSTREAM_PORT}", name, "1", image)
            self._pushed.add(name)
        return f"{name}:1"

    def start_program(
        self,
        caches: dict[Upstream, tuple[str, int]],
        name: str = "program",
        env: dict[str, str] | None = None,
    ) -> int:
        """Run the node program with the settings that the chart ships."""
        path = write_configuration(
            self.folder / f"{name}.json",
            certs=self.certs,
            state=self.state(name),
            containerd=self.containerd_configuration(),
            caches=[
                {"upstream": upstream.name, "server": upstream.url, "service": host, "port": port}
                for upstream, (host, port) in caches.items()
            ],
        )
        return self.place.start(name, [*COMMAND, "--config", path], env)

    def containerd_configuration(self) -> Path:
        """What all three releases take for the same, of the many that a node could have."""
        path = self.folder / "containerd.toml"
        path.write_text(f"version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{self.certs}'\n")
        return path

    def state(self, name: str = "program") -> Path:
        return self.folder / f"{name}-state"

    def not_ready(self, name: str = "program") -> str:
        """What the readiness probe would show; empty where the program is ready or did not start yet."""
        try:
            return (self.state(name) / "not-ready").read_text()
        except FileNotFoundError:
            return ""


def _field(content: bytes) -> bytes:
    """Field 1 of a protocol buffer, with fewer than 128 bytes in it."""
    assert len(content) < 128
    return b"\x0a" + bytes([len(content)]) + content
