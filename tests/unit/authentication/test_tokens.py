"""Tokens: how long each is used, and that many threads fetch it once."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from authentication import tokens
from authentication.tokens import Token, TokenCache, parse_token
from upstream.errors import Kind, Unavailable

TIMEOUT_SECONDS = 10.0
REQUESTED_AT = 1000.0
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
        pytest.param({"token": "t", "expires_in": 300, "issued_at": "yesterday"}, 300, id="not-a-time"),
        pytest.param({"token": "t", "expires_in": 10, "issued_at": "2026-09-01T12:00:00Z"}, 0, id="over"),
    ],
)
def test_token_is_used_during_its_lifetime_less_a_margin(answer: dict[str, object], lifetime: float) -> None:
    token = parse_token(json.dumps(answer).encode(), DATE, REQUESTED_AT)
    assert token.value == "t"
    margin = min(30.0, lifetime / 10)
    assert token.good_until == pytest.approx(REQUESTED_AT + lifetime - margin, abs=1.0 if lifetime else 1e-9)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b'{"token": ""}', b"\xff", b"[" * 100_000]
)
def test_answer_without_a_token_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a token$"):
        parse_token(body, None, REQUESTED_AT)


def test_token_is_fetched_once_for_many_threads() -> None:
    cache = TokenCache()
    fetched = []
    all_wait = threading.Barrier(8)

    def fetch() -> Token:
        fetched.append(1)
        time.sleep(0.2)  # in which the others ask
        return Token(f"t{len(fetched)}", time.monotonic() + 60)

    def get(_: int) -> str:
        all_wait.wait(TIMEOUT_SECONDS)
        return cache.get("key", time.monotonic() + TIMEOUT_SECONDS, fetch)[0].value

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {"t1"}
    token, fresh = cache.get("key", time.monotonic() + TIMEOUT_SECONDS, fetch)
    assert (token.value, fresh) == ("t1", False)
    cache.drop("key", Token("another", token.good_until))
    assert cache.get("key", time.monotonic() + TIMEOUT_SECONDS, fetch)[0] is token
    cache.drop("key", token)
    assert cache.get("key", time.monotonic() + TIMEOUT_SECONDS, fetch)[0].value == "t2"


def test_thread_with_more_time_fetches_a_token_itself_when_another_ran_out_of_time() -> None:
    cache = TokenCache()
    waits = threading.Event()

    def gives_up() -> Token:
        waits.wait(TIMEOUT_SECONDS)
        raise Unavailable(Kind.TIMEOUT, "no time left")

    def hurry() -> None:
        with pytest.raises(Unavailable):
            cache.get("key", time.monotonic() + TIMEOUT_SECONDS, gives_up)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hurry)
        while not cache._fetches:
            time.sleep(0.001)
        second = pool.submit(cache.get, "key", time.monotonic() + TIMEOUT_SECONDS, lambda: Token("t", 0.0))
        waits.set()
        first.result(TIMEOUT_SECONDS)
        assert second.result(TIMEOUT_SECONDS)[0].value == "t"


@pytest.mark.parametrize("lifetime", ["1" + "0" * 400, "1e308", "Infinity"])
def test_absurd_lifetime_is_cut(lifetime: str) -> None:
    token = parse_token(b'{"token": "x", "expires_in": %s}' % lifetime.encode(), None, 1000.0)
    assert token.good_until <= 1000.0 + tokens.MAX_LIFETIME_SECONDS


def test_number_and_length_of_tokens_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 3)
    cache = TokenCache()
    for key in (1, 2, 3, 1, 4):
        cache.get(key, time.monotonic() + 10, lambda: Token("x", time.monotonic() + 1000))
    assert set(cache._tokens) == {3, 1, 4}
    with pytest.raises(ValueError, match="not a token"):
        parse_token(b'{"token": "%s"}' % (b"x" * (tokens.MAX_TOKEN_LENGTH + 1)), None, 0.0)
