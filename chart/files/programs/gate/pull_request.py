"""Reads what a node asks a registry for (distribution-spec, "Pull")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from store.layout import DIGEST, MAX_REPOSITORY_CHARACTERS, REPOSITORY, TAG
from upstream.reference import BLOB, MANIFEST, Reference

if TYPE_CHECKING:
    from email.message import Message

# The User-Agent of the upstream client begins with this, so a replica that asks can be told from a node.
REPLICA_USER_AGENT = "registry-cache"
# The clients that survive a body that breaks off: they request the rest, and if that is refused, they request it from
# the upstream (containerd 1.6 to 2.4, core/remotes/docker/httpreadseeker.go).
RESUMING_USER_AGENTS = ("containerd/", REPLICA_USER_AGENT)
_CONTENT_PATH = re.compile(r"/v2/(.+)/(blobs|manifests)/([^/]+)")
_BYTE_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class PullRequest(NamedTuple):
    """A request for a blob or a manifest."""

    method: str
    reference: Reference
    first_byte: int
    last_byte: int | None
    """The last byte that is wanted, or None for all bytes from the first one on."""
    client: str
    """The address that the front saw, or "" if it is unknown."""
    from_replica: bool
    """Whether the other replica of this cache asks, rather than a node."""
    can_resume: bool
    """Whether the client survives a body that breaks off."""


def parse_pull_request(method: str, path: str, headers: Message) -> PullRequest | None:
    """Return the request for a blob or a manifest, or None if the path is of something else.

    Digests by other algorithms than sha256 count as something else.
    """
    match = _CONTENT_PATH.fullmatch(path)
    if match is None:
        return None
    repository, folder, identifier = match.groups()
    if len(repository) > MAX_REPOSITORY_CHARACTERS or not REPOSITORY.fullmatch(repository):
        return None
    if not DIGEST.fullmatch(identifier) and (folder == "blobs" or not TAG.fullmatch(identifier)):
        return None
    first_byte, last_byte = _parse_byte_range(headers.get("Range", ""))
    user_agent = headers.get("User-Agent", "")
    return PullRequest(
        method=method,
        reference=Reference(BLOB if folder == "blobs" else MANIFEST, repository, identifier),
        first_byte=first_byte,
        last_byte=last_byte,
        client=headers.get("X-Real-IP", ""),
        from_replica=user_agent.startswith(REPLICA_USER_AGENT),
        can_resume=user_agent.startswith(RESUMING_USER_AGENTS),
    )


def _parse_byte_range(header: str) -> tuple[int, int | None]:
    """Return the first and the last byte of a range.

    Other forms of a range are read as the whole, which HTTP allows (RFC 9110, section 14.2).
    """
    match = _BYTE_RANGE.fullmatch(header.strip())
    if match is None:
        return 0, None
    return int(match[1]), int(match[2]) if match[2] else None
