"""What a puller shows is sent to the upstream alone, and what the upstream asks for is known."""

from __future__ import annotations

import pytest
from upstream.client import Client, Settings
from upstream.credentials import PullerAuthorization
from upstream.errors import Denied, NotFound, Unavailable
from upstream.reference import BLOB, MANIFEST, Reference
from upstream.terms import BASIC, BEARER, Demand, Terms, format_challenge
from upstream.urls import Url
from upstreams.scripted_server import ScriptedServer, in_turn, redirect, send

SHOWN = PullerAuthorization("Bearer s3cret")
TAG, LAYER = Reference(MANIFEST, "team/app", "1"), Reference(BLOB, "team/app", "sha256:" + "0" * 64)
CHALLENGE = 'Bearer realm="https://auth.example.org/token",service="registry",scope="repository:team/app:pull"'
ASKED = f"HTTP/1.1 401 x\nWWW-Authenticate: {CHALLENGE}\nContent-Length: 0"
OK = send("HTTP/1.1 200 OK\nContent-Length: 2", body=b"ok")
REALM = Url.parse("https://auth.example.org/token")


def client_of(server: ScriptedServer) -> Client:
    return Client(Settings(server.url), observe=lambda *_: None, log=pytest.fail)


def test_what_a_puller_shows_is_all_that_is_sent() -> None:
    with ScriptedServer(OK) as server, client_of(server).open("GET", TAG, timeout=10, authorization=SHOWN) as answer:
        assert answer.read(10) == b"ok"
    (head,) = server.heads
    assert head.count("Authorization: ") == 1
    assert "Authorization: Bearer s3cret\r\n" in head


@pytest.mark.parametrize(("reply", "status"), [(ASKED, 401), ("HTTP/1.1 403 x\nContent-Length: 0", 403)])
def test_refusal_is_final_and_has_its_status(reply: str, status: int) -> None:
    with ScriptedServer(send(reply)) as server:
        client = client_of(server)
        with pytest.raises(Denied) as refused:
            client.open("GET", TAG, timeout=10, authorization=SHOWN)
        assert refused.value.status == status
        assert "s3cret" not in str(refused.value)
        assert len(server.heads) == 1, "no token of the cache's own is tried"
        terms = client.find_terms("team/app")
        assert (terms is not None) == (status == 401)
        assert not terms or format_challenge(terms) == CHALLENGE


def test_terms_of_a_repository_that_let_a_puller_in_are_tried_for_others() -> None:
    """So a repository that nobody has asked for yet is not asked once without a token, only for what it wants."""
    with ScriptedServer(in_turn(send(ASKED), OK), keeps_open=True) as server:
        client = client_of(server)
        with pytest.raises(Denied):
            client.open("HEAD", TAG, timeout=10, authorization=SHOWN)
        assert client.find_terms("team/other") is None, "these terms have let nobody in"
        client.open("GET", TAG, timeout=10, authorization=SHOWN).close()
    terms = client.find_terms("team/other")
    assert terms == Terms(Demand(BEARER, REALM, "registry"), "repository:team/other:pull", is_own=False)


def test_missing_manifest_is_missing() -> None:
    with ScriptedServer(send("HTTP/1.1 404 x\nContent-Length: 0")) as server, pytest.raises(NotFound):
        client_of(server).open("HEAD", TAG, timeout=10, authorization=SHOWN)


def test_server_of_a_redirect_does_not_see_what_a_puller_shows() -> None:
    with ScriptedServer(OK) as storage, ScriptedServer(redirect(f"{storage.url}/blob")) as server:
        client_of(server).open("GET", LAYER, timeout=10, authorization=SHOWN).close()
    assert "Bearer s3cret" in server.heads[0]
    assert "Authorization" not in storage.heads[0]


def test_refusal_by_the_server_of_a_redirect_says_nothing_about_the_puller() -> None:
    with (
        ScriptedServer(send("HTTP/1.1 403 x\nContent-Length: 0")) as storage,
        ScriptedServer(redirect(f"{storage.url}/blob")) as server,
        pytest.raises(Unavailable),
    ):
        client_of(server).open("HEAD", LAYER, timeout=10, authorization=SHOWN)


@pytest.mark.parametrize(
    ("terms", "error", "challenge"),
    [
        (Terms(Demand(BEARER, REALM, "registry"), "repository:team/app:pull"), "", CHALLENGE),
        (Terms(Demand(BEARER, REALM), "a b"), "invalid_token",
         'Bearer realm="https://auth.example.org/token",scope="a b",error="invalid_token"'),
        (Terms(Demand(BASIC), "x"), "", 'Basic realm="registry"'),
        (Terms(None, "x"), "", ""),
        (Terms(Demand(BEARER, REALM, 'a"b'), "x"), "", ""),
        (Terms(Demand(BEARER, REALM, "a\\"), "x"), "", ""),
        (Terms(Demand(BEARER, REALM, "registry"), "x\r\nSet-Cookie: y"), "", ""),
        (Terms(Demand(BEARER, REALM, "registrü"), "x"), "", ""),
    ],
)  # fmt: skip
def test_challenge_asks_for_what_the_upstream_asked(terms: Terms, error: str, challenge: str) -> None:
    assert format_challenge(terms, error) == challenge
