"""Tokens for an upstream's repositories: each is fetched once for all who want it, and used as long as it is good."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from upstream.connections import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Seconds; what counts where the token server does not say it (distribution, docs/content/spec/auth/token.md).
DEFAULT_LIFETIME = 60.0
# The share of its lifetime in which a token is not used any more, and at most so many seconds: a request takes a while.
MARGIN = 0.1
LARGEST_MARGIN = 30.0
# RFC 6750, section 2.1: what a header can carry.
_VALUE = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Token(NamedTuple):
    """A token and the moment of time.monotonic() until which it is used."""

    value: str
    good_until: float

    def __repr__(self) -> str:
        """Nothing of it, since what is shown ends in logs."""
        return "Token(…)"


def read(body: bytes, date: str | None, asked: float) -> Token:
    """The token in a token server's answer; `date` is that answer's header Date, `asked` when it was asked for.

    Raises:
        ValueError: there is none.
    """
    message = "it is no token"
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(message) from None
    value = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ValueError(message)
    lifetime = answer.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        lifetime = DEFAULT_LIFETIME
    lifetime = max(0.0, lifetime - _age(answer.get("issued_at"), date))
    return Token(value, asked + lifetime - min(lifetime * MARGIN, LARGEST_MARGIN))


def _age(issued: object, date: str | None) -> float:
    """Seconds since a token was made, by the clock of who made it: some servers hand one out more than once."""
    if not isinstance(issued, str) or not date:
        return 0.0
    try:
        # Go writes nanoseconds, which Python 3.11 reads, cut to microseconds.
        made, now = datetime.fromisoformat(issued), parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    made, now = (moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (made, now))
    return max(0.0, (now - made).total_seconds())


class Tokens:
    """The tokens at hand, by what they are for."""

    def __init__(self) -> None:
        """None is at hand yet."""
        self._lock = threading.Lock()
        self._tokens: dict[Hashable, Token] = {}
        self._under_way: dict[Hashable, Future[Token]] = {}

    def get(self, key: Hashable, deadline: float, fetch: Callable[[], Token]) -> tuple[Token, bool]:
        """A token, and whether it was fetched for this call, by this thread or one that asked at the same time.

        Raises:
            Unavailable: another thread's `fetch` was not done by the deadline.
            Exception: what `fetch` raised, here or in the thread that fetched for this one.
        """
        while True:
            with self._lock:
                token = self._tokens.get(key)
                if token is not None and time.monotonic() < token.good_until:
                    return token, False
                others = self._under_way.get(key)
                if others is None:
                    ours = self._under_way[key] = Future[Token]()
                    break
            if (fetched := _wait(others, deadline)) is not None:
                return fetched, True
        try:
            token = fetch()
        except BaseException as error:
            self._end(key, None)
            ours.set_exception(error)
            raise
        self._end(key, token)
        ours.set_result(token)
        return token, True

    def drop(self, key: Hashable, token: Token) -> None:
        """Use a token no more; another one for the same, which came meanwhile, is kept."""
        with self._lock:
            if self._tokens.get(key) is token:
                del self._tokens[key]

    def _end(self, key: Hashable, token: Token | None) -> None:
        now = time.monotonic()
        with self._lock:
            del self._under_way[key]
            if token is not None:
                self._tokens = {other: kept for other, kept in self._tokens.items() if now < kept.good_until}
                self._tokens[key] = token


def _wait(others: Future[Token], deadline: float) -> Token | None:
    """What another thread fetches; None where it had less time than we have."""
    try:
        return others.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        message = "the token server does not answer in time"
        raise Unavailable(Kind.TIMEOUT, message) from None
    except Unavailable as problem:
        if problem.kind in (Kind.TIMEOUT, Kind.DNS) and time.monotonic() < deadline:
            return None
        raise
