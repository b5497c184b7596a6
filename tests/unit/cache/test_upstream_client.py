"""The parts of the upstream's client that need no server: proxies, challenges, credentials, tokens, DNS that hangs."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from upstream import challenges, connections, credentials, tokens
from upstream import client as upstream_client
from upstream.challenges import Challenge
from upstream.client import Client, Kind, Settings, Unavailable
from upstream.credentials import Credentials
from upstream.proxies import Proxies
from upstream.reference import Reference
from upstream.urls import Origin, Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 10.0
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
def test_request_that_no_proxy_names_goes_without_proxy(no_proxy: str, url: str) -> None:
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
def test_request_that_no_proxy_does_not_name_goes_through_proxy(no_proxy: str, url: str) -> None:
    assert proxy_for(url, no_proxy) == PROXY


def test_each_scheme_has_its_own_proxy() -> None:
    assert proxy_for("http://example.org", https="") == PROXY
    assert proxy_for("https://example.org", https="") is None
    assert (
        proxy_for("https://example.org", http="", https="secure.example.com:8080") == "http://secure.example.com:8080"
    )


@pytest.mark.parametrize("text", ["socks5://proxy:1080", "http://", "http://proxy:99999", "http://pro xy"])
def test_what_is_no_url_of_a_proxy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no URL of http or https"):
        Proxies(text, "", ())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="hub",scope="repository:a/b:pull,x"'],
            [("bearer", {"realm": "https://auth.docker.io/token", "service": "hub", "scope": "repository:a/b:pull,x"})],
        ),
        (['BEARER Realm = "r" , SERVICE=s'], [("bearer", {"realm": "r", "service": "s"})]),
        (['Basic realm="a, b=\\"c\\" \\\\"'], [("basic", {"realm": 'a, b="c" \\'})]),
        (
            ['Negotiate, NTLM abc==, Basic realm="x", Bearer realm="y",service=""'],
            [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": ""})],
        ),
        (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (['Bearer realm="never ends'], [("bearer", {})]),
        ([""], []),
        (['realm="of nothing"'], []),
    ],
)  # fmt: skip
def test_challenges_are_read(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = challenges.parse(headers)
    assert [challenge for challenge in found if challenge.scheme in {scheme for scheme, _ in expected}] == [
        Challenge(*entry) for entry in expected
    ]


AWKWARD = [
    "plain",
    "@u",
    "*",
    "&a",
    "q\"uo'te",
    "back\\slash",
    "$HOME `id`",
    "ünï→🔑",
    " spaces ",
    "tab\t",
    "line\nbreak",
    "a:b",
]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("end", ["", "\n"])
def test_credentials_are_sent_byte_for_byte(tmp_path: Path, value: str, end: str) -> None:
    (tmp_path / "username").write_bytes(b"@u" + end.encode())
    (tmp_path / "password").write_bytes((value + end).encode())
    found = credentials.read(tmp_path)
    assert found is not None
    assert base64.b64decode(found.basic().removeprefix("Basic ")) == b"@u:" + value.encode()


def test_one_newline_at_the_end_goes_and_bytes_that_are_no_text_stay(tmp_path: Path) -> None:
    (tmp_path / "username").write_bytes(b"\n\n")
    (tmp_path / "password").write_bytes(b"\xff\x00\r\n")
    assert credentials.read(tmp_path) == (b"\n", b"\xff\x00\r")


def test_no_secret_is_no_credentials(tmp_path: Path) -> None:
    assert credentials.read(None) is None
    assert credentials.read(tmp_path / "none") is None
    assert credentials.read(tmp_path) is None
    for name in ("username", "password"):
        (tmp_path / name).write_bytes(b"\n")
    assert credentials.read(tmp_path) is None


def test_secret_that_kubelet_replaces_is_read_whole(tmp_path: Path) -> None:
    """As kubelet mounts it: the files are links into ..data, which is a link to the folder of the version."""
    for name in ("username", "password"):
        (tmp_path / name).symlink_to(f"..data/{name}")

    def replace(version: str) -> None:
        (tmp_path / version).mkdir()
        for name in ("username", "password"):
            (tmp_path / version / name).write_text(version)
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").rename(tmp_path / "..data")

    replace("..1")
    ended = threading.Event()
    seen: set[Credentials | None] = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(credentials.read(tmp_path))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(2, 200):
            replace(f"..{number}")
            for name in ("username", "password"):
                (tmp_path / f"..{number - 1}" / name).unlink()
            (tmp_path / f"..{number - 1}").rmdir()
        ended.set()
        reader.result(PATIENCE)
    assert None not in seen
    assert all(found.username == found.password for found in seen if found)


def test_nothing_secret_is_shown() -> None:
    token = tokens.Token("s3cret", 1.0)
    found = Credentials(b"user", b"s3cret")
    authorization = upstream_client._Authorization("Bearer s3cret", token=token)
    assert "s3cret" not in f"{token} {token!r} {found} {found!r} {[found]} {authorization!r}"


ASKED = 1000.0
DATE = "Tue, 01 Sep 2026 12:01:40 GMT"


@pytest.mark.parametrize(
    ("answer", "lifetime"),
    [
        pytest.param({"token": "t"}, 60, id="says-nothing"),
        pytest.param({"access_token": "t", "expires_in": 300}, 300, id="oauth"),
        pytest.param({"token": "t", "access_token": "other", "expires_in": 0.5}, 0.5, id="both"),
        pytest.param({"token": "t", "expires_in": 0}, 60, id="zero"),
        pytest.param({"token": "t", "expires_in": "300"}, 60, id="text"),
        pytest.param({"token": "t", "expires_in": True}, 60, id="true"),
        pytest.param({"token": "t", "expires_in": 300, "issued_at": "2026-09-01T12:00:00.123456789Z"}, 200, id="old"),
        pytest.param({"token": "t", "expires_in": 300, "issued_at": "2026-09-01T14:00:00+02:00"}, 200, id="zone"),
        pytest.param({"token": "t", "expires_in": 300, "issued_at": "2026-09-01T13:00:00Z"}, 300, id="in-the-future"),
        pytest.param({"token": "t", "expires_in": 300, "issued_at": "yesterday"}, 300, id="no-time"),
        pytest.param({"token": "t", "expires_in": 10, "issued_at": "2026-09-01T12:00:00Z"}, 0, id="over"),
    ],
)
def test_token_is_used_as_long_as_it_is_good_less_a_margin(answer: dict[str, object], lifetime: float) -> None:
    token = tokens.read(json.dumps(answer).encode(), DATE, ASKED)
    assert token.value == "t"
    margin = min(30.0, lifetime / 10)
    assert token.good_until == pytest.approx(ASKED + lifetime - margin, abs=1.0 if lifetime else 1e-9)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b'{"token": ""}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_token_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is no token$"):
        tokens.read(body, None, ASKED)


def test_token_is_fetched_once_for_many_threads() -> None:
    made = tokens.Tokens()
    fetched = []
    all_wait = threading.Barrier(8)

    def fetch() -> tokens.Token:
        fetched.append(1)
        time.sleep(0.2)  # in which the others ask
        return tokens.Token(f"t{len(fetched)}", time.monotonic() + 60)

    def get(_: int) -> str:
        all_wait.wait(PATIENCE)
        return made.get("key", time.monotonic() + PATIENCE, fetch)[0].value

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {"t1"}
    token, fresh = made.get("key", time.monotonic() + PATIENCE, fetch)
    assert (token.value, fresh) == ("t1", False)
    made.drop("key", tokens.Token("another", token.good_until))
    assert made.get("key", time.monotonic() + PATIENCE, fetch)[0] is token
    made.drop("key", token)
    assert made.get("key", time.monotonic() + PATIENCE, fetch)[0].value == "t2"


def test_thread_with_more_time_fetches_itself_when_the_one_before_ran_out_of_it() -> None:
    made = tokens.Tokens()
    waits = threading.Event()

    def gives_up() -> tokens.Token:
        waits.wait(PATIENCE)
        raise Unavailable(Kind.TIMEOUT, "no time left")

    def hurry() -> None:
        with pytest.raises(Unavailable):
            made.get("key", time.monotonic() + PATIENCE, gives_up)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hurry)
        while not made._under_way:
            time.sleep(0.001)
        second = pool.submit(made.get, "key", time.monotonic() + PATIENCE, lambda: tokens.Token("t", 0.0))
        waits.set()
        first.result(PATIENCE)
        assert second.result(PATIENCE)[0].value == "t"


def test_url_is_read_and_its_user_name_passed_over() -> None:
    base = Url.parse("https://user:s3cret@registry.example.com/v2/a?b=c")
    assert base == (Origin("https", "registry.example.com", 443), "/v2/a?b=c")
    assert str(Url.parse("../x y/ü", base)) == "https://registry.example.com/x%20y/%C3%BC"
    assert str(Url.parse("//[fd00::1]:80", base)) == "https://[fd00::1]:80/"
    assert str(Url.parse("HTTP://Example.com:80/%2f#end", base)) == "http://example.com/%2f"


@pytest.mark.parametrize("text", ["ftp://x/", "https://", "https://x:y/", "file:///etc/passwd", "https://[::1", "x"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it is no URL of http or https$"):
        Url.parse(text)


class Resolver:
    """Stands for getaddrinfo, which hangs until it is opened."""

    def __init__(self) -> None:
        """It hangs."""
        self.open = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **__: Any) -> list[Any]:
        self.asked.append(host)
        self.open.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.open.set()


def test_dns_that_hangs_costs_no_more_than_the_deadline_and_one_thread(resolver: Resolver) -> None:
    seen: list[tuple[str, str]] = []
    settings = Settings("http://registry.example.com:1")
    client = Client(settings, observe=lambda method, outcome, _: seen.append((method, outcome)), log=seen.clear)  # type: ignore[arg-type] # never called
    before = threading.active_count()
    for _ in range(5):
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"^DNS does not answer in time for registry\.example\.com$") as raised:
            client.open("GET", Reference("blob", "a", "sha256:0"), timeout=0.1)
        assert raised.value.kind == "dns"
        assert time.monotonic() - begin < PATIENCE / 2
    assert resolver.asked == ["registry.example.com"]
    assert threading.active_count() <= before + 1
    assert seen == [("GET", "dns")] * 5
    resolver.open.set()
    with pytest.raises(Unavailable, match="refuses connections"):
        client.open("GET", Reference("blob", "a", "sha256:0"), timeout=PATIENCE)


@pytest.mark.usefixtures("resolver")
def test_connecting_may_be_given_less_time_than_the_answer() -> None:
    settings = Settings("http://registry.example.com:1", connect_timeout=0.1)
    client = Client(settings, observe=lambda *_: None, log=str)  # type: ignore[arg-type] # never called
    begin = time.monotonic()
    with pytest.raises(Unavailable, match=r"^DNS does not answer in time"):
        client.open("GET", Reference("blob", "a", "sha256:0"), timeout=PATIENCE)
    assert time.monotonic() - begin < PATIENCE / 2


def test_lookups_that_hang_do_not_pile_up(resolver: Resolver) -> None:
    lookups = connections.Lookups()
    for number in range(connections.MAX_LOOKUPS + 5):
        with pytest.raises(Unavailable, match=r"^DNS does not answer"):
            lookups.find_addresses(f"host-{number}", 443, time.monotonic())
    assert len(resolver.asked) == connections.MAX_LOOKUPS


def test_second_address_is_tried_when_the_first_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = refusing.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        addresses = [(socket.AF_INET, refused), (socket.AF_INET, listener.getsockname())]
        connections._dial(addresses, time.monotonic() + PATIENCE).close()
    with pytest.raises(ConnectionRefusedError):
        connections._dial(addresses, time.monotonic() + PATIENCE)
    with pytest.raises(TimeoutError):
        connections._dial(addresses, time.monotonic())
