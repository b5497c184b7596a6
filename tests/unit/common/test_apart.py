"""Large content is read by a process of its own."""

from __future__ import annotations

import subprocess
from unittest import mock

import pytest
from common import apart
from common.apart import MAX_DIRECT_BYTES, call_apart
from gate.media_types import OCI_MANIFEST, determine_media_type
from store.layout import read_references
from upstreams import oci

LARGE = oci.Image(layers=(b"layer",)).manifest + b" " * MAX_DIRECT_BYTES


def test_large_content_is_read_apart_with_the_same_result() -> None:
    here = AssertionError("it was read here")
    with (
        mock.patch("gate.media_types.parse_json", side_effect=here),
        mock.patch("store.layout.parse_json", side_effect=here),
    ):
        assert call_apart(determine_media_type, LARGE) == OCI_MANIFEST
        references = call_apart(read_references, LARGE)
    assert references == read_references(LARGE)
    assert len(references) == 2


def test_small_content_needs_no_process() -> None:
    with mock.patch.object(subprocess, "run", side_effect=AssertionError("it was read apart")):
        assert call_apart(determine_media_type, LARGE[:MAX_DIRECT_BYTES]) == OCI_MANIFEST


def test_large_content_that_is_no_manifest_has_no_media_type() -> None:
    assert call_apart(determine_media_type, b"<" * (MAX_DIRECT_BYTES + 1)) is None


def test_content_that_needs_too_much_time_or_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="too much time or memory"):
        call_apart(determine_media_type, b" " * apart.MAX_MEMORY_BYTES)
    monkeypatch.setattr(apart, "MAX_SECONDS", 0.001)
    with pytest.raises(OSError, match="too much time or memory"):
        call_apart(determine_media_type, LARGE)
