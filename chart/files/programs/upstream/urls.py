"""URLs, as far as a client of registries needs them."""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

from common.endpoint import bracket_ipv6

PORTS = {"http": 80, "https": 443}
# Characters that are not escaped in the target of a request (RFC 3986), including %, as a Location is escaped already.
UNESCAPED = "!$%&'()*+,/:;=?@[]-._~"


class Origin(NamedTuple):
    """A server: the scheme, host and port of a URL. Two that differ in any of them must not share secrets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """Return it as in a URL. Messages show only this of a URL, since a query may hold a secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as the header Host has them (RFC 9110, section 7.2)."""
        return self.bracketed if self.port == PORTS[self.scheme] else f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host, with an IPv6 address in brackets."""
        return bracket_ipv6(self.host)


class Url(NamedTuple):
    """A server, and the path and query to request from it."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str, base: Url | None = None) -> Url:
        """Parse a URL, which may be relative to `base`. A user name in it is ignored.

        Raises:
            ValueError: It is not a URL of http or https. The message does not show it, since it may hold a secret.
        """
        message = "not a URL of http or https"
        try:
            whole = urllib.parse.urljoin(str(base), text) if base else text
            parts = urllib.parse.urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(message) from None
        if parts.scheme not in PORTS or not host or not host.isascii() or not host.isprintable() or " " in host:
            raise ValueError(message)
        path = parts.path or "/"
        target = urllib.parse.quote(f"{path}?{parts.query}" if parts.query else path, safe=UNESCAPED)
        return cls(Origin(parts.scheme, host, PORTS[parts.scheme] if port is None else port), target)

    def __str__(self) -> str:
        """Return the URL."""
        return f"{self.origin}{self.target}"
