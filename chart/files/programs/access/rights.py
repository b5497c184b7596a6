"""Remembers what the upstream allowed and refused to pullers.

Authorizations are only in memory. What was answered to them is found by a hash with a key that is made at the start.
"""

from __future__ import annotations

import base64
import hmac
import math
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from common.json_reader import parse_json
from common.recent import RecentDict
from upstream.errors import Denied, NotFound

if TYPE_CHECKING:
    from typing import Unpack

    from upstream.client import Answer
    from upstream.credentials import PullerAuthorization
    from upstream.reference import Reference
    from upstream.source import Options, Source

    from access.public import PublicRepositories

# Answers that are remembered: what the upstream allowed, what it refused, and the blobs that it has in a repository.
MAX_ALLOWED = 20_000
MAX_REFUSED = 4096
MAX_PROVEN_BLOBS = 20_000
MAX_REPOSITORIES = 2048
# How long a refusal counts, so that a right that was just given is soon used.
REFUSED_SECONDS = 10.0
# How long the cache shows the upstream what a puller showed, for what is still being fetched.
USE_SECONDS = 3600.0
_JWT_PARTS = 3


class _Allowed(NamedTuple):
    """When the upstream allowed something, and until when that counts while it can be asked."""

    asked_at: float
    until: float


class Rights:
    """What the upstream allowed and refused, for many threads at once."""

    def __init__(self, public: PublicRepositories, *, check_seconds: float, grace_seconds: float) -> None:
        """Let an answer count for `check_seconds` at most, and for `grace_seconds` while the upstream is away."""
        self.public = public
        self.check_seconds = check_seconds
        self.grace_seconds = max(grace_seconds, check_seconds)
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._allowed: RecentDict[bytes, _Allowed] = RecentDict(MAX_ALLOWED)
        # Until when a refusal counts, and its status.
        self._refused: RecentDict[bytes, tuple[float, int]] = RecentDict(MAX_REFUSED)
        # Until when a repository is known to want credentials.
        self._private: RecentDict[str, float] = RecentDict(MAX_REPOSITORIES)
        # What the last puller of a repository showed, and until when the cache itself shows it to the upstream.
        self._current: RecentDict[str, tuple[PullerAuthorization, float]] = RecentDict(MAX_REPOSITORIES)
        self._proven: RecentDict[tuple[str, str], None] = RecentDict(MAX_PROVEN_BLOBS)

    def hash(self, repository: str, authorization: PullerAuthorization) -> bytes:
        """Return what an authorization for a repository is remembered by."""
        return hmac.digest(self._key, f"{repository}\0{authorization.header}".encode(), "sha256")

    def is_allowed(self, repository: str, authorization: PullerAuthorization) -> bool:
        """Return whether the upstream allowed it lately."""
        allowed = self._allowed.get(self.hash(repository, authorization))
        return allowed is not None and time.monotonic() < allowed.until

    def has_grace(self, repository: str, authorization: PullerAuthorization) -> bool:
        """Return whether it counts while the upstream is away."""
        allowed = self._allowed.get(self.hash(repository, authorization))
        return allowed is not None and time.monotonic() < allowed.asked_at + self.grace_seconds

    def is_private(self, repository: str) -> bool:
        """Return whether the upstream lately wanted credentials for a repository."""
        return time.monotonic() < self._private.get(repository, 0.0)

    def check_not_refused(self, repository: str, authorization: PullerAuthorization) -> None:
        """Check that the upstream has not refused it a moment ago.

        Raises:
            Denied: The upstream refused it.
        """
        until, status = self._refused.get(self.hash(repository, authorization), (0.0, 0))
        if time.monotonic() < until:
            message = "the upstream refused these credentials"
            raise Denied(message, status)

    def use(self, repository: str, authorization: PullerAuthorization) -> None:
        """Show this to the upstream from now on, for what the cache requests of a repository."""
        with self._lock:
            self._current[repository] = authorization, time.monotonic() + USE_SECONDS

    def authorization_for(self, repository: str) -> PullerAuthorization | None:
        """Return what to show to the upstream for a repository, or None if it is public or nothing is known."""
        if repository in self.public:
            return None
        authorization, until = self._current.get(repository, (None, 0.0))
        return authorization if time.monotonic() < until else None

    def note_allowed(self, repository: str, authorization: PullerAuthorization | None) -> None:
        """Remember that the upstream sent something, for an authorization or without one."""
        now = time.monotonic()
        with self._lock:
            if authorization is None:
                self.public.note(repository)
                self._private.pop(repository, None)
            else:
                until = now + min(self.check_seconds, _seconds_left(authorization))
                self._allowed[self.hash(repository, authorization)] = _Allowed(now, until)

    def note_denied(self, repository: str, authorization: PullerAuthorization | None, status: int) -> None:
        """Remember that the upstream refused an authorization, or wants one."""
        now = time.monotonic()
        with self._lock:
            if authorization is None:
                self.public.forget(repository)
                self._private[repository] = now + self.check_seconds
                return
            key = self.hash(repository, authorization)
            self._allowed.pop(key, None)
            self._refused[key] = now + REFUSED_SECONDS, status
            current = self._current.get(repository)
            if current is not None and current[0] == authorization:
                del self._current[repository]

    def note_blob(self, repository: str, digest: str) -> None:
        """Remember that the upstream has a blob in a repository."""
        with self._lock:
            self._proven[repository, digest] = None

    def has_blob(self, repository: str, digest: str) -> bool:
        """Return whether the upstream is remembered to have a blob in a repository."""
        return (repository, digest) in self._proven


class WatchedUpstream:
    """The upstream, whose answers show what is public and who may pull the rest."""

    def __init__(self, upstream: Source, rights: Rights) -> None:
        """Take what requests the upstream itself, without credentials of the cache."""
        self._upstream = upstream
        self._rights = rights

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request as `Client.open` does."""
        repository, authorization = reference.repository, options.get("authorization")
        try:
            answer = self._upstream.open(method, reference, timeout=timeout, **options)
        except Denied as problem:
            self._rights.note_denied(repository, authorization, problem.status)
            raise
        except NotFound as problem:
            # Some upstreams say this of what they do not let everyone see.
            is_known = authorization is not None or repository in self._rights.public
            raise NotFound(str(problem), is_certain=problem.is_certain and is_known) from None
        # An answer from a remembered location says nothing about the upstream.
        if options.get("location") is None:
            self._rights.note_allowed(repository, authorization)
        return answer


class ForPullers:
    """A source that is asked with what the last puller of a repository showed."""

    def __init__(self, source: Source, rights: Rights) -> None:
        """Pass on to `source`, which may be other replicas too: these check what they are shown, as that of a node."""
        self._source = source
        self._rights = rights

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request as `Client.open` does."""
        authorization = self._rights.authorization_for(reference.repository)
        if authorization is not None:
            options["authorization"] = authorization
        return self._source.open(method, reference, timeout=timeout, **options)


def _seconds_left(authorization: PullerAuthorization) -> float:
    """Return how long a token still counts according to its claim exp (RFC 7519), or infinity if it has none.

    Nobody checks its signature here: the upstream has accepted it.
    """
    parts = authorization.header.partition(" ")[2].split(".")
    if len(parts) != _JWT_PARTS:
        return math.inf
    try:
        claims = parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return math.inf
    end = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(end, bool) or not isinstance(end, int | float):
        return math.inf
    return max(0.0, end - time.time())
