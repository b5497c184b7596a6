"""The chart's cache pod without Kubernetes: its containers as processes, as its StatefulSet describes them.

Programs, mounts and users are those of the rendered chart, and the programs come from the images of the test cluster;
nothing here knows what a cache consists of. The work of the kubelet and of the container runtime is done as they do it:
volumes, a root file system that is read-only, a process tree and an /etc/hosts of its own for each container, one
network and one host name for the pod. Liveness probes have no effect. Only with `has_limits` is the memory of each
container limited, by a control group of its own, and does a container that ends start again.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from machine import own_network
from machine.processes import Place, wait_for

from cluster import images
from cluster.container_limits import Limits
from cluster.container_script import container_script, pod_fields, pod_script
from cluster.pod_manifest import NAMESPACE, refuse_unknown_fields, render
from cluster.pod_volumes import PodVolumes, Tmpfs

if TYPE_CHECKING:
    from cluster.pod_manifest import Object

READY_SECONDS = 60.0


@dataclass
class CachePod:
    """One replica of the only cache of a release, in the network of the calling thread (`own_network`).

    `cache` is the cache's entry in a RegistryConfig, and `values` are the release's other values. `volume` is a folder,
    or a tmpfs to mount. `hosts` are more lines for /etc/hosts. The pods of one network differ by `number`.
    """

    place: Place
    cache: Object
    volume: Path | Tmpfs
    values: Object = field(default_factory=dict)
    hosts: str = ""
    number: int = 1
    ordinal: int = 0
    zone: str = ""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    has_limits: bool = False
    service: Object = field(init=False)
    limits: Limits | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Render the chart."""
        folder = self.folder
        folder.mkdir(parents=True)
        objects = render({"caches": [self.cache], **self.values}, folder / "values.yaml")
        (self._stateful_set,) = [one for one in objects if one["kind"] == "StatefulSet"]
        refuse_unknown_fields(self.spec)
        if self.has_limits:
            self.limits = Limits(self.place, f"pod-{self.number}")
        (claim,) = self._stateful_set["spec"]["volumeClaimTemplates"]
        config_maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
        self._volumes = PodVolumes(
            self.spec, claim["metadata"]["name"], self.volume, folder / "volumes", self.secrets, config_maps
        )
        name = self._stateful_set["metadata"]["name"]
        (self.service,) = [one for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == name]

    @property
    def config_maps(self) -> dict[str, dict[str, str]]:
        """The ConfigMaps that the pod may mount, by name."""
        return self._volumes.config_maps

    @property
    def name(self) -> str:
        """The pod's name, which is its host name too."""
        return f"{self._stateful_set['metadata']['name']}-{self.ordinal}"

    @property
    def folder(self) -> Path:
        return self.place.folder / f"pod-{self.number}"

    @property
    def spec(self) -> Object:
        """The pod's spec, as rendered."""
        spec: Object = self._stateful_set["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> dict[str, Object]:
        """The containers that run as long as the pod, by name."""
        return {one["name"]: one for one in self.spec["containers"]}

    @property
    def address(self) -> str:
        return own_network.pod_address(self.number)

    @property
    def host_line(self) -> str:
        """A line for /etc/hosts by which other replicas find this one."""
        service = self._stateful_set["spec"]["serviceName"]
        return f"{self.address} {self.name}.{service}.{NAMESPACE}.svc {self.name}.{service}\n"

    @property
    def url(self) -> str:
        """The URL at which containerd finds the cache."""
        scheme = "https" if self._has_tls else "http"
        return f"{scheme}://{self.address}:{self._port(self.service['spec']['ports'][0]['targetPort'])}"

    @property
    def volume_folder(self) -> Path:
        """The root of the cache's volume, as a path outside of the pod."""
        if isinstance(self.volume, Path):
            return self.volume
        return Path(f"/proc/{self._holder()}/root{self._volumes.source(self._volumes.claim)}")

    def start(self, *, wait: bool = True) -> None:
        """Start the containers, and wait until the pod is ready and each container lives."""
        if self.place.process_id(self._log_name("pod")) is None:
            self._hold_namespaces()
        for container in self.containers:
            self.start_container(container)
        if self.limits:
            self.limits.keep_running(lambda name: self._process(name) is not None, self.start_container)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the pod is ready and each container lives.

        Raises:
            ProgramDied: A container ended; the message has the end of its log.
        """
        wait_for(f"{self.name} to be ready", self._ready_or_dead, READY_SECONDS)

    def start_container(self, name: str) -> None:
        """Start a container that does not run, and wait until its program runs.

        Raises:
            ProgramDied: It ended at once; the message has the end of its log.
        """
        container = self.containers[name]
        root, configuration = images.unpacked(container["image"])
        script = self.folder / f"{name}.sh"
        files = {f"/etc/{file}": self.folder / file for file in ("hosts", "resolv.conf")}
        fields = pod_fields(self.name, self.address, self.zone)
        script.write_text(container_script(container, root, configuration, self._volumes, files, fields))
        log = self.log_file(name)
        log.touch()
        log.chmod(0o666)  # the program may open /dev/stderr once more, as with a container runtime
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        place = self.limits.place(container) if self.limits else self.place
        place.start(self._log_name(name), [*self._enter(), "unshare", *namespaces, "sh", script])
        wait_for(f"{name} to run", lambda: self._runs(name), READY_SECONDS, 0.02)

    def stop(self) -> dict[str, float]:
        """End the pod as the kubelet does, and return how long each container took, in seconds.

        Containers that do not end within the grace period are killed. All volumes but the cache's are emptied.
        """
        begun = time.monotonic()
        ended: dict[str, float] = {}
        running = [name for name in self.containers if self._process(name) is not None]
        for name in running:
            _, configuration = images.unpacked(self.containers[name]["image"])
            with suppress(ProcessLookupError):  # it ended in the meantime
                self._signal(name, signal.Signals[configuration.get("StopSignal", "SIGTERM")])
        while len(ended) < len(running):
            seconds = time.monotonic() - begun
            for name in running:
                if name not in ended and self._process(name) is None:
                    ended[name] = seconds
                elif name not in ended and seconds > self.spec["terminationGracePeriodSeconds"]:
                    with suppress(ProcessLookupError):
                        self._signal(name, signal.SIGKILL)
            time.sleep(0.02)
        for volume in self.spec["volumes"]:
            if "emptyDir" in volume:
                self._run("find", self._volumes.source(volume["name"]), "-mindepth", "1", "-delete")
        return ended

    def close(self) -> None:
        """End the pod and release its resources; a volume in memory is lost."""
        if self.limits:
            self.limits.close()
        for name in self.containers:
            if self._process(name) is not None:
                with suppress(ProcessLookupError):  # it ended in the meantime
                    self.kill(name)
        self.place.stop(self._log_name("pod"))

    def kill(self, container: str) -> None:
        """End a container at once, with all its processes."""
        self._signal(container, signal.SIGKILL)
        wait_for(f"{container} to end", lambda: self._process(container) is None, READY_SECONDS, 0.02)

    def hang(self, container: str) -> None:
        """Stop all processes of a container until `resume`."""
        self._signal(container, signal.SIGSTOP, whole=True)

    def resume(self, container: str) -> None:
        """Continue the processes of a container after `hang`."""
        self._signal(container, signal.SIGCONT, whole=True)

    def process(self, container: str) -> int:
        """Return the id of a container's first process on this machine.

        Raises:
            ProcessLookupError: The container does not run.
        """
        process = self._process(container)
        if process is None:
            message = f"{container} does not run"
            raise ProcessLookupError(message)
        return process

    def processes(self, container: str) -> list[int]:
        """Return the ids of all processes of a container, beginning with its first one."""
        processes = [self.process(container)]
        for process in processes:
            processes += _children(process)
        return processes

    def log_file(self, container: str) -> Path:
        return self.place.log(self._log_name(container))

    def log(self, container: str) -> str:
        """Return the output of a container."""
        return self.log_file(container).read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Return the value of each sample by its name and labels, without the label of the upstream."""
        lines = [line for line in self.metrics_text().splitlines() if line and not line.startswith("#")]
        own = re.compile(r'upstream_host="[^"]*",?')
        samples = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            samples[own.sub("", name, count=1).removesuffix("{}")] = float(value)
        return samples

    def metrics_text(self) -> str:
        """Return the metrics as Prometheus gets them."""
        annotations = self._stateful_set["spec"]["template"]["metadata"]["annotations"]
        port, path = int(annotations["prometheus.io/port"]), annotations["prometheus.io/path"]
        status, body = self._get(port, path, 10, tls=annotations.get("prometheus.io/scheme") == "https")
        assert status == http.client.OK, body
        return body.decode()

    def is_ready(self) -> bool:
        """Return whether every container passes its readiness probe."""
        return self._passes("readinessProbe")

    def lives(self) -> bool:
        """Return whether every container passes its liveness probe."""
        return self._passes("livenessProbe")

    def set_secret(self, name: str, data: dict[str, str]) -> None:
        """Give a Secret new content, which its mounts have at once."""
        self._volumes.set_secret(name, data)

    def set_config_map(self, name: str, data: dict[str, str]) -> None:
        """Give a ConfigMap new content, which its mounts have at once."""
        self._volumes.set_config_map(name, data)

    def set_hosts(self, lines: str) -> None:
        """Replace the additional lines in /etc/hosts."""
        self.hosts = lines
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n{lines}")

    def remount(self, options: str) -> None:
        """Change how the volume in memory is mounted, for all containers: `ro`, `rw`, `size=…`, `nr_inodes=…`.

        Raises:
            RuntimeError: It would be read-only while a file is open for writing, or smaller than its content.
        """
        assert isinstance(self.volume, Tmpfs), "a folder of this machine is not mounted by us"
        self._run("mount", "-o", f"remount,{options}", self._volumes.source(self._volumes.claim))

    def _hold_namespaces(self) -> None:
        """Start the process that holds the pod's network, host name and volumes, as a pause container does."""
        self._volumes.write_all()
        script = self.folder / "pod.sh"
        prepared = self.folder / "prepared"
        prepared.unlink(missing_ok=True)
        script.write_text(pod_script(self.name, self._volumes, prepared))
        namespaces = ["--mount", "--net", "--uts", "--ipc", "--propagation", "private"]
        holder = self.place.start(self._log_name("pod"), ["unshare", *namespaces, "sh", script])

        def is_prepared() -> bool:
            self.place.fail_if_dead(self._log_name("pod"))
            return prepared.exists()

        wait_for(f"the namespaces of {self.name}", is_prepared, READY_SECONDS, 0.02)
        own_network.join(holder, self.number)
        self.set_hosts(self.hosts)
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # which refuses connections at once

    def _port(self, port: int | str) -> int:
        if isinstance(port, int):
            return port
        (number,) = [
            known["containerPort"]
            for container in self.containers.values()
            for known in container.get("ports", ())
            if known["name"] == port
        ]
        return int(number)

    def _ready_or_dead(self) -> bool:
        for name in self.containers:
            self.place.fail_if_dead(self._log_name(name))
        return self.is_ready() and self.lives()

    def _passes(self, kind: str) -> bool:
        return all(self._passes_probe(one[kind]) for one in self.containers.values() if kind in one)

    def _passes_probe(self, probe: Object) -> bool:
        request = probe["httpGet"]
        try:
            tls = request.get("scheme") == "HTTPS"
            status, _ = self._get(self._port(request["port"]), request["path"], probe.get("timeoutSeconds", 1), tls=tls)
        except OSError:
            return False
        return http.client.OK <= status < http.client.BAD_REQUEST

    @property
    def _has_tls(self) -> bool:
        return any(volume["name"] == "tls" for volume in self.spec["volumes"])

    def _get(self, port: int, path: str, timeout: float, *, tls: bool = False) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        if tls:  # as the kubelet, which does not check certificates
            context = ssl._create_unverified_context()  # noqa: S323, SLF001 - see above
            connection = http.client.HTTPSConnection(self.address, port, timeout=timeout, context=context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            message = f"the response to {path} is not HTTP"
            raise ConnectionError(message) from error
        finally:
            connection.close()

    def _log_name(self, container: str) -> str:
        return f"pod-{self.number}-{container}"

    def _holder(self) -> int:
        holder = self.place.process_id(self._log_name("pod"))
        assert holder is not None, f"{self.name} is not up"
        return holder

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._holder()), "--mount", "--net", "--uts", "--ipc"]

    def _run(self, *command: object) -> None:
        self.place.run([*self._enter(), *command])

    def _process(self, container: str) -> int | None:
        outside = self.place.process_id(self._log_name(container))
        return next(iter(_children(outside)), None) if outside is not None else None

    def _runs(self, container: str) -> bool:
        """Return whether the container's own program runs: the programs that start it run as root."""
        self.place.fail_if_dead(self._log_name(container))
        process = self._process(container)
        try:
            return process is not None and Path(f"/proc/{process}").stat().st_uid != 0
        except FileNotFoundError:
            return False  # the process ended

    def _signal(self, container: str, number: signal.Signals, *, whole: bool = False) -> None:
        for process in self.processes(container) if whole else [self.process(container)]:
            os.kill(process, number)


def _children(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []  # the process ended
    return [int(child) for child in children.split()]
