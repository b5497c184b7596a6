"""`helm test`: probes each cache from inside the cluster, and pulls a blob through it twice if an image is known.

The configuration file lists the caches, each with its address, the addresses of its pods' metrics, and an image, which
may be empty. A line is printed for each cache. The exit code is 1 if a check failed; the line says what is wrong, and
whether it is the cache itself or what it gets from the upstream.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.config_reader import read_config, to_optional_text, to_text
from common.endpoint import Endpoint, read_endpoint
from common.json_reader import parse_json
from common.stacks import set_stack_size

if TYPE_CHECKING:
    from common.config_reader import Fields

TIMEOUT_SECONDS = 30
ATTEMPTS = 10
MAX_REASON_BYTES = 4096
# The counters that the checks compare, each with a pattern for its series: blobs that came from the volume and that
# did not, tags served from the volume because the upstream could not be asked, and requests to the upstream.
COUNTERS = {
    "hits": r'registry_proxy_hits_total\{[^}]*type="blob"\}',
    "misses": r'registry_proxy_misses_total\{[^}]*type="blob"\}',
    "stale": r'registry_cache_tag_lookups_total\{[^}]*result="stale"\}',
    "upstream requests": r"registry_cache_upstream_requests_total\{[^}]*\}",
}
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)


class CheckFailed(Exception):
    """A cache does not do what it should; the message tells whoever installed it what is wrong."""


class RequestFailed(Exception):
    """A request got no complete, successful answer; the message has its URL and what happened instead."""


class Cache(NamedTuple):
    """A cache to check; `metrics` has an endpoint for each of its pods, and `image` may be empty."""

    upstream: str
    endpoint: Endpoint
    metrics: tuple[Endpoint, ...]
    image: str


def main(arguments: list[str]) -> int:
    """Check every cache in the file and return the exit code."""
    set_stack_size()
    failed = False
    caches = read_config(Path(arguments[0]), _read_caches)
    endpoints = [one for cache in caches for one in (cache.endpoint, *cache.metrics)]
    use_certificates({one.ca for one in endpoints if one.ca}, {one.client for one in endpoints if one.client})
    for cache in caches:
        try:
            result = check_cache(cache)
        except CheckFailed as problem:
            failed = True
            result = f"FAILED: {problem}"
        print(f"{cache.upstream}: {result}")
    return 1 if failed else 0


def use_certificates(authorities: set[Path], clients: set[Path]) -> None:
    """Let `fetch` trust the authorities in files, and show the nodes' certificate in a folder.

    What cannot be read makes its cache fail.
    """
    if authorities:
        context = ssl.create_default_context()
        for file in sorted(authorities):
            with suppress(OSError):
                context.load_verify_locations(cafile=file)
        for folder in sorted(clients):
            with suppress(OSError):
                context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        urllib.request.install_opener(urllib.request.build_opener(urllib.request.HTTPSHandler(context=context)))


def check_cache(cache: Cache, pause_seconds: float = 1) -> str:
    """Check a cache and return what it did.

    Raises:
        CheckFailed: The cache does not answer or reports a problem, its upstream cannot be reached or refuses, or no
            second pull was a hit.
    """
    try:
        warning = read_warning(fetch(f"{cache.endpoint.url}/v2/"))
        at_start = read_counters(cache)
    except RequestFailed as problem:
        message = (
            f"the cache does not answer as it should: {problem}. If its pod is not ready, the log of the container "
            "gate says why, for example what is wrong with the volume"
        )
        raise CheckFailed(message) from problem
    if warning:
        message = f"the cache answers, but {warning}"
        raise CheckFailed(message)
    if not cache.image:
        return "the cache answers; there is no image to pull through it (set one in helmTest.images)"
    try:
        repository, digest = find_smallest_blob_upstream(cache, pause_seconds)
        url = f"{cache.endpoint.url}/v2/{repository}/blobs/{digest}"
        verify_digest(fetch(url), digest)
        before = read_counters(cache)
        # Any replica may answer, and each of them has to get the blob first.
        for _ in range(ATTEMPTS + len(cache.metrics)):
            verify_digest(fetch(url), digest)
            after = read_counters(cache)
            if after["hits"] > before["hits"]:
                counts = f"{after['hits']:.0f} blob hits and {after['misses']:.0f} misses so far"
                return f"pulled {cache.image} through the cache, and again from its volume ({counts})" + (
                    ""
                    if after["upstream requests"] > at_start["upstream requests"]
                    else "; the volume had all of it already, so that the upstream was not asked"
                )
            time.sleep(pause_seconds)
    except RequestFailed as problem:
        message = (
            f"the cache answers, but {cache.image} cannot be pulled through it: {problem}. Its upstream is down or "
            "slow, does not have the image, or refuses the credentials; the log of the cache pod says which"
        )
        raise CheckFailed(message) from problem
    message = f"{cache.image} can be pulled through the cache, but never comes from its volume: nothing is stored there"
    raise CheckFailed(message)


def read_warning(body: bytes) -> str:
    """Return what a cache that answers reports about itself, such as a Secret without credentials, or nothing."""
    try:
        answer = parse_json(body)
    except ValueError:
        return ""
    return str(answer.get("warning", "")) if isinstance(answer, dict) else ""


def find_smallest_blob_upstream(cache: Cache, pause_seconds: float) -> tuple[str, str]:
    """Find the smallest blob of the cache's image, making sure that the upstream said which image the tag means.

    Without that, an image on the volume would pass the check even if the cache could not reach its upstream.

    Raises:
        CheckFailed: The cache could not ask the upstream at any of several attempts.
    """
    before = read_counters(cache)
    for _ in range(ATTEMPTS):  # an upstream that is slow once has the answer ready for the next attempt
        found = find_smallest_blob(cache)
        after = read_counters(cache)
        if after["stale"] == before["stale"]:
            return found
        before = after
        time.sleep(pause_seconds)
    message = (
        f"{cache.image} comes from the volume only: the cache cannot ask its upstream, which is down or slow, or "
        "refuses the credentials; registry_cache_upstream_requests_total in the metrics of the cache says which"
    )
    raise CheckFailed(message)


def find_smallest_blob(cache: Cache) -> tuple[str, str]:
    """Return the repository of the cache's image, and the digest of its smallest blob for the first platform."""
    name, _, digest = cache.image.partition("@")
    repository, _, tag = name.partition(":")
    manifests = f"{cache.endpoint.url}/v2/{repository}/manifests"
    try:
        manifest: Any = parse_json(fetch(f"{manifests}/{digest or tag or 'latest'}"))
        if "manifests" in manifest:
            manifest = parse_json(fetch(f"{manifests}/{manifest['manifests'][0]['digest']}"))
        blobs: list[dict[str, Any]] = [manifest["config"], *manifest["layers"]]
        return repository, str(min(blobs, key=lambda blob: int(blob["size"]))["digest"])
    except (ValueError, LookupError, TypeError) as error:
        message = f"the answer to the request for the manifest of {cache.image} is not a manifest: {error!r}"
        raise CheckFailed(message) from error


def verify_digest(content: bytes, digest: str) -> None:
    """Raise CheckFailed if content does not have its digest."""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        message = f"the content of blob {digest} does not match its digest"
        raise CheckFailed(message)


def read_counters(cache: Cache) -> dict[str, float]:
    """Return the values of COUNTERS, summed over the pods of the cache that answer.

    Raises:
        RequestFailed: No pod answers.
    """
    counters = dict.fromkeys(COUNTERS, 0.0)
    problems = []
    for endpoint in cache.metrics:
        try:
            text = fetch(f"{endpoint.url}/metrics").decode()
        except RequestFailed as problem:
            problems.append(problem)
            continue
        for name, series in COUNTERS.items():
            counters[name] += sum(map(float, re.findall(rf"^{series} (\S+)$", text, re.MULTILINE)))
    if len(problems) == len(cache.metrics):
        raise problems[0]
    return counters


def fetch(url: str) -> bytes:
    """Return the body of a successful answer.

    Raises:
        RequestFailed: There was no connection, no answer in time, an error status, or an incomplete body.
    """
    request = urllib.request.Request(url, headers={"Accept": MANIFEST_TYPES})  # noqa: S310 - an endpoint's URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            message = f"{url} returned status {error.code}{_read_reason(error)}"
        raise RequestFailed(message) from error
    except (OSError, HTTPException) as error:
        message = f"{url} did not return a complete answer: {error}"
        raise RequestFailed(message) from error
    return content


def _read_reason(error: urllib.error.HTTPError) -> str:
    """Return the reason in the body of an answer, as a registry writes it, for the end of a message."""
    try:
        body: Any = parse_json(error.read(MAX_REASON_BYTES))
        return f": {body['errors'][0]['message']}"
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return ""


def _read_caches(fields: Fields) -> tuple[Cache, ...]:
    return fields.take_objects("caches", _read_cache)


def _read_cache(fields: Fields) -> Cache:
    return Cache(
        upstream=fields.take("upstream", to_text),
        endpoint=fields.take_object("endpoint", read_endpoint),
        metrics=fields.take_objects("metrics", read_endpoint),
        image=fields.take("image", to_optional_text),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
