"""The node program against a real containerd and real registries, without Kubernetes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from testcluster import images, oci, tools
from testcluster.cgroups import Cgroup
from testcluster.paths import CHART
from testcluster.processes import Place, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = CHART / "files" / "node" / "main.py"
# Ten times what the program needs with these settings: two bad probes, or one good one.
PATIENCE = 20.0
FOREIGN = '# theirs\n[host."http://127.0.0.1:9"]\n  capabilities = ["pull"]\n'


@dataclass
class Registry:
    """A real distribution on a port of its own; a cache where it has a remote."""

    place: Place
    name: str
    port: int
    remote: str | None = None
    htpasswd: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        folder = self.place.folder
        configuration: dict[str, object] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / self.name)}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        if self.remote:
            configuration["proxy"] = {"remoteurl": self.remote, "ttl": "1h"}
        if self.htpasswd:
            configuration["auth"] = {"htpasswd": {"realm": "closed", "path": str(self.htpasswd)}}
        path = folder / f"{self.name}.yaml"
        path.write_text(json.dumps(configuration))
        program = tools.go_binary("distribution", "registry")
        self.place.start(self.name, [program, "serve", path], {"OTEL_TRACES_EXPORTER": "none"})
        wait_for(f"{self.name} to listen", lambda: _listens(self.port), PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        self.place.signal(self.name, number)

    def blob_requests(self) -> list[str]:
        """The paths of all blobs that were fetched from it, from its own access log."""
        lines = self.place.log(self.name).read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines if '"GET /v2/' in line and "/blobs/" in line]


@dataclass
class Machine:
    """A containerd, an upstream, its cache, and the node program's folders."""

    place: Place
    folder: Path
    upstream: Registry
    cache: Registry

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    @property
    def hosts(self) -> Path:
        """The hosts.toml that containerd reads for the upstream."""
        return self.certs / f"127.0.0.1_{self.upstream.port}_" / "hosts.toml"

    def push(self, name: str) -> tuple[str, oci.Image]:
        """Put an image of its own content into the upstream."""
        image = images.busybox(oci.random_layer(name, 300_000), label=name)
        archive = self.folder / "push.tar"
        reference = f"127.0.0.1:{self.upstream.port}/{name}:1"
        image.write_archive(archive, reference)
        options = ["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        self.place.run(["skopeo", *options, f"oci-archive:{archive}:1", f"docker://{reference}"])
        return reference, image

    def pull(self, reference: str) -> None:
        """Pull as containerd does for a kubelet: by the registry folder, cache first; what it had is forgotten."""
        client = [tools.go_binary("containerd", "ctr"), "--address", self.folder / "containerd.sock"]
        self.place.run([*client, "images", "pull", "--local", "--hosts-dir", self.certs, reference])
        self.place.run([*client, "images", "remove", "--sync", reference])

    def configure(self, *, upstreams: tuple[str, ...] | None = None, owner: str = "space/name") -> Path:
        upstreams = upstreams or (f"127.0.0.1:{self.upstream.port}",)
        path = self.folder / f"{owner.replace('/', '-')}.json"
        configuration = {
            "owner": owner,
            "registryDirectory": str(self.certs),
            "stateDirectory": str(self.folder / "state" / owner.replace("/", "-")),
            "dialTimeout": "500ms",
            "probe": {"interval": "200ms", "timeout": "500ms", "failureThreshold": 2},
            "caches": [
                {"upstream": upstream, "server": self.upstream.url, "service": "127.0.0.1", "port": self.cache.port}
                for upstream in upstreams
            ],
        }
        path.write_text(json.dumps(configuration))
        return path

    def start_program(self, configuration: Path | None = None) -> None:
        command = [sys.executable, "-B", "-u", PROGRAM, "--config", configuration or self.configure()]
        self.place.start("program", command)

    def wait_until_used(self, *, used: bool) -> None:
        wait_for(f"the cache to be {'used' if used else 'left'}", lambda: self.hosts.exists() is used, PATIENCE)

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(self.certs.rglob("*"))}


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """All of it running, and ended with its processes after the test; logs are shown where it failed."""
    tools.ensure_native()
    place = Place(tmp_path / "run", Cgroup("rcache-node-tests"))
    place.cgroup.create()
    place.folder.mkdir()
    upstream = Registry(place, "upstream", _free_port())
    cache = Registry(place, "cache", _free_port(), remote=upstream.url)
    made = Machine(place, tmp_path, upstream, cache)
    made.certs.mkdir()
    try:
        upstream.start()
        cache.start()
        _start_containerd(made)
        yield made
    finally:
        place.cgroup.kill()
        place.cgroup.remove()
        for log in sorted(place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
        print(json.dumps({path: content.decode(errors="replace") for path, content in made.files().items()}, indent=1))


def test_first_pull_fills_the_cache_and_the_second_is_served_from_it(machine: Machine) -> None:
    reference, image = machine.push("first")
    machine.start_program()
    machine.wait_until_used(used=True)

    machine.pull(reference)
    once = machine.upstream.blob_requests()
    machine.pull(reference)

    assert len(once) == len(set(once)) == len(image.blobs)
    assert machine.upstream.blob_requests() == once


@pytest.mark.parametrize(
    ("away", "back"),
    [
        pytest.param(signal.SIGKILL, None, id="refused"),
        pytest.param(signal.SIGSTOP, signal.SIGCONT, id="silent"),
    ],
)
def test_cache_that_does_not_answer_is_left_and_used_again(
    machine: Machine, away: signal.Signals, back: signal.Signals | None
) -> None:
    machine.start_program()
    machine.wait_until_used(used=True)

    machine.cache.signal(away)
    machine.wait_until_used(used=False)
    assert machine.files() == {}, "no empty folder stays: it would hide _default"
    machine.pull(machine.push("away")[0])
    assert machine.cache.blob_requests() == []

    if back:
        machine.cache.signal(back)
    else:
        machine.cache.start()
    machine.wait_until_used(used=True)
    machine.pull(machine.push("back")[0])
    assert machine.cache.blob_requests()


def test_cache_that_answers_wrongly_is_not_used(machine: Machine) -> None:
    machine.cache.signal(signal.SIGKILL)
    closed = machine.folder / "htpasswd"
    closed.write_text("nobody:$2y$05$JbVxm0Gm9Z8q3o0yZlYwAeq0w0u3g9p1ZQKx0m6N9yq1mY0q3bX5K\n")
    machine.cache.htpasswd, machine.cache.remote = closed, None
    machine.cache.start()
    machine.start_program()
    state = machine.folder / "state" / "space-name" / "not-ready"

    wait_for("the reason", lambda: state.exists() and "status 401" in state.read_text(), PATIENCE)

    assert machine.files() == {}


def test_told_to_end_it_leaves_the_folder_as_it_was(machine: Machine) -> None:
    other = machine.certs / "127.0.0.1:1"
    other.mkdir()
    (other / "hosts.toml").write_text(FOREIGN)
    before = machine.files()
    machine.start_program(machine.configure(upstreams=(f"127.0.0.1:{machine.upstream.port}", "127.0.0.1:1")))
    machine.wait_until_used(used=True)
    wait_for("the merged file", lambda: (other / "hosts.toml").read_text() != FOREIGN, PATIENCE)

    machine.place.stop("program")

    assert machine.files() == before


def test_killed_it_leaves_pulls_alone_and_the_next_start_tidies(machine: Machine) -> None:
    machine.start_program()
    machine.wait_until_used(used=True)
    machine.place.signal("program", signal.SIGKILL)
    machine.cache.signal(signal.SIGKILL)

    machine.pull(machine.push("orphaned")[0])
    machine.start_program(machine.configure(upstreams=("other.example.com",)))

    machine.wait_until_used(used=False)


def test_state_tells_when_every_cache_is_used(machine: Machine) -> None:
    state = machine.folder / "state" / "space-name"
    machine.start_program()
    wait_for("ready", (state / "ready").exists, PATIENCE)
    assert not (state / "not-ready").exists()
    machine.cache.signal(signal.SIGKILL)
    wait_for("not ready", (state / "not-ready").exists, PATIENCE)
    reason = f"127.0.0.1:{machine.upstream.port}: the cache does not answer: connection refused\n"
    assert (state / "not-ready").read_text() == reason
    log = machine.place.log("program").read_text().splitlines()
    assert len(log) == 2, "a line for each change, none for quiet"


def test_wrong_configuration_is_refused_whole(machine: Machine) -> None:
    path = machine.configure()
    broken = json.loads(path.read_text())
    broken["probe"]["interval"] = "5 seconds"
    del broken["owner"]
    path.write_text(json.dumps(broken))
    command = [sys.executable, "-B", str(PROGRAM), "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert "owner: is missing, not a namespace and a name" in done.stderr
    assert "probe.interval: is '5 seconds', not a duration such as 5s or 500ms" in done.stderr


def _start_containerd(machine: Machine) -> None:
    folder = machine.folder
    (folder / "containerd.toml").write_text(
        f"""version = 3
root = '{folder}/containerd'
state = '{folder}/containerd-state'
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime']

[grpc]
  address = '{folder}/containerd.sock'

[ttrpc]
  address = '{folder}/containerd.sock.ttrpc'
"""
    )
    machine.place.start("containerd", [tools.go_binary("containerd", "containerd"), "-c", folder / "containerd.toml"])
    wait_for("containerd", (folder / "containerd.sock").exists, PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
