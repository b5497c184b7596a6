"""The Secrets with certificates that the command makes: what they hold for, and who signed them."""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from registry_cache import cli
from registry_cache.certificates import CannotSign, read_authority

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "caches": [
        {"upstream": "docker.io", "http": {"tls": True}, "highAvailability": {"enabled": True}},
        {"upstream": "quay.io", "http": {"tls": True}},
        {"upstream": "ghcr.io"},
    ],
    "upstreamSettings": {
        "docker.io": {"clusterIP": "10.96.0.20"},
        "quay.io": {"clusterIP": "fd00::20", "tlsSecretName": "own"},
    },
}


def run(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[list[dict[str, Any]], str]:
    path.write_text(yaml.safe_dump(VALUES))
    assert cli.main(["certificates", str(path), "--namespace", "space", *options]) == 0
    captured = capsys.readouterr()
    return list(yaml.safe_load_all(captured.out)), captured.err


def certificate_of(secret: dict[str, Any], key: str = "tls.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][key]))


def test_each_cache_with_tls_gets_a_secret_that_holds_for_its_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (authority, hub, quay), notes = run(tmp_path / "values.yaml", capsys)
    names = [one["metadata"]["name"] for one in (authority, hub, quay)]
    assert names == ["registry-cache-ca", "registry-cache-docker-io-tls", "own"]
    assert {one["metadata"]["namespace"] for one in (authority, hub, quay)} == {"space"}
    for secret, address in ((hub, "10.96.0.20"), (quay, "fd00::20")):
        certificate = certificate_of(secret)
        certificate.verify_directly_issued_by(certificate_of(authority))
        assert certificate_of(secret, "ca.crt") == certificate_of(authority)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert alternatives.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(address)]
        assert f"Secret {secret['metadata']['name']}: the certificate ends on " in notes
    names = certificate_of(hub).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "registry-cache-docker-io",
        "registry-cache-docker-io.space.svc",
        *(f"registry-cache-docker-io-{ordinal}.registry-cache-docker-io--peers.space.svc" for ordinal in (0, 1)),
    ]


def test_authority_of_an_earlier_output_signs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = run(tmp_path / "values.yaml", capsys)
    (tmp_path / "secrets.yaml").write_text(yaml.safe_dump_all(first))
    again, _ = run(tmp_path / "values.yaml", capsys, "--authority", str(tmp_path / "secrets.yaml"))
    assert again[0] == first[0]
    assert again[1] != first[1]
    certificate_of(again[1]).verify_directly_issued_by(certificate_of(first[0]))


@pytest.mark.parametrize(
    "text", ["", "x", "a: [", "kind: Secret", "data: {tls.crt: eA==, ca.crt: eA==, tls.key: eA==}"]
)
def test_file_without_an_authority_is_refused(text: str) -> None:
    with pytest.raises(CannotSign):
        read_authority(text)


def test_document_without_tls_gets_no_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "values.yaml").write_text("caches: [{upstream: docker.io}]")
    assert cli.main(["certificates", str(tmp_path / "values.yaml")]) == 1
    assert "no cache has http.tls: true" in capsys.readouterr().err


def test_nodes_get_a_certificate_for_clients_if_a_cache_serves_only_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**VALUES, "upstreamSettings": {**VALUES["upstreamSettings"]}}
    values["upstreamSettings"]["quay.io"] = {"clusterIP": "10.96.0.21", "nodesOnly": True}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    assert cli.main(["certificates", str(tmp_path / "values.yaml"), "--namespace", "space"]) == 0
    captured = capsys.readouterr()
    authority, *_, nodes = yaml.safe_load_all(captured.out)
    assert nodes["metadata"] == {"name": "registry-cache-client", "namespace": "space"}
    certificate = certificate_of(nodes)
    certificate.verify_directly_issued_by(certificate_of(authority))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "Secret registry-cache-client: the certificate ends on " in captured.err


def test_secret_that_would_get_two_certificates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**VALUES, "upstreamSettings": {**VALUES["upstreamSettings"]}}
    values["upstreamSettings"]["docker.io"] = {"clusterIP": "10.96.0.20", "tlsSecretName": "own"}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    assert cli.main(["certificates", str(tmp_path / "values.yaml")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(
        "the Secret own would get two certificates; write another tlsSecretName or clientSecretName\n"
    )
