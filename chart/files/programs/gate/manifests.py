"""Finds manifests, and asks the upstream what a tag means.

The upstream is asked about a tag at each pull, or once in the tag check interval, and once for all clients that pull
at the same moment. It is asked by HEAD, and if that is not answered with status 200, by GET, as a node would: there are
registries that answer HEAD wrongly. A known tag is served from the volume while the upstream is away, slow, limits the
rate or refuses the credentials. If the upstream says that the tag does not exist, the cache says so too, and forgets
the tag, unless that was an answer to a request that should have had credentials.
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from common.recent import RecentDict
from fetching.fair_slots import FairSlots, Overloaded
from fetching.threads import start_thread
from store.layout import DIGEST
from store.store import NoRoom
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB

from gate.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, MediaTypes
from gate.metrics import FRESH, GONE, REVALIDATED, STALE

if TYPE_CHECKING:
    from collections.abc import Callable

    from store.store import Store
    from upstream.client import Answer
    from upstream.credentials import PullerAuthorization
    from upstream.reference import Reference
    from upstream.source import Options, Source

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*;q=0.1")
# The limit of distribution (registry/handlers/manifests.go, maxManifestBodySize).
MAX_MANIFEST_BYTES = 4 << 20
# So many manifests and tags are asked for at once.
MAX_LOOKUPS = 256
# Manifests above the first size are sent by the front, so that no slow client keeps them in memory. Of those above the
# second one, few come at once.
MAX_SENT_BYTES = 32 << 10
MAX_SMALL_BYTES = 256 << 10
MAX_CONCURRENT_LARGE = 4
# How long a client waits for the upstream if the cache does not know the tag, and if it does.
TIMEOUT_SECONDS = 10.0
STALE_AFTER_SECONDS = 1.5
# How long the upstream may take. What comes after the client has left is there for the next one.
FETCH_SECONDS = 60.0
# After a repository took longer than STALE_AFTER_SECONDS, nobody waits for it for this long. It is still asked, and a
# response in time ends this at once.
SLOW_SECONDS = 5.0
MAX_SLOW_REPOSITORIES = 1024


@dataclass(frozen=True)
class Manifest:
    """A manifest whose content has been compared with its digest."""

    digest: str
    content: bytes | None = field(repr=False)
    """None if it is stored and large."""
    media_type: str
    was_fetched: bool = field(default=False, compare=False)
    """Whether this very request made it come from the upstream; requests that joined it count as hits."""


class _Lookup:
    """A request to the upstream, for all clients that need its result."""

    def __init__(self) -> None:
        self.has_ended = threading.Event()
        self.manifest: Manifest | None = None
        self.problem: Exception | None = None


class Manifests:
    """All manifests of one cache."""

    def __init__(  # noqa: PLR0913 - what it needs of the other parts
        self,
        store: Store,
        source: Source,
        *,
        tag_check_interval_seconds: float,
        may_read: Callable[[str, str], bool] = lambda *_: True,
        count_tag_lookup: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        """Fetch from `source` into `store`, and ask about each tag at most once in the interval.

        `may_read` gets a repository and a digest, and returns whether the manifest may be served in that repository if
        the volume has it. `count_tag_lookup` gets the result of each lookup of a tag: REVALIDATED, FRESH, STALE or
        GONE.
        """
        self._store = store
        self._source = source
        self._tag_check_interval_seconds = tag_check_interval_seconds
        self._may_read = may_read
        self._count_tag_lookup = count_tag_lookup
        self._log = log
        self._media_types = MediaTypes()
        self._lock = threading.Lock()
        self._lookups: dict[Reference, _Lookup] = {}
        self._slots = FairSlots(MAX_LOOKUPS)
        # What is stored never waits for what the upstream sends.
        self._large_stored = threading.BoundedSemaphore(MAX_CONCURRENT_LARGE)
        self._large_fetched = threading.BoundedSemaphore(MAX_CONCURRENT_LARGE)
        self._revalidated_at: dict[Reference, float] = {}
        # Until when nobody waits for a repository.
        self._slow_until: RecentDict[str, float] = RecentDict(MAX_SLOW_REPOSITORIES)

    def get(self, reference: Reference, client: str = "", answered: str = "") -> Manifest:
        """Return a manifest, by its digest or by what its tag means now.

        `client` is the address of the client, or "" if it is unknown. `answered` is the digest that the upstream named
        just now for a tag, or "" if it was not asked.

        Raises:
            NotFound: The upstream does not have the manifest.
            Unavailable, Denied: The upstream gave no usable response, and the cache does not know the manifest.
            Overloaded: Too many manifests are asked for, by this client or by all, and the cache does not know it.
        """
        if reference.is_digest:
            return self._get_by_digest(reference, client)
        return self._get_by_tag(reference, client, answered)

    def is_stored(self, reference: Reference) -> bool:
        """Return whether the volume has a manifest, or the one to which a tag pointed when it was asked about last."""
        if not reference.is_digest:
            return self._read_tag(reference) is not None
        return self._read(reference.repository, reference.identifier) is not None

    def _get_by_digest(self, reference: Reference, client: str) -> Manifest:
        stored = self._read(reference.repository, reference.identifier)
        if stored is not None:
            return stored
        return self._look_up(reference, client, lambda: self._fetch_by_digest(reference), TIMEOUT_SECONDS)

    def _get_by_tag(self, reference: Reference, client: str, answered: str) -> Manifest:
        if (fresh := self._read_fresh(reference)) is not None:
            return fresh
        known = self._read_tag(reference)
        if known is None:
            return self._look_up(reference, client, lambda: self._fetch_by_tag(reference), TIMEOUT_SECONDS)
        if answered == known.digest:
            self._note_revalidation(reference)
            return known
        slow_until = self._slow_until.get(reference.repository, 0.0)
        patience = 0.0 if time.monotonic() < slow_until else STALE_AFTER_SECONDS
        try:
            return self._look_up(reference, client, lambda: self._revalidate(reference, known, answered), patience)
        except NotFound as problem:
            if problem.is_certain:
                raise
        except (Unavailable, Denied, Overloaded):
            pass
        self._count_tag_lookup(STALE)
        return known

    def _read(self, repository: str, digest: str) -> Manifest | None:
        """Return a manifest from the volume."""
        if not self._may_read(repository, digest):
            return None
        size = self._store.find_blob(digest) or 0
        with self._large_stored if size > MAX_SENT_BYTES else nullcontext():
            content = self._store.read_manifest(repository, digest)
            media_type = None if content is None else self._media_types.find(digest, content)
            return None if content is None or media_type is None else _stored(digest, content, media_type)

    def _read_tag(self, reference: Reference) -> Manifest | None:
        """Return the manifest to which a tag pointed when the upstream was asked last."""
        digest = self._store.resolve_tag(reference.repository, reference.identifier)
        return None if digest is None else self._read(reference.repository, digest)

    def _read_fresh(self, reference: Reference) -> Manifest | None:
        """Return the manifest of a tag about which the upstream was asked within the interval.

        The time is read before the tag, which is written first.
        """
        revalidated_at = self._revalidated_at.get(reference)
        if revalidated_at is None or time.monotonic() - revalidated_at >= self._tag_check_interval_seconds:
            return None
        manifest = self._read_tag(reference)
        if manifest is not None:
            self._count_tag_lookup(FRESH)
        return manifest

    def _look_up(self, reference: Reference, client: str, action: Callable[[], Manifest], patience: float) -> Manifest:
        """Run `action` once for all clients that need it now, and wait `patience` seconds for it.

        Raises:
            Overloaded: Too many others run.
            Unavailable: It took longer, or the container has as many threads as it may have.
        """
        with self._lock:
            lookup = self._lookups.get(reference)
            is_first = lookup is None
            if lookup is None:
                if not self._slots.take(client):
                    message = "too many manifests are being asked for"
                    raise Overloaded(message)
                lookup = _Lookup()
                try:
                    start_thread(self._run, reference, client, lookup, action)
                except Unavailable:
                    self._slots.release(client)
                    raise
                self._lookups[reference] = lookup
        if not lookup.has_ended.wait(patience):
            if patience:
                self._note_slow(reference.repository)
            message = f"the upstream did not answer within {patience:.1f} s"
            raise Unavailable(Kind.TIMEOUT, message)
        if lookup.problem is not None:
            try:
                raise lookup.problem.with_traceback(None)
            finally:
                # The traceback refers to this frame and the frame to the exception, which would keep both in memory
                # until the garbage collector runs.
                del lookup
        assert lookup.manifest is not None  # noqa: S101 - a lookup that ended has either
        return lookup.manifest if is_first else replace(lookup.manifest, was_fetched=False)

    def _note_slow(self, repository: str) -> None:
        with self._lock:
            self._slow_until[repository] = time.monotonic() + SLOW_SECONDS

    def _run(self, reference: Reference, client: str, lookup: _Lookup, action: Callable[[], Manifest]) -> None:
        started = time.monotonic()
        try:
            lookup.manifest = action()
            if time.monotonic() - started < STALE_AFTER_SECONDS:
                with self._lock:
                    self._slow_until.pop(reference.repository, None)
        except Exception as problem:  # noqa: BLE001 - it is raised in the threads of the clients
            lookup.problem = problem
        finally:
            with self._lock:
                del self._lookups[reference]
            self._slots.release(client)
            lookup.has_ended.set()

    def _fetch_by_digest(self, reference: Reference) -> Manifest:
        # A lookup that ended just now may have stored it after the client looked; the same goes for tags below.
        return self._read(reference.repository, reference.identifier) or self._fetch(reference, None)

    def _fetch_by_tag(self, reference: Reference) -> Manifest:
        return self._read_fresh(reference) or self._fetch(reference, reference)

    def _revalidate(self, tag: Reference, known: Manifest, answered: str) -> Manifest:
        """Ask what a known tag means now, by HEAD, which registries with rate limits do not count as a pull."""
        if (fresh := self._read_fresh(tag)) is not None:
            return fresh
        digest = answered or self._ask_for_digest(tag)
        manifest = known if digest == known.digest else None if digest is None else self._read(tag.repository, digest)
        if digest is None or manifest is None:
            try:
                return self._fetch(tag, tag) if digest is None else self._fetch_moved(tag, digest)
            except NotFound as problem:
                if problem.is_certain:
                    self._count_tag_lookup(GONE)
                    self._try_to_write(lambda: self._store.remove_tag(tag.repository, tag.identifier))
                raise
        if digest == known.digest or self._try_to_write(
            lambda: self._store.set_tag(tag.repository, tag.identifier, digest)
        ):
            self._note_revalidation(tag)
        else:
            # As in `_receive_and_store`: the volume does not know what the tag means now.
            self._count_tag_lookup(REVALIDATED)
        return manifest

    def _ask_for_digest(self, tag: Reference) -> str | None:
        """Return the digest that a tag has now, or None if HEAD is not answered properly, which proves nothing.

        Raises:
            Unavailable: The upstream cannot be asked.
        """
        try:
            with self._source.open("HEAD", tag, accept=ACCEPT, timeout=FETCH_SECONDS) as answer:
                return _digest_in(answer) or None
        except (NotFound, Denied):
            return None
        except Unavailable as problem:
            if not problem.may_concern_head_alone:
                raise
            return None

    def _fetch_moved(self, tag: Reference, digest: str) -> Manifest:
        """Fetch the manifest to which a tag moved, by the tag if the upstream has none with the announced digest."""
        try:
            return self._fetch(tag._replace(identifier=digest), tag)
        except (NotFound, Unavailable) as problem:
            if isinstance(problem, Unavailable) and problem.kind is not Kind.MALFORMED:
                raise
            return self._fetch(tag, tag)

    def _fetch(self, reference: Reference, tag: Reference | None) -> Manifest:
        """Fetch a manifest, and store it and the tag that points to it.

        A manifest that the volume cannot hold is returned, but not stored, unless it is large.

        Raises:
            NotFound, Unavailable, Denied: The upstream gave no manifest, or another one.
            NoRoom, OSError: It is large and cannot be stored.
        """
        with ExitStack() as held:
            return self._receive_and_store(reference, tag, held)

    def _receive_and_store(self, reference: Reference, tag: Reference | None, held: ExitStack) -> Manifest:
        digest, content, media_type = self._receive(reference, held)
        manifest = replace(_stored(digest, content, media_type), was_fetched=True)
        try:
            self._store.put_manifest(reference.repository, content, None if tag is None else tag.identifier)
        except (NoRoom, OSError) as problem:
            if len(content) > MAX_SMALL_BYTES:
                raise
            self._log(f"{reference} was passed on and not cached: {problem}")
            manifest = replace(manifest, content=content)
            if tag is not None:
                # The volume does not know what the tag means now, so the next pull asks again.
                self._count_tag_lookup(REVALIDATED)
        else:
            if tag is not None:
                self._note_revalidation(tag)
        return manifest

    def _receive(self, reference: Reference, held: ExitStack) -> tuple[str, bytes, str]:
        """Fetch a manifest, compare it with its digest, and return digest, content and media type.

        Few large ones are in memory at once; `held` notes that this is one of them.
        """
        body = bytearray()
        is_large = False
        deadline = time.monotonic() + FETCH_SECONDS
        with self._source.open("GET", reference, accept=ACCEPT, timeout=FETCH_SECONDS) as answer:
            announced = answer.headers.get("Docker-Content-Digest", "")
            while chunk := answer.read(1 << 16):
                body += chunk
                if not is_large and len(body) > MAX_SMALL_BYTES:
                    is_large = True
                    self._hold_large(deadline, held)
                    # A slow repository must not keep the large manifests of others waiting for long.
                    deadline = min(deadline, time.monotonic() + TIMEOUT_SECONDS)
                if len(body) > MAX_MANIFEST_BYTES:
                    message = f"{reference}: the manifest has more than {MAX_MANIFEST_BYTES} bytes"
                    raise Unavailable(Kind.MALFORMED, message)
                if time.monotonic() > deadline:
                    message = f"{reference}: the manifest did not come in time"
                    raise Unavailable(Kind.TIMEOUT, message)
        content = bytes(body)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if reference.is_digest:
            announced = reference.identifier
        if DIGEST.fullmatch(announced) and announced != digest:
            message = f"{reference}: the upstream sent content with the digest {digest} instead of {announced}"
            raise Unavailable(Kind.MALFORMED, message)
        media_type = self._media_types.find(digest, content)
        if media_type is None:
            # It may be a web page, or a manifest that is cut off or compressed.
            message = f"{reference}: the upstream sent something that is not a manifest"
            raise Unavailable(Kind.MALFORMED, message)
        return digest, content, media_type

    def _hold_large(self, deadline: float, held: ExitStack) -> None:
        """Wait until one more large manifest may be in memory.

        Raises:
            Overloaded: The others take too long.
        """
        if not self._large_fetched.acquire(timeout=max(0.0, deadline - time.monotonic())):
            message = "too many large manifests are being fetched"
            raise Overloaded(message)
        held.callback(self._large_fetched.release)

    def _try_to_write(self, action: Callable[[], None]) -> bool:
        """Run an action that only the volume can refuse, and return whether it did not.

        The response is right without it, and the next pull repeats it.
        """
        try:
            action()
        except (NoRoom, OSError) as problem:
            self._log(f"the volume cannot be written: {problem}")
            return False
        return True

    def _note_revalidation(self, tag: Reference) -> None:
        """Remember when the upstream was asked about a tag, and forget what is older than the interval."""
        with self._lock:
            now = time.monotonic()
            self._revalidated_at = {
                key: revalidated_at
                for key, revalidated_at in self._revalidated_at.items()
                if now - revalidated_at < self._tag_check_interval_seconds
            }
            self._revalidated_at[tag] = now
        self._count_tag_lookup(REVALIDATED)


def ask_for(source: Source, reference: Reference, authorization: PullerAuthorization | None, timeout: float) -> str:
    """Ask for the head of a manifest or blob, by HEAD, and if that is not answered properly, by GET, in all in time.

    Returns the digest that the answer to a HEAD request for a manifest names, or "" if there is none.

    Raises:
        NotFound, Unavailable, Denied: The upstream does not send it.
    """
    deadline = time.monotonic() + timeout
    is_blob = reference.kind == BLOB
    options: Options = {"authorization": authorization, "accept": () if is_blob else ACCEPT}
    try:
        with source.open("HEAD", reference, timeout=timeout, **options) as answer:
            return "" if is_blob else _digest_in(answer)
    except NotFound:
        # A node asks for manifests by HEAD too, and for blobs only by GET.
        if not is_blob:
            raise
    except Unavailable as problem:
        if not problem.may_concern_head_alone:
            raise
    if is_blob:
        options["last_byte"] = 0
    source.open("GET", reference, timeout=max(0.0, deadline - time.monotonic()), **options).close()
    return ""


def _digest_in(answer: Answer) -> str:
    """Return the digest of a manifest that an answer to a HEAD request names, or "" if it names none."""
    digest = answer.headers.get("Docker-Content-Digest", "")
    return digest if DIGEST.fullmatch(digest) else ""


def _stored(digest: str, content: bytes, media_type: str) -> Manifest:
    """Return a manifest that is on the volume."""
    return Manifest(digest, content if len(content) <= MAX_SENT_BYTES else None, media_type)
