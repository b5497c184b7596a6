"""The chart's cache pod without Kubernetes: its containers as processes, as its StatefulSet says.

What runs, with which mounts and as whom is read from the rendered chart, and the programs are those of the images of
the test cluster; nothing here knows what a cache is made of. What the kubelet and the container runtime do is done as
they do it: volumes, the root read-only, a process tree and an /etc/hosts of its own for each container, one network
and host name for the pod. What they do not do here: restart what ends, limit memory, look at liveness.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from machine import environment, own_network, tools
from machine.paths import CHART
from machine.processes import Place, wait_for

from cluster import images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMESPACE = "space"
# How long a pod may take to be ready. Seconds.
PATIENCE = 60.0
# What of the manifest is done here, or makes no difference here.
KNOWN_OF_POD = {
    *("affinity", "automountServiceAccountToken", "containers", "enableServiceLinks", "imagePullSecrets"),
    *("nodeSelector", "priorityClassName", "securityContext", "terminationGracePeriodSeconds", "tolerations"),
    *("topologySpreadConstraints", "volumes"),
}
KNOWN_OF_CONTAINER = {
    *("args", "command", "env", "image", "imagePullPolicy", "livenessProbe", "name", "ports", "readinessProbe"),
    *("resources", "securityContext", "volumeMounts"),
}
KNOWN_OF_PROBE = {
    *("failureThreshold", "httpGet", "periodSeconds", "terminationGracePeriodSeconds", "timeoutSeconds"),
}
DEVICES = ("full", "null", "random", "urandom", "zero")

Object = dict[str, Any]


@dataclass(frozen=True)
class Tmpfs:
    """A volume in memory: its size as tmpfs has it (`64m`), and how many files fit, 0 for any number."""

    size: str
    inodes: int = 0

    @property
    def options(self) -> str:
        return f"size={self.size},nr_inodes={self.inodes}"


@dataclass
class CachePod:
    """One replica of the only cache of a release, in the network that the calling thread is in (`own_network`).

    `cache` is the cache's entry in a RegistryConfig, `values` what else the release is given; `volume` a folder or
    what is to be mounted; `hosts` more lines for /etc/hosts. `number` tells the pods of one network apart.
    """

    place: Place
    cache: Object
    volume: Path | Tmpfs
    values: Object = field(default_factory=dict)
    hosts: str = ""
    number: int = 1
    ordinal: int = 0
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    config_maps: dict[str, dict[str, str]] = field(init=False)
    service: Object = field(init=False)

    def __post_init__(self) -> None:
        """Render the chart."""
        folder = self.folder
        folder.mkdir(parents=True)
        objects = render({"caches": [self.cache], **self.values}, folder / "values.yaml")
        (self._stateful_set,) = [one for one in objects if one["kind"] == "StatefulSet"]
        self._refuse_unknown()
        self.config_maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
        name = self._stateful_set["metadata"]["name"]
        (self.service,) = [one for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == name]

    @property
    def name(self) -> str:
        """The pod's name, which is its host name too."""
        return f"{self._stateful_set['metadata']['name']}-{self.ordinal}"

    @property
    def folder(self) -> Path:
        return self.place.folder / f"pod-{self.number}"

    @property
    def spec(self) -> Object:
        """The pod's, as rendered."""
        spec: Object = self._stateful_set["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> dict[str, Object]:
        """What runs while the pod does, by name."""
        return {one["name"]: one for one in self.spec["containers"]}

    @property
    def address(self) -> str:
        return own_network.pod_address(self.number)

    @property
    def host_line(self) -> str:
        """A line for /etc/hosts that leads its name among the replicas to here."""
        service = self._stateful_set["spec"]["serviceName"]
        return f"{self.address} {self.name}.{service}.{NAMESPACE}.svc {self.name}.{service}\n"

    @property
    def url(self) -> str:
        """Where containerd finds the cache."""
        return f"http://{self.address}:{self._port(self.service['spec']['ports'][0]['targetPort'])}"

    @property
    def volume_folder(self) -> Path:
        """The volume's root, as it is seen from here."""
        if isinstance(self.volume, Path):
            return self.volume
        return Path(f"/proc/{self._holder()}/root{self._source(self._claim)}")

    def start(self, *, wait: bool = True) -> None:
        """Start the containers, and wait until the pod is ready and each container lives: one may be ready without."""
        if self.place.process_id(self._log_name("pod")) is None:
            self._hold_namespaces()
        for container in self.containers:
            self.start_container(container)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the pod is ready and each container lives; where one has ended, the error has its log's end."""
        wait_for(f"{self.name} to be ready", self._ready_or_dead, PATIENCE)

    def start_container(self, name: str) -> None:
        """Start a container that does not run, and wait until its program does.

        Raises:
            ProgramDied: it ended at once; the message has the end of its log.
        """
        container = self.containers[name]
        root, configuration = images.unpacked(container["image"])
        script = self.folder / f"{name}.sh"
        script.write_text(self._script(container, root, configuration))
        log = self.log_file(name)
        log.touch()
        log.chmod(0o666)  # as from a container runtime, the program may open /dev/stderr once more
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self.place.start(self._log_name(name), [*self._enter(), "unshare", *namespaces, "sh", script])
        wait_for(f"{name} to run", lambda: self._runs(name), PATIENCE, 0.02)

    def stop(self) -> dict[str, float]:
        """End the pod as the kubelet does, and return how long each container took, in seconds.

        What does not end in the time that the pod is given for it is killed. Its volumes but the cache's are emptied.
        """
        begun = time.monotonic()
        ended: dict[str, float] = {}
        running = [name for name in self.containers if self._process(name) is not None]
        for name in running:
            _, configuration = images.unpacked(self.containers[name]["image"])
            with suppress(ProcessLookupError):  # it ends by itself just now
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
                self._run("find", self._source(volume["name"]), "-mindepth", "1", "-delete")
        return ended

    def close(self) -> None:
        """Take away all that is left of the pod; a volume in memory is lost."""
        for name in self.containers:
            if self._process(name) is not None:
                with suppress(ProcessLookupError):  # it ends by itself just now
                    self.kill(name)
        self.place.stop(self._log_name("pod"))

    def kill(self, container: str) -> None:
        """End a container at once, with all its processes."""
        self._signal(container, signal.SIGKILL)
        wait_for(f"{container} to end", lambda: self._process(container) is None, PATIENCE, 0.02)

    def hang(self, container: str) -> None:
        """Let no process of a container go on, until `resume`."""
        self._signal(container, signal.SIGSTOP, whole=True)

    def resume(self, container: str) -> None:
        """Let it go on after `hang`."""
        self._signal(container, signal.SIGCONT, whole=True)

    def process(self, container: str) -> int:
        """The id of a container's first process on this machine.

        Raises:
            ProcessLookupError: it does not run.
        """
        process = self._process(container)
        if process is None:
            message = f"{container} does not run"
            raise ProcessLookupError(message)
        return process

    def processes(self, container: str) -> list[int]:
        """The ids of all processes of a container, the first one first."""
        found = [self.process(container)]
        for process in found:
            found += _children(process)
        return found

    def log_file(self, container: str) -> Path:
        return self.place.log(self._log_name(container))

    def log(self, container: str) -> str:
        """All that a container has printed."""
        return self.log_file(container).read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """What Prometheus would find: each sample's value by its name and labels, without the cache's own label."""
        lines = [line for line in self.metrics_text().splitlines() if line and not line.startswith("#")]
        own = re.compile(r'upstream_host="[^"]*",?')
        found = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            found[own.sub("", name, count=1).removesuffix("{}")] = float(value)
        return found

    def metrics_text(self) -> str:
        """What Prometheus would be sent."""
        annotations = self._stateful_set["spec"]["template"]["metadata"]["annotations"]
        status, body = self._get(int(annotations["prometheus.io/port"]), annotations["prometheus.io/path"], 10)
        assert status == http.client.OK, body
        return body.decode()

    def is_ready(self) -> bool:
        """Whether every container answers its readiness probe now."""
        return self._answer("readinessProbe")

    def lives(self) -> bool:
        """Whether every container answers its liveness probe now."""
        return self._answer("livenessProbe")

    def set_secret(self, name: str, data: dict[str, str]) -> None:
        """Give a Secret new content, which its mounts have at once."""
        self.secrets[name] = data
        self._project(lambda volume: "secret" in volume and volume["secret"]["secretName"] == name)

    def set_config_map(self, name: str, data: dict[str, str]) -> None:
        """Give a ConfigMap new content, which its mounts have at once."""
        self.config_maps[name] = data
        self._project(lambda volume: "configMap" in volume and volume["configMap"]["name"] == name)

    def set_hosts(self, lines: str) -> None:
        """Replace the lines of `hosts` in /etc/hosts."""
        self.hosts = lines
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n{lines}")

    def remount(self, options: str) -> None:
        """Change how the volume in memory is mounted, for all containers: `ro`, `rw`, `size=…`, `nr_inodes=…`.

        Raises:
            RuntimeError: it cannot be done: read-only while a file is open for writing, or smaller than what is there.
        """
        assert isinstance(self.volume, Tmpfs), "a folder of this machine is not mounted by us"
        self._run("mount", "-o", f"remount,{options}", self._source(self._claim))

    @cached_property
    def _claim(self) -> str:
        """The volume that the pod's claim stands for."""
        (claim,) = self._stateful_set["spec"]["volumeClaimTemplates"]
        name: str = claim["metadata"]["name"]
        return name

    def _refuse_unknown(self) -> None:
        """See that nothing stands in the manifest that would be left out here.

        Raises:
            NotImplementedError: something does; the message says what.
        """
        mounts = [mount for container in self.spec["containers"] for mount in container["volumeMounts"]]
        probes = [
            one[kind] for one in self.spec["containers"] for kind in ("livenessProbe", "readinessProbe") if kind in one
        ]
        for what, known in (
            ([self.spec], KNOWN_OF_POD),
            (self.spec["containers"], KNOWN_OF_CONTAINER),
            (self.spec["volumes"], {"name", "configMap", "emptyDir", "secret"}),
            (mounts, {"name", "mountPath", "readOnly"}),
            (probes, KNOWN_OF_PROBE),
        ):
            for unknown in (one.keys() - known for one in what):
                if unknown:
                    message = f"the manifest has what is not known here: {', '.join(sorted(unknown))}"
                    raise NotImplementedError(message)

    def _hold_namespaces(self) -> None:
        """Start the process that has the pod's network, host name and volumes, as a pause container has."""
        group = self.spec["securityContext"]["fsGroup"]
        mounts = {}
        for volume in self.spec["volumes"]:
            source = self._source(volume["name"])
            source.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volume and volume["emptyDir"].get("medium") == "Memory":
                mounts[source] = f"size={volume['emptyDir']['sizeLimit'].removesuffix('i')}"
        if isinstance(self.volume, Tmpfs):
            mounts[self._source(self._claim)] = self.volume.options
        self._project(lambda _: True)
        writable = [self._source(volume["name"]) for volume in self.spec["volumes"] if "emptyDir" in volume]
        writable.append(self._source(self._claim))
        lines = ["set -eu", f"hostname {shlex.quote(self.name)}"]
        lines += [f"mkdir -p {source}" for source in writable]
        lines += [f"mount -t tmpfs -o {options} tmpfs {source}" for source, options in mounts.items()]
        # As the kubelet gives a volume to fsGroup.
        lines += [f"chown 0:{group} {source}; chmod 2775 {source}" for source in writable]
        lines += [f"touch {self.folder}/prepared", "exec sleep 2147483647"]
        script = self.folder / "pod.sh"
        script.write_text("\n".join(lines))
        prepared = self.folder / "prepared"
        prepared.unlink(missing_ok=True)
        namespaces = ["--mount", "--net", "--uts", "--ipc", "--propagation", "private"]
        holder = self.place.start(self._log_name("pod"), ["unshare", *namespaces, "sh", script])

        def is_prepared() -> bool:
            self.place.fail_if_dead(self._log_name("pod"))
            return prepared.exists()

        wait_for(f"the namespaces of {self.name}", is_prepared, PATIENCE, 0.02)
        own_network.join(holder, self.number)
        self.set_hosts(self.hosts)
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # where nothing answers, and that at once

    def _script(self, container: Object, root: Path, configuration: Object) -> str:
        """What a container runtime does, as root in new namespaces, until the container's program takes over."""
        mounts = [(f"/etc/{name}", self.folder / name, False) for name in ("hosts", "resolv.conf")] + [
            (mount["mountPath"], self._source(mount["name"]), mount.get("readOnly", False))
            for mount in container["volumeMounts"]
        ]
        lines = ["set -eu", f"mount --bind {root} {root}", f"cd {root}", "mkdir -p dev proc"]
        lines += ["mount -t proc proc proc", "mount -t tmpfs -o mode=755 tmpfs dev", "mkdir -m 1777 dev/shm"]
        lines += [f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES]
        lines += ["ln -s /proc/self/fd dev/fd"]
        lines += [f"ln -s /proc/self/fd/{fd} dev/{name}" for fd, name in enumerate(("stdin", "stdout", "stderr"))]
        for path, source, read_only in sorted(mounts):
            target = shlex.quote(path.lstrip("/"))
            make = f"mkdir -p $(dirname {target}); touch {target}" if source.is_file() else f"mkdir -p {target}"
            lines += [make, f"mount --bind {source} {target}"]
            if read_only:
                lines.append(f"mount -o remount,bind,ro {target}")
        context = {**self.spec["securityContext"], **container["securityContext"]}
        if context["readOnlyRootFilesystem"]:
            # `cd` once more: what is mounted over this folder is another one.
            lines += [f"cd {root}", f"mount -o remount,bind,ro {root}"]
        variables = [*configuration["Env"], f"HOSTNAME={self.name}", *self._environment(container)]
        # The three are what chroot itself needs; with another user than root they go.
        privileges = [_program("setpriv"), "--bounding-set=-all,+sys_chroot,+setuid,+setgid", "--no-new-privs"]
        user = [f"--userspec={context['runAsUser']}:{context['runAsGroup']}", f"--groups={context['fsGroup']}"]
        command = [_program("env"), "-i", *variables, *privileges, _program("chroot"), *user, str(root)]
        command += _command(container, configuration)
        return "\n".join([*lines, f"exec {shlex.join(command)}\n"])

    def _environment(self, container: Object) -> list[str]:
        found = []
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                known = {"metadata.name": self.name, "metadata.namespace": NAMESPACE, "status.podIP": self.address}
                found.append(f"{variable['name']}={known[path]}")
            else:
                found.append(f"{variable['name']}={variable.get('value', '')}")
        return found

    def _project(self, chosen: Callable[[Object], bool]) -> None:
        for volume in self.spec["volumes"]:
            if not chosen(volume):
                continue
            if "configMap" in volume:
                self._write(volume, volume["configMap"], self.config_maps, volume["configMap"]["name"])
            elif "secret" in volume:
                self._write(volume, volume["secret"], self.secrets, volume["secret"]["secretName"])

    def _write(self, volume: Object, reference: Object, there: Mapping[str, dict[str, str]], name: str) -> None:
        """Write a volume's files and switch to them at once (Kubernetes, pkg/volume/util/atomic_writer.go)."""
        if name not in there and not reference.get("optional"):
            message = f"{name}, which the pod mounts, is not there"
            raise LookupError(message)
        data = there.get(name, {})
        items = {item["path"]: data[item["key"]] for item in reference.get("items", ()) if name in there} or data
        folder = self._source(volume["name"])
        folder.mkdir(parents=True, exist_ok=True)
        version = folder / f"..{time.time_ns()}"
        version.mkdir()
        for path, content in items.items():
            file = version / path
            file.write_text(content)
            file.chmod(reference.get("defaultMode", 0o644) | 0o440)
            os.chown(file, 0, self.spec["securityContext"]["fsGroup"])
        data_link, new_link = folder / "..data", folder / "..data_tmp"
        before = data_link.resolve() if data_link.exists() else None
        new_link.symlink_to(version.name)
        new_link.rename(data_link)
        for path in items:
            if not (folder / path).is_symlink():
                (folder / path).symlink_to(f"..data/{path}")
        for link in folder.iterdir():
            if not link.name.startswith("..") and link.name not in items:
                link.unlink()
        if before:
            shutil.rmtree(before)

    def _source(self, volume: str) -> Path:
        """The folder behind a volume, in the pod's mount namespace."""
        if volume == self._claim and isinstance(self.volume, Path):
            return self.volume
        return self.folder / "volumes" / volume

    def _port(self, port: int | str) -> int:
        if isinstance(port, int):
            return port
        (found,) = [
            known["containerPort"]
            for container in self.containers.values()
            for known in container.get("ports", ())
            if known["name"] == port
        ]
        number: int = found
        return number

    def _ready_or_dead(self) -> bool:
        for name in self.containers:
            self.place.fail_if_dead(self._log_name(name))
        return self.is_ready() and self.lives()

    def _answer(self, kind: str) -> bool:
        return all(self._answers(one[kind]) for one in self.containers.values() if kind in one)

    def _answers(self, probe: Object) -> bool:
        request = probe["httpGet"]
        try:
            status, _ = self._get(self._port(request["port"]), request["path"], probe.get("timeoutSeconds", 1))
        except OSError:
            return False
        return http.client.OK <= status < http.client.BAD_REQUEST

    def _get(self, port: int, path: str, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            message = f"what came of {path} is no HTTP"
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
        """Whether the container's own program is what runs in it: nothing before it has another user than root."""
        self.place.fail_if_dead(self._log_name(container))
        process = self._process(container)
        try:
            return process is not None and Path(f"/proc/{process}").stat().st_uid != 0
        except FileNotFoundError:
            return False  # it ended

    def _signal(self, container: str, number: signal.Signals, *, whole: bool = False) -> None:
        for process in self.processes(container) if whole else [self.process(container)]:
            os.kill(process, number)


def render(values: Object, path: Path) -> list[Object]:
    """The chart's objects for these values, which are written to `path`.

    Raises:
        RuntimeError: helm refused; the message is what it printed.
    """
    path.write_text(yaml.safe_dump(values))
    command = [tools.helm(), "template", "x", CHART, "--namespace", NAMESPACE, "--values", path]
    done = subprocess.run(
        [*map(str, command)], env=environment.for_programs(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def _command(container: Object, configuration: Object) -> list[str]:
    """What of image and container becomes the process (Kubernetes, "Define a Command and Arguments")."""
    given: list[str] = container.get("args", [])
    if "command" in container:
        return [*container["command"], *given]
    return [*configuration["Entrypoint"], *(given or configuration["Cmd"])]


def _program(name: str) -> str:
    path = shutil.which(name, path=environment.search_path())
    assert path is not None, f"{name} is not installed"
    return path


def _children(process: int) -> list[int]:
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []  # it ended
    return [int(child) for child in found.split()]
