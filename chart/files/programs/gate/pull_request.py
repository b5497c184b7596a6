"""Reads what a node asks a registry for (distribution-spec, "Pull")."""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

from fetching.replica_first import REPLICA_HEADER, ZONE_HEADER
from store.layout import DIGEST, MAX_REPOSITORY_CHARACTERS, REPOSITORY, TAG
from upstream.credentials import PullerAuthorization
from upstream.reference import BLOB, MANIFEST, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from email.message import Message

# The clients that survive a body that breaks off: they request the rest, and if that is refused, they request it from
# the upstream (containerd 1.6 to 2.4, core/remotes/docker/httpreadseeker.go; the client of another cache).
RESUMING_USER_AGENTS = ("containerd/", "registry-cache")
_CONTENT_PATH = re.compile(r"/v2/(.+)/(blobs|manifests)/([^/]+)")
# Bearer or Basic, with what a token or an encoded password can have (RFC 6750, RFC 7617).
_AUTHORIZATION = re.compile(r"(?i:bearer|basic) [A-Za-z0-9\-._~+/]{1,16384}=*")
_BYTE_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


# containerd says in this parameter for which registry it asks a mirror.
_REGISTRY_PARAMETER = "ns"
# The names of Docker Hub in image references and in its API.
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


class PullRequest(NamedTuple):
    """A request for a blob or a manifest."""

    method: str
    reference: Reference
    first_byte: int
    last_byte: int | None
    """The last byte that is wanted, or None for all bytes from the first one on."""
    client: str
    """The address that the front saw, or "" if it is unknown."""
    replica_zone: str | None
    """The zone of the replica that asks, which may be "", or None if a node asks."""
    can_resume: bool
    """Whether the client survives a body that breaks off."""
    authorization: PullerAuthorization | None = None
    """What the client shows of its right to pull, if it does."""

    @property
    def from_replica(self) -> bool:
        """Whether another replica of this cache asks, rather than a node."""
        return self.replica_zone is not None


def parse_pull_request(
    method: str, path: str, headers: Message, is_replica: Callable[[str, str], bool]
) -> PullRequest | None:
    """Return the request for a blob or a manifest, or None if the path is of something else.

    Digests by other algorithms than sha256 count as something else. `is_replica` gets the name in the header of
    replicas and the address of the client, and returns whether they belong together.
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
    client, replica = headers.get("X-Real-IP", ""), headers.get(REPLICA_HEADER, "")
    from_replica = bool(replica) and is_replica(replica, client)
    authorization = headers.get("Authorization", "")
    return PullRequest(
        method=method,
        reference=Reference(BLOB if folder == "blobs" else MANIFEST, repository, identifier),
        first_byte=first_byte,
        last_byte=last_byte,
        client=client,
        replica_zone=headers.get(ZONE_HEADER, "") if from_replica else None,
        can_resume=user_agent.startswith(RESUMING_USER_AGENTS),
        authorization=PullerAuthorization(authorization) if _AUTHORIZATION.fullmatch(authorization) else None,
    )


def is_for_registry(query: str, upstream: str) -> bool:
    """Return whether the query of a request names this upstream, or no registry."""
    names = urllib.parse.parse_qs(query, keep_blank_values=True).get(_REGISTRY_PARAMETER, [])
    accepted = _DOCKER_HUB if upstream in _DOCKER_HUB else {upstream}
    return accepted.issuperset(name.lower() for name in names)


def is_allowed(repository: str, allowed: Collection[str]) -> bool:
    """Return whether a repository is one of those that are allowed; `team/*` allows all below `team`.

    An empty list allows all repositories.
    """
    if not allowed or repository in allowed:
        return True
    parts = repository.split("/")
    return any(f"{'/'.join(parts[:depth])}/*" in allowed for depth in range(1, len(parts)))


def _parse_byte_range(header: str) -> tuple[int, int | None]:
    """Return the first and the last byte of a range.

    Other forms of a range are read as the whole, which HTTP allows (RFC 9110, section 14.2).
    """
    match = _BYTE_RANGE.fullmatch(header.strip())
    if match is None:
        return 0, None
    return int(match[1]), int(match[2]) if match[2] else None
