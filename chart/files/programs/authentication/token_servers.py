"""Which token servers get the credentials for an upstream.

An upstream names its token server itself, and it may be on another host: that of docker.io is auth.docker.io. Whoever
answers in place of an upstream could name a server of their own, so credentials go only to a server that belongs to the
upstream, as far as its name tells. Tokens without credentials are fetched from anywhere.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upstream.urls import Origin

# Registries whose token server is on a host of another domain.
KNOWN = {"lscr.io": "ghcr.io"}
# Labels before the name of a country, below which anybody may get a domain, as in example.co.uk.
SECOND_LEVELS = frozenset(("ac", "co", "com", "edu", "go", "gob", "gov", "gv", "mil", "ne", "net", "nom", "or", "org"))
COUNTRY_LENGTH = 2
# Domains whose subdomains belong to different people.
SHARED = frozenset(
    (
        "amazonaws.com",
        "azurecr.io",
        "azurewebsites.net",
        "cloudfront.net",
        "github.io",
        "gitlab.io",
        "herokuapp.com",
        "jfrog.io",
        "pkg.dev",
        "run.app",
        "windows.net",
        "workers.dev",
    )
)
SERVICE = ".svc"


class TokenServers:
    """The token servers of one upstream that get its credentials."""

    def __init__(self, registries: Iterable[str], named: Iterable[str], value: str) -> None:
        """Take the hosts of the upstream, those that the user names, and the setting in which more can be named."""
        self._registries = [registry.lower() for registry in registries]
        self._named = frozenset(map(str.lower, named))
        self._value = value

    def find_objection(self, server: Origin) -> str | None:
        """Return why a server gets no credentials, as the rest of a sentence about the upstream, or None if it does."""
        host = server.host.lower()
        if host in self._named or any(is_related(host, registry) for registry in self._registries):
            return None
        return (
            f"names the token server {server}, which does not seem to belong to it; if it does, "
            f"add {server.host} to {self._value}"
        )


def is_related(host: str, registry: str) -> bool:
    """Return whether a token server belongs to a registry: it has the same host, or a name in the same domain."""
    if host in (registry, KNOWN.get(registry)):
        return True
    domain = domain_of(registry)
    return domain is not None and domain == domain_of(host)


def domain_of(host: str) -> str | None:
    """Return the domain that one owner has, such as example.com of a.b.example.com, or None if there is none.

    Two Services of the cluster have the same owner if they are in the same namespace.
    """
    host = host.rstrip(".")
    if f"{SERVICE}." in host:
        host = host.partition(f"{SERVICE}.")[0] + SERVICE
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return None
    labels = host.split(".")
    is_public = len(labels[-1]) == COUNTRY_LENGTH and labels[-2:][0] in SECOND_LEVELS
    count = 3 if is_public or ".".join(labels[-2:]) in SHARED else 2
    return ".".join(labels[-count:]) if len(labels) >= count else None
