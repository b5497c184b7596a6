"""Speaks to one upstream registry (distribution-spec; distribution, docs/content/spec/auth/token.md).

Which token server gets the credentials is for the upstream to say, whatever host that is: lscr.io's is ghcr.io. So who
can answer in the upstream's place can have them sent to a server of his. TLS keeps others from that, and they are never
sent by http where the upstream itself is asked by https. A redirect takes none of them to another host.
"""

from __future__ import annotations

import http.client
import math
import re
import threading
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from upstream import challenges, credentials, tokens
from upstream.connections import Connection, Connections, Contexts, Kind, Unavailable, problems
from upstream.proxies import Proxies
from upstream.urls import AS_IT_IS, Url

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from email.message import Message
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from upstream.challenges import Challenge
    from upstream.credentials import Credentials
    from upstream.reference import Reference
    from upstream.tokens import Token

__all__ = ["Answer", "Client", "Denied", "Kind", "NotFound", "Settings", "Unavailable"]

# Seconds of silence after which an answer's body counts as broken off.
READ_TIMEOUT = 10.0
LARGEST_TOKEN = 1024 * 1024
MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Seconds for which what was said is not said again.
SAID = 300.0
# Seconds for which credentials that were refused are not tried again: servers lock who tries too often.
REFUSED = 60.0
# One request with what is remembered, one with what the answer to it says, and one with a new token.
MOST_ATTEMPTS = 3
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")


class NotFound(Exception):
    """The upstream says that it does not have it."""


class Denied(Exception):
    """The upstream says that we may not have it: with the credentials that there are, and without."""


class _Refused(Exception):
    """What the upstream, or its token server, says to one try; the message is its part of a sentence."""


class Settings(NamedTuple):
    """How to reach the upstream; what is not there is empty or None.

    `credentials` and `proxy_credentials` are folders with the files `username` and `password`; `connect_timeout` is
    seconds until there is a connection, within those for the answer's head. `credentials_source` and `ca_source` are
    what messages call the objects that the files come from.
    """

    remote_url: str
    credentials: Path | None = None
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    proxy_credentials: Path | None = None
    ca_file: Path | None = None
    connect_timeout: float = math.inf
    credentials_source: str = "the Secret"
    ca_source: str = "the ConfigMap or Secret of authorities"


class Answer:
    """An answer whose body can be read; closed by its end, `close`, or leaving it as a context."""

    def __init__(self, reply: _Reply, *, offset: int, read_timeout: float, received: Callable[[int], None]) -> None:
        """Take over a good answer, whose body begins at byte `offset` of what was asked for."""
        self._reply = reply
        self._read = 0
        self._timeout = read_timeout
        self._received = received
        self._closed = False
        self.status = reply.status
        self.headers: Message = reply.headers
        self.offset = offset
        # Bytes of this body, 0 for HEAD; None where it comes in chunks, or ends with the connection.
        self.length = reply.response.length
        reply.connection.stay(read_timeout)

    def read(self, size: int) -> bytes:
        """The next bytes, as many as are there, `size` at most, which is one or more; none at the end.

        Of a body that ends with the connection nobody can tell whether it is whole: compare its digest.

        Raises:
            Unavailable: it broke off, or nothing came for the time that was given.
            ValueError: it was closed before its end.
        """
        if self._closed:
            message = "the answer is closed"
            raise ValueError(message)
        who = self._reply.url.origin
        if self.length is not None:
            # http.client of Python 3.11 would wait for more where the server leaves the connection open.
            size = min(size, self.length - self._read)
        try:
            with problems(str(who)):
                part = self._reply.response.read1(size) if size else b""
        except Unavailable as problem:
            self.close()
            if problem.kind == Kind.TIMEOUT:
                message = f"{who} sends nothing for {self._timeout:g} s in the middle of a body"
                raise Unavailable(Kind.TIMEOUT, message) from None
            raise Unavailable(Kind.CUT, f"{who} breaks off after {self._read} bytes of a body") from None
        self._read += len(part)
        self._received(len(part))
        if not part:
            self._reply.close()
            if self.length is not None and self._read < self.length:
                message = f"{who} breaks off after {self._read} of {self.length} bytes of a body"
                raise Unavailable(Kind.CUT, message)
        return part

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        self._reply.close()

    def __enter__(self) -> Self:
        """The answer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the connection."""
        self.close()


class Client:
    """Asks the upstream for manifests and blobs, for many threads at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[str, str, float], None],
        log: Callable[[str], None],
        received: Callable[[str, int], None] = lambda *_: None,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        """Take what to ask, and say what is missing for that; nothing is asked yet.

        `observe` is told of each request that goes out: its method, or `token`; the outcome, which is 2xx, 3xx, 401,
        403, 404, 429, 4xx, 5xx or the kind of an Unavailable; the seconds until the answer's head. `received` is told
        of each byte of a good answer's body: `blob` or `manifest`, and how many.

        Raises:
            ValueError: one of the URLs is none.
        """
        self._url = Url.parse(settings.remote_url)
        self._credentials = settings.credentials
        self._credentials_source = settings.credentials_source
        proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy)
        contexts = Contexts(settings.ca_file, settings.ca_source)
        self._connections = Connections(proxies, settings.proxy_credentials, contexts, settings.connect_timeout)
        self._observe = observe
        self._log = log
        self._received = received
        self._read_timeout = read_timeout
        self._lock = threading.Lock()
        self._tokens = tokens.Tokens()
        self._begun = False
        self._tried = threading.Event()
        self._challenge: Challenge | None = None
        # The upstream's own word for a repository, where it is another than the usual one.
        self._scopes: dict[str, str] = {}
        # Until when credentials are not tried again, and why.
        self._refused: dict[Hashable, tuple[float, str]] = {}
        self._said: dict[str, float] = {}
        # How often the upstream or its token server refused the credentials, with status 401.
        self.credentials_refused = 0
        self._read_credentials()
        if settings.ca_file is not None:
            try:
                contexts.current()
            except Unavailable as problem:
                log(problem.message)

    def open(
        self, method: str, reference: Reference, *, accept: Sequence[str] = (), offset: int = 0, timeout: float
    ) -> Answer:
        """Ask for a manifest, or for a blob from byte `offset` on.

        The answer's head is there in `timeout` seconds; tokens and redirects are part of that. An upstream that knows
        no ranges answers from byte 0 on. The caller has checked that the repository is a name, and leads nowhere else.

        Raises:
            Unavailable: there is no answer that is of use.
            NotFound: the upstream has it not.
            Denied: we may not have it.
        """
        deadline = time.monotonic() + timeout
        repository, path = reference.repository, reference.path
        prefix = self._url.target.rstrip("/")
        target = f"{prefix}/v2/{urllib.parse.quote(repository)}/{urllib.parse.quote(path, safe='/:')}"
        headers = {"Accept": ", ".join(accept) or "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        request = _Request(method, method, Url(self._url.origin, target), headers, deadline, reference.is_digest)
        reply = self._open(request, repository)
        try:
            _check(reply, f"{repository}/{path}")
            received = partial(self._received, reference.kind)
            return Answer(reply, offset=_offset(reply, offset), read_timeout=self._read_timeout, received=received)
        except BaseException:
            reply.close()
            raise

    def _open(self, request: _Request, repository: str) -> _Reply:
        """Ask with the credentials that there are, and without where these do not help: public images still come."""
        found = self._read_credentials()
        try:
            with self._first(request.deadline):
                return self._open_as(found, request, repository)
        except _Refused as refusal:
            reason = str(refusal)
        if found is None:
            raise Denied(reason)
        again = self._read_credentials()
        if again not in (None, found):
            try:
                return self._open_as(again, request, repository)
            except _Refused as refusal:
                reason = str(refusal)
        self._say(reason, f"with the credentials, {reason}; asking without for {repository}")
        try:
            return self._open_as(None, request, repository)
        except _Refused as refusal:
            message = f"with the credentials, {reason}; without, {refusal}"
            raise Denied(message) from None

    @contextmanager
    def _first(self, deadline: float) -> Iterator[None]:
        """Let the first request alone find out how the upstream wants to be told who asks; the others wait for it."""
        with self._lock:
            first, self._begun = not self._begun, True
        if not first:
            self._tried.wait(max(0.0, deadline - time.monotonic()))
        try:
            yield
        finally:
            if first:
                self._tried.set()

    def _open_as(self, found: Credentials | None, request: _Request, repository: str) -> _Reply:
        """Ask in one way, with a new token where the one at hand is not taken.

        Raises:
            _Refused: the upstream or its token server answers 401 or 403.
        """
        for _ in range(MOST_ATTEMPTS):
            challenge, scope = self._challenge, self._scope(repository)
            authorization = self._authorization(challenge, scope, found, request.deadline)
            reply = self._follow(request, authorization.header)
            if not _refuses(reply):
                return reply
            reply.close()
            if reply.url.origin != request.url.origin:
                message = f"{reply.url.origin}, to which {request.url.origin} redirects, answers {reply.status}"
                raise Unavailable(Kind.REDIRECTS, message)
            self._learn(reply, repository)
            if authorization.token is not None:
                self._tokens.drop(authorization.key, authorization.token)
            elif authorization.header:
                self._refuse(authorization.key, reply, f"{reply.url.origin} answers {reply.status}")
            # With the same again the answer would be the same.
            if authorization.fresh and challenge == self._challenge and scope == self._scope(repository):
                break
        message = f"{request.url.origin} answers {reply.status}"
        raise _Refused(message)

    def _authorization(
        self, challenge: Challenge | None, scope: str, found: Credentials | None, deadline: float
    ) -> _Authorization:
        """What to send as the upstream wants it.

        Raises:
            _Refused: the token server answers 401 or 403, or this is nothing that we have.
        """
        if challenge is None:
            return _Authorization()
        if challenge.scheme == "basic":
            if found is None:
                return _Authorization()
            key: Hashable = ("basic", scope, found)
            self._check_refused(key)
            return _Authorization(found.basic(), key=key)
        if challenge.scheme != "bearer":
            message = f"{self._url.origin} wants to be told who asks in a way that is not known here"
            raise _Refused(message)
        service = challenge.parameters.get("service", "")
        try:
            realm = Url.parse(challenge.parameters.get("realm", ""))
        except ValueError:
            message = f"{self._url.origin} names a token server that has no URL"
            raise Unavailable(Kind.MALFORMED, message) from None
        if found is not None and realm.origin.scheme == "http" and self._url.origin.scheme == "https":
            message = f"{self._url.origin} wants them to be sent by plain http, to {realm.origin}"
            raise _Refused(message)
        key = (realm, service, scope, found)
        self._check_refused(key)
        query = urllib.parse.urlencode([*([("service", service)] if service else []), ("scope", scope)])
        url = Url(realm.origin, f"{realm.target}{'&' if '?' in realm.target else '?'}{query}")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        request = _Request("GET", "token", url, headers, deadline)
        token, fresh = self._tokens.get(key, deadline, lambda: self._fetch_token(request, found, key))
        return _Authorization(f"Bearer {token.value}", key=key, token=token, fresh=fresh)

    def _fetch_token(self, request: _Request, found: Credentials | None, key: Hashable) -> Token:
        asked = time.monotonic()
        try:
            reply = self._follow(request, found.basic() if found else None)
            try:
                if not _refuses(reply):
                    return _token(reply, asked)
            finally:
                reply.close()
        except Unavailable as problem:
            # Perhaps the upstream has another one by now: it says so when it is asked without a token.
            self._challenge = None
            message = f"no token: {problem}"
            raise Unavailable(problem.kind, message, problem.retry_after) from None
        message = f"the token server {reply.url.origin} answers {reply.status}"
        if found is not None:
            self._refuse(key, reply, message)
        raise _Refused(message)

    def _follow(self, request: _Request, authorization: str | None) -> _Reply:
        """Ask, and go where redirects lead; only the server that was asked at first is told who asks."""
        url = request.url
        for _ in range(MOST_REDIRECTS + 1):
            headers = dict(request.headers)
            if authorization and url.origin == request.url.origin:
                headers["Authorization"] = authorization
            reply = self._ask(request, url, headers)
            if reply.status not in REDIRECTS:
                return reply
            reply.close()
            url = _location(reply)
            # Storage that is asked by http does no harm where a digest says what it has to send.
            if url.origin.scheme == "http" and request.url.origin.scheme == "https" and not request.checked:
                message = f"{reply.url.origin} redirects to plain http, at {url.origin}, for what no digest checks"
                raise Unavailable(Kind.REDIRECTS, message)
        message = f"{request.url.origin} redirects more than {MOST_REDIRECTS} times"
        raise Unavailable(Kind.REDIRECTS, message)

    def _ask(self, request: _Request, url: Url, headers: Mapping[str, str]) -> _Reply:
        begin = time.monotonic()
        try:
            connection, response = self._connections.ask(request.method, url, headers, request.deadline)
        except Unavailable as problem:
            self._observe(request.label, problem.kind, time.monotonic() - begin)
            raise
        self._observe(request.label, _outcome(response.status), time.monotonic() - begin)
        return _Reply(url, connection, response)

    def _scope(self, repository: str) -> str:
        return self._scopes.get(repository, f"repository:{repository}:pull")

    def _learn(self, reply: _Reply, repository: str) -> None:
        """Remember how the upstream wants to be told who asks."""
        named = challenges.parse(reply.headers.get_all("WWW-Authenticate") or [])
        if not named:
            return
        # One that is not known here comes last, so that it can be said.
        chosen = min(named, key=lambda challenge: {"bearer": 0, "basic": 1}.get(challenge.scheme, 2))
        scope = chosen.parameters.get("scope")
        if scope and scope != self._scope(repository):
            self._scopes[repository] = scope
        lasting = {name: chosen.parameters[name] for name in ("realm", "service") if name in chosen.parameters}
        self._challenge = challenges.Challenge(chosen.scheme, lasting)

    def _read_credentials(self) -> Credentials | None:
        try:
            found = credentials.read(self._credentials)
        except OSError as error:
            self._say("unreadable", f"the credentials cannot be read, asking without: {error.strerror or error}")
            return None
        if found is None and self._credentials is not None:
            # Both look alike here: the kubelet mounts an empty folder for a Secret that is not there.
            missing = f"{self._credentials_source} is not there or has no keys username and password"
            self._say("absent", f"{missing}, asking without")
        return found

    def _refuse(self, key: Hashable, reply: _Reply, reason: str) -> None:
        """Leave credentials that were refused alone for a while, and count them; 403 is about a repository alone."""
        now = time.monotonic()
        with self._lock:
            self.credentials_refused += reply.status == http.HTTPStatus.UNAUTHORIZED
            self._refused = {other: entry for other, entry in self._refused.items() if now < entry[0]}
            self._refused[key] = now + REFUSED, reason

    def _check_refused(self, key: Hashable) -> None:
        with self._lock:
            until, reason = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise _Refused(reason)

    def _say(self, what: str, text: str) -> None:
        """Log it, unless the same was logged a while ago; `what` is one of few."""
        now = time.monotonic()
        with self._lock:
            if now < self._said.get(what, 0.0):
                return
            self._said[what] = now + SAID
        self._log(text)


class _Request(NamedTuple):
    """What is asked, where at first, and what it counts as; `checked` where a digest says what the answer has to be."""

    method: str
    label: str
    url: Url
    headers: Mapping[str, str]
    deadline: float
    checked: bool = False


class _Reply(NamedTuple):
    """An answer's head, of the server at `url`, and where its body comes from."""

    url: Url
    connection: Connection
    response: http.client.HTTPResponse

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Message:
        return self.response.headers

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@dataclass(frozen=True, repr=False)
class _Authorization:
    """A header's value, what it was made from, and whether one that is made now would be another."""

    header: str | None = None
    key: Hashable = None
    token: Token | None = None
    fresh: bool = True


def _check(reply: _Reply, what: str) -> None:
    if reply.status == http.HTTPStatus.NOT_FOUND:
        message = f"{reply.url.origin} has no {what}"
        raise NotFound(message)
    if reply.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        raise _unusable(reply)


def _refuses(reply: _Reply) -> bool:
    return reply.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)


def _token(reply: _Reply, asked: float) -> Token:
    who = reply.url.origin
    if reply.status != http.HTTPStatus.OK:
        raise _unusable(reply)
    with problems(str(who)):
        body = reply.response.read(LARGEST_TOKEN)
    try:
        return tokens.read(body, reply.headers["Date"], asked)
    except ValueError:
        message = f"what {who} answers is no token"
        raise Unavailable(Kind.MALFORMED, message) from None


def _location(reply: _Reply) -> Url:
    """Where a redirect leads to."""
    # http.client reads headers as Latin-1; browsers and Go send the bytes on as they are.
    text = urllib.parse.quote(reply.headers.get("Location", "").encode("latin-1"), safe=f"{AS_IT_IS}#")
    try:
        if text:
            return Url.parse(text, reply.url)
    except ValueError:
        pass
    message = f"{reply.url.origin} redirects to nowhere"
    raise Unavailable(Kind.REDIRECTS, message)


def _offset(reply: _Reply, wanted: int) -> int:
    """The byte at which a good answer's body begins."""
    if reply.status == http.HTTPStatus.OK:
        return 0
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != wanted:
        message = f"{reply.url.origin} sends another part than the one from byte {wanted} on"
        raise Unavailable(Kind.MALFORMED, message)
    return wanted


def _unusable(reply: _Reply) -> Unavailable:
    status = reply.status
    outcome = _outcome(status)
    known = outcome in (Kind.TOO_MANY, Kind.CLIENT_ERROR, Kind.SERVER_ERROR)
    message = f"{reply.url.origin} answers {status}"
    return Unavailable(outcome if known else Kind.MALFORMED, message, _retry_after(reply))


def _outcome(status: int) -> str:
    """A status in one word of a few."""
    if status in (401, 403, 404, 429):
        return str(status)
    return f"{status // 100}xx" if status // 100 in (2, 3, 4, 5) else "malformed"


def _retry_after(reply: _Reply) -> float | None:
    """Seconds that a server asks us to wait (RFC 9110, section 10.2.3); by its own clock where it names a moment."""
    text = reply.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - parsedate_to_datetime(reply.headers["Date"])).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
