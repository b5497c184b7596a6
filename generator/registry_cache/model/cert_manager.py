"""The values of cert-manager's objects."""

from __future__ import annotations

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.scalars import Kind, OptionalSubdomain, PositiveDuration, Subdomain


class IssuerReference(Model):
    """An issuer of cert-manager."""

    name: OptionalSubdomain = Field(
        "",
        description="The issuer of the caches' certificates. It must put its authority into ca.crt of the Secrets, as "
        "the types ca and vault do. Empty makes an authority that only this release uses.",
        examples=["company-ca"],
    )
    kind: Kind = Field("Issuer", description="Issuer, ClusterIssuer, or the kind of an external issuer.")
    group: Subdomain = Field("cert-manager.io", description="The group of its kind.")


class CertManager(Model):
    """Certificates from cert-manager."""

    enabled: bool = Field(
        False,
        description="Creates a Certificate of cert-manager for each cache with http.tls, and one for the nodes if a "
        "cache has nodesOnly: docs/guide/tls.md. cert-manager must be installed.",
    )
    issuerRef: IssuerReference = Field(
        default_factory=IssuerReference, description="Who issues the certificates of the caches."
    )
    duration: PositiveDuration = Field("2160h", description="How long certificates are valid, at least 1h.")
    renewBefore: PositiveDuration = Field("720h", description="How long before their end they are renewed.")
    authorityDuration: PositiveDuration = Field(
        "87600h", description="How long the authority of this release is valid."
    )
