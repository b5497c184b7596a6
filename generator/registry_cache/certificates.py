"""Makes the Secrets with the certificates: an authority, one for each cache with TLS, and the one that nodes show."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry_cache import names

if TYPE_CHECKING:
    from registry_cache.model.registry_config import Cache
    from registry_cache.model.values import Values

AUTHORITY_DAYS = 3650
# Clocks of nodes may be slow.
BACKDATED = timedelta(hours=1)
SIGNS_ONLY = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "encipher_only": False,
    "decipher_only": False,
    "key_cert_sign": True,
    "crl_sign": True,
}


class CannotSign(Exception):
    """The authority in a file cannot be used; the message says why."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def end(self) -> datetime:
        """When the certificate ends."""
        return self.certificate.not_valid_after_utc

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True)
class Secret:
    """A Secret, and when its certificate ends."""

    manifest: dict[str, Any]
    end: datetime

    @property
    def name(self) -> str:
        """The name of the object."""
        return str(self.manifest["metadata"]["name"])


def make_secrets(
    values: Values, release: str, namespace: str, *, days: int, authority: Issued | None = None
) -> list[Secret]:
    """Return the Secrets for all caches with TLS: first the one with the authority, which no pod needs.

    If a cache serves only nodes, the last one has the certificate that the nodes show. An authority of an earlier call
    signs again; without one, a new one is made.
    """
    namespace = values.namespaceOverride or namespace
    prefix = names.fullname(release, name_override=values.nameOverride, fullname_override=values.fullnameOverride)
    authority = authority or _make_authority(f"{prefix} in {namespace}")
    secrets = [_to_secret(names.suffixed_name(prefix, "ca"), namespace, authority, authority)]
    for cache in values.caches:
        if cache.http.tls:
            settings = values.upstreamSettings[cache.upstream]
            own = names.object_name(prefix, cache.upstream)
            hosts = _host_names(own, prefix, cache, values.count_replicas(cache), namespace)
            issued = _issue_for_cache(authority, hosts, str(settings.clusterIP), days)
            secrets.append(_to_secret(settings.tlsSecretName or f"{own}-tls", namespace, issued, authority))
    if any(cache.http.tls and values.serves_only_nodes(cache) for cache in values.caches):
        name = values.cachePods.clientSecretName or names.suffixed_name(prefix, "client")
        issued = _issue(authority, f"nodes of {prefix} in {namespace}"[:64], ExtendedKeyUsageOID.CLIENT_AUTH, days)
        secrets.append(_to_secret(name, namespace, issued, authority))
    return secrets


def read_authority(text: str) -> Issued:
    """Return the authority in the output of an earlier call: the first Secret whose certificate may sign.

    Raises:
        CannotSign: There is none, or it has ended.
    """
    try:
        documents = [one for one in yaml.safe_load_all(text) if isinstance(one, dict)]
        for secret in documents:
            data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
            if data.get("tls.crt") and data.get("tls.crt") == data.get("ca.crt"):
                key = serialization.load_pem_private_key(data["tls.key"], None)
                certificate = x509.load_pem_x509_certificate(data["tls.crt"])
                certificate.verify_directly_issued_by(certificate)
                if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                    return _check_end(Issued(certificate, key))
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, InvalidSignature) as error:
        message = "it is not the output of `registry-cache certificates`"
        raise CannotSign(message) from error
    message = "it has no Secret with an authority and its key"
    raise CannotSign(message)


def secrets_text(secrets: list[Secret]) -> str:
    """Return the Secrets as YAML."""
    return "---\n".join(yaml.safe_dump(secret.manifest, sort_keys=False) for secret in secrets)


def _check_end(authority: Issued) -> Issued:
    if authority.end <= datetime.now(UTC):
        message = f"its authority ended on {authority.end:%Y-%m-%d}; leave it out to make a new one"
        raise CannotSign(message)
    return authority


def _host_names(own: str, prefix: str, cache: Cache, replicas: int, namespace: str) -> list[str]:
    """Return the names by which `helm test` and the other replicas reach the pods of a cache."""
    service, *peers = names.service_names(prefix, cache, replicas)
    hosts = [service, f"{service}.{namespace}.svc"]
    return hosts + [f"{own}-{ordinal}.{name}.{namespace}.svc" for ordinal in range(replicas) for name in peers]


def _make_authority(name: str) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = _builder(subject, subject, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.KeyUsage(**SIGNS_ONLY), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return Issued(builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256()), key)


def _issue_for_cache(authority: Issued, hosts: list[str], address: str, days: int) -> Issued:
    alternatives = [x509.IPAddress(ipaddress.ip_address(address)), *map(x509.DNSName, hosts)]
    return _issue(authority, address, ExtendedKeyUsageOID.SERVER_AUTH, days, x509.SubjectAlternativeName(alternatives))


def _issue(
    authority: Issued, name: str, usage: x509.ObjectIdentifier, days: int, *extensions: x509.ExtensionType
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(authority.certificate.subject, subject, key, days)
    for extension in (
        *extensions,
        x509.ExtendedKeyUsage([usage]),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
    ):
        builder = builder.add_extension(extension, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return Issued(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + timedelta(days=days))


def _to_secret(name: str, namespace: str, issued: Issued, authority: Issued) -> Secret:
    files = {"tls.crt": issued.pem, "tls.key": issued.key_pem, "ca.crt": authority.pem}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(content).decode() for key, content in files.items()},
    }
    return Secret(manifest, issued.end)
