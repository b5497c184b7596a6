"""`helm test`: asks each cache from inside the cluster, and pulls through it twice where an image is known.

Reads a JSON list of caches from the file given: {"upstream", "address", "metrics", "image"}; the image may be empty.
Prints a line for each cache. Exit code 0: all do what they should; 1: one does not, and its line says why.
"""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 30
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)


class Unproved(Exception):
    """A cache did not do what it should; the message says what, in words for the one who installed it."""


def main(arguments: list[str]) -> int:
    """Ask every cache and return the exit code."""
    failed = False
    for cache in json.loads(Path(arguments[0]).read_text(encoding="utf-8")):
        try:
            result = prove(cache)
        except Unproved as problem:
            failed = True
            result = f"FAILED: {problem}"
        print(f"{cache['upstream']}: {result}")
    return 1 if failed else 0


def prove(cache: dict[str, str]) -> str:
    """What a cache was seen to do.

    Raises:
        Unproved: it does not answer, its upstream refuses, or the second pull was no hit.
    """
    address = cache["address"]
    try:
        fetch(f"{address}/v2/")
    except (OSError, Unproved) as error:
        message = f"the cache does not answer at {address}: {error}"
        raise Unproved(message) from error
    if not cache["image"]:
        return "the cache answers; no image is known to pull through it (values: test.images)"
    name, _, tag = cache["image"].rpartition(":")
    try:
        blob = smallest_blob(address, name, tag)
        url = f"{address}/v2/{name}/blobs/{blob['digest']}"
        check(fetch(url), blob)
        before = hits(cache["metrics"])
        check(fetch(url), blob)
    except OSError as error:
        message = f"the cache answers, but {cache['image']} does not come through it: {error}"
        raise Unproved(message) from error
    if hits(cache["metrics"]) <= before:
        message = f"the second pull of {cache['image']} was no hit: what was pulled is not stored"
        raise Unproved(message)
    return f"{cache['image']} came through the cache, and the second time from its volume"


def smallest_blob(address: str, name: str, tag: str) -> dict[str, Any]:
    """The descriptor of the smallest of an image's blobs, for the first platform that it has."""
    manifest = json.loads(fetch(f"{address}/v2/{name}/manifests/{tag}"))
    if "manifests" in manifest:
        manifest = json.loads(fetch(f"{address}/v2/{name}/manifests/{manifest['manifests'][0]['digest']}"))
    blobs: list[dict[str, Any]] = [manifest["config"], *manifest["layers"]]
    return min(blobs, key=lambda blob: int(blob["size"]))


def check(content: bytes, blob: dict[str, Any]) -> None:
    """Refuse content that is not what its digest says."""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != blob["digest"]:
        message = f"blob {blob['digest']} has other content than its digest says"
        raise Unproved(message)


def hits(metrics: str) -> float:
    """The cache's count of blobs served from its volume (distribution, registry/proxy/proxymetrics.go)."""
    for line in fetch(metrics).decode().splitlines():
        if line.startswith('registry_proxy_hits_total{type="blob"}'):
            return float(line.split()[-1])
    return 0.0


def fetch(url: str) -> bytes:
    """The body of a successful answer.

    Raises:
        OSError: no connection, or no answer in time.
        Unproved: an error status; the message has it, and that it is the cache's answer.
    """
    request = urllib.request.Request(url, headers={"Accept": MANIFESTS})  # noqa: S310 - the chart wrote the URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            message = (
                f"{url} gave status {error.code}: the upstream is away, does not have the image, or refuses the "
                "credentials; the log of the cache's pod says which"
            )
        raise Unproved(message) from error
    return content


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
