"""URLs, as far as a client of registries needs them."""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

from common.endpoint import bracket_ipv6

PORTS = {"http": 80, "https": 443}
# What may stand in a request's target as it is (RFC 3986); % is there, since a Location is escaped already.
AS_IT_IS = "!$%&'()*+,/:;=?@[]-._~"


class Origin(NamedTuple):
    """A server: the scheme, host and port of a URL. Two that differ in one of them share no secret."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """As in a URL; and in a message, which has no path and no query, since queries can be secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as the header Host has them (RFC 9110, section 7.2)."""
        return self.bracketed if self.port == PORTS[self.scheme] else f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host; an address of version 6 stands in brackets."""
        return bracket_ipv6(self.host)


class Url(NamedTuple):
    """A server, and the path and query to ask it for."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str, base: Url | None = None) -> Url:
        """Read a URL; one that is relative counts from `base`. A user name in it is passed over.

        Raises:
            ValueError: it is none of http or https; the message says nothing of it, since it may hold a secret.
        """
        message = "it is no URL of http or https"
        try:
            whole = urllib.parse.urljoin(str(base), text) if base else text
            parts = urllib.parse.urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(message) from None
        if parts.scheme not in PORTS or not host or not host.isascii() or not host.isprintable() or " " in host:
            raise ValueError(message)
        path = parts.path or "/"
        target = urllib.parse.quote(f"{path}?{parts.query}" if parts.query else path, safe=AS_IT_IS)
        return cls(Origin(parts.scheme, host, PORTS[parts.scheme] if port is None else port), target)

    def __str__(self) -> str:
        """The URL."""
        return f"{self.origin}{self.target}"
