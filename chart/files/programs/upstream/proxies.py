"""Which proxy a request goes through. The environment of this process is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.no_proxy import NoProxy

from upstream.urls import Origin, Url

if TYPE_CHECKING:
    from collections.abc import Iterable


class Proxies:
    """The proxies for http and https, and the hosts that are reached without one."""

    def __init__(self, http_proxy: str, https_proxy: str, no_proxy: Iterable[str]) -> None:
        """Take the URLs of the proxies, empty for none, and the entries of no_proxy.

        Raises:
            ValueError: The URL of a proxy is invalid.
        """
        self._proxies = {"http": _parse_proxy(http_proxy), "https": _parse_proxy(https_proxy)}
        self._no_proxy = NoProxy(no_proxy)

    def choose(self, origin: Origin) -> Origin | None:
        """Return the proxy for requests to a server, or None."""
        proxy = self._proxies[origin.scheme]
        return None if proxy is None or self._no_proxy.covers(origin.host, origin.port) else proxy


def _parse_proxy(text: str) -> Origin | None:
    if not text:
        return None
    url = Url.parse(text if "://" in text else f"http://{text}")
    return url.origin
