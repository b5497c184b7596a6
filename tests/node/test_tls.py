"""Caches with TLS: a real cache pod, and a real containerd that pulls through it with what the node program writes."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from cluster.node_program import UNPRIVILEGED_COMMAND, cache_entry, write_configuration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from experiments.bare_node import RELEASES, Containerd
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path
from experiments.pod_bench import UPSTREAM
from machine.processes import Place, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

SECRET = "x-registry-cache-docker-io-tls"
VALUES = {"upstreamSettings": {UPSTREAM: {"clusterIP": "10.96.0.100", "tlsSecretName": SECRET}}}
CACHE = {"upstream": UPSTREAM, "http": {"tls": True}}
DAY = dt.timedelta(days=1)
# The node program and the front notice new files within seconds.
ROTATION_SECONDS = 60.0


@dataclass
class Authority:
    """An authority that signs certificates for addresses."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        """Sign its own certificate."""
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {id(self)}")])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None), DAY)

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    def secret(self, address: str, lifetime: dt.timedelta = DAY) -> dict[str, str]:
        """Return the content of a Secret with a certificate for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate = self._sign(x509.Name([]), key, names, lifetime)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"tls.crt": _pem(certificate), "tls.key": private.decode(), "ca.crt": self.pem}

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: Any, lifetime: dt.timedelta
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().issuer_name(self.name).subject_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - 3 * DAY).not_valid_after(now + lifetime)
        return builder.sign(self.key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Node:
    """A containerd and the node program beside a cache pod."""

    pod: CachePod
    folder: Path
    containerd: Containerd

    @property
    def certs(self) -> Path:
        return self.folder / "certs.d"

    @property
    def hosts(self) -> Path:
        return self.certs / UPSTREAM / "hosts.toml"

    @property
    def authorities(self) -> Path:
        return self.folder / f"{SECRET}.crt"

    def start_program(self, remote_url: str) -> None:
        entry = cache_entry(UPSTREAM, remote_url, self.pod.address, urlsplit(self.pod.url).port or 0)
        entry["endpoint"] |= {"scheme": "https", "ca": str(self.authorities)}
        path = write_configuration(
            self.folder / "node.json",
            certs=self.certs,
            state=self.folder / "state",
            containerd=self.folder / "containerd.toml",
            caches=[entry],
            probe={"interval": "1s", "timeout": "2s", "failureThreshold": 2, "maxBackoff": "0s"},
        )
        self.pod.place.start("program", [*UNPRIVILEGED_COMMAND, "--config", path])

    def not_ready(self) -> str:
        try:
            return (self.folder / "state" / "not-ready").read_text()
        except FileNotFoundError:
            return ""


def get(pod: CachePod, path: str, authority: str) -> tuple[int, bytes, str]:
    """Return the status and the body of a response, and the version of TLS."""
    context = ssl.create_default_context(cadata=authority)
    connection = http.client.HTTPSConnection(urlsplit(pod.url).netloc, timeout=HANG_SECONDS, context=context)
    try:
        connection.request("GET", f"{path}?ns={UPSTREAM}")
        response = connection.getresponse()
        assert isinstance(connection.sock, ssl.SSLSocket) or connection.sock is None
        version = connection.sock.version() if isinstance(connection.sock, ssl.SSLSocket) else None
        return response.status, response.read(), version or ""
    finally:
        connection.close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_cache_pod_serves_everything_with_tls_and_takes_a_renewed_certificate(
    bench: Bench, authority: Authority
) -> None:
    image = bench.push("tls")
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    other = Authority()
    try:
        pod.start()
        status, body, _ = get(pod, manifest_path("tls"), authority.pem)
        assert (status, body) == (200, image.manifest)
        for digest, content in image.blobs.items():
            for _ in range(2):
                assert get(pod, blob_path("tls", digest), authority.pem)[:2] == (200, content)
        assert pod.metrics()["registry_cache_certificate_expiry_timestamp_seconds"] == pytest.approx(
            time.time() + 86400, abs=600
        )
        pod.set_secret(SECRET, other.secret(pod.address))
        begun = time.monotonic()

        def uses_the_new_one() -> bool:
            try:
                return get(pod, "/v2/", other.pem)[0] == 200
            except ssl.SSLError:
                # The old one is served until then, and nothing fails.
                assert get(pod, blob_path("tls", next(iter(image.blobs))), authority.pem)[0] == 200
                return False

        wait_for("the renewed certificate", uses_the_new_one, ROTATION_SECONDS)
        print(f"{time.monotonic() - begun:.1f} s until the front served the renewed certificate")
        assert pod.is_ready()
        assert pod.lives()
        with pytest.raises(ssl.SSLError):
            get(pod, "/v2/", authority.pem)
    finally:
        for name in pod.containers:
            print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
        pod.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_old_versions_and_plain_http_get_nothing(bench: Bench, authority: Authority, version: ssl.TLSVersion) -> None:
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    try:
        pod.start()
        host, port = urlsplit(pod.url).hostname, urlsplit(pod.url).port
        plain = http.client.HTTPConnection(host or "", port, timeout=HANG_SECONDS)
        plain.request("GET", "/v2/")
        assert plain.getresponse().status == 400
        plain.close()
        context = ssl.create_default_context(cadata=authority.pem)
        context.minimum_version = context.maximum_version = version
        connection = http.client.HTTPSConnection(host or "", port, timeout=HANG_SECONDS, context=context)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
        connection.close()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        connection = http.client.HTTPSConnection(host or "", port, timeout=HANG_SECONDS, context=context)
        with pytest.raises(OSError, match=r"(?i)ssl|tls|protocol|alert|reset"):
            connection.request("GET", "/v2/")
    finally:
        pod.close()


@pytest.fixture(params=RELEASES)
def node(bench: Bench, authority: Authority, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    pod = bench.new_pod(CACHE, values=VALUES)
    pod.set_secret(SECRET, authority.secret(pod.address))
    (tmp_path / "certs.d").mkdir()
    containerd = Containerd(request.param, Place(tmp_path, pod.place.cgroup), tmp_path / "certs.d")
    node = Node(pod, tmp_path, containerd)
    node.authorities.write_text(authority.pem)
    (tmp_path / "containerd.toml").write_text(
        f"version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{node.certs}'\n"
    )
    try:
        pod.start()
        containerd.start()
        yield node
    finally:
        for log in ("program",):
            file = pod.place.log(log)
            if file.exists():
                print(f"--- {log}", *file.read_text(errors="replace").splitlines()[-20:], sep="\n")
        pod.place.stop("program")
        containerd.close()
        containerd.place.stop(f"containerd-{containerd.release}")
        pod.close()


def pulled_bytes(node: Node) -> float:
    return node.pod.metrics()['registry_proxy_pushed_bytes_total{type="blob"}']


def test_containerd_pulls_through_a_cache_whose_certificate_the_node_program_has_checked(
    node: Node, bench: Bench, authority: Authority
) -> None:
    """An expired, wrong or missing certificate withdraws the cache; a new authority is taken while both are trusted."""
    for number in range(3):
        bench.push(f"node-{node.containerd.release}-{number}")
    # An upstream that never answers: what arrives came through the cache.
    node.start_program("https://192.0.2.1")

    def pull(number: int) -> None:
        before = pulled_bytes(node)
        reference = f"{UPSTREAM}/library/node-{node.containerd.release}-{number}:1"
        pull = node.containerd.pull(reference)
        assert not pull.error
        wait_for("the bytes to be counted", lambda: pulled_bytes(node) > before, HANG_SECONDS)

    wait_for("the cache to be used", node.hosts.exists, HANG_SECONDS)
    (file,) = node.certs.glob(".registry-cache-*.crt")
    assert f'ca = "../{file.name}"' in node.hosts.read_text()
    pull(0)

    # The node has the new authority first, and trusts both.
    other = Authority()
    node.authorities.write_text(other.pem)
    wait_for("both authorities", lambda: _trusts(node, other.pem, authority.pem), HANG_SECONDS)
    pull(1)
    node.pod.set_secret(SECRET, other.secret(node.pod.address))
    time.sleep(15)
    assert node.not_ready() == ""
    assert node.hosts.exists()
    pull(2)

    for secret, problem in (
        (other.secret(node.pod.address, -DAY), "certificate has expired"),
        (other.secret("10.9.9.9"), "IP address mismatch"),
        (Authority().secret(node.pod.address), "self-signed certificate|unable to get local issuer certificate"),
    ):
        node.pod.set_secret(SECRET, secret)
        wait_for(problem, lambda wanted=problem: any(one in node.not_ready() for one in wanted.split("|")), 60)
        assert not node.hosts.exists()
        node.pod.set_secret(SECRET, other.secret(node.pod.address))
        wait_for("the cache to be used again", node.hosts.exists, 60)
    node.authorities.unlink()
    wait_for("the missing authority", lambda: f"the Secret {SECRET} does not exist" in node.not_ready(), 60)
    assert not node.hosts.exists()
    node.pod.place.stop("program")
    assert list(node.certs.iterdir()) == []


def _trusts(node: Node, *authorities: str) -> bool:
    files = list(node.certs.glob(".registry-cache-*.crt"))
    return len(files) == 1 and all(pem.strip() in files[0].read_text() for pem in authorities)
