"""The node program against a real containerd and real registries, without Kubernetes."""

from __future__ import annotations

import os
import shutil
import signal
import socketserver
import subprocess
import threading
import time
import tomllib
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cluster import images
from cluster.node_program import FIND_PROXY, UNPRIVILEGED_COMMAND, cache_entry, write_configuration
from machine import tools
from machine.cgroups import Cgroup
from machine.paths import CHART
from machine.processes import Place, free_port, wait_for
from upstreams import oci
from upstreams.distribution import Distribution
from upstreams.push import push_image

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ten times the most that the program needs, which is the time of two failed probes with default settings.
LIMIT_SECONDS = 150.0
# The memory that the program may use with ten caches.
PROMISED_KIB = 25 * 1024
FOREIGN = '# theirs\n[host."http://127.0.0.1:9"]\n  capabilities = ["pull"]\n'


@dataclass
class Machine:
    """A containerd, an upstream, its cache, and the node program's folders."""

    place: Place
    folder: Path
    upstream: Distribution
    cache: Distribution

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    @property
    def name(self) -> str:
        """The upstream's name in image references."""
        return f"127.0.0.1:{self.upstream.port}"

    @property
    def hosts(self) -> Path:
        """The hosts.toml that containerd reads for the upstream."""
        return self.certs / f"127.0.0.1_{self.upstream.port}_" / "hosts.toml"

    def push(self, name: str) -> tuple[str, oci.Image]:
        """Push an image with unique content to the upstream."""
        image = images.busybox(oci.random_layer(name, 300_000), label=name)
        push_image(f"127.0.0.1:{self.upstream.port}", name, "1", image)
        return f"127.0.0.1:{self.upstream.port}/{name}:1", image

    def pull(self, reference: str, *, local: bool = True) -> None:
        """Pull with the registry directory, as containerd does for a kubelet, and remove the image again.

        If it is `local`, the client pulls, and else containerd itself.
        """
        client = [tools.go_binary("containerd", "ctr"), "--address", self.folder / "containerd.sock"]
        who = ["--local"] if local else []
        self.place.run([*client, "images", "pull", *who, "--hosts-dir", self.certs, reference])
        self.place.run([*client, "images", "remove", "--sync", reference])

    def configure(
        self,
        *,
        upstreams: tuple[str, ...] | None = None,
        owner: str = "space/name",
        probe: dict[str, object] | None = None,
        metrics_port: int = 0,
        cache_host: str = "127.0.0.1",
        **changes: object,
    ) -> Path:
        return write_configuration(
            self.folder / f"{owner.replace('/', '-')}.json",
            certs=self.certs,
            state=self.state(owner),
            containerd=self.containerd_configuration(),
            owner=owner,
            probe=probe or {"interval": "200ms", "timeout": "500ms", "failureThreshold": 2, "maxBackoff": "0s"},
            metricsPort=metrics_port,
            caches=[
                cache_entry(upstream, self.upstream.url, cache_host, self.cache.port)
                for upstream in upstreams or (self.name,)
            ],
            **changes,
        )

    def containerd_configuration(self) -> Path:
        """Write the configuration of a node's containerd; here, the client names the registry directory instead."""
        path = self.folder / "node-containerd.toml"
        path.write_text(
            f"version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{self.certs}'\n"
        )
        return path

    def state(self, owner: str = "space/name") -> Path:
        return self.folder / "state" / owner.replace("/", "-")

    def not_ready(self, owner: str = "space/name") -> str:
        """Return what the readiness probe would show; nothing if the program is ready or has not started yet."""
        try:
            return (self.state(owner) / "not-ready").read_text()
        except FileNotFoundError:
            return ""

    def start_program(self, configuration: Path | None = None, name: str = "program") -> int:
        return self.place.start(name, [*UNPRIVILEGED_COMMAND, "--config", configuration or self.configure()])

    def wait_until_used(self, *, used: bool) -> None:
        wait_for(f"the cache to be {'used' if used else 'left'}", lambda: self.hosts.exists() is used, LIMIT_SECONDS)

    def locks(self) -> list[Path]:
        """Return the lock files by which running programs know of each other."""
        return [*self.certs.glob(".registry-cache-*.lock")]

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.certs.iterdir() if path.is_dir())

    def files(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Return mode, owner, time and content of every folder and file but the locks."""
        entries = {}
        for path in sorted(set(self.certs.rglob("*")) - set(self.locks())):
            status = path.stat()
            content, when = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else (b"", 0)
            entries[str(path.relative_to(self.certs))] = (status.st_mode, status.st_uid, when, content)
        return entries


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Run all of it for one test, and print the ends of all logs."""
    tools.ensure_native()
    place = Place(tmp_path / "run", Cgroup(f"rcache-node-tests-{os.getpid()}"))
    place.cgroup.create()
    place.folder.mkdir()
    upstream = Distribution(place, "upstream", free_port())
    cache = Distribution(place, "cache", free_port(), remote=upstream.url)
    new = Machine(place, tmp_path, upstream, cache)
    new.certs.mkdir()
    try:
        upstream.start()
        cache.start()
        _start_containerd(new)
        yield new
    finally:
        place.cgroup.kill()
        place.cgroup.remove()
        for log in sorted(place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
        for path in sorted(new.certs.rglob("hosts.toml*")):
            print(f"--- {path}", path.read_text(errors="replace"), sep="\n")


def test_second_pull_is_served_from_the_cache(machine: Machine) -> None:
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
def test_cache_that_does_not_answer_is_withdrawn_and_used_again(
    machine: Machine, away: signal.Signals, back: signal.Signals | None
) -> None:
    machine.start_program()
    machine.wait_until_used(used=True)

    machine.cache.signal(away)
    machine.wait_until_used(used=False)
    # No empty folder stays, since it would hide _default.
    wait_for("the other files to go", lambda: machine.files() == {}, LIMIT_SECONDS)
    machine.pull(machine.push("away")[0])
    assert machine.cache.blob_requests() == []

    if back:
        machine.cache.signal(back)
    else:
        machine.cache.start()
    machine.wait_until_used(used=True)
    machine.pull(machine.push("back")[0])
    assert machine.cache.blob_requests()


def test_cache_is_withdrawn_and_used_again_in_the_promised_time_with_default_settings(
    machine: Machine,
) -> None:
    """The cache is silent, which takes longest to notice: each failed probe takes its timeout."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    machine.start_program(machine.configure(probe=values["nodeProgram"]["probe"]))
    machine.wait_until_used(used=True)
    for away, change in ((True, "withdrawn"), (False, "used again")):
        machine.cache.signal(signal.SIGSTOP if away else signal.SIGCONT)
        begun = time.monotonic()
        machine.wait_until_used(used=not away)
        seconds = time.monotonic() - begun
        print(f"{change} after {seconds:.1f} s")


def test_cache_with_wrong_responses_is_not_used(machine: Machine) -> None:
    machine.cache.signal(signal.SIGKILL)
    closed = machine.folder / "htpasswd"
    closed.write_text("nobody:$2y$05$JbVxm0Gm9Z8q3o0yZlYwAeq0w0u3g9p1ZQKx0m6N9yq1mY0q3bX5K\n")
    machine.cache.htpasswd, machine.cache.remote = closed, None
    machine.cache.start()
    machine.start_program()

    wait_for("the reason", lambda: "status 401" in machine.not_ready(), LIMIT_SECONDS)

    assert machine.files() == {}


def test_ten_caches_need_little_memory_and_leave_no_files(machine: Machine) -> None:
    upstreams = tuple(f"r{number}.example.com" for number in range(10))
    process = machine.start_program(machine.configure(upstreams=upstreams))
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)

    assert machine.folders() == list(upstreams)
    status = Path(f"/proc/{process}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    print(f"{peak / 1024:.1f} MiB with ten caches")
    assert peak <= PROMISED_KIB
    machine.place.stop("program")
    assert machine.files() == {}
    log = machine.place.log("program").read_text().splitlines()
    assert sorted(log) == sorted(
        f"{name}: {change}"
        for name in upstreams
        for change in (f"using the cache at {machine.cache.url}", "not using the cache: the node program is stopping")
    )


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("127.0.0.1_{port}_", id="first-name"),
        pytest.param("127.0.0.1:{port}", id="second-name"),
        pytest.param("_default", id="default"),
    ],
)
def test_foreign_mirror_comes_after_the_cache_and_alone_when_the_cache_is_away(machine: Machine, place: str) -> None:
    """As containerd reads it: no file of ours may hide a foreign one."""
    theirs = Distribution(machine.place, "theirs", free_port(), remote=machine.upstream.url)
    theirs.start()
    path = machine.certs / place.format(port=machine.upstream.port) / "hosts.toml"
    path.parent.mkdir()
    path.write_text(f'# theirs\n[host."{theirs.url}"]\n  capabilities = ["pull", "resolve"] # both\n')
    path.chmod(0o640)
    os.utime(path, (1, 1))
    before = machine.files()

    machine.start_program()
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    machine.pull(machine.push("with")[0])
    assert machine.cache.blob_requests()
    assert theirs.blob_requests() == []

    machine.cache.signal(signal.SIGKILL)
    machine.pull(machine.push("next")[0])  # while the file still names the cache, or right after that
    assert theirs.blob_requests(), "their mirror comes next"
    wait_for("the foreign file alone", lambda: machine.files() == before, LIMIT_SECONDS)

    machine.cache.start()
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    machine.place.stop("program")
    assert machine.files() == before


# As they write them for an upstream with one mirror (k3s: pkg/agent/templates/templates.go; Talos:
# internal/pkg/containers/cri/containerd/hosts.go). k3s's own containerd reads `rewrite` too.
K3S = """# File generated by k3s. DO NOT EDIT.


server = "{upstream}/v2"
capabilities = ["pull", "resolve", "push"]


[host]
[host."{mirror}/v2"]
  capabilities = ["pull", "resolve"]
"""
TALOS = """[host]
  [host.'{mirror}']
    capabilities = ['pull', 'resolve']
"""
TALOS_WITHOUT_FALLBACK = """server = '{mirror}'
capabilities = ['pull', 'resolve']
"""


@pytest.mark.parametrize(
    ("text", "falls_back"),
    [
        pytest.param(K3S, True, id="k3s"),
        pytest.param(TALOS, True, id="talos"),
        pytest.param(TALOS_WITHOUT_FALLBACK, False, id="talos-without-fallback"),
    ],
)
def test_old_mirror_of_k3s_or_talos_is_asked_only_when_the_cache_is_away(
    machine: Machine, text: str, *, falls_back: bool
) -> None:
    old = Distribution(machine.place, "old", free_port(), remote=machine.upstream.url)
    old.start()
    machine.hosts.parent.mkdir()
    machine.hosts.write_text(text.format(upstream=machine.upstream.url, mirror=old.url))
    before = machine.files()
    machine.start_program()
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)

    machine.pull(machine.push("first")[0])
    assert machine.cache.blob_requests()
    assert old.blob_requests() == []

    old.signal(signal.SIGKILL)
    begun = time.monotonic()
    machine.pull(machine.push("dead-mirror")[0])
    print(f"a pull through the cache beside a dead mirror: {time.monotonic() - begun:.2f} s")

    machine.cache.signal(signal.SIGKILL)
    wait_for("the old file alone", lambda: machine.files() == before, LIMIT_SECONDS)
    reference = machine.push("both-away")[0]
    if falls_back:
        machine.pull(reference)
    else:
        with pytest.raises(RuntimeError, match="connection refused"):  # as without the cache
            machine.pull(reference)
    old.start()
    machine.pull(reference)
    assert old.blob_requests()


def test_mirror_that_k3s_removes_does_not_come_back(machine: Machine) -> None:
    """When k3s starts, it removes the folders with its own first line whose registries have no mirror any more."""
    machine.hosts.parent.mkdir()
    machine.hosts.write_text(K3S.format(upstream=machine.upstream.url, mirror="http://127.0.0.1:9"))
    machine.start_program()
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    assert machine.hosts.read_text().startswith("# File generated by k3s. DO NOT EDIT.\n")

    shutil.rmtree(machine.hosts.parent)
    wait_for("the cache", machine.hosts.exists, LIMIT_SECONDS)
    assert list(tomllib.loads(machine.hosts.read_text())["host"]) == [machine.cache.url]
    machine.place.stop("program")
    assert machine.files() == {}


def test_foreign_file_that_appears_while_the_cache_is_in_use_is_respected(machine: Machine) -> None:
    machine.start_program()
    machine.wait_until_used(used=True)
    machine.hosts.write_text(FOREIGN)

    def hosts() -> list[str]:
        return list(tomllib.loads(machine.hosts.read_text())["host"])

    wait_for("both", lambda: hosts() == [machine.cache.url, "http://127.0.0.1:9"], LIMIT_SECONDS)
    machine.pull(machine.push("both")[0])
    machine.place.stop("program")
    assert machine.hosts.read_text() == FOREIGN
    assert [path.name for path in machine.hosts.parent.iterdir()] == ["hosts.toml"]


def test_program_restores_the_registry_directory_when_it_ends(machine: Machine) -> None:
    other = machine.certs / "127.0.0.1:1"
    other.mkdir()
    (other / "hosts.toml").write_text(FOREIGN)
    os.chown(other / "hosts.toml", 12345, 12345)  # without capabilities, such a file cannot be linked
    before = machine.files()
    machine.start_program(machine.configure(upstreams=(machine.name, "127.0.0.1:1")))
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    assert (other / "hosts.toml").read_text() != FOREIGN

    machine.place.stop("program")

    assert machine.files() == before
    assert machine.locks() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_ends_at_once_while_probes_hang(machine: Machine, number: signal.Signals) -> None:
    long = {"interval": "100ms", "timeout": "1m", "failureThreshold": 2, "maxBackoff": "0s"}
    with _running(machine.configure(probe=long)) as program:
        machine.wait_until_used(used=True)
        machine.cache.signal(signal.SIGSTOP)
        wait_for("a probe to hang", lambda: _has_connection(machine.cache.port), LIMIT_SECONDS)
        for _ in range(3):  # impatient people and supervisors repeat signals
            program.send_signal(number)
        assert program.wait(timeout=5) == 0
    assert machine.files() == {}


def test_stopped_program_continues(machine: Machine) -> None:
    """As with a frozen machine: the wait for a signal then returns nothing."""
    with _running(machine.configure()) as program:
        machine.wait_until_used(used=True)
        program.send_signal(signal.SIGSTOP)
        time.sleep(1)  # longer than its interval
        program.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(timeout=3)
        assert machine.hosts.exists()


def test_killed_program_harms_no_pull_and_the_next_one_cleans_up(machine: Machine) -> None:
    machine.start_program()
    machine.wait_until_used(used=True)
    machine.place.signal("program", signal.SIGKILL)
    machine.cache.signal(signal.SIGKILL)

    machine.pull(machine.push("orphaned")[0])
    machine.start_program(machine.configure(upstreams=("other.example.com",)))

    machine.wait_until_used(used=False)


def test_two_releases_share_the_registry_directory_and_take_over_from_each_other(machine: Machine) -> None:
    upstreams = {"one/name": (machine.name, "one.example.com"), "two/name": (machine.name, "two.example.com")}
    for owner, names in upstreams.items():
        machine.start_program(machine.configure(owner=owner, upstreams=names), name=owner.partition("/")[0])
        wait_for(f"{owner} to settle", lambda owner=owner: _settled(machine, owner), LIMIT_SECONDS)  # type: ignore[misc]
    assert (machine.state("one/name") / "ready").exists()
    refused = f"{machine.name}: the upstream is managed by the node program of one/name\n"
    wait_for("the second to say why", lambda: machine.not_ready("two/name") == refused, LIMIT_SECONDS)

    machine.place.stop("one")
    wait_for("the other to take over", (machine.state("two/name") / "ready").exists, LIMIT_SECONDS)
    assert set(machine.folders()) == {machine.hosts.parent.name, "two.example.com"}
    machine.pull(machine.push("taken")[0])
    assert machine.cache.blob_requests()

    machine.place.stop("two")
    assert machine.files() == {}


def test_files_of_a_killed_release_are_taken_over_by_another_release(machine: Machine) -> None:
    machine.start_program(machine.configure(owner="old/name", upstreams=(machine.name, "gone.example.com")), name="old")
    wait_for("the old one to be ready", (machine.state("old/name") / "ready").exists, LIMIT_SECONDS)
    machine.place.signal("old", signal.SIGKILL)

    machine.start_program(machine.configure(owner="new/name"), name="new")

    wait_for("the new one to be ready", (machine.state("new/name") / "ready").exists, LIMIT_SECONDS)
    assert machine.folders() == [machine.hosts.parent.name]
    assert "written by new/name" in machine.hosts.read_text()
    assert len(machine.locks()) == 1
    machine.place.stop("new")
    assert [*machine.certs.iterdir()] == []


def test_unstable_cache_is_withdrawn_with_growing_backoff(machine: Machine) -> None:
    probe = {"interval": "100ms", "timeout": "500ms", "failureThreshold": 1, "maxBackoff": "5m"}
    machine.start_program(machine.configure(probe=probe))
    for _ in range(2):
        machine.wait_until_used(used=True)
        machine.cache.signal(signal.SIGKILL)
        machine.wait_until_used(used=False)
        machine.cache.start()
    begun = time.monotonic()
    unsteady = "the cache was unsteady, and has to answer for 15 s before it is used again"
    reason = f"{machine.name}: {unsteady}\n"
    wait_for("the reason", lambda: machine.not_ready() == reason, LIMIT_SECONDS)
    machine.wait_until_used(used=True)
    assert time.monotonic() - begun > 12


def test_metrics_count_probes_and_withdrawals(machine: Machine) -> None:
    port = free_port()
    machine.start_program(machine.configure(metrics_port=port))
    machine.wait_until_used(used=True)
    machine.cache.signal(signal.SIGKILL)
    machine.wait_until_used(used=False)

    def samples() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_SECONDS) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = answer.read().decode()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        }

    withdrawn = f'registry_cache_node_withdrawals_total{{upstream_host="{machine.name}",reason="no_connection"}}'
    wait_for("the withdrawal to be counted", lambda: samples().get(withdrawn) == 1, LIMIT_SECONDS)
    values = samples()
    label = f'{{upstream_host="{machine.name}"'
    assert values[f"registry_cache_node_mirror_active{label}}}"] == 0
    assert values[f'registry_cache_node_probes_total{label},result="ok"}}'] >= 1
    assert values[f'registry_cache_node_probes_total{label},result="no_connection"}}'] >= 2
    assert values["registry_cache_node_containerd_reads_registry_directory"] == 1
    machine.cache.start()
    machine.wait_until_used(used=True)
    wait_for("it to be active", lambda: samples()[f"registry_cache_node_mirror_active{label}}}"] == 1, LIMIT_SECONDS)


def test_used_port_of_the_metrics_is_reported_and_stops_nothing(machine: Machine) -> None:
    machine.start_program(machine.configure(metrics_port=machine.upstream.port))
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    assert f"metrics are not served: cannot listen on port {machine.upstream.port}: Address already in use" in (
        machine.place.log("program").read_text()
    )


def test_containerd_that_does_not_read_the_registry_directory_is_reported_and_pulls_succeed(machine: Machine) -> None:
    configuration = machine.configure()
    machine.containerd_configuration().write_text("version = 3\n")
    machine.start_program(configuration)
    machine.wait_until_used(used=True)

    wait_for("the reason", lambda: machine.not_ready().startswith("containerd: "), LIMIT_SECONDS)

    assert f"config_path = '{machine.certs}'" in machine.not_ready().replace('"', "'")
    machine.place.stop("program")
    assert machine.files() == {}


@pytest.mark.parametrize(
    ("no_proxy", "is_checked", "uses_cache"),
    [
        pytest.param("localhost", False, False, id="not checked"),
        pytest.param("localhost", True, False, id="proxy"),
        pytest.param("localhost,0.0.0.0/8", True, True, id="no proxy for Services"),
    ],
)
def test_node_whose_containerd_uses_a_proxy_leaves_the_caches(
    machine: Machine, no_proxy: str, *, is_checked: bool, uses_cache: bool
) -> None:
    """Without the check, each pull asks the dead proxy first."""
    with _dead_proxy() as proxy:
        environment = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": no_proxy}
        units = machine.folder / "units"
        drop_in = units / "containerd.service.d" / "proxy.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Service]\n" + "".join(f"Environment={name}={environment[name]}\n" for name in environment))
        machine.place.stop("containerd")
        _start_containerd(machine, environment)
        check = {"units": ["containerd.service"], "directories": [str(units)], "mounts": {str(units): str(units)}}
        # This is an address of this machine, and for Go no loopback address, which no proxy is asked for.
        configuration = machine.configure(cache_host="0.0.0.0", proxyCheck=check)  # noqa: S104 - see above
        if is_checked:
            machine.place.run([*FIND_PROXY, "--config", configuration])
        machine.start_program(configuration)
        if is_checked and not uses_cache:
            wait_for("the reason", lambda: f"the proxy that {drop_in} sets" in machine.not_ready(), LIMIT_SECONDS)
            assert machine.files() == {}
        else:
            machine.wait_until_used(used=True)

        machine.pull(machine.push("image")[0], local=False)

        assert bool(machine.cache.blob_requests()) is uses_cache
        assert (proxy.connections > 0) is not is_checked


def test_state_is_ready_when_every_cache_is_used(machine: Machine) -> None:
    machine.start_program()
    wait_for("ready", (machine.state() / "ready").exists, LIMIT_SECONDS)
    assert not (machine.state() / "not-ready").exists()
    machine.cache.signal(signal.SIGKILL)
    wait_for("not ready", machine.not_ready, LIMIT_SECONDS)
    assert machine.not_ready() == f"{machine.name}: the cache did not answer: connection refused\n"
    log = machine.place.log("program").read_text().splitlines()
    assert len(log) == 2, "a line for each change, none for quiet"


def test_wrong_configuration_is_refused_with_all_problems(machine: Machine) -> None:
    path = machine.configure(
        probe={"interval": "5 seconds", "timeout": "1s", "failureThreshold": 1, "maxBackoff": "0s"}, owner="x"
    )
    done = subprocess.run(
        [*map(str, UNPRIVILEGED_COMMAND), "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 2
    assert "owner: must be a namespace and a name such as kube-system/registry-cache, but is 'x'" in done.stderr
    assert "probe.interval: must be a duration such as 5s or 500ms, but is '5 seconds'" in done.stderr
    assert machine.files() == {}


class DeadProxy(socketserver.ThreadingTCPServer):
    """A proxy that ends each connection at once, and counts them."""

    connections = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, *_: object) -> None:
        self.connections += 1


@contextmanager
def _dead_proxy() -> Iterator[DeadProxy]:
    with DeadProxy(("127.0.0.1", 0), socketserver.BaseRequestHandler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@contextmanager
def _running(configuration: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program as a child process, whose exit code is known."""
    program = subprocess.Popen([*map(str, UNPRIVILEGED_COMMAND), "--config", str(configuration)])
    try:
        yield program
    finally:
        program.kill()
        program.wait()


def _has_connection(port: int) -> bool:
    """Return whether there is a connection to a port of this machine (/proc/net/tcp: remote address, state 01)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


def _settled(machine: Machine, owner: str) -> bool:
    """Return whether the program has probed each of its caches."""
    return (machine.state(owner) / "ready").exists() or "is managed by" in machine.not_ready(owner)


def _start_containerd(machine: Machine, environment: dict[str, str] | None = None) -> None:
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
    (folder / "containerd.sock").unlink(missing_ok=True)
    program = tools.go_binary("containerd", "containerd")
    machine.place.start("containerd", [program, "-c", folder / "containerd.toml"], environment)
    wait_for("containerd", (folder / "containerd.sock").exists, LIMIT_SECONDS)
