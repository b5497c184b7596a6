"""Which requests go through a proxy."""

from __future__ import annotations

import pytest
from upstream.proxies import Proxies
from upstream.urls import Url

PROXY = "http://proxy.example.com:3128"


def proxy_for(url: str, *no_proxy: str, http: str = PROXY, https: str = PROXY) -> str | None:
    chosen = Proxies(http, https, no_proxy).choose(Url.parse(url).origin)
    return None if chosen is None else str(chosen)


def test_proxy_is_used_unless_no_proxy_covers_the_host() -> None:
    assert proxy_for("https://registry.example.com", "example.org") == PROXY
    assert proxy_for("https://registry.example.com", "example.org", "example.com") is None
    assert proxy_for("https://registry.example.com:5000", "registry.example.com:443") == PROXY


def test_each_scheme_has_its_own_proxy() -> None:
    assert proxy_for("http://example.org", https="") == PROXY
    assert proxy_for("https://example.org", https="") is None
    assert (
        proxy_for("https://example.org", http="", https="secure.example.com:8080") == "http://secure.example.com:8080"
    )


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "http://", "http://proxy:99999", "http://pro xy"])
def test_invalid_url_of_a_proxy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a URL of http or https"):
        Proxies(text, "", ())
