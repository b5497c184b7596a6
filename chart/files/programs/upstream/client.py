"""The client of one upstream registry (distribution-spec): requests, redirects and answers.

A redirect to another host never takes the authorization along.
"""

from __future__ import annotations

import http.client
import math
import re
import time
import urllib.parse
from collections import deque
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from authentication.pull_secret import MountedSecret
from authentication.token_servers import TokenServers

from upstream.authorization import Authorizer
from upstream.connections import Connections
from upstream.destinations import Destinations
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.exchange import Request, outcome_of
from upstream.proxies import Proxies
from upstream.reference import BLOB
from upstream.tls import TrustedAuthorities
from upstream.urls import UNESCAPED, Url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from email.message import Message
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from upstream.credentials import PullerAuthorization
    from upstream.destinations import Network
    from upstream.exchange import Reply
    from upstream.reference import Reference
    from upstream.terms import Terms
    from upstream.urls import Origin

# How long a body may bring nothing before its answer is cut off.
READ_TIMEOUT_SECONDS = 10.0
# How long connecting to a server may take, while its answer may take longer.
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_REDIRECTS = 5
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
# How long connections may take that are opened in advance.
PREPARE_SECONDS = 5.0
# The share of its time that a request has at a remembered location, so that the rest is left for the usual way.
LOCATION_SHARE = 0.5
# The shortest one of so many waits is taken for that of an idle line.
REMEMBERED_WAITS = 16
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Settings(NamedTuple):
    """How to reach the upstream; anything that is not configured is empty or None.

    `credentials` is the folder of a pull secret (pull_secret.py), in which the upstream is called `registry`, and
    `proxy_credentials` one with the files `username` and `password`. `connect_timeout` is the
    part of an answer's time, in seconds, that connecting may take. `credentials_source` and `ca_source` are what
    messages call the objects that the files come from. `headers` are sent with each request. `client_certificate` is
    a folder with tls.crt and tls.key; the certificate is shown to each server that asks for one. `token_servers` get
    the credentials although their names are not related to that of the upstream. The upstream may lead to servers in
    `allowed_networks` although their addresses are not public.
    """

    remote_url: str
    credentials: Path | None = None
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    proxy_credentials: Path | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    credentials_source: str = "the Secret"
    ca_source: str = "the ConfigMap or Secret of authorities"
    headers: Mapping[str, str] = MappingProxyType({})
    registry: str = ""
    token_servers: tuple[str, ...] = ()
    allowed_networks: tuple[Network, ...] = ()

    def value(self, field: str) -> str:
        """Return how messages call a field of `upstreamSettings` for this upstream."""
        return f'upstreamSettings["{self.registry or Url.parse(self.remote_url).origin.authority}"].{field}'


class Range(NamedTuple):
    """The bytes that are requested of a blob, from the first to the last one, or to its end."""

    first_byte: int
    last_byte: int | None

    @property
    def headers(self) -> dict[str, str]:
        """The header that requests them."""
        if not self.first_byte and self.last_byte is None:
            return {}
        return {"Range": f"bytes={self.first_byte}-{'' if self.last_byte is None else self.last_byte}"}


class Answer:
    """A good answer, whose body can be read. It is closed by its end, by `close`, or by leaving it as a context."""

    def __init__(
        self,
        reply: Reply,
        *,
        part: tuple[int, int | None],
        location: Url | None,
        read_timeout: float,
        received: Callable[[int], None],
    ) -> None:
        """Take an answer; `part` is the byte at which its body begins, and the size of all."""
        self._reply = reply
        self._timeout = read_timeout
        self._received = received
        self._is_closed = False
        # 206 if the server has sent the range that was requested, and 200 if it sends all bytes.
        self.status = reply.status
        self.headers: Message = reply.headers
        # The byte of the blob or manifest at which the body begins, and the bytes of all, if the server says so.
        self.offset, self.total_size = part
        # The bytes of this body, 0 for HEAD; None if it comes in chunks or ends with the connection.
        self.length = reply.length
        # Where the upstream redirected to, for other ranges of the same blob.
        self.location = location
        reply.end_deadline(read_timeout)

    def read(self, size: int) -> bytes:
        """Wait for bytes and return those that are there, at most `size`, which is at least 1; none means the end.

        If a body ends with the connection, nobody can tell whether it is complete, so compare its digest.

        Raises:
            Unavailable: It was cut off, or nothing came for the time that it has.
            ValueError: It was closed before its end.
        """
        if self._is_closed:
            message = "the answer is closed"
            raise ValueError(message)
        reply = self._reply
        try:
            content = reply.read(size)
        except TimeoutError:
            self.close()
            message = f"{reply.url.origin} sent no content for {self._timeout:g} s in the middle of a body"
            raise Unavailable(Kind.TIMEOUT, message) from None
        except (OSError, http.client.HTTPException):
            self.close()
            message = f"{reply.url.origin} cut a body off after {reply.bytes_read} bytes"
            raise Unavailable(Kind.CUT, message) from None
        self._received(len(content))
        if reply.has_ended or not content:
            # The connection is free from now on, whatever the caller does with the content.
            reply.close()
            if not reply.has_ended:
                message = f"{reply.url.origin} cut a body off after {reply.bytes_read} of {self.length} bytes"
                raise Unavailable(Kind.CUT, message)
        return content

    def close(self) -> None:
        """End the connection, unless the body has been read to its end."""
        self._is_closed = True
        self._reply.close()

    def __enter__(self) -> Self:
        """Return the answer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the answer."""
        self.close()


class Client:
    """Requests manifests and blobs from the upstream, for many threads at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[str, str, float], None],
        log: Callable[[str], None],
        received: Callable[[Reference, int], None] = lambda *_: None,
        read_timeout: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        """Take how to reach the upstream, and log what is missing for that; nothing is requested yet.

        `observe` is called for each request with its method, or `token`; the outcome, which is 2xx, 3xx, 401, 403, 404,
        429, 4xx, 5xx or the kind of an Unavailable; and the seconds until the head of the answer. `received` is called
        for all parts of the bodies of good answers, with what was requested and the number of bytes.

        Raises:
            ValueError: A URL is invalid.
        """
        self._url = Url.parse(settings.remote_url)
        proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy)
        authorities = TrustedAuthorities(settings.ca_file, settings.ca_source, settings.client_certificate)
        host, named = self._url.origin.host, settings.token_servers
        destinations = Destinations(host, named, settings.allowed_networks, settings.value("allowedNetworks"))
        self._connections = Connections(
            proxies, settings.proxy_credentials, authorities, destinations, settings.connect_timeout
        )
        hosts = (host, settings.registry.partition(":")[0])
        token_servers = TokenServers(hosts, named, settings.value("tokenServers"))
        secret = None
        if settings.credentials is not None:
            registries = settings.registry, self._url.origin.authority
            secret = MountedSecret(settings.credentials, settings.credentials_source, registries)
        self._authorizer = Authorizer(self._url.origin, secret, token_servers, send=self._follow, log=log)
        self._headers = settings.headers
        self._observe = observe
        self._received = received
        self._read_timeout = read_timeout
        # The server that the upstream redirected to last for a blob.
        self._blob_server: Origin | None = None
        # How long the last good answers with blobs took to begin, in seconds.
        self._blob_waits: deque[float] = deque(maxlen=REMEMBERED_WAITS)
        self._authorizer.log_problem()
        if settings.ca_file is not None:
            try:
                authorities.context()
            except Unavailable as problem:
                log(problem.message)

    def find_problem(self) -> str | None:
        """Return what is wrong with the Secret with the credentials, or None."""
        return self._authorizer.find_problem()

    @property
    def credentials_refused(self) -> int:
        """How often the upstream or its token server refused the credentials with status 401."""
        return self._authorizer.credentials_refused

    @property
    def connections_opened(self) -> int:
        """How many connections were opened, to the upstream, its token server and the servers it redirects to."""
        return self._connections.opened

    @property
    def blob_wait(self) -> float:
        """How long a blob of the upstream takes to begin if nothing holds it up, in seconds; infinite if unknown."""
        return min(tuple(self._blob_waits), default=math.inf)

    def open(  # noqa: PLR0913 - whatever a request can say
        self,
        method: str,
        reference: Reference,
        *,
        accept: Sequence[str] = (),
        offset: int = 0,
        last_byte: int | None = None,
        location: Url | None = None,
        authorization: PullerAuthorization | None = None,
        timeout: float,
    ) -> Answer:
        """Request a manifest, or a blob from byte `offset` on, to its end or to `last_byte`.

        The head of the answer is there within `timeout` seconds, which includes tokens and redirects. An upstream that
        does not support ranges answers with all bytes. The caller has checked that the repository is a valid name.
        `location` is that of an earlier answer with the same blob: it is tried first, without asking the upstream.
        With the `authorization` of a puller, that one is sent, and no other one is tried.

        Raises:
            Unavailable: There is no useful answer.
            NotFound: The upstream does not have it.
            Denied: The upstream refuses access.
        """
        begun = time.monotonic()
        deadline = begun + timeout
        repository, path = reference.repository, reference.path
        prefix = self._url.target.rstrip("/")
        target = f"{prefix}/v2/{urllib.parse.quote(repository)}/{urllib.parse.quote(path, safe='/:')}"
        requested = Range(offset, last_byte)
        wanted = {"Accept": ", ".join(accept) or "*/*", "Accept-Encoding": "identity"}
        headers = {**wanted, **requested.headers, **self._headers}
        request = Request(method, method, Url(self._url.origin, target), headers, deadline, reference.is_digest)
        if location is not None:
            near = request._replace(deadline=deadline - (1 - LOCATION_SHARE) * timeout)
            try:
                return self._answer(self._send(near, location, headers), reference, requested)
            except (Unavailable, NotFound):
                # The URL may have expired.
                pass
        if authorization is not None:
            reply = self._open_for_puller(request, repository, authorization)
        else:
            reply = self._authorizer.open(request, repository)
        answer = self._answer(reply, reference, requested)
        if reference.kind == BLOB:
            self._blob_waits.append(time.monotonic() - begun)
        return answer

    def find_terms(self, repository: str) -> Terms | None:
        """Return what a repository asks for, as far as its answers have shown, or those of the others."""
        return self._authorizer.find_terms(repository)

    def prepare_connections(self, count: int) -> None:
        """Open connections until `count` are idle, to the upstream and to where it redirected the last blob.

        A problem is not reported, since the next request meets it too.
        """
        for server in (self._url.origin, self._blob_server):
            if server is not None:
                with suppress(Unavailable):
                    self._connections.prepare(server, count, time.monotonic() + PREPARE_SECONDS)

    def _open_for_puller(self, request: Request, repository: str, authorization: PullerAuthorization) -> Reply:
        """Send a request with the authorization of a puller.

        Raises:
            Denied: The upstream refuses it.
            Unavailable: There is no useful answer.
        """
        reply = self._follow(request, authorization.header)
        if not reply.refuses_access:
            if reply.status < http.HTTPStatus.BAD_REQUEST:
                self._authorizer.confirm_terms(repository)
            return reply
        reply.discard()
        if reply.url.origin != request.url.origin:
            message = f"{reply.url.origin}, to which {request.url.origin} redirects, answered {reply.status}"
            raise Unavailable(Kind.REDIRECTS, message)
        self._authorizer.learn_terms(reply, repository)
        message = f"{request.url.origin} answered {reply.status} to the credentials of a puller"
        raise Denied(message, reply.status)

    def _answer(self, reply: Reply, reference: Reference, requested: Range) -> Answer:
        """Return the answer of a reply, which is closed if it is of no use."""
        try:
            _check_status(reply, f"{reference.repository}/{reference.path}")
            part = _part_of(reply, requested)
        except BaseException as problem:
            reply.discard()
            if isinstance(problem, Unavailable):
                problem.is_elsewhere = reply.url.origin != self._url.origin
            raise
        location = None if reply.url.origin == self._url.origin else reply.url
        if location is not None and reference.kind == BLOB:
            self._blob_server = location.origin
        received = partial(self._received, reference)
        return Answer(reply, part=part, location=location, read_timeout=self._read_timeout, received=received)

    def _follow(self, request: Request, authorization: str | None) -> Reply:
        """Send a request and follow redirects; only the server of the request gets the authorization."""
        url = request.url
        for _ in range(MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if authorization and url.origin == request.url.origin:
                headers["Authorization"] = authorization
            reply = self._send(request, url, headers)
            if reply.status not in REDIRECT_STATUSES:
                return reply
            reply.discard()
            url = _location_of(reply)
            # Storage that is reached by plain http does no harm if a digest says what it has to send.
            if url.origin.scheme == "http" and request.url.origin.scheme == "https" and not request.has_digest:
                message = f"{reply.url.origin} redirects to plain http, at {url.origin}, without a digest to check"
                raise Unavailable(Kind.REDIRECTS, message)
            if request.body and url.origin != request.url.origin:
                message = f"{reply.url.origin} redirects a request with credentials to {url.origin}"
                raise Unavailable(Kind.REDIRECTS, message)
        message = f"{request.url.origin} redirects more than {MAX_REDIRECTS} times"
        raise Unavailable(Kind.REDIRECTS, message)

    def _send(self, request: Request, url: Url, headers: Mapping[str, str]) -> Reply:
        start = time.monotonic()
        try:
            reply = self._connections.send(request.method, url, headers, request.deadline, request.body)
        except Unavailable as problem:
            self._observe(request.label, problem.kind, time.monotonic() - start)
            # A token server may be a repository's own, also at the address of the upstream.
            is_own = url.origin == self._url.origin and (request.label == request.method or problem.is_connecting)
            problem.is_elsewhere = not is_own
            raise
        self._observe(request.label, outcome_of(reply.status), time.monotonic() - start)
        return reply


def _check_status(reply: Reply, name: str) -> None:
    if reply.status == http.HTTPStatus.NOT_FOUND:
        message = f"{reply.url.origin} does not have {name}"
        raise NotFound(message, is_certain=not reply.is_anonymous)
    if reply.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        raise reply.unusable()


def _location_of(reply: Reply) -> Url:
    """Return where a redirect leads."""
    # http.client decodes headers as Latin-1; browsers and Go pass the bytes on unchanged.
    text = urllib.parse.quote(reply.headers.get("Location", "").encode("latin-1"), safe=f"{UNESCAPED}#")
    try:
        if text:
            return Url.parse(text, reply.url)
    except ValueError:
        pass
    message = f"{reply.url.origin} redirects to an invalid location"
    raise Unavailable(Kind.REDIRECTS, message)


def _part_of(reply: Reply, requested: Range) -> tuple[int, int | None]:
    """Return the byte at which the body of a good answer begins, and the size of all if the server says it."""
    if reply.status == http.HTTPStatus.OK:
        # The length of an answer to HEAD is 0.
        return 0, reply.length or None
    first, last = requested
    content_range = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if content_range is None or int(content_range[1]) != first:
        message = f"{reply.url.origin} sent another range than from byte {first} on"
        raise Unavailable(Kind.MALFORMED, message)
    end = int(content_range[2])
    total_size = None if content_range[3] == "*" else int(content_range[3])
    if last is not None:
        expected_end = last if total_size is None else min(last, total_size - 1)
        if end != expected_end or reply.length not in (None, 0, end - first + 1):
            message = f"{reply.url.origin} sent another range than from byte {first} to {last}"
            raise Unavailable(Kind.MALFORMED, message)
    return first, total_size
