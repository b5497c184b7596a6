"""Certificates for caches and nodes, and a containerd and the node program beside a real cache pod with TLS."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.node_program import UNPRIVILEGED_COMMAND, cache_entry, write_configuration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from experiments.bare_node import Containerd
from experiments.cache_client import HANG_SECONDS
from experiments.pod_bench import UPSTREAM
from machine.processes import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cluster.cache_pod import CachePod

SECRET = "x-registry-cache-docker-io-tls"
CLIENT_SECRET = "x-registry-cache-client"
VALUES: dict[str, Any] = {"upstreamSettings": {UPSTREAM: {"clusterIP": "10.96.0.100", "tlsSecretName": SECRET}}}
CACHE = {"upstream": UPSTREAM, "http": {"tls": True}}
DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """An authority that signs certificates for addresses."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        """Sign its own certificate."""
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {id(self)}")])
        self.certificate = self._sign(self.name, self.key, DAY, x509.BasicConstraints(ca=True, path_length=None))

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    def secret(self, address: str, lifetime: dt.timedelta = DAY, hosts: Sequence[str] = ()) -> dict[str, str]:
        """Return the content of a Secret with the certificate of a cache, for an address and for names."""
        names = [x509.IPAddress(ipaddress.ip_address(address)), *map(x509.DNSName, hosts)]
        return self._secret(x509.SubjectAlternativeName(names), ExtendedKeyUsageOID.SERVER_AUTH, lifetime)

    def client_secret(self, lifetime: dt.timedelta = DAY) -> dict[str, str]:
        """Return the content of a Secret with the certificate of the nodes."""
        names = x509.SubjectAlternativeName([x509.DNSName("nodes")])
        return self._secret(names, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime)

    def _secret(
        self, names: x509.SubjectAlternativeName, usage: x509.ObjectIdentifier, lifetime: dt.timedelta
    ) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([]), key, lifetime, names, x509.ExtendedKeyUsage([usage]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"tls.crt": _pem(certificate), "tls.key": private.decode(), "ca.crt": self.pem}

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lifetime: dt.timedelta,
        *extensions: x509.ExtensionType,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().issuer_name(self.name).subject_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
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
    client: Path | None = None

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
        if self.client:
            entry["endpoint"]["client"] = str(self.client)
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


@contextmanager
def node_beside(pod: CachePod, release: str, folder: Path, authority: Authority) -> Iterator[Node]:
    """Start a pod and a release of containerd, and end both and the node program."""
    (folder / "certs.d").mkdir()
    containerd = Containerd(release, Place(folder, pod.place.cgroup), folder / "certs.d")
    node = Node(pod, folder, containerd)
    node.authorities.write_text(authority.pem)
    (folder / "containerd.toml").write_text(
        f"version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{node.certs}'\n"
    )
    try:
        pod.start()
        containerd.start()
        yield node
    finally:
        print_log("program", pod.place.log("program"))
        for name in pod.containers:
            print_log(name, pod.log_file(name))
        pod.place.stop("program")
        containerd.close()
        containerd.place.stop(f"containerd-{containerd.release}")
        pod.close()


def print_log(name: str, file: Path) -> None:
    """Print the end of a log, which may not exist."""
    if file.exists():
        print(f"--- {name}", *file.read_text(errors="replace").splitlines()[-20:], sep="\n")


def get(pod: CachePod, path: str, authority: str, client: Path | None = None) -> tuple[int, bytes, str]:
    """Return the status and the body of a response, and the version of TLS.

    `client` is a folder with the certificate to show.
    """
    context = ssl.create_default_context(cadata=authority)
    if client:
        context.load_cert_chain(client / "tls.crt", client / "tls.key")
    connection = http.client.HTTPSConnection(urlsplit(pod.url).netloc, timeout=HANG_SECONDS, context=context)
    try:
        connection.request("GET", f"{path}?ns={UPSTREAM}")
        response = connection.getresponse()
        assert isinstance(connection.sock, ssl.SSLSocket) or connection.sock is None
        version = connection.sock.version() if isinstance(connection.sock, ssl.SSLSocket) else None
        return response.status, response.read(), version or ""
    finally:
        connection.close()
