"""Manifests are sent with the media type that distribution would send."""

from __future__ import annotations

import pytest
from gate import media_types
from gate.media_types import MediaTypes, determine_media_type


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        pytest.param('{"schemaVersion": 2, "mediaType": "a/b+json"}', "a/b+json", id="named"),
        pytest.param('{"schemaVersion": 2, "manifests": []}', media_types.OCI_INDEX, id="unnamed-index"),
        pytest.param('{"schemaVersion": 2, "layers": []}', media_types.OCI_MANIFEST, id="unnamed-manifest"),
        pytest.param('{"schemaVersion": 2, "manifests": null}', media_types.OCI_MANIFEST, id="no-manifests"),
        pytest.param('{"schemaVersion": 1}', media_types.DOCKER_V1, id="version-1"),
        pytest.param('{"schemaVersion": 1, "signatures": []}', media_types.DOCKER_V1_SIGNED, id="version-1-signed"),
        pytest.param('{"schemaVersion": 2, "mediaType": "a/b\\r\\nX: y"}', media_types.OCI_MANIFEST, id="two-headers"),
        pytest.param('{"schemaVersion": 2, "mediaType": 7}', media_types.OCI_MANIFEST, id="number"),
        pytest.param('{"schemaVersion": 2, "mediaType": "é/b"}', media_types.OCI_MANIFEST, id="not-ascii"),
    ],
)
def test_media_type_is_that_of_the_document_or_the_one_that_distribution_assumes(
    document: str, media_type: str
) -> None:
    assert determine_media_type(document.encode()) == media_type


@pytest.mark.parametrize(
    "content", [b"<html>", b"{}", b"[1]", b"\xff", b"[" * 100_000], ids=["page", "empty", "list", "binary", "deep"]
)
def test_other_content_has_no_media_type(content: bytes) -> None:
    assert determine_media_type(content) is None


def test_each_manifest_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(media_types, "determine_media_type", parsed.append)
    monkeypatch.setattr(media_types, "MAX_REMEMBERED_TYPES", 2)
    remembered = MediaTypes()
    for digest in (b"1", b"1", b"2", b"3", b"3", b"1"):
        remembered.find(digest.decode(), digest)
    assert parsed == [b"1", b"2", b"3", b"1"]
