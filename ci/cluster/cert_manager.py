"""cert-manager beside the test cluster: its controllers for certificates of the issuers selfsigned and ca."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from machine import tools
from machine.processes import wait_for

from cluster import interface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster

NAME = "cert-manager"
START_SECONDS = 60.0


@contextmanager
def running(cluster: NativeCluster) -> Iterator[None]:
    """Install the definitions of cert-manager, and run its controllers meanwhile."""
    program = tools.cert_manager()
    definitions = tools.cert_manager_definitions()
    for path in definitions:
        interface.kubectl(cluster.kubeconfig, "apply", "--server-side", "--filename", str(path))
    try:
        wait_for("the definitions to be served", lambda: _definitions_are_served(cluster), START_SECONDS)
        cluster.control_plane.start(NAME, [program, cluster.kubeconfig])
        yield
        cluster.control_plane.fail_if_dead(NAME)
    finally:
        log = cluster.control_plane.log(NAME)
        if log.exists():
            print(f"--- {NAME}", *log.read_text().splitlines()[-20:], sep="\n")
        cluster.control_plane.stop(NAME)
        for path in definitions:
            interface.kubectl(cluster.kubeconfig, "delete", "--ignore-not-found", "--filename", str(path))


def renew(cluster: NativeCluster, namespace: str, name: str) -> None:
    """Have a Certificate issued anew, as `cmctl renew` does."""
    condition = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "a test wants it"}
    patch = json.dumps({"status": {"conditions": [condition]}})
    options = ["--subresource=status", "--type=merge", f"--patch={patch}"]
    interface.kubectl(cluster.kubeconfig, "--namespace", namespace, "patch", "certificate", name, *options)


def _definitions_are_served(cluster: NativeCluster) -> bool:
    try:
        served = json.loads(interface.kubectl(cluster.kubeconfig, "get", "--raw", "/apis/cert-manager.io/v1"))
    except RuntimeError:
        return False
    return {"certificates", "issuers"} <= {one["name"] for one in served["resources"]}
