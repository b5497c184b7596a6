"""What each repository of an upstream asks for before it lets a client in, as far as its answers have shown."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from authentication.challenges import parse_challenges

from upstream.errors import Kind, Unavailable
from upstream.urls import Url

if TYPE_CHECKING:
    from collections.abc import Sequence

# The repositories that are remembered; for another one, the one that was used least recently is forgotten.
MAX_REPOSITORIES = 1024
# A challenge with more characters than this is not remembered. Those of public registries have about 200.
MAX_CHALLENGE_LENGTH = 4096
BASIC, BEARER = "basic", "bearer"


class Demand(NamedTuple):
    """A way to authenticate; `realm` is the token server of `bearer`."""

    scheme: str
    realm: Url | None = None
    service: str = ""


class Terms(NamedTuple):
    """What to send to a repository: nothing if there is no demand.

    `is_own` says that the repository itself asked for it, and not another one of the same upstream.
    """

    demand: Demand | None
    scope: str
    is_own: bool = True


class RememberedTerms:
    """The terms of all repositories, for many threads at once.

    What one repository asks for is tried for another one only if most of those that let a client in asked for the same.
    It saves the first answer with status 401 of each repository, and it decides nothing: if it does not help, the
    repository is asked itself.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._lock = threading.Lock()
        # The most recently used is the last.
        self._terms: dict[str, Terms] = {}
        self._proven: dict[str, Demand | None] = {}

    def find(self, repository: str) -> Terms | None:
        """Return the terms of a repository, those of the others if it has none yet, or None if nothing is known."""
        with self._lock:
            terms = self._terms.pop(repository, None)
            if terms is not None:
                self._terms[repository] = terms
                return terms
            votes = Counter(self._proven.values())
        if votes:
            demand, count = votes.most_common(1)[0]
            if demand is not None and 2 * count > votes.total():
                return Terms(demand, default_scope(repository), is_own=False)
        return None

    def learn(self, repository: str, terms: Terms) -> None:
        """Remember what a repository asked for."""
        with self._lock:
            self._remember(repository, terms)

    def confirm(self, repository: str, terms: Terms) -> None:
        """Remember that a repository let a client in on these terms."""
        with self._lock:
            self._remember(repository, terms)
            self._proven[repository] = terms.demand

    def forget(self, repository: str) -> None:
        """Let the next request to a repository find out again what it asks for."""
        with self._lock:
            self._terms.pop(repository, None)
            self._proven.pop(repository, None)

    def _remember(self, repository: str, terms: Terms) -> None:
        self._terms.pop(repository, None)
        self._terms[repository] = terms
        if len(self._terms) > MAX_REPOSITORIES:
            oldest = next(iter(self._terms))
            del self._terms[oldest]
            self._proven.pop(oldest, None)


def format_challenge(terms: Terms, error: str = "") -> str:
    """Return the value of a header WWW-Authenticate that asks for the same; `error` is a code of RFC 6750.

    It is empty if there is nothing to ask for, or if the upstream used characters that a header should not have.
    """
    demand = terms.demand
    if demand is None:
        return ""
    if demand.realm is None:
        return 'Basic realm="registry"'
    parameters = {"realm": str(demand.realm), "service": demand.service, "scope": terms.scope, "error": error}
    text = ",".join(f'{name}="{value}"' for name, value in parameters.items() if value)
    is_plain = text.isascii() and text.isprintable() and not any(mark in "".join(parameters.values()) for mark in '"\\')
    return f"Bearer {text}" if is_plain else ""


def default_scope(repository: str) -> str:
    """Return the scope that is requested unless the upstream asks for another one."""
    return f"repository:{repository}:pull"


def parse_terms(headers: Sequence[str], server: object, repository: str) -> Terms | None:
    """Return what an answer of a server asks for in its headers WWW-Authenticate, or None if it asks for nothing.

    Raises:
        Unavailable: It names a token server without a valid URL.
        ValueError: It asks for nothing that this client can do.
    """
    challenges = parse_challenges(headers)
    if not challenges:
        return None
    chosen = min(challenges, key=lambda challenge: {BEARER: 0, BASIC: 1}.get(challenge.scheme, 2))
    if chosen.scheme not in (BASIC, BEARER):
        message = f"{server} asks for an authentication scheme that is not supported"
        raise ValueError(message)
    parameters = chosen.parameters
    service, scope = parameters.get("service", ""), parameters.get("scope", "") or default_scope(repository)
    if chosen.scheme == BASIC:
        return Terms(Demand(BASIC), default_scope(repository))
    text = parameters.get("realm", "")
    is_short = len(text) + len(service) + len(scope) <= MAX_CHALLENGE_LENGTH
    try:
        realm = Url.parse(text if is_short else "")
    except ValueError:
        message = f"{server} names a token server without a valid URL"
        raise Unavailable(Kind.MALFORMED, message) from None
    return Terms(Demand(BEARER, realm, service), scope)
