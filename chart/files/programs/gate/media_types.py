"""Determines the media type of a manifest, as distribution does (registry/storage/manifeststore.go, Get)."""

from __future__ import annotations

import re
import threading

from common.apart import call_apart
from common.json_reader import parse_json
from common.recent import RecentDict

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_V1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_V1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
# RFC 6838, section 4.2. The media type in a document becomes a header, so nothing else is accepted.
MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
MAX_REMEMBERED_TYPES = 10_000


class MediaTypes:
    """The media types of the manifests that were requested lately."""

    def __init__(self) -> None:
        """Remember no media type yet."""
        self._lock = threading.Lock()
        self._remembered: RecentDict[str, str | None] = RecentDict(MAX_REMEMBERED_TYPES)

    def find(self, digest: str, content: bytes) -> str | None:
        """Return the media type of the content with this digest, or None if it is not a manifest.

        Raises:
            OSError: The content is large, and could not be parsed.
        """
        with self._lock:
            if digest in self._remembered:
                return self._remembered[digest]
        media_type = call_apart(determine_media_type, content)
        with self._lock:
            self._remembered[digest] = media_type
        return media_type


def determine_media_type(content: bytes) -> str | None:
    """Return the media type of a manifest, or None if the content is not one.

    All manifests of OCI and Docker are JSON objects with the version of their schema. A document without a media type
    is one of OCI, or of the first version of Docker's schema.
    """
    try:
        document = parse_json(content)
    except ValueError:
        return None
    if not isinstance(document, dict) or "schemaVersion" not in document:
        return None
    media_type = document.get("mediaType")
    if isinstance(media_type, str) and MEDIA_TYPE.fullmatch(media_type):
        return media_type
    if document["schemaVersion"] == 1:
        return DOCKER_V1_SIGNED if "signatures" in document else DOCKER_V1
    return OCI_INDEX if isinstance(document.get("manifests"), list) else OCI_MANIFEST
