"""`discover` against a small API server that behaves like the real one."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from kubernetes import client
from pydantic import TypeAdapter
from registry_cache import cli, cluster_api, document, references
from registry_cache.cluster_api import CannotDiscover, connect
from registry_cache.discover import Discovery, add_node, add_pod, discover, unsupported_reason
from registry_cache.discovery_text import document_text, suggest_size_gi
from registry_cache.model.registry_config import Volume
from registry_cache.model.scalars import Upstream
from registry_cache.references import Reference, parse_reference
from registry_cache.validation import find_problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a-token-that-nobody-may-see"
DIGEST = f"sha256:{'a' * 64}"
OTHER_DIGEST = f"sha256:{'b' * 64}"
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@dataclass
class FakeServer:
    """An API server with these pods and nodes, or with one status or body for every request."""

    pods: list[client.V1Pod] = field(default_factory=list)
    nodes: list[client.V1Node] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    body: bytes | None = None
    address: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return a page as the API server does: `continue` is where the next one begins."""
        self.asked.append(path)
        url = urlsplit(path)
        kind = url.path.rpartition("/")[2]
        if self.body is not None or kind in self.status:
            return self.status.get(kind, 200), self.body or json.dumps({"message": TOKEN}).encode()
        everything: list[Any] = {"pods": self.pods, "nodes": self.nodes}[kind]
        query = parse_qs(url.query)
        start, limit = int(query.get("continue", ["0"])[0]), int(query["limit"][0])
        page = client.ApiClient().sanitize_for_serialization(everything[start : start + limit])
        more = {"continue": str(start + limit)} if start + limit < len(everything) else {}
        return 200, json.dumps({"metadata": more, "items": page or None}).encode()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = fake.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        fake.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        http.shutdown()
        thread.join()


def kubeconfig(folder: Path, server: str, *, user: dict[str, Any] | None = None, **cluster: str) -> Path:
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me"}}],
        "clusters": [{"name": "one", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "me", "user": {"token": TOKEN} if user is None else user}],
    }
    path.write_text(json.dumps(content))
    return path


def pod(*images: str, namespace: str = "default", secrets: tuple[str, ...] = (), **more: Any) -> client.V1Pod:
    containers = [client.V1Container(name=f"c{number}", image=image) for number, image in enumerate(images)]
    references = [client.V1LocalObjectReference(name=name) for name in secrets]
    spec = client.V1PodSpec(containers=containers, image_pull_secrets=references, **more)
    return client.V1Pod(metadata=client.V1ObjectMeta(name="pod", namespace=namespace), spec=spec)


def node(*images: tuple[int, tuple[str, ...]], architecture: str = "amd64") -> client.V1Node:
    info = client.V1NodeSystemInfo.model_construct(operating_system="linux", architecture=architecture)
    reported = [client.V1ContainerImage(names=list(names), size_bytes=size) for size, names in images]
    status = client.V1NodeStatus.model_construct(images=reported, node_info=info)
    return client.V1Node(metadata=client.V1ObjectMeta(name="node"), status=status)


def discovered(server: FakeServer, folder: Path) -> Discovery:
    return discover(connect(kubeconfig(folder, server.address), None))


def text_of(server: FakeServer, folder: Path, *has: str) -> str:
    """Return the document, after validating it."""
    text = document_text(discovered(server, folder), has)
    assert max(map(len, text.splitlines())) <= 120
    if yaml.safe_load(text) is not None:
        assert find_problems(document.parse(text.encode())) == []
    return text


def comments(text: str) -> str:
    """Return all comments in one line, so that their line breaks do not matter."""
    return " ".join(" ".join(re.findall("# *(.*)", text)).split())


@pytest.mark.parametrize(
    ("image", "registry", "text"),
    [
        ("nginx", "docker.io", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io", "docker.io/library/nginx:1.27"),
        ("grafana/grafana", "docker.io", "docker.io/grafana/grafana:latest"),
        ("docker.io/nginx", "docker.io", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io", "docker.io/library/nginx:latest"),
        ("index.docker.io/grafana/grafana", "docker.io", "docker.io/grafana/grafana:latest"),
        ("localhost/x", "localhost", "localhost/x:latest"),
        ("host:5000/x", "host:5000", "host:5000/x:latest"),
        ("host/x", "docker.io", "docker.io/host/x:latest"),
        ("host.with.dot/x/y/z:1", "host.with.dot", "host.with.dot/x/y/z:1"),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", f"ghcr.io/a/b@{DIGEST}"),
        (f"ghcr.io/a/b:1@{DIGEST}", "ghcr.io", f"ghcr.io/a/b@{DIGEST}"),
        (f"nginx@{DIGEST}", "docker.io", f"docker.io/library/nginx@{DIGEST}"),
        ("Registry.Example.com/x", "Registry.Example.com", "Registry.Example.com/x:latest"),
        ("Registry/x", "Registry", "Registry/x:latest"),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000", "[2001:db8::1]:5000/x:latest"),
        ("10.0.0.5:5000/x", "10.0.0.5:5000", "10.0.0.5:5000/x:latest"),
    ],
)
def test_reference_is_read_as_containerd_reads_it(image: str, registry: str, text: str) -> None:
    assert parse_reference(image) == Reference(registry, text)


@pytest.mark.parametrize(
    "image",
    [
        "",
        " nginx",
        "Nginx",
        "docker.io/Nginx",
        "nginx:",
        "nginx:a b",
        "nginx\n",
        f"nginx@sha256:{'a' * 63}",
        f"nginx@sha256:{'A' * 64}",
        "nginx@md5:" + "a" * 32,
        "https://ghcr.io/a/b",
        "::1/x",
        "host.io/",
        "host.io/a//b",
        f"host.io/{'a' * 256}",
        "a" * 64,
        DIGEST,
        "<none>@<none>",
    ],
)
def test_text_that_names_no_image_of_a_registry_is_not_a_reference(image: str) -> None:
    assert parse_reference(image) is None


@given(st.text() | st.from_regex(references.REFERENCE, fullmatch=True))
@example("a" * 100_000 + "!")
@example("a." * 50_000 + "!")
@example("a_" * 50_000)
@example("host.io/a\u2028b")
def test_document_is_valid_whatever_the_pods_name_as_images(image: str) -> None:
    found = Discovery()
    add_pod(found, {"metadata": {"namespace": "n"}, "spec": {"containers": [{"image": image}]}})
    add_node(found, {"status": {"images": [{"names": [image], "sizeBytes": 1}]}})
    text = document_text(found)
    for upstream in found.upstreams:
        assert TypeAdapter(Upstream).validate_python(upstream) == upstream
        assert find_problems(document.parse(text.encode())) == []
    if not found.upstreams:
        assert yaml.safe_load(text) is None


def test_images_of_every_kind_of_container_are_found(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [
        pod(
            "docker.io/library/main:1",
            init_containers=[client.V1Container(name="i", image="ghcr.io/a/init:1")],
            ephemeral_containers=[client.V1EphemeralContainer(name="e", image="quay.io/a/debug:1")],
            volumes=[
                client.V1Volume(name="v", image=client.V1ImageVolumeSource(reference="registry.k8s.io/data:1")),
                client.V1Volume(name="w", empty_dir=client.V1EmptyDirVolumeSource()),
            ],
        )
    ]
    assert discovered(server, tmp_path).upstreams == ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"]


def test_document_explains_each_size(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod("ghcr.io/a/large:1"), pod("ghcr.io/a/small:1", "ghcr.io/a/small:2"), pod("quay.io/a/b")]
    server.nodes = [node((12_000_000_000, ("ghcr.io/a/large:1",))), node((500_000, ("registry.k8s.io/pause:3.10",)))]
    assert text_of(server, tmp_path) == (
        """\
# A RegistryConfig for the registries that this cluster pulls from, found in 3 pods and 2 nodes.
# A volume is twice as large as the images on the nodes, in the compressed form that a cache stores, rounded up.
# The size of some images is unknown: a node reports only its 50 largest images (nodeStatusMaxImages of the kubelet).
apiVersion: registry.extensions.gardener.cloud/v1alpha3
kind: RegistryConfig
caches:
  - upstream: ghcr.io
    volume:
      size: 50Gi # 1 image, 12.0 GB on the nodes, doubled; the size of 2 more is unknown
  - upstream: quay.io
    # 1 image of unknown size; the default size of a volume is 10Gi.
  # Only on nodes: no pod uses an image of it now.
  - upstream: registry.k8s.io
    volume:
      size: 10Gi # 1 image, 0.5 MB on the nodes, doubled, and at least the default
"""
    )


def test_image_counts_once_however_many_nodes_and_names_have_it(server: FakeServer, tmp_path: Path) -> None:
    both = (f"ghcr.io/a/b@{DIGEST}", "ghcr.io/a/b:1", f"quay.io/mirror/b@{DIGEST}")
    server.nodes = [
        node((7, both), (3, ("ghcr.io/a/imported:1",))),
        node((7, (f"ghcr.io/a/renamed@{DIGEST}",)), (3, ("ghcr.io/a/imported:1",))),
        node((11, both[:1]), architecture="arm64"),
    ]
    found = discovered(server, tmp_path).registries
    assert sum(found["ghcr.io"].sizes.values()) == 7 + 3 + 11, "and each platform for itself"
    assert found["ghcr.io"].images == 3
    assert sum(found["quay.io"].sizes.values()) == 7


@pytest.mark.parametrize("image", ["ghcr.io/a/b", f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b:gone@{DIGEST}"])
def test_size_of_a_pods_image_is_known_by_tag_and_by_digest(server: FakeServer, tmp_path: Path, image: str) -> None:
    server.pods = [pod(image)]
    server.nodes = [node((7, (f"ghcr.io/a/b@{DIGEST}", "ghcr.io/a/b:latest")))]
    found = discovered(server, tmp_path).registries["ghcr.io"]
    assert (found.images, found.unknown) == (1, 0)
    server.pods = [pod(f"ghcr.io/a/b@{OTHER_DIGEST}")]
    found = discovered(server, tmp_path).registries["ghcr.io"]
    assert (found.images, found.unknown) == (2, 1)


@pytest.mark.parametrize(
    ("size", "gi"),
    [
        (0, 10),
        (5 * 2**30, 10),
        (5 * 2**30 + 1, 20),
        (10 * 2**30 + 1, 50),
        (25 * 2**30 + 1, 100),
        (500 * 2**30 + 1, 2000),
    ],
)
def test_suggested_size_is_twice_the_images_rounded_up(size: int, gi: int) -> None:
    assert suggest_size_gi(size) == gi


def test_smallest_suggestion_is_the_default() -> None:
    assert f"{suggest_size_gi(0)}Gi" == Volume().size


@pytest.mark.parametrize(
    ("registry", "reason"),
    [
        (ECR, "tokens that expire after 12 hours"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "tokens that expire after 12 hours"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "tokens that expire after 12 hours"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "tokens that expire after 12 hours"),
        ("localhost", "runs on the node itself"),
        ("localhost:5000", "runs on the node itself"),
        ("Localhost:5000", "runs on the node itself"),
        ("registry.localhost:5000", "runs on the node itself"),
        ("127.0.0.1:32000", "runs on the node itself"),
        ("0.0.0.0:5000", "runs on the node itself"),
        ("[::1]:5000", "runs on the node itself"),
        ("[2001:db8::1]:5000", "the host of a registry in lower case"),
        ("Registry.Example.com", "the host of a registry in lower case"),
        ("registry.example.com:65536", "the host of a registry in lower case, optionally with a port"),
    ],
)
def test_registry_that_cannot_have_a_cache_is_left_out_with_the_reason(
    server: FakeServer, tmp_path: Path, registry: str, reason: str
) -> None:
    server.pods = [pod(f"{registry}/a/b:1", "ghcr.io/a/b:1")]
    text = text_of(server, tmp_path)
    assert [cache["upstream"] for cache in yaml.safe_load(text)["caches"]] == ["ghcr.io"]
    (line,) = re.findall(rf"# - {re.escape(registry)} \(1 image\): .*\n(?:#   .*\n)*", text)
    assert reason in comments(line)


@pytest.mark.parametrize(
    "registry",
    ["public.ecr.aws", "europe-docker.pkg.dev", "example.azurecr.io", "10.0.0.5:5000", "host:5000", f"not{ECR}"],
)
def test_registry_that_can_have_a_cache_is_accepted(registry: str) -> None:
    assert unsupported_reason(registry) is None


def test_images_without_a_name_are_left_out_with_the_reason(server: FakeServer, tmp_path: Path) -> None:
    unnamed = client.V1ContainerImage.model_construct(names=None, size_bytes=9)
    server.nodes = [node((7, ("ghcr.io/a/b:1",)), (8, (DIGEST,)), (8, ("<none>@<none>",)))]
    server.nodes[0].status.images.append(unnamed)
    server.pods = [pod("a" * 64)]
    text = text_of(server, tmp_path)
    assert "- 4 images with only a digest or an ID and no name" in comments(text)
    assert [cache["upstream"] for cache in yaml.safe_load(text)["caches"]] == ["ghcr.io"]


def test_text_of_a_pod_cannot_end_the_comment(server: FakeServer, tmp_path: Path) -> None:
    evil = ["ghcr.io/a\nkind: Evil", "ghcr.io/a\u2028kind: Evil", "ghcr.io/\x7f\x85a", "X" * 5000, "a b", "c d"]
    server.pods = [pod(*evil, "ghcr.io/a/b", secrets=("one\ncaches: []",))]
    text = text_of(server, tmp_path)
    assert yaml.safe_load(text)["kind"] == "RegistryConfig"
    assert text.isascii()
    assert "and 1 more" in comments(text)


def test_pull_secrets_are_named_and_the_choice_is_left_to_the_reader(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [
        pod("registry.example.com:5000/a", namespace=f"n{number}", secrets=("login",)) for number in "7654321"
    ]
    server.pods += [pod("ghcr.io/a/b", namespace="n8")]
    text = text_of(server, tmp_path)
    assert "pull secrets: n1/login, n2/login, n3/login, n4/login, n5/login and 2 more." in comments(text)
    assert yaml.safe_load(text)["caches"] == [{"upstream": "ghcr.io"}, {"upstream": "registry.example.com:5000"}]
    completed = text.replace("  # secretReferenceName: ", "  secretReferenceName: ")
    assert find_problems(document.parse(completed.encode())) == []
    assert yaml.safe_load(completed)["caches"][1]["secretReferenceName"] == "registry-example-com-5000"


def test_only_pods_and_nodes_are_listed(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod("registry.example.com/a", secrets=("login",))]
    discovered(server, tmp_path)
    assert [urlsplit(path).path for path in server.asked] == ["/api/v1/pods", "/api/v1/nodes"]


def test_same_cluster_gives_the_same_bytes(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod(f"host{number}.io/a", secrets=(f"s{number % 3}", "t")) for number in range(20)]
    server.nodes = [node((number, (f"host{number}.io/a:latest",))) for number in range(20)]
    before = text_of(server, tmp_path)
    server.pods.reverse()
    server.nodes.reverse()
    assert text_of(server, tmp_path) == before


def test_caches_in_the_values_are_not_written_again(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod("docker.io/library/a", "ghcr.io/a/b", f"{ECR}/a")]
    text = text_of(server, tmp_path, "docker.io", ECR)
    assert text.startswith("# The caches that the given values do not have yet, for the registries")
    assert yaml.safe_load(text)["caches"] == [{"upstream": "ghcr.io"}]
    assert ECR not in text


def test_document_has_only_comments_if_no_cache_is_missing(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod("docker.io/library/a", "ghcr.io/a/b", f"{ECR}/a")]
    text = text_of(server, tmp_path, "docker.io", "ghcr.io", "quay.io")
    assert yaml.safe_load(text) is None
    assert comments(text).startswith(
        "Nothing is missing: all registries of 1 pod and 0 nodes have a cache already: docker.io, ghcr.io."
    )
    assert ECR in text


def test_document_has_only_comments_if_no_registry_can_have_a_cache(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod("localhost/a")]
    text = text_of(server, tmp_path)
    assert yaml.safe_load(text) is None
    assert text.startswith("# No image of 1 pod and 0 nodes comes from a registry that can have a cache.\n")
    assert "localhost" in text


def test_ten_thousand_pods_are_read_page_by_page(server: FakeServer, tmp_path: Path) -> None:
    server.pods = [pod(f"ghcr.io/a/b:{number}") for number in range(10_000)]
    found = discovered(server, tmp_path)
    assert found.pods == 10_000
    assert found.registries["ghcr.io"].images == 10_000
    assert len(server.asked) == 10_000 / cluster_api.PAGE_OBJECTS + 1


def failure(path: Path | None, context: str | None = None) -> str:
    """Return the error message, after checking that it contains no credentials."""
    with pytest.raises(CannotDiscover) as caught:
        discover(connect(path, context))
    message = str(caught.value)
    assert TOKEN not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("pods", 401, "refuses the kubeconfig's credentials (401)"),
        ("pods", 403, "needs the permission to list pods in all namespaces"),
        ("nodes", 403, "may not list nodes (403): it needs the permission to list nodes"),
        ("pods", 410, "expired while it was read"),
        ("nodes", 500, "answered the request for nodes with status 500"),
        ("pods", 429, "with status 429"),
    ],
)
def test_refusal_of_the_server_is_explained(
    server: FakeServer, tmp_path: Path, kind: str, status: int, message: str
) -> None:
    server.status[kind] = status
    assert message in failure(kubeconfig(tmp_path, server.address))


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b"{}", b"\xff"])
def test_server_that_is_not_an_api_server_is_reported(server: FakeServer, tmp_path: Path, body: bytes) -> None:
    server.body = body
    assert "is it a Kubernetes API server?" in failure(kubeconfig(tmp_path, server.address))


def test_refused_connection_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    path = kubeconfig(tmp_path, f"http://someone:{TOKEN}@127.0.0.1:{port}")
    assert failure(path) == f"the server 127.0.0.1:{port}: cannot be reached: Connection refused"


def test_unknown_host_is_explained(tmp_path: Path) -> None:
    assert "the server nowhere.invalid: cannot be reached: " in failure(kubeconfig(tmp_path, "http://nowhere.invalid"))


def test_server_that_does_not_answer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster_api, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert "does not answer within 0.3 s" in failure(
            kubeconfig(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        )
    assert time.monotonic() - start < 5
    assert "Retrying" not in caplog.text, "once is enough: nobody waits for four times the timeout"


@pytest.fixture
def tls_server() -> Iterator[tuple[str, trustme.CA]]:
    """Run a server with a certificate for 127.0.0.1, and return its authority too."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Do not report clients that hang up."""

    with Quiet(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{http.server_port}", authority
        http.shutdown()
        thread.join()


def test_certificate_of_another_authority_is_explained(tls_server: tuple[str, trustme.CA], tmp_path: Path) -> None:
    address, _ = tls_server
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    message = failure(kubeconfig(tmp_path, address, **{"certificate-authority": "ca.pem"}))
    assert (
        "the kubeconfig's certificate authority did not sign its certificate: unable to get local issuer certificate"
        in message
    )


def test_valid_certificate_is_accepted(tls_server: tuple[str, trustme.CA], tmp_path: Path) -> None:
    address, authority = tls_server
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert "status 501" in failure(kubeconfig(tmp_path, address, **{"certificate-authority": "ca.pem"}))


def test_https_at_a_port_that_speaks_http_is_explained(server: FakeServer, tmp_path: Path) -> None:
    assert "TLS failed: " in failure(kubeconfig(tmp_path, server.address.replace("http", "https")))


def test_file_that_is_not_a_certificate_is_explained(tls_server: tuple[str, trustme.CA], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    message = failure(kubeconfig(tmp_path, tls_server[0], **{"certificate-authority": "ca.pem"}))
    assert "TLS failed: " in message


def test_certificate_file_that_is_missing_is_named(tmp_path: Path) -> None:
    message = failure(kubeconfig(tmp_path, "https://127.0.0.1", **{"certificate-authority": "ca.pem"}))
    assert f"File does not exist: {tmp_path}/ca.pem" in message


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN}\r\nHost: x", f"{TOKEN}\u2028"])
def test_token_that_cannot_be_sent_is_not_shown(server: FakeServer, tmp_path: Path, token: str) -> None:
    path = kubeconfig(tmp_path, server.address, user={"token": token})
    assert "credentials cannot be sent" in failure(path)


@pytest.mark.parametrize("command", ["false", "no-such-program"])
def test_login_command_without_credentials_is_explained(
    server: FakeServer, tmp_path: Path, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    login = {
        "command": command,
        "apiVersion": "client.authentication.k8s.io/v1",
        "env": [{"name": "X", "value": TOKEN}],
    }
    message = failure(kubeconfig(tmp_path, server.address, user={"exec": login}))
    assert f"the login command of the kubeconfig {tmp_path}/kubeconfig returned no credentials" in message
    assert TOKEN not in caplog.text
    assert server.asked == []


def test_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    assert failure(tmp_path / "none").startswith(f"there is no kubeconfig at {tmp_path}/none; ")


def test_kubeconfig_is_looked_for_where_kubectl_looks(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert "no kubeconfig at ~/.kube/config" in failure(None)
    path = kubeconfig(tmp_path, server.address)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none:{path}")
    assert discover(connect(None, None)).pods == 0
    monkeypatch.delenv("KUBECONFIG")
    (tmp_path / ".kube").mkdir()
    path.rename(tmp_path / ".kube" / "config")
    assert discover(connect(None, None)).pods == 0


def test_error_about_an_unknown_context_lists_the_known_ones(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1")
    assert failure(path, "there") == f"the kubeconfig {path} has no context there; its contexts are here"


def test_missing_context_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text('{"contexts": []}')
    assert "has no current context; name one with --context" in failure(path)
    assert "has no context here; it has no contexts" in failure(path, "here")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param(f"token: {TOKEN}: x\n", id="no-yaml"),
        pytest.param(f"users: [{TOKEN}", id="unclosed"),
        pytest.param(f"- {TOKEN}\n", id="list"),
        pytest.param(TOKEN, id="word"),
        pytest.param(f"users: {TOKEN}", id="users-a-word"),
        pytest.param(f"current-context: a\ncontexts: [{{context: {{cluster: {TOKEN}}}}}]", id="nameless"),
        pytest.param(f"current-context: a\ncontexts: [{{name: a, {TOKEN}: a}}]", id="context-missing"),
        pytest.param("current-context: a\ncontexts: [{name: a, context: {cluster: a}}]", id="cluster-missing"),
        pytest.param(
            "current-context: a\ncontexts: [{name: a, context: {cluster: a}}]\n"
            "clusters: [{name: a, cluster: {server: 'https://[::1'}}]",
            id="server-half-an-address",
        ),
        pytest.param(b"\xff\xfe", id="no-utf-8"),
    ],
)
def test_file_that_is_not_a_kubeconfig_is_named(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert failure(path).startswith(f"the kubeconfig {path} cannot be used: ")


@pytest.mark.parametrize("content", ["users: [{name: me, user: {password: x}}]", f"users: [{{name: me, {TOKEN}: x}}]"])
def test_malformed_user_is_not_shown(tmp_path: Path, content: str) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    whole = yaml.safe_load(path.read_text()) | yaml.safe_load(content)
    path.write_text(json.dumps(whole))
    assert failure(path)


def test_folder_is_named(tmp_path: Path) -> None:
    assert "cannot be used: Is a directory" in failure(tmp_path)


@pytest.mark.parametrize("server", ["no url", "ftp://host", "host", "http://", ""])
def test_server_that_is_not_a_url_is_reported(tmp_path: Path, server: str) -> None:
    assert "is not an http or https URL" in failure(kubeconfig(tmp_path, server))


def test_command_prints_the_missing_caches(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pods = [pod("nginx", "quay.io/x/y:1")]
    values = tmp_path / "values.yaml"
    values.write_text("caches: [{upstream: docker.io}]")
    arguments = ["discover", "--kubeconfig", str(kubeconfig(tmp_path, server.address)), "--context", "here"]
    assert cli.main(arguments) == 0
    assert [cache["upstream"] for cache in yaml.safe_load(capsys.readouterr().out)["caches"]] == [
        "docker.io",
        "quay.io",
    ]
    assert cli.main([*arguments, "--values", str(values)]) == 0
    assert [cache["upstream"] for cache in yaml.safe_load(capsys.readouterr().out)["caches"]] == ["quay.io"]
    values.write_text("caches: []")
    assert cli.main([*arguments, "--values", str(values)]) == 1
    assert capsys.readouterr().err.startswith(f"{values}: line 1: caches: ")


def test_exit_code_is_1_if_nothing_is_found(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kubeconfig(tmp_path, server.address)
    assert cli.main(["discover", "--kubeconfig", str(path)]) == 1
    assert "No image of 0 pods and 0 nodes comes from a registry that can have a cache" in capsys.readouterr().out
    server.status = {"pods": 401}
    assert cli.main(["discover", "--kubeconfig", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "credentials (401)" in captured.err
