"""Decides who may pull what, where each puller shows credentials of their own (`access: Puller`).

What the upstream gives to anyone, the cache gives to anyone. For the rest, the upstream decides: the cache passes its
challenge on, the node gets a token at the upstream's own token server with the pod's pull secret, and the cache shows
that token to the upstream in a request for the same manifest or blob. The answer counts for the repository, for a
while. A blob that the volume has for another repository is sent only if the upstream has it in this one too.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from common.recent import RecentDict
from fetching.fair_slots import FairSlots, Overloaded
from fetching.threads import start_thread
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB
from upstream.terms import BASIC, format_challenge

from access.attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from gate.pull_request import PullRequest
    from store.store import Store
    from upstream.credentials import PullerAuthorization
    from upstream.reference import Reference
    from upstream.terms import Terms

    from access.rights import Rights

UNAUTHORIZED = 401
# The results of a check of the credentials of a puller: the upstream allowed or refused the pull, it could not be
# asked, or the client had shown too many.
ALLOWED, REFUSED, UNAVAILABLE, LIMITED = "allowed", "refused", "unavailable", "limited"
RESULTS = (ALLOWED, REFUSED, UNAVAILABLE, LIMITED)
# How long the upstream may take to answer, and how long if an earlier answer counts without it.
ASK_SECONDS = 10.0
ASK_AGAIN_SECONDS = 1.5
# Credentials that are shown to the upstream at once. One address gets half of them at most.
MAX_CHECKS = 128
MAX_REPOSITORIES = 2048


class Pullers:
    """Checks the pullers of one upstream, for many threads at once."""

    def __init__(  # noqa: PLR0913 - what it needs of the other parts
        self,
        ask: Callable[[Reference, PullerAuthorization | None, float], str],
        store: Store,
        rights: Rights,
        *,
        find_terms: Callable[[str], Terms | None],
        has_tls: bool,
        count_check: Callable[[str], None],
    ) -> None:
        """Decide by `rights`, in which the answers of the upstream are remembered.

        `ask` asks the upstream for the head of a manifest or blob, with an authorization or without, within some
        seconds. It returns the digest that the upstream named for a manifest, or "", and raises Denied, NotFound or
        Unavailable. `find_terms` returns what a repository asks for.
        """
        self._request = ask
        self._store = store
        self._rights = rights
        self._find_terms = find_terms
        self._has_tls = has_tls
        self._count_check = count_check
        self._lock = threading.Lock()
        self._slots = FairSlots(MAX_CHECKS)
        self._asking: dict[tuple[Reference, bytes], Future[str]] = {}
        self._rechecked_at: RecentDict[str, float] = RecentDict(MAX_REPOSITORIES)
        self._attempts = Attempts()

    def check(self, request: PullRequest, *, is_asked_anyway: bool = False, is_fetched: bool = False) -> str:
        """Check whether a client may pull from a repository.

        Returns the digest that the upstream named for a requested manifest, or "" if it was not asked, or named none.
        With `is_asked_anyway`, the upstream is asked about the content next, and with `is_fetched` for the content
        itself. The caller checks again after that. So public images cost no additional request.

        Raises:
            Denied, NotFound: The upstream refuses it, or wants credentials.
            Unavailable: The upstream cannot be asked.
            Overloaded: Too much is asked, or this client showed too much.
        """
        repository, authorization = request.reference.repository, request.authorization
        if self._is_public(request, is_asked_anyway=is_asked_anyway):
            return ""
        if authorization is not None:
            digest = self._check_authorization(request, authorization)
            self._rights.use(repository, authorization)
            return digest
        if self._rights.is_private(repository):
            message = f"{repository} is not public"
            raise Denied(message, UNAUTHORIZED)
        # A fetch without credentials shows what is public. One with what the last puller showed would show nothing.
        if is_fetched and self._rights.authorization_for(repository) is None:
            return ""
        return self._ask(request, None, ASK_SECONDS)

    def _is_public(self, request: PullRequest, *, is_asked_anyway: bool) -> bool:
        seconds = self._rights.public.seconds_since_asked(request.reference.repository)
        if seconds is None:
            return False
        if is_asked_anyway or seconds < self._rights.check_seconds:
            return True
        if seconds < self._rights.grace_seconds:
            self._recheck_soon(request)
            return True
        try:
            self._ask(request, None, ASK_AGAIN_SECONDS)
        except (Denied, NotFound):
            return False
        except (Unavailable, Overloaded):
            # It was public when this was stored.
            return True
        return True

    def _recheck_soon(self, request: PullRequest) -> None:
        """Ask in the background whether a repository is still public."""
        now, repository = time.monotonic(), request.reference.repository
        with self._lock:
            if now - self._rechecked_at.get(repository, -math.inf) < self._rights.check_seconds:
                return
            self._rechecked_at[repository] = now
        try:
            start_thread(self._recheck, request)
        except Unavailable:
            with self._lock:
                self._rechecked_at.pop(repository, None)

    def _recheck(self, request: PullRequest) -> None:
        try:
            self._ask(request, None, ASK_SECONDS)
        except (Denied, NotFound, Unavailable, Overloaded):
            # A refusal was noted. After anything else, the next recheck follows.
            return

    def _check_authorization(self, request: PullRequest, authorization: PullerAuthorization) -> str:
        repository, rights = request.reference.repository, self._rights
        if rights.is_allowed(repository, authorization):
            return ""
        rights.check_not_refused(repository, authorization)
        has_grace = rights.has_grace(repository, authorization)
        try:
            return self._ask(request, authorization, ASK_AGAIN_SECONDS if has_grace else ASK_SECONDS)
        except Unavailable:
            if not has_grace:
                raise
            return ""

    def may_read(self, repository: str, digest: str) -> bool:
        """Return whether the upstream is known to have a blob or manifest in a repository, or for anyone."""
        if self._rights.has_blob(repository, digest):
            return True
        repositories = self._store.repositories_of(digest)
        return repository in repositories or any(each in self._rights.public for each in repositories)

    def prove_blob(self, request: PullRequest) -> None:
        """Make sure that the upstream has a blob in a repository from which the client may pull.

        Raises:
            Denied, NotFound: It does not have the blob there, or the client may not pull it.
            Unavailable: The upstream cannot be asked.
            Overloaded: Too much is asked.
        """
        repository, digest = request.reference.repository, request.reference.identifier
        if not self.may_read(repository, digest):
            authorization = None if repository in self._rights.public else request.authorization
            self._ask(request, authorization, ASK_SECONDS)
            self._store.link_layer(repository, digest)

    def note_blob(self, reference: Reference) -> None:
        """Remember that the upstream has a blob in a repository."""
        self._rights.note_blob(reference.repository, reference.identifier)

    def challenge(self, request: PullRequest, problem: Exception) -> str:
        """Return the value of WWW-Authenticate with which to answer a request that was refused, or "" for none.

        Some upstreams say of what they do not let everyone see that it does not exist. A replica that asks for another
        one shows what it was shown, so it is told nothing.
        """
        repository, terms = request.reference.repository, self._find_terms(request.reference.repository)
        is_denied = isinstance(problem, Denied)
        if terms is None or terms.demand is None or request.from_replica or not isinstance(problem, (Denied, NotFound)):
            return ""
        is_basic = terms.demand.realm is None
        if is_basic and not self._has_tls:
            return ""
        if request.authorization is None:
            return format_challenge(terms) if is_denied or repository not in self._rights.public else ""
        # A node gets another token, and stops if that one is refused too. It has no other password.
        is_token = not is_basic and request.authorization.scheme != BASIC
        is_expired = isinstance(problem, Denied) and problem.status == UNAUTHORIZED
        return format_challenge(terms, "invalid_token") if is_token and is_expired else ""

    def _ask(self, request: PullRequest, authorization: PullerAuthorization | None, timeout: float) -> str:
        """Ask the upstream for the head of what is requested, once for all who need the answer now.

        Returns the digest that it named for a manifest, or "" if it named none.

        Raises:
            Denied, NotFound, Unavailable: As the upstream answers.
            Overloaded: Too much is asked, or this client showed too much.
        """
        reference = request.reference
        key = reference, b"" if authorization is None else self._rights.hash(reference.repository, authorization)
        with self._lock:
            running = self._asking.get(key)
            if running is None:
                own = self._asking[key] = Future[str]()
        if running is not None:
            try:
                return running.result(timeout)
            except TimeoutError:
                message = "the upstream did not answer in time"
                raise Unavailable(Kind.TIMEOUT, message) from None
        problem: Exception | None = None
        digest = ""
        try:
            digest = self._ask_in_turn(reference, authorization, request.client, timeout)
        except Exception as error:
            problem = error
            raise
        finally:
            with self._lock:
                del self._asking[key]
            if problem is None:
                own.set_result(digest)
            else:
                own.set_exception(problem)
        return digest

    def _ask_in_turn(
        self, reference: Reference, authorization: PullerAuthorization | None, client: str, timeout: float
    ) -> str:
        is_shown = authorization is not None
        if is_shown and not self._attempts.take(client):
            self._count_check(LIMITED)
            message = "too many credentials of this client were shown to the upstream"
            raise Overloaded(message)
        if not self._slots.take(client):
            message = "too many credentials are being checked"
            raise Overloaded(message)
        result = ALLOWED
        try:
            digest = self._request(reference, authorization, timeout)
            if reference.kind == BLOB:
                self.note_blob(reference)
        except (Denied, NotFound):
            result = REFUSED
            raise
        except Unavailable:
            result = UNAVAILABLE
            raise
        finally:
            self._slots.release(client)
            if is_shown:
                self._count_check(result)
                if result == REFUSED:
                    self._attempts.note_refusal(client)
        return digest
