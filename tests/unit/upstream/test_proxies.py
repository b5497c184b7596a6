"""Which requests go through a proxy."""

from __future__ import annotations

import pytest
from upstream.proxies import Proxies
from upstream.urls import Url

PROXY = "http://proxy.example.com:3128"


def proxy_for(url: str, *no_proxy: str, http: str = PROXY, https: str = PROXY) -> str | None:
    chosen = Proxies(http, https, no_proxy).choose(Url.parse(url).origin)
    return None if chosen is None else str(chosen)


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "https://registry.example.com"),
        ("example.org, *", "https://registry.example.com"),
        ("registry.example.com", "https://registry.example.com"),
        ("Registry.Example.COM", "https://registry.example.com"),
        ("example.com", "https://registry.example.com"),
        (".example.com", "https://registry.example.com"),
        ("*.example.com", "https://registry.example.com"),
        ("registry.example.com:443", "https://registry.example.com"),
        ("registry.example.com:80", "http://registry.example.com"),
        (".example.com:5000", "http://registry.example.com:5000"),
        ("10.1.2.3", "https://10.1.2.3:5000"),
        ("10.1.2.3:5000", "https://10.1.2.3:5000"),
        ("10.0.0.0/8", "https://10.1.2.3"),
        ("10.99.0.0/8", "https://10.1.2.3"),
        ("fd00::/8", "https://[fd00::1]"),
        ("fd00:0::1", "https://[fd00::1]"),
        ("[fd00::1]:5000", "https://[fd00::1]:5000"),
        ("10.1.2.3", "https://[::ffff:10.1.2.3]"),
        ("example.org,example.com", "https://registry.example.com"),
        ("", "https://localhost:5000"),
        ("", "https://127.0.0.1:5000"),
        ("", "https://[::1]"),
    ],
)
def test_request_that_no_proxy_covers_goes_without_a_proxy(no_proxy: str, url: str) -> None:
    assert proxy_for(url, no_proxy) is None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", "https://registry.example.com"),
        (".registry.example.com", "https://registry.example.com"),
        ("*.registry.example.com", "https://registry.example.com"),
        ("gistry.example.com", "https://registry.example.com"),
        ("registry.example.com:80", "https://registry.example.com"),
        ("example.com.org", "https://example.com"),
        ("10.1.2.3:80", "https://10.1.2.3"),
        ("10.0.0.0/16", "https://10.1.2.3"),
        ("1.2.3", "https://10.1.2.3"),
        ("10.0.0.0/99", "https://10.0.0.0"),
        ("[fd00::1]", "https://[fd00::1]"),
        ("registry.*.com", "https://registry.example.com"),
        (":443", "https://registry.example.com"),
    ],
)
def test_request_that_no_proxy_does_not_cover_goes_through_the_proxy(no_proxy: str, url: str) -> None:
    assert proxy_for(url, no_proxy) == PROXY


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
