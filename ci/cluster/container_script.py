"""The shell scripts that do what a container runtime does, until the container's program takes over."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from machine import environment

from cluster.container_limits import memory_limit
from cluster.pod_manifest import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.pod_manifest import Object
    from cluster.pod_volumes import PodVolumes

DEVICES = ("full", "null", "random", "urandom", "zero")


def pod_script(name: str, volumes: PodVolumes, prepared: Path) -> str:
    """Return a script that sets up a pod's host name and volumes, creates the file `prepared`, and then waits."""
    group = volumes.spec["securityContext"]["fsGroup"]
    writable = [shlex.quote(str(source)) for source in volumes.writable]
    lines = ["set -eu", f"hostname {shlex.quote(name)}"]
    lines += [f"mkdir -p {source}" for source in writable]
    lines += [
        f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(source))}" for source, options in volumes.in_memory.items()
    ]
    # The kubelet gives volumes to fsGroup in the same way.
    lines += [f"chown 0:{group} {source}; chmod 2775 {source}" for source in writable]
    return "\n".join([*lines, f"touch {shlex.quote(str(prepared))}", "exec sleep 2147483647"])


def container_script(  # noqa: PLR0913, PLR0917 - the parts of a container
    container: Object,
    root: Path,
    image: Object,
    volumes: PodVolumes,
    files: Mapping[str, Path],
    fields: Mapping[str, str],
) -> str:
    """Return the script that runs a container as root in new namespaces.

    `image` is the configuration of the image in `root`, `files` are mounted by path, and `fields` are the fields of
    the pod that variables may refer to.
    """
    mounts = [(path, file, False) for path, file in files.items()] + [
        (mount["mountPath"], volumes.source(mount["name"]), mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    ]
    at_root = shlex.quote(str(root))
    lines = ["set -eu", f"mount --bind {at_root} {at_root}", f"cd {at_root}", "mkdir -p dev proc"]
    lines += ["mount -t proc proc proc", "mount -t tmpfs -o mode=755 tmpfs dev", "mkdir -m 1777 dev/shm"]
    lines += [f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES]
    lines += ["ln -s /proc/self/fd dev/fd"]
    lines += [f"ln -s /proc/self/fd/{fd} dev/{name}" for fd, name in enumerate(("stdin", "stdout", "stderr"))]
    for path, source, read_only in sorted(mounts):
        target = shlex.quote(path.lstrip("/"))
        make = f"mkdir -p $(dirname {target}); touch {target}" if source.is_file() else f"mkdir -p {target}"
        lines += [make, f"mount --bind {shlex.quote(str(source))} {target}"]
        if read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    context = {**volumes.spec["securityContext"], **container["securityContext"]}
    if context["readOnlyRootFilesystem"]:
        # `cd` once more, since another folder is mounted over this one.
        lines += [f"cd {at_root}", f"mount -o remount,bind,ro {at_root}"]
    variables = [*image["Env"], f"HOSTNAME={fields['metadata.name']}", *_variables(container, fields)]
    # chroot itself needs these three capabilities; they go when it changes to another user than root.
    privileges = [_program("setpriv"), "--bounding-set=-all,+sys_chroot,+setuid,+setgid", "--no-new-privs"]
    user = [f"--userspec={context['runAsUser']}:{context['runAsGroup']}", f"--groups={context['fsGroup']}"]
    command = [_program("env"), "-i", *variables, *privileges, _program("chroot"), *user, str(root)]
    return "\n".join([*lines, f"exec {shlex.join([*command, *_command(container, image)])}\n"])


def pod_fields(name: str, address: str, zone: str = "") -> dict[str, str]:
    """Return the fields of a pod that its containers may have as variables."""
    labels = {"metadata.labels['topology.kubernetes.io/zone']": zone}
    return {"metadata.name": name, "metadata.namespace": NAMESPACE, "status.podIP": address, **labels}


def _variables(container: Object, fields: Mapping[str, str]) -> list[str]:
    variables = []
    for one in container.get("env", ()):
        source = one.get("valueFrom", {})
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "resourceFieldRef" in source:
            reference = source["resourceFieldRef"]
            assert (reference["resource"], reference["divisor"]) == ("limits.memory", "1Ki"), reference
            value = str(memory_limit(container) >> 10)
        else:
            value = one.get("value", "")
        variables.append(f"{one['name']}={value}")
    return variables


def _command(container: Object, image: Object) -> list[str]:
    """Return the command of a container (Kubernetes, "Define a Command and Arguments for a Container")."""
    given: list[str] = container.get("args", [])
    if "command" in container:
        return [*container["command"], *given]
    return [*image["Entrypoint"], *(given or image["Cmd"])]


def _program(name: str) -> str:
    path = shutil.which(name, path=environment.search_path())
    assert path is not None, f"{name} is not installed"
    return path
