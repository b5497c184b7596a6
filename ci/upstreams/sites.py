"""The upstreams of the test bed: their names, hosts, ports and credentials."""

from __future__ import annotations

from dataclasses import dataclass

CONTROL_PORT = 5000
TOKEN_PORT = 5020
CONTENT_PORT = 5021
FAULT_PORT = 5022
TOKEN_SERVICE = "lscr.example.com"  # noqa: S105 - the name of a service

# These contain every character that has a meaning in configuration files and shells.
USERNAME = "@puller*&"
PASSWORD = "p\"a'ss\\w$1 `x` *&@ü"  # noqa: S105


@dataclass(frozen=True)
class Site:
    """One upstream: the name that image references begin with, the host that serves it, and its port without TLS.

    With `tokens`, the registry wants bearer tokens of that host. With `content`, it redirects requests for blobs to
    that host. Such a registry has a second port for pushes, without tokens and redirects, since the names of these
    hosts do not resolve outside the cluster.
    """

    upstream: str
    server_name: str
    port: int
    private: bool = False
    tokens: str = ""
    content: str = ""
    push_port: int = 0

    def hosts(self) -> dict[str, tuple[str, int]]:
        """Return host and port by name: under these names it can have faults, and its requests are counted."""
        hosts = {self.upstream: (self.server_name, self.port)}
        if self.tokens:
            hosts[self.tokens] = (self.tokens, TOKEN_PORT)
        if self.content:
            hosts[self.content] = (self.content, CONTENT_PORT)
        return hosts


SITES = (
    Site("docker.io", "registry-1.docker.io", 5001),
    Site("registry.k8s.io", "registry.k8s.io", 5002),
    Site("ghcr.io", "ghcr.io", 5003),
    Site("quay.io", "quay.io", 5004),
    Site("registry.example.com", "registry.example.com", 5005, private=True),
    Site(
        "lscr.example.com",
        "lscr.example.com",
        5006,
        tokens="auth.example.org",
        content="cdn.example.org",
        push_port=5007,
    ),
    Site("public.ecr.aws", "public.ecr.aws", 5008),
)
# All of them together.
HOSTS = {name: where for site in SITES for name, where in site.hosts().items()}


def find_site(upstream: str) -> Site:
    """Return the site of an upstream.

    Raises:
        ValueError: There is none.
    """
    for site in SITES:
        if site.upstream == upstream:
            return site
    message = f"{upstream} is not an upstream of the test bed: {', '.join(site.upstream for site in SITES)}"
    raise ValueError(message)


def challenge(name: str) -> tuple[tuple[str, str], ...]:
    """Return the header by which a registry asks for credentials (RFC 9110, 11.6.1)."""
    tokens = next((site.tokens for site in SITES if site.upstream == name), "")
    value = f'Bearer realm="https://{tokens}/token",service="{TOKEN_SERVICE}"' if tokens else 'Basic realm="private"'
    return (("WWW-Authenticate", value),)
