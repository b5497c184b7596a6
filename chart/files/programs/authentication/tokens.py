"""Tokens for the repositories of an upstream: each is fetched once for all who need it, and used while it is valid."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from common.json_reader import parse_json
from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# The lifetime of a token if the token server does not say it (distribution, docs/content/spec/auth/token.md).
DEFAULT_LIFETIME_SECONDS = 60.0
# At the end of its lifetime, a token is not used any more, since a request takes a while: for this share of the
# lifetime, and at most for MAX_MARGIN_SECONDS.
MARGIN_SHARE = 0.1
MAX_MARGIN_SECONDS = 30.0
# A token server may say anything, but registries have changed their keys after a day.
MAX_LIFETIME_SECONDS = 86400.0
# The tokens that are kept; each repository needs one of its own. The largest ones are those of ECR, with about 3 KiB.
MAX_TOKENS = 1024
MAX_TOKEN_LENGTH = 16 * 1024
# What a header can carry (RFC 6750, section 2.1).
_VALUE = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Token(NamedTuple):
    """A token and the value of time.monotonic() until which it is used."""

    value: str
    good_until: float

    def __repr__(self) -> str:
        """Show nothing of it, since this may end up in a log."""
        return "Token(…)"


def parse_token(body: bytes, date: str | None, requested_at: float) -> Token:
    """Return the token in the answer of a token server; `date` is the header Date of the answer.

    Raises:
        ValueError: The answer has no token.
    """
    message = "not a token"
    try:
        answer = parse_json(body)
    except ValueError:
        raise ValueError(message) from None
    if not isinstance(answer, dict):
        raise ValueError(message)  # noqa: TRY004 - as for every other answer without a token
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or len(value) > MAX_TOKEN_LENGTH or not _VALUE.fullmatch(value):
        raise ValueError(message)
    lifetime = answer.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        lifetime = DEFAULT_LIFETIME_SECONDS
    lifetime = min(lifetime, MAX_LIFETIME_SECONDS)
    lifetime = max(0.0, lifetime - _age_seconds(answer.get("issued_at"), date))
    return Token(value, requested_at + lifetime - min(lifetime * MARGIN_SHARE, MAX_MARGIN_SECONDS))


def _age_seconds(issued_at: object, date: str | None) -> float:
    """Return the age of a token by the clock of the server that issued it: some hand out a token more than once."""
    if not isinstance(issued_at, str) or not date:
        return 0.0
    try:
        # Go writes nanoseconds, which Python 3.11 reads, cut to microseconds.
        issued, now = datetime.fromisoformat(issued_at), parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    issued, now = (moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (issued, now))
    return max(0.0, (now - issued).total_seconds())


class TokenCache:
    """The tokens that were fetched, by what they are for."""

    def __init__(self) -> None:
        """Start without tokens."""
        self._lock = threading.Lock()
        self._tokens: dict[Hashable, Token] = {}
        self._fetches: dict[Hashable, Future[Token]] = {}

    def get(self, key: Hashable, deadline: float, fetch: Callable[[], Token]) -> tuple[Token, bool]:
        """Return a token, and whether it is new: fetched by this thread, or by one that needed it at the same time.

        Raises:
            Unavailable: The `fetch` of another thread did not end by the deadline.
            Exception: Whatever `fetch` raised, in this thread or in the one that fetched for it.
        """
        while True:
            with self._lock:
                token = self._tokens.get(key)
                if token is not None and time.monotonic() < token.good_until:
                    # The least recently used one stays the first.
                    self._tokens[key] = self._tokens.pop(key)
                    return token, False
                running = self._fetches.get(key)
                if running is None:
                    own = self._fetches[key] = Future[Token]()
                    break
            if (fetched := _wait_for(running, deadline)) is not None:
                return fetched, True
        try:
            token = fetch()
        except BaseException as error:
            self._end_fetch(key, None)
            own.set_exception(error)
            raise
        self._end_fetch(key, token)
        own.set_result(token)
        return token, True

    def drop(self, key: Hashable, token: Token) -> None:
        """Stop using a token, but keep another one that has replaced it already."""
        with self._lock:
            if self._tokens.get(key) is token:
                del self._tokens[key]

    def _end_fetch(self, key: Hashable, token: Token | None) -> None:
        now = time.monotonic()
        with self._lock:
            del self._fetches[key]
            if token is not None:
                self._tokens = {other: kept for other, kept in self._tokens.items() if now < kept.good_until}
                self._tokens[key] = token
                if len(self._tokens) > MAX_TOKENS:
                    del self._tokens[next(iter(self._tokens))]


def _wait_for(running: Future[Token], deadline: float) -> Token | None:
    """Return what another thread fetches, or None if it ran out of time while this one still has some."""
    try:
        return running.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        problem = Unavailable(Kind.TIMEOUT, "the token server did not answer in time")
        problem.is_elsewhere = True
        raise problem from None
    except Unavailable as problem:
        if problem.kind in (Kind.TIMEOUT, Kind.DNS) and time.monotonic() < deadline:
            return None
        raise
