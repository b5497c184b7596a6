"""How the client proves to an upstream who it is (distribution, docs/content/spec/auth/token.md).

The upstream itself names the token server that gets the credentials, on any host: that of lscr.io is ghcr.io. So anyone
who can answer in place of the upstream can have the credentials sent to a server of their own. TLS prevents that, and
credentials are never sent by plain http for an upstream that is reached by https.
"""

from __future__ import annotations

import http
import threading
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upstream.challenges import Challenge, parse_challenges
from upstream.errors import Denied, Kind, Unavailable, translate_errors
from upstream.exchange import Request
from upstream.pull_secret import UnusableSecret
from upstream.tokens import TokenCache, parse_token
from upstream.urls import Url

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from upstream.credentials import Credentials
    from upstream.exchange import Reply
    from upstream.pull_secret import MountedSecret
    from upstream.tokens import Token
    from upstream.urls import Origin

MAX_TOKEN_BYTES = 1024 * 1024
# What the client calls itself where it exchanges an identity token.
CLIENT_ID = "registry-cache"
# How long a line of the same topic is not logged again.
LOG_AGAIN_SECONDS = 300.0
# How long refused credentials are not tried again. Servers lock out clients that try too often.
REFUSED_SECONDS = 60.0
# One attempt with what is remembered, one with what the answer to it says, and one with a new token.
MAX_ATTEMPTS = 3


class _Refused(Exception):
    """The upstream or its token server refused an attempt; the message is part of a sentence."""


@dataclass(frozen=True, repr=False)
class _Authorization:
    """The value of the header, what it was made from, and whether a new one would be the same."""

    header: str | None = None
    key: Hashable = None
    token: Token | None = None
    is_new: bool = True


class Authorizer:
    """Sends requests to one upstream with the authorization that it asks for, for many threads at once."""

    def __init__(
        self,
        origin: Origin,
        secret: MountedSecret | None,
        *,
        send: Callable[[Request, str | None], Reply],
        log: Callable[[str], None],
    ) -> None:
        """Take the Secret with the credentials, if there is one.

        `send` sends a request with a header Authorization, or without one for None.
        """
        self._origin = origin
        self._secret = secret
        self._send = send
        self._log = log
        self._lock = threading.Lock()
        self._tokens = TokenCache()
        self._first_request_started = False
        self._first_request_ended = threading.Event()
        self._challenge: Challenge | None = None
        # The scopes that the upstream asks for, by repository, if they differ from the usual ones.
        self._scopes: dict[str, str] = {}
        # Until when credentials are not tried again, and why.
        self._refused: dict[Hashable, tuple[float, str]] = {}
        self._logged: dict[str, float] = {}
        # How often the upstream or its token server refused the credentials with status 401.
        self.credentials_refused = 0

    def find_problem(self) -> str | None:
        """Return what is wrong with the Secret with the credentials, or None."""
        try:
            if self._secret is not None:
                self._secret.read()
        except UnusableSecret as problem:
            return str(problem)
        return None

    def log_problem(self) -> None:
        """Log what is wrong with the Secret, unless that was done a while ago."""
        if problem := self.find_problem():
            self._log_seldom("secret", f"{problem}, continuing without it")

    def _read_credentials(self, repository: str) -> tuple[Credentials, ...]:
        """Return the credentials for a repository, in the order in which to try them."""
        try:
            return () if self._secret is None else self._secret.read().choose(repository)
        except UnusableSecret:
            self.log_problem()
            return ()

    def open(self, request: Request, repository: str) -> Reply:
        """Send a request with the credentials, or without if they do not help, since public images need none.

        Raises:
            Denied: The upstream refuses access in each way.
            Unavailable: There is no useful answer.
        """
        tried: list[Credentials] = []
        reason = ""
        # They are read again after each attempt, since the Secret may have changed.
        while untried := [one for one in self._read_credentials(repository) if one not in tried]:
            tried.append(untried[0])
            try:
                with self._after_first_request(request.deadline):
                    return self._open_as(untried[0], request, repository)
            except _Refused as refusal:
                reason = str(refusal)
        if tried:
            self._log_seldom(reason, f"the credentials cannot be used: {reason}; trying {repository} without them")
        try:
            with self._after_first_request(request.deadline):
                return self._open_as(None, request, repository)
        except _Refused as refusal:
            message = f"with the credentials, {reason}; without them, {refusal}" if tried else str(refusal)
            raise Denied(message) from None

    @contextmanager
    def _after_first_request(self, deadline: float) -> Iterator[None]:
        """Let the very first request alone find out how the upstream authenticates; the others wait for it."""
        with self._lock:
            is_first, self._first_request_started = not self._first_request_started, True
        if not is_first:
            self._first_request_ended.wait(max(0.0, deadline - time.monotonic()))
        try:
            yield
        finally:
            if is_first:
                self._first_request_ended.set()

    def _open_as(self, credentials: Credentials | None, request: Request, repository: str) -> Reply:
        """Send a request, with a new token if the current one is not accepted.

        Raises:
            _Refused: The upstream or its token server answers 401 or 403.
        """
        for _ in range(MAX_ATTEMPTS):
            challenge, scope = self._challenge, self._scope(repository)
            authorization = self._authorize(challenge, scope, credentials, request.deadline)
            reply = self._send(request, authorization.header)
            if not reply.refuses_access:
                return reply
            reply.discard()
            if reply.url.origin != request.url.origin:
                message = f"{reply.url.origin}, to which {request.url.origin} redirects, answered {reply.status}"
                raise Unavailable(Kind.REDIRECTS, message)
            self._remember_challenge(reply, repository)
            if authorization.token is not None:
                self._tokens.drop(authorization.key, authorization.token)
            elif authorization.header:
                self._note_refusal(authorization.key, reply, f"{reply.url.origin} answered {reply.status}")
            # Another attempt with the same header would have the same result.
            if authorization.is_new and challenge == self._challenge and scope == self._scope(repository):
                break
        message = f"{request.url.origin} answered {reply.status}"
        raise _Refused(message)

    def _authorize(
        self, challenge: Challenge | None, scope: str, credentials: Credentials | None, deadline: float
    ) -> _Authorization:
        """Return the authorization that a challenge asks for.

        Raises:
            _Refused: The token server answers 401 or 403, or there is no way to meet the challenge.
        """
        if challenge is None:
            return _Authorization()
        if challenge.scheme == "basic":
            # An identity token can only be exchanged for a token.
            if credentials is None or credentials.identity_token:
                return _Authorization()
            key: Hashable = ("basic", scope, credentials)
            self._check_not_refused(key)
            return _Authorization(credentials.basic(), key=key)
        if challenge.scheme != "bearer":
            message = f"{self._origin} asks for an authentication scheme that is not supported"
            raise _Refused(message)
        service = challenge.parameters.get("service", "")
        try:
            realm = Url.parse(challenge.parameters.get("realm", ""))
        except ValueError:
            message = f"{self._origin} names a token server without a valid URL"
            raise Unavailable(Kind.MALFORMED, message) from None
        if credentials is not None and realm.origin.scheme == "http" and self._origin.scheme == "https":
            message = f"{self._origin} wants them to be sent by plain http, to {realm.origin}"
            raise _Refused(message)
        key = (realm, service, scope, credentials)
        self._check_not_refused(key)
        request = _token_request(realm, service, scope, credentials, deadline)
        token, is_new = self._tokens.get(key, deadline, lambda: self._fetch_token(request, credentials, key))
        return _Authorization(f"Bearer {token.value}", key=key, token=token, is_new=is_new)

    def _fetch_token(self, request: Request, credentials: Credentials | None, key: Hashable) -> Token:
        requested_at = time.monotonic()
        try:
            # With an identity token, the credentials are in the body.
            reply = self._send(request, credentials.basic() if credentials and not request.body else None)
            try:
                if not reply.refuses_access:
                    return _read_token(reply, requested_at)
            finally:
                reply.discard()
        except Unavailable as problem:
            # The upstream may have another token server by now. It names it when it is asked without a token.
            self._challenge = None
            message = f"no token: {problem}"
            raise Unavailable(problem.kind, message, problem.retry_after) from None
        message = f"the token server {reply.url.origin} answered {reply.status}"
        if credentials is not None:
            self._note_refusal(key, reply, message)
        raise _Refused(message)

    def _scope(self, repository: str) -> str:
        return self._scopes.get(repository, f"repository:{repository}:pull")

    def _remember_challenge(self, reply: Reply, repository: str) -> None:
        challenges = parse_challenges(reply.headers.get_all("WWW-Authenticate") or [])
        if not challenges:
            return
        # An unsupported scheme comes last, and is kept so that it can be reported.
        chosen = min(challenges, key=lambda challenge: {"bearer": 0, "basic": 1}.get(challenge.scheme, 2))
        scope = chosen.parameters.get("scope")
        if scope and scope != self._scope(repository):
            self._scopes[repository] = scope
        common = {name: chosen.parameters[name] for name in ("realm", "service") if name in chosen.parameters}
        self._challenge = Challenge(chosen.scheme, common)

    def _note_refusal(self, key: Hashable, reply: Reply, reason: str) -> None:
        """Do not try refused credentials again for a while, and count them; 403 is about the repository only."""
        now = time.monotonic()
        with self._lock:
            self.credentials_refused += reply.status == http.HTTPStatus.UNAUTHORIZED
            self._refused = {other: entry for other, entry in self._refused.items() if now < entry[0]}
            self._refused[key] = now + REFUSED_SECONDS, reason

    def _check_not_refused(self, key: Hashable) -> None:
        with self._lock:
            until, reason = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise _Refused(reason)

    def _log_seldom(self, topic: str, line: str) -> None:
        """Log a line unless one of the same topic, of which there are few, was logged a while ago."""
        now = time.monotonic()
        with self._lock:
            if now < self._logged.get(topic, 0.0):
                return
            self._logged[topic] = now + LOG_AGAIN_SECONDS
        self._log(line)


def _token_request(realm: Url, service: str, scope: str, credentials: Credentials | None, deadline: float) -> Request:
    """Return the request for a token; an identity token takes the way of OAuth 2 (distribution, auth/oauth.md)."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    parameters = [*([("service", service)] if service else []), ("scope", scope)]
    if credentials is None or not credentials.identity_token:
        query = urllib.parse.urlencode(parameters)
        url = Url(realm.origin, f"{realm.target}{'&' if '?' in realm.target else '?'}{query}")
        return Request("GET", "token", url, headers, deadline)
    grant = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", credentials.identity_token)]
    body = urllib.parse.urlencode([*grant, *parameters]).encode()
    headers |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    return Request("POST", "token", realm, headers, deadline, body=body)


def _read_token(reply: Reply, requested_at: float) -> Token:
    server = reply.url.origin
    if reply.status != http.HTTPStatus.OK:
        raise reply.unusable()
    with translate_errors(str(server)):
        body = bytearray()
        while len(body) < MAX_TOKEN_BYTES and (content := reply.read(MAX_TOKEN_BYTES)):
            body += content
    try:
        return parse_token(bytes(body), reply.headers["Date"], requested_at)
    except ValueError:
        message = f"the answer of {server} is not a token"
        raise Unavailable(Kind.MALFORMED, message) from None
