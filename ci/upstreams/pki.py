"""Certificates of the test bed, signed by an authority in the cache folder that nothing else trusts."""

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
    """Return the authority that stands in for public ones: it signs the upstreams' names and the cluster's clients."""
    folder = cache_folder() / "pki"
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locks.exclusive(key, "the test authority"):
            if not key.exists():
                created = trustme.CA(organization_name="registry-cache test bed")
                created.cert_pem.write_to_path(str(certificate))
                created.private_key_pem.write_to_path(str(key.with_suffix(".new")))
                key.with_suffix(".new").rename(key)
    return trustme.CA.from_pem(cert_bytes=certificate.read_bytes(), private_key_bytes=key.read_bytes())


def authority_file() -> Path:
    """Return the file of the authority's certificate (PEM)."""
    authority()
    return cache_folder() / "pki" / "ca.pem"


def issue(folder: Path, name: str, *identities: str, common_name: str, organization: str = "") -> tuple[Path, Path]:
    """Write `<name>.pem` (the chain) and `<name>.key` for a server or client into `folder`, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    issued = authority().issue_cert(
        *(identities or ("localhost",)),
        common_name=common_name,
        organization_name=organization or None,
    )
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
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
