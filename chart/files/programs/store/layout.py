"""The layout of the volume, which is the storage layout of distribution (registry/storage/paths.go).

Below `docker/registry/v2`, each blob is a file, and each link is a small file that contains the digest of a blob:

    blobs/sha256/<first two digits>/<digits>/data                               the blob
    repositories/<repository>/_layers/sha256/<digits>/link                      it is a layer of the repository
    repositories/<repository>/_manifests/revisions/sha256/<digits>/link         it is a manifest of the repository
    repositories/<repository>/_manifests/tags/<tag>/current/link                the tag points to it
    repositories/<repository>/_manifests/tags/<tag>/index/sha256/<digits>/link  the tag points to it, or did so before

Distribution ignores the folder `parts` beside `docker`, which holds files that are not complete yet. Those that survive
a restart are interrupted blobs, `parts/<digits>.<bytes>`, which have that many of the blob's first bytes.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from common.json_reader import parse_json

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# github.com/distribution/reference, regexp.go
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")
MAX_REPOSITORY_CHARACTERS = 255
INTERRUPTED = re.compile(r"([0-9a-f]{64})\.([1-9][0-9]{0,17})")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

# The kinds of links.
LAYER, REVISION, TAG_CURRENT, TAG_INDEX = "layer", "revision", "current", "index"

# Images have far fewer references. Those of a manifest with more are not kept.
MAX_REFERENCES = 1000
MAX_SIZE = (1 << 63) - 1


class Link(NamedTuple):
    """A file that contains the digest of a blob; `tag` is empty for layers and revisions."""

    kind: str
    repository: str
    tag: str = ""


class Layout:
    """The paths of everything on the volume."""

    def __init__(self, root: Path) -> None:
        """Use the volume that is mounted at `root`."""
        self.root = root
        self.incoming = root / "parts"
        self.blobs = root / "docker/registry/v2/blobs"
        self.repositories = root / "docker/registry/v2/repositories"

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob's content.

        Raises:
            ValueError: The digest is not valid.
        """
        check_digest(digest)
        digits = digest.removeprefix("sha256:")
        return Path(f"{self.blobs}/sha256/{digits[:2]}/{digits}/data")

    def interrupted_path(self, digest: str, size: int) -> Path:
        """Return the path of the first `size` bytes of a blob."""
        return self.incoming / f"{digest.removeprefix('sha256:')}.{size}"

    def link_path(self, link: Link, digest: str = "") -> Path:
        """Return the path of a link to a blob; that of kind `TAG_CURRENT` is the same for all blobs."""
        digits = digest.removeprefix("sha256:")
        folder = {
            LAYER: f"_layers/sha256/{digits}",
            REVISION: f"_manifests/revisions/sha256/{digits}",
            TAG_CURRENT: f"_manifests/tags/{link.tag}/current",
            TAG_INDEX: f"_manifests/tags/{link.tag}/index/sha256/{digits}",
        }[link.kind]
        return self.repositories / link.repository / folder / "link"


def check_digest(digest: str) -> None:
    """Reject a digest that is not valid, since it could lead out of its folder.

    Raises:
        ValueError: The digest is not valid, or its algorithm is not SHA-256.
    """
    if not DIGEST.fullmatch(digest):
        message = f"not a valid digest: {digest!r}"
        raise ValueError(message)


def check_names(repository: str, tag: str | None = None) -> None:
    """Reject names that are not valid, since they could lead out of their folder.

    Raises:
        ValueError: The name of the repository, or the tag, is not valid.
    """
    if not REPOSITORY.fullmatch(repository) or len(repository) > MAX_REPOSITORY_CHARACTERS:
        message = f"not a valid repository name: {repository!r}"
        raise ValueError(message)
    if tag is not None and not TAG.fullmatch(tag):
        message = f"not a valid tag: {tag!r}"
        raise ValueError(message)


def manifest_links(repository: str, tag: str | None) -> list[Link]:
    """Return the links that make a blob a manifest of a repository and let a tag point to it, in the order to add."""
    tag_links = [] if tag is None else [Link(TAG_INDEX, repository, tag), Link(TAG_CURRENT, repository, tag)]
    return [Link(REVISION, repository), *tag_links]


def digest_of(content: bytes) -> str:
    """Return the digest of some content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_references(manifest: bytes) -> dict[str, int]:
    """Return the digests and sizes that a manifest or index refers to: config, layers and manifests.

    The result is empty if the content is not a manifest, or has more than `MAX_REFERENCES` of them.
    """
    try:
        document = parse_json(manifest)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    lists = [document.get("layers"), document.get("manifests"), [document.get("config")]]
    references = {
        each["digest"]: each["size"]
        for descriptors in lists
        if isinstance(descriptors, list)
        for each in descriptors
        if isinstance(each, dict)
        and isinstance(each.get("digest"), str)
        and DIGEST.fullmatch(each["digest"])
        and type(each.get("size")) is int
        and 0 <= each["size"] <= MAX_SIZE
    }
    return references if len(references) <= MAX_REFERENCES else {}
