"""The address of a cache or of another server that the chart brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.config_reader import require, to_path, to_port, to_text

if TYPE_CHECKING:
    from pathlib import Path

    from common.config_reader import Fields


class Endpoint(NamedTuple):
    """Where a server listens.

    `ca` is the file with the authorities that may have issued its certificate. `client` is the folder with the
    certificate to show to it (tls.crt and tls.key), or None if it asks for none.
    """

    scheme: str
    host: str
    port: int
    ca: Path | None = None
    client: Path | None = None

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
    """Return an endpoint of a configuration file; one with https has a file with its authorities."""
    scheme = fields.take("scheme", _to_scheme)
    for name in ("ca", "client"):
        if scheme != "https" and fields.has(name):
            fields.report(name, "must be left out, since it is only for https")
    return Endpoint(
        scheme=scheme,
        host=fields.take("host", to_text),
        port=fields.take("port", to_port),
        ca=fields.take("ca", to_path) if scheme == "https" else None,
        client=fields.take("client", to_path) if scheme == "https" and fields.has("client") else None,
    )


def _to_scheme(value: object) -> str:
    return require(value, str, "http or https", lambda scheme: scheme in ("http", "https"))
