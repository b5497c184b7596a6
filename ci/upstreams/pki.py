"""Certificates of the test cluster: one authority, made once, kept in the cache folder, trusted by nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from machine import locks
from machine.paths import cache_folder

if TYPE_CHECKING:
    from pathlib import Path


def authority() -> trustme.CA:
    """The authority that stands for the public ones: it signs the upstreams' names and the cluster's own clients."""
    folder = cache_folder() / "pki"
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locks.exclusive(key, "the test authority"):
            if not key.exists():
                made = trustme.CA(organization_name="registry-cache test cluster")
                made.cert_pem.write_to_path(str(certificate))
                made.private_key_pem.write_to_path(str(key.with_suffix(".new")))
                key.with_suffix(".new").rename(key)
    return trustme.CA.from_pem(cert_bytes=certificate.read_bytes(), private_key_bytes=key.read_bytes())


def authority_file() -> Path:
    """The authority's certificate, PEM."""
    authority()
    return cache_folder() / "pki" / "ca.pem"


def issue(folder: Path, name: str, *identities: str, common_name: str, organization: str = "") -> tuple[Path, Path]:
    """Write `<name>.pem` (chain) and `<name>.key` for one server or client into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = authority().issue_cert(
        *(identities or ("localhost",)),
        common_name=common_name,
        organization_name=organization or None,
    )
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    return certificate, key


def signing_key(path: Path) -> Path:
    """Write the private key that signs service account tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path
