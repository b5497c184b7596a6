"""`helm test`: asks each cache from inside the cluster, and pulls through it twice where an image is known.

Reads a JSON list of caches from the file given: {"upstream", "address", "metrics", "image"}; the image may be empty,
and there are metrics of each replica.
Prints a line for each cache. Exit code 0: all do what they should; 1: one does not, and its line says why, and whether
it is the cache itself or what comes through it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 30
TRIES = 10
# What is counted, by its series in the metrics: blobs from the volume and not, tags that were taken from the volume
# because the upstream could not be asked, and requests to the upstream.
COUNTED = {
    "hits": r'registry_proxy_hits_total\{[^}]*type="blob"\}',
    "misses": r'registry_proxy_misses_total\{[^}]*type="blob"\}',
    "stale": r'registry_cache_tag_lookups_total\{[^}]*result="stale"\}',
    "asked": r"registry_cache_upstream_requests_total\{[^}]*\}",
}
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)


class Unproved(Exception):
    """A cache did not do what it should; the message says what, in words for the one who installed it."""


class NoContent(Exception):
    """A request brought no whole answer; the message has its URL and what came instead."""


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


def prove(cache: dict[str, Any], pause_seconds: float = 1) -> str:
    """What a cache was seen to do.

    Raises:
        Unproved: it does not answer, its upstream refuses or is away, or no second pull was a hit.
    """
    address, image = cache["address"], cache["image"]
    try:
        fetch(f"{address}/v2/")
        began = counters(cache["metrics"])
    except NoContent as problem:
        message = f"the cache does not answer as it should: {problem}"
        raise Unproved(message) from problem
    if not image:
        return "the cache answers; no image is known to pull through it (values: helmTest.images)"
    try:
        name, digest = smallest_blob_through(cache, pause_seconds)
        url = f"{address}/v2/{name}/blobs/{digest}"
        check(fetch(url), digest)
        before = counters(cache["metrics"])
        for _ in range(TRIES):  # distribution stores a blob just after it sent the last of it
            check(fetch(url), digest)
            after = counters(cache["metrics"])
            if after["hits"] > before["hits"]:
                so_far = ", ".join(f"{after[counter]:.0f} {counter}" for counter in ("hits", "misses"))
                stored = "" if after["asked"] > began["asked"] else "; all of it was there, the upstream was not asked"
                return f"{image} came through the cache, and again from its volume ({so_far} of blobs so far){stored}"
            time.sleep(pause_seconds)
    except NoContent as problem:
        message = (
            f"the cache answers, but {image} does not come through it: {problem}. Its upstream is away or slow, does "
            "not have the image or refuses the credentials; the log of the cache's pod says which"
        )
        raise Unproved(message) from problem
    message = f"{image} comes through the cache, but never from its volume: what was pulled is not stored"
    raise Unproved(message)


def smallest_blob_through(cache: dict[str, Any], pause_seconds: float) -> tuple[str, str]:
    """As smallest_blob, by what the upstream says its tag means: a stored image is served without the upstream too.

    Raises:
        Unproved: the cache could not ask the upstream, at any of several tries.
    """
    before = counters(cache["metrics"])
    for _ in range(TRIES):  # an upstream that is slow once has answered when it is asked again
        found = smallest_blob(cache["address"], cache["image"])
        after = counters(cache["metrics"])
        if after["stale"] == before["stale"]:
            return found
        before = after
        time.sleep(pause_seconds)
    message = (
        f"{cache['image']} comes from the volume alone: the cache cannot ask its upstream, which is away or slow, or "
        "refuses the credentials; registry_cache_upstream_requests_total in the cache's metrics says which"
    )
    raise Unproved(message)


def smallest_blob(address: str, image: str) -> tuple[str, str]:
    """The repository of an image, and the digest of its smallest blob, for the first platform that it has."""
    name, _, digest = image.partition("@")
    name, _, tag = name.partition(":")
    try:
        manifest = json.loads(fetch(f"{address}/v2/{name}/manifests/{digest or tag or 'latest'}"))
        if "manifests" in manifest:
            manifest = json.loads(fetch(f"{address}/v2/{name}/manifests/{manifest['manifests'][0]['digest']}"))
        blobs: list[dict[str, Any]] = [manifest["config"], *manifest["layers"]]
        return name, str(min(blobs, key=lambda blob: int(blob["size"]))["digest"])
    except (ValueError, LookupError, TypeError) as error:
        message = f"what came as the manifest of {image} is none: {error!r}"
        raise Unproved(message) from error


def check(content: bytes, digest: str) -> None:
    """Refuse content that is not what its digest says."""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        message = f"blob {digest} has other content than its digest says"
        raise Unproved(message)


def counters(metrics: list[str]) -> dict[str, float]:
    """What the cache counted, as COUNTED has it, its replicas that answer added up.

    Raises:
        NoContent: no replica answers.
    """
    found = dict.fromkeys(COUNTED, 0.0)
    problems = []
    for url in metrics:
        try:
            text = fetch(url).decode()
        except NoContent as problem:
            problems.append(problem)
            continue
        for name, series in COUNTED.items():
            found[name] += sum(map(float, re.findall(rf"^{series} (\S+)$", text, re.MULTILINE)))
    if len(problems) == len(metrics):
        raise problems[0]
    return found


def fetch(url: str) -> bytes:
    """The body of a successful answer.

    Raises:
        NoContent: no connection, no answer in time, an error status, or a body that breaks off.
    """
    request = urllib.request.Request(url, headers={"Accept": MANIFESTS})  # noqa: S310 - the chart wrote the URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            message = f"{url} gave status {error.code}"
        raise NoContent(message) from error
    except (OSError, HTTPException) as error:
        message = f"{url} gave no whole answer: {error}"
        raise NoContent(message) from error
    return content


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
