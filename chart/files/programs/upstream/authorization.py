"""How the client proves to an upstream who it is (distribution, docs/content/spec/auth/token.md).

The upstream itself names the token server. Credentials are sent only to one that belongs to the upstream
(token_servers.py), and never by plain http for an upstream that is reached by https.
"""

from __future__ import annotations

import http
import threading
import time
import urllib.parse
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authentication.pull_secret import UnusableSecret
from authentication.tokens import TokenCache, parse_token
from common.log import SeldomLog
from common.recent import RecentDict

from upstream.errors import Denied, Kind, Unavailable, translate_errors
from upstream.exchange import Reply, Request
from upstream.terms import BASIC, Demand, RememberedTerms, Terms, default_scope, parse_terms
from upstream.urls import Url

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from authentication.pull_secret import MountedSecret
    from authentication.token_servers import TokenServers
    from authentication.tokens import Token

    from upstream.credentials import Credentials
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
# How long a token may take that is fetched on the terms of other repositories: this, or so many times what the slowest
# token took so far. After that, the repository itself is asked for its terms.
MIN_TRIAL_SECONDS = 0.5
TRIAL_FACTOR = 3.0
MAX_TOKEN_SERVERS = 64
# What is remembered of refusals and of lines in the log, at most.
MAX_REMEMBERED = 1024


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
        token_servers: TokenServers,
        *,
        send: Callable[[Request, str | None], Reply],
        log: Callable[[str], None],
    ) -> None:
        """Take the Secret with the credentials, if there is one, and the token servers that get them.

        `send` sends a request with a header Authorization, or without one for None.
        """
        self._origin = origin
        self._secret = secret
        self._token_servers = token_servers
        self._send = send
        self._seldom_log = SeldomLog(log, LOG_AGAIN_SECONDS, MAX_REMEMBERED)
        self._lock = threading.Lock()
        self._tokens = TokenCache()
        # What the answers of a repository teach is kept with its name, so that it changes nothing for another one.
        self._terms = RememberedTerms()
        self._first_requests: dict[str, threading.Event] = {}
        # How long the token servers took at most.
        self._token_seconds: RecentDict[Demand | None, float] = RecentDict(MAX_TOKEN_SERVERS)
        # Until when credentials are not tried again, and why.
        self._refused: RecentDict[Hashable, tuple[float, str]] = RecentDict(MAX_REMEMBERED)
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
            self._seldom_log.log("secret", f"{problem}, continuing without it")

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
                with self._after_first_request(repository, request.deadline):
                    return self._open_as(untried[0], request, repository)
            except _Refused as refusal:
                reason = str(refusal)
        if tried:
            self._seldom_log.log(reason, f"the credentials cannot be used: {reason}; trying {repository} without them")
        try:
            with self._after_first_request(repository, request.deadline):
                reply = self._open_as(None, request, repository)
        except _Refused as refusal:
            message = f"with the credentials, {reason}; without them, {refusal}" if tried else str(refusal)
            raise Denied(message, http.HTTPStatus.UNAUTHORIZED) from None
        reply.is_anonymous = self._secret is not None
        return reply

    def find_terms(self, repository: str) -> Terms | None:
        """Return what a repository asks for, as far as its answers have shown, or those of the others."""
        return self._terms.find(repository)

    def learn_terms(self, reply: Reply, repository: str) -> None:
        """Remember what a repository asks for in an answer that refuses the credentials of somebody else."""
        with suppress(_Refused, Unavailable):
            self._learn(reply, repository)

    def confirm_terms(self, repository: str) -> None:
        """Remember that a repository let somebody in with credentials of their own, on the terms that are known."""
        terms = self._terms.find(repository)
        if terms is not None and terms.is_own:
            self._terms.confirm(repository, terms)

    @contextmanager
    def _after_first_request(self, repository: str, deadline: float) -> Iterator[None]:
        """Let the first request of a repository alone find out how to authenticate; its others wait for it."""
        with self._lock:
            running = self._first_requests.get(repository)
            is_first = running is None and self._terms.find(repository) is None
            if is_first:
                running = self._first_requests[repository] = threading.Event()
        if running is not None and not is_first:
            running.wait(max(0.0, deadline - time.monotonic()))
        try:
            yield
        finally:
            if is_first and running is not None:
                with self._lock:
                    del self._first_requests[repository]
                running.set()

    def _open_as(self, credentials: Credentials | None, request: Request, repository: str) -> Reply:
        """Send a request, with a new token if the current one is not accepted.

        Raises:
            _Refused: The upstream or its token server answers 401 or 403.
        """
        terms = self._terms.find(repository) or Terms(None, default_scope(repository))
        if not terms.is_own:
            result = self._open_on_trial(terms, credentials, request, repository)
            if not isinstance(result, Terms):
                return result
            terms = result
        for _ in range(MAX_ATTEMPTS):
            authorization = self._authorize(terms, credentials, repository, request.deadline)
            reply = self._send(request, authorization.header)
            if not reply.refuses_access:
                if reply.status < http.HTTPStatus.BAD_REQUEST:
                    self._terms.confirm(repository, terms)
                return reply
            reply.discard()
            if reply.url.origin != request.url.origin:
                return self._open_elsewhere(reply, request, repository)
            learned = self._learn(reply, repository) or terms
            self._note_refused(authorization, reply, is_final=learned == terms)
            # Another attempt with the same header would have the same result.
            if authorization.is_new and learned == terms:
                break
            terms = learned
        message = f"{request.url.origin} answered {reply.status}"
        raise _Refused(message)

    def _open_on_trial(
        self, terms: Terms, credentials: Credentials | None, request: Request, repository: str
    ) -> Reply | Terms:
        """Send a request on the terms of other repositories; return the reply, or the terms on which to go on.

        Nothing that goes wrong here says anything about this repository, which is then asked without authorization.
        """
        own = Terms(None, default_scope(repository))
        limit = time.monotonic() + max(MIN_TRIAL_SECONDS, TRIAL_FACTOR * self._token_seconds.get(terms.demand, 0.0))
        try:
            authorization = self._authorize(terms, credentials, repository, min(request.deadline, limit))
            reply = self._send(request, authorization.header)
        except (_Refused, Unavailable):
            self._terms.forget(repository)
            if time.monotonic() >= request.deadline:
                raise
            return own
        if reply.status < http.HTTPStatus.BAD_REQUEST:
            self._terms.confirm(repository, terms)
            return reply
        reply.discard()
        learned = self._learn(reply, repository) if reply.url.origin == request.url.origin else None
        if learned is None:
            self._terms.forget(repository)
            return own
        if authorization.is_new and learned == terms._replace(is_own=True):
            message = f"{request.url.origin} answered {reply.status}"
            raise _Refused(message)
        self._note_refused(authorization, reply, is_final=False)
        return learned

    def _open_elsewhere(self, refusal: Reply, request: Request, repository: str) -> Reply:
        """Send a request again to the server to which the upstream redirects, with a token that anybody gets.

        Raises:
            Unavailable: That server refuses it too, or asks for something else.
        """
        message = f"{refusal.url.origin}, to which {request.url.origin} redirects, answered {refusal.status}"
        problem = Unavailable(Kind.REDIRECTS, message)
        try:
            terms = parse_terms(refusal.headers.get_all("WWW-Authenticate") or [], refusal.url.origin, repository)
            key = f"{refusal.url.origin} {repository}"
            authorization = self._authorize(terms or Terms(None, ""), None, key, request.deadline)
        except (Unavailable, ValueError, _Refused):
            raise problem from None
        if authorization.header is None:
            raise problem
        reply = self._send(request._replace(url=refusal.url), authorization.header)
        if not reply.refuses_access:
            return reply
        reply.discard()
        self._note_refused(authorization, reply, is_final=False)
        raise problem

    def _learn(self, reply: Reply, repository: str) -> Terms | None:
        """Remember what a reply asks for, and return it, or None if it asks for nothing.

        Raises:
            _Refused: It asks for nothing that this client can do, which is not remembered.
            Unavailable: It names a token server without a valid URL, which is not remembered either.
        """
        try:
            terms = parse_terms(reply.headers.get_all("WWW-Authenticate") or [], reply.url.origin, repository)
        except ValueError as error:
            self._terms.forget(repository)
            raise _Refused(str(error)) from None
        except Unavailable:
            self._terms.forget(repository)
            raise
        if terms is not None:
            self._terms.learn(repository, terms)
        return terms

    def _authorize(
        self, terms: Terms, credentials: Credentials | None, repository: str, deadline: float
    ) -> _Authorization:
        """Return the authorization that a repository asks for.

        Raises:
            _Refused: The token server answers 401 or 403, or there is no way to meet the terms.
        """
        demand, scope = terms.demand, terms.scope
        if demand is None:
            return _Authorization()
        if demand.realm is None:
            # An identity token can only be exchanged for a token.
            if credentials is None or credentials.identity_token:
                return _Authorization()
            key: Hashable = (BASIC, repository, credentials)
            self._check_not_refused(key)
            return _Authorization(credentials.basic(), key=key)
        realm = demand.realm
        if credentials is not None and realm.origin.scheme == "http" and self._origin.scheme == "https":
            message = f"{self._origin} wants them to be sent by plain http, to {realm.origin}"
            raise _Refused(message)
        if credentials is not None and (objection := self._token_servers.find_objection(realm.origin)):
            message = f"{self._origin} {objection}"
            raise _Refused(message)
        key = (repository, demand, scope, credentials)
        self._check_not_refused(key)
        request = _token_request(demand, scope, credentials, deadline)
        started = time.monotonic()
        try:
            token, is_new = self._tokens.get(key, deadline, lambda: self._fetch_token(request, credentials, key))
        except Unavailable:
            # The upstream may have another token server by now. It names it when it is asked without a token.
            self._terms.forget(repository)
            raise
        if is_new:
            self._note_token_seconds(demand, time.monotonic() - started)
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
        except Unavailable as error:
            problem = error.during("no token")
            problem.is_elsewhere |= not problem.is_connecting
            raise problem from None
        message = f"the token server {reply.url.origin} answered {reply.status}"
        if credentials is not None:
            self._note_refusal(key, reply, message)
        raise _Refused(message)

    def _note_token_seconds(self, demand: Demand, seconds: float) -> None:
        """Remember how long a token server took at most, for a few of them."""
        with self._lock:
            self._token_seconds[demand] = max(seconds, self._token_seconds.get(demand, 0.0))

    def _note_refused(self, authorization: _Authorization, reply: Reply, *, is_final: bool) -> None:
        """Drop a token, or do not send credentials again, unless the reply only asks for something else."""
        if authorization.token is not None:
            self._tokens.drop(authorization.key, authorization.token)
        elif authorization.header and is_final:
            self._note_refusal(authorization.key, reply, f"{reply.url.origin} answered {reply.status}")

    def _note_refusal(self, key: Hashable, reply: Reply, reason: str) -> None:
        """Do not try refused credentials again for a while, and count them; 403 is about the repository only."""
        now = time.monotonic()
        with self._lock:
            self.credentials_refused += reply.status == http.HTTPStatus.UNAUTHORIZED
            while self._refused and _first(self._refused)[0] <= now:
                del self._refused[next(iter(self._refused))]
            self._refused[key] = now + REFUSED_SECONDS, reason

    def _check_not_refused(self, key: Hashable) -> None:
        with self._lock:
            until, reason = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise _Refused(reason)


def _token_request(demand: Demand, scope: str, credentials: Credentials | None, deadline: float) -> Request:
    """Return the request for a token; an identity token takes the way of OAuth 2 (distribution, auth/oauth.md)."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    parameters = [*([("service", demand.service)] if demand.service else []), ("scope", scope)]
    realm = demand.realm
    assert realm is not None  # noqa: S101 - it is there for bearer
    if credentials is None or not credentials.identity_token:
        query = urllib.parse.urlencode(parameters)
        url = Url(realm.origin, f"{realm.target}{'&' if '?' in realm.target else '?'}{query}")
        return Request("GET", "token", url, headers, deadline)
    grant = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", credentials.identity_token)]
    body = urllib.parse.urlencode([*grant, *parameters]).encode()
    headers |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    return Request("POST", "token", realm, headers, deadline, body=body)


def _first(entries: Mapping[Hashable, tuple[float, str]]) -> tuple[float, str]:
    return next(iter(entries.values()))


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
