"""Manifests and tags: what a tag means is asked of the upstream at each pull, once for all who pull at that moment.

A tag that the cache knows is served from it when the upstream is away, slow, limits its rate or refuses our
credentials. When the upstream says that there is no such tag, there is none, and the cache forgets it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from store.layout import DIGEST
from store.store import NoRoom
from upstream.client import Denied, Kind, NotFound, Unavailable
from upstream.reference import MANIFEST, Reference

from gate.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from store.store import Store
    from upstream.sources import Source

ACCEPT = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "*/*;q=0.1",
)
# Bytes: distribution's own limit (registry/handlers/manifests.go, maxManifestBodySize), and what is kept. For each
# request distribution takes more than four times a manifest's size in memory.
LARGEST = 4 << 20
LARGEST_KEPT = 1 << 18
# Seconds until the upstream's answer must be there where the cache knows none itself, and where it knows one.
TIMEOUT = 10.0
STALE_AFTER = 1.5
# Seconds for which nobody else waits for an upstream that took longer than STALE_AFTER; it is asked all the same, and
# when it answers in time they are over.
SLOW = 5.0


@dataclass(frozen=True)
class Manifest:
    """A manifest that is there; `unsaved` is its content and media type where the volume could not take it.

    It is `fetched` for the one of those who asked at the same time on whose account it left the upstream.
    """

    digest: str
    unsaved: tuple[bytes, str] | None = None
    fetched: bool = field(default=False, compare=False)


class _Question:
    """What somebody asks the upstream, for all who want to know the same."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer: Manifest | None = None
        self.problem: Exception | None = None


class Manifests:
    """All manifests of one upstream."""

    def __init__(
        self,
        store: Store,
        source: Source,
        *,
        window: float,
        observe: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        """Ask `source`; its answer about a tag counts for `window` seconds.

        `observe` is told how a tag was found: `asked` (the upstream said what it means), `window` (it had just said
        so), `stale` (the upstream could not be asked) or `gone` (it says that there is no such tag any more).
        """
        self._store = store
        self._source = source
        self._window = window
        self._observe = observe
        self._log = log
        self._lock = threading.Lock()
        self._questions: dict[tuple[str, str], _Question] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._slow_until = 0.0

    def by_digest(self, repository: str, digest: str) -> Manifest:
        """A manifest by its digest, fetched where it is not there.

        Raises:
            Unavailable, NotFound, Denied: what the upstream said.
        """
        if self._store.read_manifest(repository, digest) is not None:
            return Manifest(digest)
        return self._ask(repository, digest, lambda: self._fetch_by_digest(repository, digest), TIMEOUT)

    def by_tag(self, repository: str, tag: str) -> Manifest:
        """The manifest that a tag means now.

        Raises:
            Unavailable, NotFound, Denied: what the upstream said; the first and the last only where the tag is new.
        """
        if (found := self._within_window(repository, tag)) is not None:
            return found
        digest = self._store.resolve_tag(repository, tag)
        if digest is None or self._store.read_manifest(repository, digest) is None:
            return self._ask(repository, tag, lambda: self._fetch_by_tag(repository, tag), TIMEOUT)
        known = Manifest(digest)
        patience = 0.0 if time.monotonic() < self._slow_until else STALE_AFTER
        try:
            return self._ask(repository, tag, lambda: self._ask_again(repository, tag, known), patience)
        except (Unavailable, Denied):
            self._observe("stale")
            return known

    def _ask(self, repository: str, reference: str, action: Callable[[], Manifest], patience: float) -> Manifest:
        """Do it once for all who ask at the same time, and wait for it no longer than `patience` seconds.

        Raises:
            Unavailable: the system gives no thread.
        """
        key = (repository, reference)
        with self._lock:
            question = self._questions.get(key)
            first = question is None
            if question is None:
                question = _Question()
                start_thread(self._answer, key, question, action)
                self._questions[key] = question
        if not question.answered.wait(patience):
            if patience:
                self._slow_until = time.monotonic() + SLOW
            message = f"no answer within {patience:.1f} s"
            raise Unavailable(Kind.TIMEOUT, message)
        if question.problem is not None:
            try:
                raise question.problem.with_traceback(None)
            finally:
                # Its trace leads to here, and from here to it: memory that waits for the garbage collector.
                del question
        assert question.answer is not None  # noqa: S101 - one of both is set
        return question.answer if first else replace(question.answer, fetched=False)

    def _answer(self, key: tuple[str, str], question: _Question, action: Callable[[], Manifest]) -> None:
        begun = time.monotonic()
        try:
            question.answer = action()
            if time.monotonic() - begun < STALE_AFTER:
                self._slow_until = 0.0
        except Exception as problem:  # noqa: BLE001 - raised where it was asked
            question.problem = problem
        finally:
            with self._lock:
                del self._questions[key]
            question.answered.set()

    def _ask_again(self, repository: str, tag: str, known: Manifest) -> Manifest:
        """Ask what a known tag means now: by HEAD, which registries that limit pulls do not count."""
        if (found := self._within_window(repository, tag)) is not None:
            return found
        try:
            with self._source.open(
                "HEAD", Reference(MANIFEST, repository, tag), accept=ACCEPT, timeout=TIMEOUT
            ) as answer:
                digest = answer.headers.get("Docker-Content-Digest")
        except NotFound:
            self._observe("gone")
            self._on_volume(lambda: self._store.remove_tag(repository, tag))
            raise
        if digest is None or not DIGEST.fullmatch(digest):
            return self._fetch(repository, tag, tag)
        if digest != known.digest:
            if self._store.read_manifest(repository, digest) is None:
                return self._fetch_moved(repository, tag, digest)
            self._on_volume(lambda: self._store.set_tag(repository, tag, digest))
        self._note_asked(repository, tag)
        return Manifest(digest)

    def _fetch_moved(self, repository: str, tag: str, digest: str) -> Manifest:
        """The manifest that the upstream says a tag means now, or what it sends for the tag where it has none such."""
        try:
            return self._fetch(repository, digest, tag)
        except (NotFound, Unavailable) as problem:
            if isinstance(problem, Unavailable) and problem.kind is not Kind.MALFORMED:
                raise
            return self._fetch(repository, tag, tag)

    def _within_window(self, repository: str, tag: str) -> Manifest | None:
        """What a tag means where the upstream has just said so.

        It is looked at again when a question begins: the last one may have been answered a moment before.
        """
        asked = self._asked.get((repository, tag))
        digest = self._store.resolve_tag(repository, tag)
        if asked is None or digest is None or time.monotonic() - asked >= self._window:
            return None
        if self._store.read_manifest(repository, digest) is None:
            return None
        self._observe("window")
        return Manifest(digest)

    def _fetch_by_tag(self, repository: str, tag: str) -> Manifest:
        return self._within_window(repository, tag) or self._fetch(repository, tag, tag)

    def _fetch_by_digest(self, repository: str, digest: str) -> Manifest:
        if self._store.read_manifest(repository, digest) is not None:
            return Manifest(digest)
        return self._fetch(repository, digest, None)

    def _fetch(self, repository: str, reference: str, tag: str | None) -> Manifest:
        content = bytearray()
        deadline = time.monotonic() + TIMEOUT
        with self._source.open(
            "GET", Reference(MANIFEST, repository, reference), accept=ACCEPT, timeout=TIMEOUT
        ) as answer:
            media_type = answer.headers.get("Content-Type", "")
            said = answer.headers.get("Docker-Content-Digest", "")
            while chunk := answer.read(1 << 16):
                content += chunk
                if len(content) > LARGEST:
                    message = f"{repository}/{reference}: the manifest has more than {LARGEST} bytes"
                    raise Unavailable(Kind.MALFORMED, message)
                if time.monotonic() > deadline:
                    message = f"{repository}/{reference}: the manifest did not come within {TIMEOUT:.0f} s"
                    raise Unavailable(Kind.TIMEOUT, message)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if ":" in reference and reference != digest:
            message = f"{repository}@{reference}: what the upstream sent has the digest {digest}"
            raise Unavailable(Kind.MALFORMED, message)
        if ":" not in reference and ((DIGEST.fullmatch(said) and said != digest) or not _is_manifest(content)):
            # A page for people, a part of a manifest, or a compressed one.
            message = f"{repository}:{reference}: what the upstream sent is no manifest, or not the one that it names"
            raise Unavailable(Kind.MALFORMED, message)
        unsaved = None
        try:
            self._keep(repository, bytes(content), tag)
        except (NoRoom, OSError) as problem:
            self._log(f"{repository}/{reference} is passed on and not cached: {problem}")
            unsaved = (bytes(content), media_type)
        if tag is not None and unsaved is None:
            self._note_asked(repository, tag)
        elif tag is not None:
            # The volume does not say what the tag means now: it is asked again.
            self._observe("asked")
        return Manifest(digest, unsaved, fetched=True)

    def _keep(self, repository: str, content: bytes, tag: str | None) -> None:
        if len(content) > LARGEST_KEPT:
            message = f"it has more than {LARGEST_KEPT} bytes"
            raise NoRoom(message)
        self._store.put_manifest(repository, content, tag)

    def _on_volume(self, action: Callable[[], None]) -> None:
        """Do what only the volume can refuse: the answer is right without it, and the next pull tries again."""
        try:
            action()
        except (NoRoom, OSError) as problem:
            self._log(f"the volume cannot be written: {problem}")

    def _note_asked(self, repository: str, tag: str) -> None:
        """Remember when the upstream was asked; what is older than the window is of no use to anyone."""
        with self._lock:
            now = time.monotonic()
            self._asked = {key: when for key, when in self._asked.items() if now - when < self._window}
            self._asked[repository, tag] = now
        self._observe("asked")


def _is_manifest(content: bytearray) -> bool:
    """Whether it may be one, of OCI or of Docker: each says its schema's version."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "schemaVersion" in document
