"""Property tests: after any sequence of operations, the content of the store is right, and all of it can be removed.

The store runs on a small file system of its own, and is killed or gets an error at any of its system calls.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made_stores import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    KIB,
    Killed,
    bytes_on_disk,
    failing_system_call,
    find_faults,
    index_of,
    is_empty,
    link_path,
    manifest_of,
    put_blob,
    small_disk,
)
from store import incoming_blob, references, room
from store.layout import LAYER as LAYER_LINK
from store.layout import read_references
from store.store import NoRoom, Store
from upstreams.oci import INDEX, MANIFEST, digest

REPOSITORIES = ["one", "one/two", "library/three"]
TAGS = ["latest", "v1"]
LAYERS = {
    f"layer {number}": bytes([number]) * size for number, size in enumerate([1, 30_000, 200_000, 400_000, 700_000])
}
CONFIGS = {"config 0": b"{}", "config 1": b'{"a": 1}'}
ONE, TWO, THREE = (
    manifest_of(CONFIGS["config 0"], [LAYERS["layer 0"], LAYERS["layer 1"]], MANIFEST),
    manifest_of(CONFIGS["config 1"], [LAYERS["layer 1"], LAYERS["layer 2"], LAYERS["layer 3"]], DOCKER_MANIFEST),
    manifest_of(CONFIGS["config 1"], [LAYERS["layer 3"], LAYERS["layer 4"]], None),
)
MANIFESTS = {
    "image 1": ONE,
    "image 2": TWO,
    "image 3": THREE,
    "index 12": index_of([ONE, TWO], INDEX),
    "index 23": index_of([TWO, THREE], None),
    "list 1": index_of([ONE], DOCKER_LIST),
}
ALL = {**LAYERS, **CONFIGS, **MANIFESTS}
NAMES = {digest(content): content for content in ALL.values()}

repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
actions = st.one_of(
    st.tuples(st.just("put_blob"), repositories, st.sampled_from([*LAYERS, *CONFIGS])),
    st.tuples(st.just("put_blob_out_of_order"), repositories, st.sampled_from([*LAYERS])),
    st.tuples(st.just("put_blob_of_unknown_size"), repositories, st.sampled_from([*LAYERS])),
    st.tuples(st.just("put_blob_recorded"), repositories, st.sampled_from([*LAYERS])),
    st.tuples(st.just("interrupt_blob"), st.sampled_from([*LAYERS])),
    st.tuples(st.just("abandon_blob"), st.sampled_from([*LAYERS])),
    st.tuples(st.just("put_manifest"), repositories, st.sampled_from([*MANIFESTS]), st.sampled_from([None, *TAGS])),
    st.tuples(st.just("mark_used"), repositories, st.sampled_from([*ALL])),
    st.tuples(st.just("read"), repositories, st.sampled_from([*ALL])),
    st.tuples(st.just("set_tag"), repositories, tags, st.sampled_from([*MANIFESTS])),
    st.tuples(st.just("remove_tag"), repositories, tags),
    st.tuples(st.just("expire"), st.sampled_from([0, 50, 500])),
    st.tuples(st.just("evict_above_high_water")),
)


class AnySequence(RuleBasedStateMachine):
    """Content is stored, used, expired and evicted, while the disk fails and the program is killed and restarted."""

    @initialize(
        inodes=st.sampled_from([70, 150, 2000]),
        capacity=st.sampled_from([600 * KIB, 8192 * KIB]),
        named=st.sampled_from([6, 1000]),
    )
    def start(self, inodes: int, capacity: int, named: int) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(mock.patch.object(references, "MAX_NAMED_BLOBS", named))
        self.forgets_references = named < 1000
        # What was fetched for a repository, and what manifests name that are stored there.
        self.allowed_links: set[tuple[str, str]] = set()
        # Most layers are large enough to be given room in several steps, and to be resumed.
        self.stack.enter_context(mock.patch.object(room, "STEP_BYTES", 96 * KIB))
        self.stack.enter_context(mock.patch.object(incoming_blob, "RESUMABLE_BYTES", 100_000))
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.root = self.stack.enter_context(small_disk(folder, "size=1500k", f"nr_inodes={inodes}"))
        self.capacity = capacity
        self.now = self.steady = 1_000_000.0
        self.store = Store(self.root, capacity, high_water=0.7, now=lambda: self.now, monotonic=lambda: self.steady)
        self.store.load()
        self.disturbed = False

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            with self.stack:
                self.let_others_free_the_disk()
                self.restart()
                self.pass_time(10_000)
                self.store.expire(1)
                assert is_empty(self.root)

    # Actions of the program

    @rule(action=actions)
    def act(self, action: tuple[Any, ...]) -> None:
        with suppress(NoRoom, FileNotFoundError):
            self.do(action)
        assert self.disturbed or self.only_links_lack_room()

    @rule()
    def restart(self) -> None:
        """Start again; if nothing went wrong, the store finds what it knew before."""
        before = self.snapshot()
        self.start_again()
        assert self.only_links_lack_room()
        assert self.find_faults() == [] or self.store.inaccessible != {}
        assert self.disturbed or self.snapshot() == before
        self.disturbed = False

    @rule(action=actions, number=st.integers(0, 80))
    def kill(self, action: tuple[Any, ...], number: int) -> None:
        with suppress(Killed, NoRoom, FileNotFoundError), failing_system_call(number, Killed, lasting=True):
            self.do(action)
        self.disturbed = True
        self.restart()

    @rule(action=actions, number=st.integers(0, 80))
    def kill_while_loading(self, action: tuple[Any, ...], number: int) -> None:
        """Kill one program in the middle of something, and the next one while it repairs the folder."""
        with suppress(Killed, NoRoom, FileNotFoundError), failing_system_call(number, Killed, lasting=True):
            self.do(action)
        with suppress(Killed), failing_system_call(number, Killed, lasting=True):
            self.start_again()
        self.disturbed = True
        self.restart()

    @rule(
        action=actions,
        number=st.integers(0, 80),
        code=st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE]),
        lasting=st.booleans(),
        loading=st.booleans(),
    )
    def fail(self, action: tuple[Any, ...], number: int, code: int, lasting: bool, loading: bool) -> None:  # noqa: FBT001 - drawn
        def error() -> OSError:
            return OSError(code, os.strerror(code))

        self.disturbed = True
        if loading:
            with failing_system_call(number, error, lasting=lasting):
                self.start_again()
            with suppress(NoRoom, OSError):
                self.do(action)
            self.restart()
            # Content that could not be read before counts again.
            self.store.evict_above_high_water()
        else:
            with suppress(NoRoom, OSError), failing_system_call(number, error, lasting=lasting):
                self.do(action)

    # Actions of others

    @rule(seconds=st.sampled_from([-1000, 10, 100]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.steady += max(0, seconds)

    @rule(seconds=st.sampled_from([100, 100_000]), ttl=st.sampled_from([50, 500]))
    def let_the_clock_jump(self, seconds: int, ttl: int) -> None:
        self.store.expire(ttl)
        before = {*self.store._index.blobs}
        self.now += seconds
        self.store.expire(ttl)
        assert {*self.store._index.blobs} == before

    @rule(name=st.sampled_from([*ALL]), action=actions)
    def read_slowly(self, name: str, action: tuple[Any, ...]) -> None:
        """Read a blob while something else is done: it is not evicted, since that would make no room."""
        path = self.store.blob_path(digest(ALL[name]))
        if not path.exists() or action[0] == "expire":
            return
        with path.open("rb"):
            self.act(action)
            assert path.exists() or self.disturbed

    @rule(part=st.sampled_from([1, 2]))
    def let_others_fill_the_disk(self, part: int) -> None:
        status = os.statvfs(self.root)
        with suppress(OSError), (self.root / "foreign").open("ab") as file:
            file.write(bytes(status.f_bavail * status.f_frsize // part))

    @rule()
    def let_others_free_the_disk(self) -> None:
        (self.root / "foreign").unlink(missing_ok=True)

    @rule(
        name=st.sampled_from([*ALL]), how=st.sampled_from(["truncate", "empty", "flip", "remove"]), late=st.booleans()
    )
    def damage(self, name: str, how: str, late: bool) -> None:  # noqa: FBT001 - drawn
        content = ALL[name]
        path = self.store.blob_path(digest(content))
        if not path.exists():
            return
        if how == "remove":
            path.unlink()
        else:
            # Writing in place takes no room.
            with path.open("r+b") as file:
                if how == "flip":
                    file.write(bytes([content[0] ^ 1]))
                else:
                    file.truncate(0 if how == "empty" else len(content) - 1)
        self.disturbed = True
        if late or how == "flip":
            # Content that was verified since the start is not read again.
            self.start_again()
        if how == "flip" or (how == "truncate" and late):
            # This shows only in the content, or in a manifest that may not be stored.
            self.store.verify_blob(digest(content))
        for repository in REPOSITORIES:
            assert self.store.read_manifest(repository, digest(content)) is None
        assert self.store.find_blob(digest(content)) is None
        assert not path.exists()

    # Invariants

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def tags_lead_to_manifests(self) -> None:
        for (repository, tag), name in self.store._index.tags.items():
            assert link_path(self.root, repository, f"_manifests/tags/{tag}", "current").read_text() == name
            content = self.store.read_manifest(repository, name)
            assert content is not None
            assert digest(content) == name

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def index_equals_the_disk(self) -> None:
        statistics, index = self.store.statistics(), self.store._index
        assert bytes_on_disk(self.root) == sum(blob.disk_bytes for blob in index.blobs.values())
        interrupted_bytes = sum(path.stat().st_blocks * 512 for path in self.interrupted_paths())
        assert interrupted_bytes == sum(blob.disk_bytes for blob in index.interrupted.values())
        assert statistics.stored_bytes == bytes_on_disk(self.root) + interrupted_bytes
        assert not index.interrupted.keys() & index.blobs.keys()
        assert statistics.stored_bytes <= max(self.capacity, statistics.usable_bytes)
        assert self.store._room.reservations == self.store._writer._incoming == set()

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def links_are_where_content_was_fetched_for_or_named(self) -> None:
        index = self.store._index
        links = {(link.repository, name) for name, blob in index.blobs.items() for link in blob.links}
        assert links <= self.allowed_links
        assert index.links_by_repository.total() == sum(len(blob.links) for blob in index.blobs.values())
        assert index.references.count <= references.MAX_NAMED_BLOBS
        for name, blob in index.blobs.items():
            is_layer = not blob.revisions or any(link.kind == LAYER_LINK for link in blob.links)
            assert blob.is_layer == is_layer
            assert is_layer or self.store.find_blob(name) is None

    @precondition(lambda self: hasattr(self, "root") and not self.disturbed)
    @invariant()
    def nothing_is_wrong(self) -> None:
        assert self.find_faults() == []

    # Helpers

    def do(self, action: tuple[Any, ...]) -> None:
        name, *arguments = action
        if name.startswith("put_") or name == "set_tag":
            self.allow_links(arguments[0], next(ALL[each] for each in reversed(arguments) if each in ALL))
        method = getattr(self, f"do_{name}", None) or getattr(self.store, name)
        method(*[ALL.get(argument, argument) for argument in arguments])

    def allow_links(self, repository: str, content: bytes) -> None:
        """Note that something is fetched for a repository; with a manifest, it may have all that this names."""
        self.allowed_links.add((repository, digest(content)))
        if content in MANIFESTS.values():
            for name in read_references(content):
                self.allow_links(repository, NAMES[name])

    def do_put_blob(self, repository: str, content: bytes) -> None:
        put_blob(self.store, repository, content)

    def do_put_blob_out_of_order(self, repository: str, content: bytes) -> None:
        """Write the last third first, as connections do that fetch ranges, and then the first and the second one."""
        first, second = len(content) // 3, 2 * len(content) // 3
        incoming = self.store.begin_blob(digest(content), len(content))
        try:
            incoming.write_ahead(second, memoryview(content)[second:])
            incoming.append_written(incoming.recorded)
            incoming.write(content[incoming.written : max(incoming.written, first)])
            incoming.write_ahead(incoming.written, memoryview(content)[incoming.written : second])
            incoming.append_written(len(content) - incoming.written)
            incoming.commit(repository)
        finally:
            incoming.abandon()

    def do_put_blob_of_unknown_size(self, repository: str, content: bytes) -> None:
        """Write a blob of unknown size while another one is abandoned."""
        incoming = self.store.begin_blob(digest(content), None)
        try:
            other = self.store.begin_blob(digest(content), len(content))
            other.abandon()
            incoming.write(content)
            incoming.commit(repository)
        finally:
            incoming.abandon()

    def do_put_blob_recorded(self, repository: str, content: bytes) -> None:
        """Write a blob in four pieces, and record each, so that a killed program leaves it behind."""
        incoming = self.store.begin_blob(digest(content), len(content))
        try:
            incoming.append_written(incoming.recorded)
            while incoming.written < len(content):
                incoming.write(content[incoming.written :][: max(1, len(content) // 4)])
                self.store.record_incoming_blobs()
            incoming.commit(repository)
        finally:
            incoming.abandon()

    def do_interrupt_blob(self, content: bytes) -> None:
        """Write a third of what is missing, or end earlier."""
        incoming = self.store.begin_blob(digest(content), len(content))
        try:
            incoming.append_written(incoming.recorded)
            incoming.write(content[incoming.written :][: len(content) // 3])
        finally:
            incoming.interrupt()

    def do_abandon_blob(self, content: bytes) -> None:
        incoming = self.store.begin_blob(digest(content), len(content))
        try:
            incoming.append_written(incoming.recorded)
            incoming.write(content[incoming.written : -1])
        finally:
            incoming.abandon()

    def do_mark_used(self, repository: str, content: bytes) -> None:
        self.store.mark_used(repository, digest(content))

    def do_read(self, repository: str, content: bytes) -> None:
        assert self.store.read_manifest(repository, digest(content)) in (None, content)
        self.store.verify_blob(digest(content))
        assert self.store.find_blob(digest(content)) in (None, len(content))

    def do_set_tag(self, repository: str, tag: str, content: bytes) -> None:
        self.store.set_tag(repository, tag, digest(content))

    def interrupted_paths(self) -> list[Path]:
        layout, index = self.store._layout, self.store._index
        return [layout.interrupted_path(name, blob.size) for name, blob in index.interrupted.items()]

    def find_faults(self) -> list[str]:
        """Return what is wrong with the folder; interrupted blobs are not."""
        known = {f"left over: {path}" for path in self.interrupted_paths()}
        return [fault for fault in find_faults(self.root) if fault not in known]

    def only_links_lack_room(self) -> bool:
        """Return whether all errors of the disk are links that found no room: the disk is full, whoever filled it."""
        return all(error.errno == errno.ENOSPC for error in self.store.inaccessible.values())

    def start_again(self) -> None:
        for reservation in self.store._room.reservations:
            # The kernel does this when a program ends.
            os.close(reservation.descriptor)
        self.store = Store(
            self.root, self.capacity, high_water=0.7, now=lambda: self.now, monotonic=lambda: self.steady
        )
        self.store.load()

    def snapshot(self) -> Any:
        index = self.store._index
        blobs = {
            name: (blob.size, blob.disk_bytes, set(blob.links), blob.revisions) for name, blob in index.blobs.items()
        }
        interrupted = {name: (blob.size, blob.disk_bytes) for name, blob in index.interrupted.items()}
        sizes = {name: index.expected_size(digest(content)) for name, content in ALL.items()}
        named = None if self.forgets_references else (index.references.count, sizes)
        return blobs, index.tags, named, dict(index.links_by_repository), interrupted


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=12, derandomize=True)
