"""Whatever is done to the volume of a cache, in whatever order: what is in it is right, and all of it can go.

The program runs against a small file system of its own, and is killed, or gets an error, at any of its system calls.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made_stores import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    Killed,
    bytes_on_disk,
    faults,
    index_of,
    is_empty,
    link,
    manifest_of,
    put,
    small_disk,
    trouble_at,
)
from store.store import NoRoom, Store
from upstreams.oci import INDEX, MANIFEST, digest

KIB = 1024
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

repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
actions = st.one_of(
    st.tuples(st.just("put"), repositories, st.sampled_from([*LAYERS, *CONFIGS])),
    st.tuples(st.just("put_slowly"), repositories, st.sampled_from([*LAYERS])),
    st.tuples(st.just("give_up"), st.sampled_from([*LAYERS])),
    st.tuples(st.just("put_manifest"), repositories, st.sampled_from([*MANIFESTS]), st.sampled_from([None, *TAGS])),
    st.tuples(st.just("use"), repositories, st.sampled_from([*ALL])),
    st.tuples(st.just("read"), repositories, st.sampled_from([*ALL])),
    st.tuples(st.just("set_tag"), repositories, tags, st.sampled_from([*MANIFESTS])),
    st.tuples(st.just("remove_tag"), repositories, tags),
    st.tuples(st.just("expire"), st.sampled_from([0, 50, 500])),
    st.tuples(st.just("keep_room")),
)


class AnySequence(RuleBasedStateMachine):
    """Blobs and manifests come, are used, expire and are evicted; disk full, killed, refused, damaged, restarted."""

    @initialize(inodes=st.sampled_from([70, 150, 2000]), capacity=st.sampled_from([600 * KIB, 8192 * KIB]))
    def start(self, inodes: int, capacity: int) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.root = self.stack.enter_context(small_disk(folder, "size=1500k", f"nr_inodes={inodes}"))
        self.capacity = capacity
        self.now = 1_000_000.0
        self.store = Store(self.root, capacity, high_water=0.7, now=lambda: self.now)
        self.store.load()
        self.troubled = False

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            with self.stack:
                self.somebody_else_frees_the_disk()
                self.restart()
                self.now += 10_000
                self.store.expire(1)
                assert is_empty(self.root)

    # What the program does.

    @rule(action=actions)
    def does(self, action: tuple[Any, ...]) -> None:
        with suppress(NoRoom, FileNotFoundError):
            self.do(action)
        assert self.troubled or self.is_stuck_for_room_alone()

    @rule()
    def restart(self) -> None:
        """Start anew; what is found is what was known before, where nothing went wrong."""
        before = self.known()
        self.start_anew()
        assert self.is_stuck_for_room_alone()
        assert faults(self.root) == [] or self.store.stuck != {}
        assert self.troubled or self.known() == before
        self.troubled = False

    @rule(action=actions, number=st.integers(0, 80))
    def killed(self, action: tuple[Any, ...], number: int) -> None:
        with suppress(Killed, NoRoom, FileNotFoundError), trouble_at(number, Killed, lasting=True):
            self.do(action)
        self.troubled = True
        self.restart()

    @rule(action=actions, number=st.integers(0, 80))
    def killed_while_loading(self, action: tuple[Any, ...], number: int) -> None:
        """One program is killed in the middle of something, the next while it tidies up after it."""
        with suppress(Killed, NoRoom, FileNotFoundError), trouble_at(number, Killed, lasting=True):
            self.do(action)
        with suppress(Killed), trouble_at(number, Killed, lasting=True):
            self.start_anew()
        self.troubled = True
        self.restart()

    @rule(
        action=actions,
        number=st.integers(0, 80),
        code=st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE]),
        lasting=st.booleans(),
        loading=st.booleans(),
    )
    def refused(self, action: tuple[Any, ...], number: int, code: int, lasting: bool, loading: bool) -> None:  # noqa: FBT001 - drawn
        def refusal() -> OSError:
            return OSError(code, os.strerror(code))

        self.troubled = True
        if loading:
            with trouble_at(number, refusal, lasting=lasting):
                self.start_anew()
            with suppress(NoRoom, OSError):
                self.do(action)
            self.restart()
            # What could not be seen before counts again.
            self.store.keep_room()
        else:
            with suppress(NoRoom, OSError), trouble_at(number, refusal, lasting=lasting):
                self.do(action)

    # What others do.

    @rule(seconds=st.sampled_from([-1000, 10, 100]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(part=st.sampled_from([1, 2]))
    def somebody_else_fills_the_disk(self, part: int) -> None:
        status = os.statvfs(self.root)
        with suppress(OSError), (self.root / "foreign").open("ab") as file:
            file.write(bytes(status.f_bavail * status.f_frsize // part))

    @rule()
    def somebody_else_frees_the_disk(self) -> None:
        (self.root / "foreign").unlink(missing_ok=True)

    @rule(
        name=st.sampled_from([*ALL]), how=st.sampled_from(["truncate", "empty", "flip", "remove"]), late=st.booleans()
    )
    def damaged(self, name: str, how: str, late: bool) -> None:  # noqa: FBT001 - drawn
        content = ALL[name]
        path = self.store.path(digest(content))
        if not path.exists():
            return
        if how == "remove":
            path.unlink()
        else:
            # In place: it takes no room.
            with path.open("r+b") as file:
                if how == "flip":
                    file.write(bytes([content[0] ^ 1]))
                else:
                    file.truncate(0 if how == "empty" else len(content) - 1)
        self.troubled = True
        if late or how == "flip":
            # Content that was compared since the start is not read again.
            self.start_anew()
        if how == "flip" or (how == "truncate" and late):
            # Nothing but its content, or a manifest that may not be there, tells it.
            self.store.verify(digest(content))
        assert self.store.find(digest(content)) is None
        assert not path.exists()

    # What always holds.

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def tags_lead_to_manifests(self) -> None:
        for (repository, tag), name in self.store._tags.items():
            assert link(self.root, repository, f"_manifests/tags/{tag}", "current").read_text() == name
            content = self.store.manifest(repository, name)
            assert content is not None
            assert digest(content) == name

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def account_equals_the_disk(self) -> None:
        statistics = self.store.statistics()
        assert statistics.bytes_stored == bytes_on_disk(self.root) == sum(b.taken for b in self.store._blobs.values())
        assert statistics.bytes_stored <= max(self.capacity, statistics.may_hold)
        assert self.store._parts == set()

    @precondition(lambda self: hasattr(self, "root") and not self.troubled)
    @invariant()
    def nothing_is_wrong(self) -> None:
        assert faults(self.root) == []

    # How it is done.

    def do(self, action: tuple[Any, ...]) -> None:
        name, *arguments = action
        method = getattr(self, f"do_{name}", None) or getattr(self.store, name)
        method(*[ALL.get(argument, argument) for argument in arguments])

    def do_put(self, repository: str, content: bytes) -> None:
        put(self.store, repository, content)

    def do_put_slowly(self, repository: str, content: bytes) -> None:
        """Of a size that is not known, and beside another that is given up."""
        part = self.store.begin(digest(content), None)
        try:
            other = self.store.begin(digest(content), len(content))
            other.abandon()
            part.write(content)
            part.commit(repository)
        finally:
            part.abandon()

    def do_give_up(self, content: bytes) -> None:
        part = self.store.begin(digest(content), len(content))
        try:
            part.write(content[:-1])
        finally:
            part.abandon()

    def do_use(self, repository: str, content: bytes) -> None:
        self.store.use(repository, digest(content))

    def do_read(self, repository: str, content: bytes) -> None:
        found = self.store.manifest(repository, digest(content))
        assert found in (None, content)
        self.store.verify(digest(content))
        assert self.store.find(digest(content)) in (None, len(content))

    def do_set_tag(self, repository: str, tag: str, content: bytes) -> None:
        self.store.set_tag(repository, tag, digest(content))

    def is_stuck_for_room_alone(self) -> bool:
        """Whether all that the disk refused were links for which it had no room: it is full, by whoever's hand."""
        return all(error.errno == errno.ENOSPC for error in self.store.stuck.values())

    def start_anew(self) -> None:
        for part in self.store._parts:
            # As the kernel does.
            part.close()
        self.store = Store(self.root, self.capacity, high_water=0.7, now=lambda: self.now)
        self.store.load()

    def known(self) -> Any:
        store = self.store
        blobs = {
            name: (blob.size, blob.taken, blob.layers, blob.manifests, blob.tags, blob.names)
            for name, blob in store._blobs.items()
        }
        return blobs, store._tags, store._sizes


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=12, derandomize=True)
