"""Pushes images into registries (OCI distribution-spec, "Pushing")."""

from __future__ import annotations

import base64
import http.client
from typing import TYPE_CHECKING

from upstreams import oci

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 60.0


def push_image(address: str, repository: str, tag: str, image: oci.Image, login: tuple[str, str] | None = None) -> None:
    """Push an image to the registry at `address`, which is asked by plain HTTP.

    Raises:
        RuntimeError: The registry refused a part of it.
    """
    headers = {}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    try:
        for digest, blob in image.blobs.items():
            place = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/", headers, b"")
            path = place.partition(address)[2] or place
            _send(connection, "PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", headers, blob)
        manifest = {**headers, "Content-Type": oci.MANIFEST}
        _send(connection, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, image.manifest)
    finally:
        connection.close()


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> str:
    """Send a request and return the Location of its response."""
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    content = response.read()
    if response.status >= http.client.BAD_REQUEST:
        message = f"{method} {path}: status {response.status}: {content.decode(errors='replace')}"
        raise RuntimeError(message)
    return response.headers.get("Location", "")
