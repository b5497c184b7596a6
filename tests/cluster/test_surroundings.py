"""Namespaces with rules of their own, a webhook that changes pods, and Services whose addresses change."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from cluster import images, interface
from cluster.pulls import new_image, pull
from cluster.release import Release
from cluster_support import installed, values
from machine.paths import CHART
from machine.processes import wait_for
from upstreams import pki

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster
    from cluster.native import NativeCluster

pytestmark = pytest.mark.cluster

ENFORCE = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
SECONDS = 180.0
# Each container gets limits that it did not ask for, and the quota refuses pods without them.
RULES = [
    {
        "kind": "LimitRange",
        "metadata": {"name": "defaults"},
        "spec": {
            "limits": [
                {
                    "type": "Container",
                    "default": {"cpu": "1", "memory": "512Mi"},
                    "defaultRequest": {"cpu": "10m", "memory": "16Mi"},
                    "max": {"cpu": "2", "memory": "1Gi"},
                }
            ]
        },
    },
    {
        "kind": "ResourceQuota",
        "metadata": {"name": "most"},
        "spec": {
            "hard": {
                "limits.cpu": "10",
                "limits.memory": "4Gi",
                "requests.cpu": "2",
                "requests.memory": "2Gi",
                "persistentvolumeclaims": "2",
                "pods": "10",
            }
        },
    },
]
INJECTED = "injected"


@pytest.fixture
def no_default_class(cluster: Cluster) -> Iterator[None]:
    """No storage class is the default one, until a test or the end of it changes that."""
    set_default_class(cluster, is_default=False)
    yield
    set_default_class(cluster, is_default=True)


def set_default_class(cluster: Cluster, *, is_default: bool) -> None:
    value = f"{DEFAULT_CLASS}={json.dumps(is_default)}"
    interface.kubectl(cluster.kubeconfig, "annotate", "storageclass", "local-path", value, "--overwrite")


@pytest.mark.usefixtures("no_default_class")
def test_cache_waits_for_its_volume_and_the_nodes_for_the_permission_of_pod_security(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Until then, pulls go to the upstream; nothing has to be installed again."""
    release = Release(cluster, name="ruled", namespace="ruled")
    release.uninstall()
    interface.kubectl(cluster.kubeconfig, "create", "namespace", release.namespace)
    label(release, "restricted")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", **one} for one in RULES]})
    release.kubectl("apply", "--filename", "-", text=text)
    try:
        options = ["--namespace", release.namespace, "--values", values(tmp_path / "v.yaml", "docker.io")]
        claims = ["--set", "cachePods.volumeClaims.accessModes={ReadWriteOncePod}"]
        probe = ["--set", "nodeProgram.probe.interval=2s"]
        interface.helm(cluster.kubeconfig, "install", release.name, str(CHART), *options, *claims, *probe)
        wait_for("Pod Security to refuse", lambda: "violates PodSecurity" in events(release), SECONDS)
        assert release.pod("docker.io")["status"]["phase"] == "Pending"
        reference, _ = new_image(cluster, "docker.io/library/ruled:1")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream"

        set_default_class(cluster, is_default=True)
        name = f"pod/{release.object_name('docker.io')}-0"
        release.kubectl("wait", "--for=condition=Ready", name, f"--timeout={SECONDS:.0f}s")
        limits = [one["resources"]["limits"] for one in release.pod("docker.io")["spec"]["containers"]]
        assert all(one["cpu"] == "1" for one in limits), "the default of the LimitRange"

        label(release, "privileged")
        # The controller tries again after a pause that doubles, or when its DaemonSet changes.
        release.kubectl("annotate", "daemonsets", "--all", "tried=again")
        release.wait_for_nodes("docker.io", use=True)
        reference, _ = new_image(cluster, "docker.io/library/ruled:2")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream through the cache"
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"
    finally:
        release.uninstall()


def label(release: Release, level: str) -> None:
    labels = f"{ENFORCE}={level}"
    interface.kubectl(release.cluster.kubeconfig, "label", "namespace", release.namespace, labels, "--overwrite")


def events(release: Release) -> str:
    return " ".join(one["message"] for one in release.get("events")["items"])


@pytest.mark.long
def test_service_that_is_created_again_is_used_at_its_new_address(cluster: Cluster, tmp_path: Path) -> None:
    with installed(cluster, "readdressed", "--values", values(tmp_path / "v.yaml", "docker.io")) as release:
        before = release.service_address("docker.io")
        name = release.object_name("docker.io")
        service = release.get("service", name)
        for field in ("clusterIP", "clusterIPs"):
            del service["spec"][field]
        for field in ("resourceVersion", "uid"):
            del service["metadata"][field]
        release.kubectl("delete", "service", name)
        # Otherwise the new Service might get the same address.
        release.kubectl("create", "service", "clusterip", "holder", f"--clusterip={before}", "--tcp=1")
        release.kubectl("create", "--filename", "-", text=json.dumps(service))
        assert release.service_address("docker.io") != before
        release.wait_for_nodes("docker.io", use=True)
        reference, _ = new_image(cluster, "docker.io/library/readdressed:1")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream through the cache"
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"


class Injector(BaseHTTPRequestHandler):
    """A webhook that adds a container to each pod, except where the pod has Istio's annotation against that."""

    def do_POST(self) -> None:
        """Answer a review of a new pod."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        metadata, spec = request["object"]["metadata"], request["object"]["spec"]
        response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        # Like the injectors of meshes, it leaves pods in the network of the node alone.
        if metadata.get("annotations", {}).get("sidecar.istio.io/inject") != "false" and not spec.get("hostNetwork"):
            container = {
                "name": INJECTED,
                "image": images.BUSYBOX,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/busybox", "sleep", "2147483647"],
            }
            patch = json.dumps([{"op": "add", "path": "/spec/containers/-", "value": container}])
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Print nothing."""


@contextmanager
def injector(native: NativeCluster, folder: Path, namespace: str) -> Iterator[None]:
    """Run the webhook for the pods of a namespace."""
    address = native.network.control_plane
    certificate, key = pki.issue(folder, "injector", address, common_name="injector")
    server = ThreadingHTTPServer((address, 0), Injector)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    authority = base64.b64encode(pki.authority_file().read_bytes()).decode()
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": INJECTED},
        "webhooks": [
            {
                "name": "injector.example.com",
                "clientConfig": {"url": f"https://{address}:{server.server_port}/", "caBundle": authority},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
            }
        ],
    }
    interface.kubectl(native.kubeconfig, "apply", "--filename", "-", text=json.dumps(configuration))
    try:
        yield
    finally:
        interface.kubectl(native.kubeconfig, "delete", "mutatingwebhookconfiguration", INJECTED)
        server.shutdown()
        server.server_close()


@pytest.mark.long
def test_container_that_a_webhook_adds_does_no_harm(native: NativeCluster, tmp_path: Path) -> None:
    """The pod of `helm test` asks to be left alone; with an added container, it would never end."""
    path = values(tmp_path / "v.yaml", "docker.io")
    with injector(native, tmp_path, "meshed"), installed(native, "meshed", "--values", path) as release:
        assert INJECTED in [one["name"] for one in release.pod("docker.io")["spec"]["containers"]]
        new_image(native, "docker.io/library/busybox:latest")
        assert "docker.io: pulled" in release.test()
        reference, _ = new_image(native, "docker.io/library/meshed:1")
        assert pull(native, reference, native.nodes[0]).served_by == "upstream through the cache"
        assert pull(native, reference, native.nodes[1]).served_by == "cache"
