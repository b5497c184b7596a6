"""Which hosts NO_PROXY covers."""

from __future__ import annotations

import pytest
from common.no_proxy import NoProxy

# What NO_PROXY is, a host and its port, and whether Go 1.26 reaches it without a proxy: the answers are those of
# httpproxy.Config.ProxyFunc in golang.org/x/net v0.49.0 to the same texts.
ANSWERS_OF_GO = [
    ("*", "registry.example.com", 443, True),
    ("example.org, *", "registry.example.com", 443, True),
    ("registry.example.com", "registry.example.com", 443, True),
    ("Registry.Example.COM", "registry.example.com", 443, True),
    ("example.com", "registry.example.com", 443, True),
    (".example.com", "registry.example.com", 443, True),
    ("*.example.com", "registry.example.com", 443, True),
    ("registry.example.com:443", "registry.example.com", 443, True),
    ("registry.example.com:80", "registry.example.com", 80, True),
    (".example.com:5000", "registry.example.com", 5000, True),
    ("10.1.2.3", "10.1.2.3", 5000, True),
    ("10.1.2.3:5000", "10.1.2.3", 5000, True),
    ("10.0.0.0/8", "10.1.2.3", 443, True),
    ("10.99.0.0/8", "10.1.2.3", 443, True),
    ("fd00::/8", "fd00::1", 443, True),
    ("fd00:0::1", "fd00::1", 443, True),
    ("[fd00::1]:5000", "fd00::1", 5000, True),
    ("[fd00::1]:5000", "fd00::1", 5001, False),
    ("10.1.2.3", "::ffff:10.1.2.3", 443, True),
    ("::ffff:10.1.2.3", "10.1.2.3", 443, True),
    ("::ffff:10.1.0.0/112", "10.1.2.3", 443, True),
    ("10.0.0.0/8", "::ffff:10.1.2.3", 443, True),
    ("::/0", "10.1.2.3", 443, False),
    ("0.0.0.0/0", "fd00::1", 443, False),
    ("example.org,example.com", "registry.example.com", 443, True),
    ("", "localhost", 5000, True),
    ("", "127.0.0.1", 5000, True),
    ("", "127.9.9.9", 5000, True),
    ("", "::1", 443, True),
    ("", "::ffff:127.0.0.1", 443, True),
    ("", "registry.example.com", 443, False),
    (".registry.example.com", "registry.example.com", 443, False),
    ("*.registry.example.com", "registry.example.com", 443, False),
    ("gistry.example.com", "registry.example.com", 443, False),
    ("registry.example.com:80", "registry.example.com", 443, False),
    ("example.com.org", "example.com", 443, False),
    ("10.1.2.3:80", "10.1.2.3", 443, False),
    ("10.0.0.0/16", "10.1.2.3", 443, False),
    ("1.2.3", "10.1.2.3", 443, False),
    (".2.3", "10.1.2.3", 443, False),
    ("2.3:5000", "10.1.2.3", 5000, False),
    ("*.2.3", "10.1.2.3", 443, False),
    ("10.0.0.0/99", "10.0.0.0", 443, False),
    ("10.0.0.0/08", "10.0.0.0", 443, True),
    ("10.0.0.0/+8", "10.0.0.0", 443, False),
    ("010.1.2.3", "10.1.2.3", 443, False),
    ("[fd00::1]", "fd00::1", 443, False),
    ("[10.1.2.3]", "10.1.2.3", 443, False),
    ("[10.1.2.3]:5000", "10.1.2.3", 5000, True),
    ("[[fd00::1]]:5000", "fd00::1", 5000, False),
    ("fd00::1%eth0", "fd00::1", 5000, False),
    ("fd00::1%eth0/64", "fd00::1", 5000, False),
    ("registry.*.com", "registry.example.com", 443, False),
    ("*", "10.1.2.3", 443, True),
    ("**", "10.1.2.3", 443, False),
    ("10.*", "10.1.2.3", 443, False),
    ("10.", "10.1.2.3", 443, False),
    (":443", "registry.example.com", 443, False),
    (":443", "10.1.2.3", 443, False),
    (".", "registry.example.com", 443, False),
    (".", "registry.example.com.", 443, True),
    ("example.com", "registry.example.com.", 443, False),
    ("10.1.2.3 10.1.2.4", "10.1.2.3", 443, False),
    ("10.96.0.0/12", "10.96.0.10", 5000, True),
    ("10.96.0.0/12", "10.112.0.10", 5000, False),
    (".svc,.cluster.local,10.96.0.0/12", "10.96.0.10", 5000, True),
    (".svc,.cluster.local", "10.96.0.10", 5000, False),
    ("10.96.0.10:", "10.96.0.10", 5000, True),
    ("10.96.0.10:http", "10.96.0.10", 80, False),
    ("10.96.0.10:5000:1", "10.96.0.10", 5000, False),
    ("fd00::/108", "fd00::a", 5000, True),
    ("fd00::/108", "fd00::1:0:a", 5000, False),
    ("FD00::A", "fd00::a", 5000, True),
    ("10.0.0.0/255.0.0.0", "10.1.2.3", 80, False),
    ("10/8", "10.1.2.3", 80, False),
    ("10.1.2.3/", "10.1.2.3", 80, False),
    ("/8", "10.1.2.3", 80, False),
    ("*:5000", "10.1.2.3", 5000, False),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "covered"), ANSWERS_OF_GO)
def test_host_is_covered_as_in_go(no_proxy: str, host: str, port: int, *, covered: bool) -> None:
    assert NoProxy([no_proxy]).covers(host, port) is covered


def test_entries_of_several_texts_count() -> None:
    exceptions = NoProxy(["example.org", "example.com,10.0.0.0/8"])
    assert exceptions.covers("example.com", 443)
    assert exceptions.covers("10.1.2.3", 443)
