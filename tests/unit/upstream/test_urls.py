"""URLs, as a client of registries needs them."""

from __future__ import annotations

import pytest
from upstream.urls import Origin, Url


def test_url_is_parsed_without_its_user_name() -> None:
    base = Url.parse("https://user:s3cret@registry.example.com/v2/a?b=c")
    assert base == (Origin("https", "registry.example.com", 443), "/v2/a?b=c")
    assert str(Url.parse("../x y/ü", base)) == "https://registry.example.com/x%20y/%C3%BC"
    assert str(Url.parse("//[fd00::1]:80", base)) == "https://[fd00::1]:80/"
    assert str(Url.parse("HTTP://Example.com:80/%2f#end", base)) == "http://example.com/%2f"


@pytest.mark.parametrize("text", ["ftp://x/", "https://", "https://x:y/", "file:///etc/passwd", "https://[::1", "x"])
def test_anything_but_a_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a URL of http or https$"):
        Url.parse(text)
