"""The addresses of caches and of their replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from common.config_reader import InvalidConfiguration, read_config
from common.endpoint import Endpoint, read_endpoint


def read(folder: Path, **fields: Any) -> Endpoint:
    (folder / "endpoint.json").write_text(json.dumps(fields))
    return read_config(folder / "endpoint.json", read_endpoint)


def test_url_of_an_ipv6_address_has_brackets() -> None:
    assert Endpoint("http", "fd00::1", 5000).url == "http://[fd00::1]:5000"
    assert Endpoint("http", "fd00::1", 5000).authority == "[fd00::1]:5000"
    assert Endpoint("http", "10.0.0.1", 5000).url == "http://10.0.0.1:5000"


def test_endpoint_of_the_chart_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, scheme="http", host="x.space.svc", port=5000) == ("http", "x.space.svc", 5000, None, None)


def test_endpoint_with_tls_has_its_authorities(tmp_path: Path) -> None:
    endpoint = read(tmp_path, scheme="https", host="10.0.0.1", port=5000, ca="/etc/ca.crt")
    assert (endpoint.url, endpoint.ca, endpoint.client) == ("https://10.0.0.1:5000", Path("/etc/ca.crt"), None)
    endpoint = read(tmp_path, scheme="https", host="10.0.0.1", port=5000, ca="/etc/ca.crt", client="/etc/client")
    assert endpoint.client == Path("/etc/client")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scheme": "ftp"}, "scheme: must be http or https, but is 'ftp'"),
        ({"scheme": None}, "scheme: must be http or https, but is missing"),
        ({"ca": "/etc/ca.crt"}, "ca: must be left out, since it is only for https"),
        ({"client": "/etc/client"}, "client: must be left out, since it is only for https"),
        ({"scheme": "https"}, "ca: must be an absolute path, but is missing"),
        ({"host": ""}, "host: must be a string that is not empty, but is ''"),
        ({"port": 0}, "port: must be a port from 1 to 65535, but is 0"),
    ],
    ids=str,
)
def test_endpoint_that_no_program_can_use_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        read(tmp_path, **{"scheme": "http", "host": "x.space.svc", "port": 5000, **change})
    assert str(refused.value) == f"{tmp_path}/endpoint.json: {problem}"
