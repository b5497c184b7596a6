"""Manifests that are expensive for a cache, different for each tag."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from upstreams import oci

NESTED = 9000
HUGE_BYTES = 4 << 20
PADDED_BYTES = 250_000
# More than these, with the configuration, are not read (store.layout.MAX_REFERENCES).
LAYERS = 999
INDEXED = 500


def nested_manifest(tag: str) -> bytes:
    """Return 18 kB with a list that is nested 9,000 deep."""
    return _begin(tag) + b',"x":' + b"[" * NESTED + b"]" * NESTED + b"}"


def huge_manifest(tag: str) -> bytes:
    """Return 4 MiB with over a million small objects, which take far more memory once they are parsed."""
    begin = _begin(tag) + b',"layers":['
    return begin + b"{}," * ((HUGE_BYTES - len(begin) - 8) // 3) + b"{}]}"


def padded_manifest(tag: str) -> bytes:
    """Return a large manifest that is valid."""
    return _begin(tag) + b',"layers":[],"annotations":{"pad":"' + b"x" * PADDED_BYTES + b'"}}'


def manifest_of_many_layers(tag: str) -> bytes:
    """Return a valid manifest with the names of 999 layers that are in no other one."""
    layers = [
        {"mediaType": oci.LAYER, "digest": oci.digest(f"{tag} {number}".encode()), "size": 1 << 20}
        for number in range(LAYERS)
    ]
    return _begin(tag) + b',"layers":' + json.dumps(layers, separators=(",", ":")).encode() + b"}"


def index_of_manifests(tag: str) -> bytes:
    """Return an index of manifests of many layers, which are those of the tags `0` to `499`."""
    return json.dumps(
        {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": _indexed(), "annotations": {"tag": tag}},
        separators=(",", ":"),
    ).encode()


@cache
def _indexed() -> list[dict[str, object]]:
    return [_described(manifest_of_many_layers(str(number))) for number in range(INDEXED)]


def _described(content: bytes) -> dict[str, object]:
    return {"mediaType": oci.MANIFEST, "digest": oci.digest(content), "size": len(content)}


def _begin(tag: str) -> bytes:
    config = {"mediaType": oci.CONFIG, "digest": f"sha256:{hashlib.sha256(tag.encode()).hexdigest()}", "size": 2}
    document = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config}
    return json.dumps(document, separators=(",", ":")).encode()[:-1]
