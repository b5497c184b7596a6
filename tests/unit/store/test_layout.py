"""The layout of the volume: paths, valid names, and the references of manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_stores import content, index_of, manifest_of
from store.layout import LAYER, Layout, Link, check_digest, check_names, manifest_links, read_references
from upstreams.oci import digest

NAME = "sha256:" + "0123456789abcdef" * 4
DIGITS = "0123456789abcdef" * 4


def test_paths_are_those_of_distribution() -> None:
    layout = Layout(Path("/volume"))
    registry = Path("/volume/docker/registry/v2")
    assert layout.blob_path(NAME) == registry / "blobs/sha256/01" / DIGITS / "data"
    assert layout.link_path(Link(LAYER, "a/b"), NAME) == registry / f"repositories/a/b/_layers/sha256/{DIGITS}/link"
    manifests = registry / "repositories/a/b/_manifests"
    assert [layout.link_path(link, NAME) for link in manifest_links("a/b", "v1")] == [
        manifests / f"revisions/sha256/{DIGITS}/link",
        manifests / f"tags/v1/index/sha256/{DIGITS}/link",
        manifests / "tags/v1/current/link",
    ]


@pytest.mark.parametrize(
    ("repository", "tag"),
    [
        *[(name, "v1") for name in ("../out", "a/../b", "/a", "a//b", "a/", "a/_layers", "", "A", "a\n", "a" * 256)],
        *[("a", tag) for tag in ("..", ".", "", "a/b", "x" * 129, "-a", "v1\n")],
    ],
)
def test_names_that_could_lead_out_of_their_folder_are_rejected(repository: str, tag: str) -> None:
    with pytest.raises(ValueError, match="not a valid "):
        check_names(repository, tag)


@pytest.mark.parametrize("name", ["sha256:../../x", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "", NAME + "\n"])
def test_digests_that_could_lead_out_of_their_folder_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid digest"):
        check_digest(name)


def test_manifest_refers_to_its_config_and_layers_and_an_index_to_its_manifests() -> None:
    manifest = manifest_of(b"config", [content(1)])
    assert read_references(manifest) == {digest(b"config"): 6, digest(content(1)): len(content(1))}
    assert read_references(index_of([manifest])) == {digest(manifest): len(manifest)}
