"""How a source of images is told which blob or manifest is wanted."""

from __future__ import annotations

from typing import Literal, NamedTuple

# The kinds of content, as metrics call them too.
BLOB: Literal["blob"] = "blob"
MANIFEST: Literal["manifest"] = "manifest"


class Reference(NamedTuple):
    """A blob or a manifest in a repository.

    `identifier` is the digest of a blob, and the digest or a tag of a manifest.
    """

    kind: Literal["blob", "manifest"]
    repository: str
    identifier: str

    @property
    def path(self) -> str:
        """The path below the repository in the API of a registry, such as `manifests/latest`."""
        return f"{self.kind}s/{self.identifier}"

    @property
    def is_digest(self) -> bool:
        """Whether the identifier is a digest, so that the content can be compared with it."""
        return ":" in self.identifier

    def __str__(self) -> str:
        """The reference as image tools write it: `library/alpine:3`, `library/alpine@sha256:…`."""
        return f"{self.repository}{'@' if self.is_digest else ':'}{self.identifier}"
