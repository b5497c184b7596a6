"""References to images, read as the kubelet and containerd read them (distribution/reference v0.6.0)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry_cache.model.registry_config import DOCKER_HUB

# regexp.go. A digest is what opencontainers/go-digest takes.
_DOMAIN_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"({_DOMAIN_LABEL}(\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(:[0-9]+)?"
_WORD = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_PATH = f"{_WORD}(/{_WORD})*"
_TAG = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "(sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})"
REFERENCE = re.compile(f"(?P<name>({_DOMAIN}/)?{_PATH})(:(?P<tag>{_TAG}))?(@(?P<digest>{_DIGEST}))?")
_NAMELESS = re.compile(f"[a-f0-9]{{64}}|{_DIGEST}")
MAX_PATH_CHARACTERS = 255


@dataclass(frozen=True)
class Reference:
    """An image's full name as containerd knows it, `docker.io/library/nginx:latest`, and its registry."""

    registry: str
    text: str


def parse_reference(image: str) -> Reference | None:
    """Return the image that containerd takes a text for, or None for a digest or ID alone and for anything else.

    As ParseDockerRef in normalize.go.
    """
    first, slash, rest = image.partition("/")
    is_registry = slash and (first == "localhost" or re.search("[.:]", first) or first != first.lower())
    registry, rest = (first, rest) if is_registry else (DOCKER_HUB, image)
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    match = REFERENCE.fullmatch(f"{registry}/{rest}")
    if is_nameless(image) or not match or len(match["name"]) - len(registry) - 1 > MAX_PATH_CHARACTERS:
        return None
    version = f"@{match['digest']}" if match["digest"] else f":{match['tag'] or 'latest'}"
    return Reference(registry, f"{match['name']}{version}")


def is_nameless(image: str) -> bool:
    """Return whether a text is only a digest or an ID, which leads to no registry."""
    return bool(_NAMELESS.fullmatch(image))
