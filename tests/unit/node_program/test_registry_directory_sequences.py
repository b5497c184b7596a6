"""Whatever happens to the registry directory, in any order: containerd can read it, and withdrawing restores it.

The model is what the directory would be without us, which is what somebody else put there. Our program changes a real
directory, and is killed or gets an error at any of its system calls.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import tempfile
import tomllib
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from common.endpoint import Endpoint
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from node_program.hosts_toml import CannotMerge, Mirror
from node_program.registry_directory import RegistryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIRRORS = [Mirror("https://upstream", Endpoint("http", f"10.0.0.{number}", 5000), "500ms") for number in (1, 2)]
FOLDERS = {"docker.io": ["docker.io"], "a.b:5000": ["a.b_5000_", "a.b:5000"]}
TEXTS = [
    '# theirs\nserver = "https://theirs" # note\n\n[host."https://one"]\n  capabilities = ["pull"]\n[host."https://two"]\n',
    '[host."https://three"]\n  [host."https://three".header]\n    x = ["y"]\n',
    'server = "https://theirs"\r\n',
    "",
    "server =",
]
SYSTEM_CALLS: list[tuple[Any, str]] = [
    *[
        (os, name)
        for name in (
            "rename",
            "link",
            "unlink",
            "mkdir",
            "rmdir",
            "chmod",
            "fchmod",
            "open",
            "fsync",
            "listdir",
            "scandir",
        )
    ],
    (io, "open"),
    (fcntl, "flock"),
]
LOCKS = ".registry-cache-*.lock"
OWNERS = ("space/name", "space/renamed")
Tree = dict[str, tuple[int, bytes, int]]


class Killed(BaseException):
    """The program was killed; it has no code that catches this."""


@contextmanager
def fail_at(number: int, raised: Callable[[], BaseException], *, lasting: bool) -> Iterator[None]:
    """Let the system call with that number fail, and with `lasting` all that follow it."""
    count = iter(range(10_000))

    def with_failure(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            now = next(count)
            if now == number or (lasting and now > number):
                raise raised()
            return real(*arguments, **keywords)

        return call

    with ExitStack() as stack:
        for module, name in SYSTEM_CALLS:
            stack.enter_context(mock.patch.object(module, name, with_failure(getattr(module, name))))
        yield


def tree(root: Path) -> Tree:
    """Every folder and file except the locks of running programs: its mode, and the content and time of files."""
    found = {}
    for path in sorted(set(root.rglob("*")) - set(root.glob(LOCKS))):
        status = path.stat()
        content, when = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else (b"", 0)
        found[str(path.relative_to(root))] = (status.st_mode, content, when)
    return found


class AnySequence(RuleBasedStateMachine):
    """Caches come and go, foreign files come, change and go, and the program is killed, restarted or gets errors."""

    @initialize(upstream=st.sampled_from(sorted(FOLDERS)), links=st.booleans())
    def start(self, upstream: str, links: bool) -> None:  # noqa: FBT001 - drawn
        self.upstream = upstream
        self.links = links
        self.root = Path(tempfile.mkdtemp())
        self.clock = iter(range(1, 1_000_000))
        self.other = RegistryDirectory(self.root, "other/name")
        self.other.activate("other.io", MIRRORS[0])
        self.owner = OWNERS[0]
        self.directory = RegistryDirectory(self.root, self.owner)
        self.world = tree(self.root)
        self.emptied: set[str] = set()  # folders of ours whose file somebody removed, which the program has not seen
        self.taken: set[str] = set()  # folders of ours that somebody wrote to or created again
        self.seen: list[dict[str, Any] | None] = []
        self.in_between = False
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            try:
                self.no_longer_configured()
                self.directory.close()
                self.other.withdraw("other.io")
                self.other.close()
                assert not [*self.root.glob(LOCKS)]
            finally:
                shutil.rmtree(self.root)

    # What the program does.

    @rule()
    def restart(self) -> None:
        # If somebody removed our file and the program ended before it saw that, the folder looks like a foreign one.
        found = tree(self.root)
        for name in self.emptied & set(found):
            if {path.name for path in (self.root / name).iterdir()} <= {RegistryDirectory._temporary}:
                self.world[name] = found[name]
        self.emptied.clear()
        self.end()
        self.directory = RegistryDirectory(self.root, self.owner)
        with self.link_rule():
            self.directory.tidy([self.upstream])
        self.in_between = False

    @rule()
    def renamed(self) -> None:
        """The program of a release with another name follows one that did not withdraw its files."""
        (self.owner,) = set(OWNERS) - {self.owner}
        self.restart()

    @rule()
    def no_longer_configured(self) -> None:
        self.restart()
        self.directory.tidy([])
        assert self.directory.not_tidied == {}
        self.check_as_found()

    @rule(mirror=st.sampled_from(MIRRORS))
    def cache_up(self, mirror: Mirror) -> None:
        before = self.read(self.world)
        try:
            with self.link_rule():
                self.directory.activate(self.upstream, mirror)
        except CannotMerge:
            assert before is None
            self.cache_down()
            return
        assert before is not None
        ours = {"capabilities": ["pull", "resolve"], "dial_timeout": mirror.dial_timeout}
        hosts = {mirror.endpoint.url: ours, **before.get("host", {})}
        found = self.read(tree(self.root))
        assert found == {"server": mirror.server, **before, "host": hosts}
        assert list(found["host"]) == list(hosts)
        self.seen_by_the_program()

    @rule()
    def cache_down(self) -> None:
        self.directory.withdraw(self.upstream)
        self.seen_by_the_program()
        self.check_as_found()

    @rule(number=st.integers(0, 30), up=st.booleans(), mirror=st.sampled_from(MIRRORS))
    def killed(self, number: int, up: bool, mirror: Mirror) -> None:  # noqa: FBT001 - drawn
        self.with_failure(number, Killed, lasting=True, up=up, mirror=mirror)
        self.check_readable()
        self.restart()

    @rule(number=st.integers(0, 30), up=st.booleans(), mirror=st.sampled_from(MIRRORS))
    def killed_while_tidying(self, number: int, up: bool, mirror: Mirror) -> None:  # noqa: FBT001 - drawn
        """One program is killed in the middle of a change, the next in the middle of tidying up after it."""
        self.with_failure(number, Killed, lasting=True, up=up, mirror=mirror)
        self.end()
        self.directory = RegistryDirectory(self.root, self.owner)
        with suppress(Killed), self.link_rule(), fail_at(number, Killed, lasting=True):
            self.directory.tidy([self.upstream])
        self.check_readable()
        self.restart()

    @rule(
        number=st.integers(0, 30),
        code=st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EACCES]),
        lasting=st.booleans(),
        up=st.booleans(),
        mirror=st.sampled_from(MIRRORS),
    )
    def refused(self, number: int, code: int, lasting: bool, up: bool, mirror: Mirror) -> None:  # noqa: FBT001 - drawn
        self.with_failure(number, lambda: OSError(code, os.strerror(code)), lasting=lasting, up=up, mirror=mirror)

    # What somebody else does, but not in the moment without hosts.toml if a hard link was refused.

    @precondition(lambda self: not self.in_between)
    @rule(which=st.integers(0, 1), text=st.sampled_from(TEXTS), mode=st.sampled_from([0o644, 0o600]), new=st.booleans())
    def somebody_writes_the_file(self, which: int, text: str, mode: int, new: bool) -> None:  # noqa: FBT001 - drawn
        names = FOLDERS[self.upstream]
        self.put(f"{names[which % len(names)]}/hosts.toml", text, mode, new=new)

    @rule(text=st.sampled_from(TEXTS), mode=st.sampled_from([0o644, 0o600]))
    def somebody_writes_the_default(self, text: str, mode: int) -> None:
        self.put("_default/hosts.toml", text, mode, new=True)

    @rule(folder=st.sampled_from(["_default", "docker.io", "a.b_5000_", "a.b:5000"]))
    def somebody_adds_a_certificate(self, folder: str) -> None:
        self.put(f"{folder}/ca.crt", "certificate", 0o644, new=True)

    @precondition(lambda self: not self.in_between)
    @rule(which=st.integers(0, 1))
    def somebody_removes_the_file(self, which: int) -> None:
        names = FOLDERS[self.upstream]
        name = names[which % len(names)]
        path = self.root / name / "hosts.toml"
        if path.exists():
            path.unlink()
            self.world.pop(f"{name}/hosts.toml", None)
            if name in self.taken and not any(path.parent.iterdir()):
                # It depends on timing whether the program saw that the folder is no longer its own, so that it may keep
                # or remove an empty one.
                path.parent.rmdir()
                del self.world[name]
                self.taken.remove(name)
            elif name not in self.world:
                self.emptied.add(name)

    @precondition(lambda self: "_default" in self.world)
    @rule()
    def somebody_removes_the_default(self) -> None:
        for path in (self.root / "_default").iterdir():
            path.unlink()
            del self.world[f"_default/{path.name}"]
        (self.root / "_default").rmdir()
        del self.world["_default"]

    # What always holds.

    @invariant()
    def containerd_can_read_it(self) -> None:
        if hasattr(self, "root"):
            self.check_readable()

    def check_readable(self) -> None:
        """Containerd finds what is there without us, or the cache in front of what was there when we wrote it."""
        if self.in_between or self.emptied:
            return
        found, world = self.read(tree(self.root)), self.read(self.world)
        if world not in self.seen:
            self.seen.append(world)
        if found == world:
            return
        assert found is not None
        hosts = dict(found["host"])
        assert next(iter(hosts)) in {mirror.endpoint.url for mirror in MIRRORS}
        hosts.pop(next(iter(hosts)))
        rest = {**found, "host": hosts}
        assert any(
            rest == {"server": MIRRORS[0].server, "host": {}, **before} for before in self.seen if before is not None
        )

    def check_as_found(self) -> None:
        assert tree(self.root) == self.world

    # Helpers.

    def end(self) -> None:
        """Release what the kernel releases when a program ends."""
        if self.directory._own_lock is not None:
            os.close(self.directory._own_lock)
            self.directory._own_lock = None

    def with_failure(self, number: int, raised: Any, *, lasting: bool, up: bool, mirror: Mirror) -> None:
        try:
            with self.link_rule(), fail_at(number, raised, lasting=lasting):
                if up:
                    self.directory.activate(self.upstream, mirror)
                else:
                    self.directory.withdraw(self.upstream)
        except (Killed, OSError, CannotMerge):
            self.in_between = not self.links

    def seen_by_the_program(self) -> None:
        self.in_between = False
        self.emptied.clear()

    def put(self, name: str, text: str, mode: int, *, new: bool) -> None:
        path = self.root / name
        folder = path.parent.name
        if folder not in self.world and (path.parent.exists() or folder in self.directory._created):
            self.taken.add(folder)  # the program created it, or created one with that name earlier
        path.parent.mkdir(exist_ok=True)
        if new:
            path.unlink(missing_ok=True)
        path.write_text(text, newline="")
        path.chmod(mode)
        os.utime(path, ns=(0, next(self.clock)))
        status = path.stat()
        self.world[folder] = (path.parent.stat().st_mode, b"", 0)
        self.world[name] = (status.st_mode, text.encode(), status.st_mtime_ns)
        self.emptied.discard(folder)

    def read(self, found: Tree) -> dict[str, Any] | None:
        """Return what containerd reads for the upstream (hosts.go) as a hosts.toml, or None if it cannot be read."""
        for folder in (*FOLDERS[self.upstream], "_default"):
            if folder in found:
                if text := found.get(f"{folder}/hosts.toml", (0, b"", 0))[1]:
                    try:
                        return tomllib.loads(text.decode())
                    except tomllib.TOMLDecodeError:
                        return None
                path = "../_default/" if folder == "_default" else ""
                return {"ca": [f"{path}ca.crt"]} if f"{folder}/ca.crt" in found else {}
        return {}

    @contextmanager
    def link_rule(self) -> Iterator[None]:
        """Refuse hard links to another user's file, as some nodes do (fs.protected_hardlinks)."""
        if self.links:
            yield
            return
        with mock.patch.object(os, "link", side_effect=PermissionError(errno.EPERM, "not permitted")):
            yield


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=400, stateful_step_count=15, derandomize=True)
