"""The address of a cache or of another server that the chart brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.config_reader import to_port, to_text

if TYPE_CHECKING:
    from pathlib import Path

    from common.config_reader import Fields


class Endpoint(NamedTuple):
    """Where a server listens; `ca` is the file with the authorities that may have issued its certificate."""

    scheme: str
    host: str
    port: int
    ca: Path | None = None

    @property
    def authority(self) -> str:
        """Host and port, as in a URL and in the header Host."""
        return f"{bracket_ipv6(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the server, without a path."""
        return f"{self.scheme}://{self.authority}"


def bracket_ipv6(host: str) -> str:
    """Return a host as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def read_endpoint(fields: Fields) -> Endpoint:
    """Return an endpoint of a configuration file; one with TLS is refused, since no program can use it yet."""
    if fields.has("ca"):
        fields.report("ca", "must be left out, since https is not supported yet")
    return Endpoint(
        scheme=fields.take("scheme", _to_scheme), host=fields.take("host", to_text), port=fields.take("port", to_port)
    )


def _to_scheme(value: object) -> str:
    if value != "http":
        message = "must be http, since https is not supported yet"
        raise ValueError(message)
    return "http"
