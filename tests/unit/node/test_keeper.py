"""What the program makes of good and bad answers, and what it tells about it."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path

import pytest
from common.endpoint import Endpoint
from node_program import __main__ as main
from node_program import keeper
from node_program.cache_probe import NoAnswer
from node_program.configuration import Cache, Configuration, Containerd, Probe
from node_program.hosts_toml import Mirror
from node_program.keeper import Keeper, Patience
from node_program.metrics import Metrics
from node_program.registry_directory import RegistryDirectory
from node_program.state import State

CACHE = Cache("docker.io", "https://registry-1.docker.io", Endpoint("http", "127.0.0.1", 5000))
# Far more than anything here needs.
PATIENCE = 10.0


def settings_for(certs: Path, state: Path, cache: Cache) -> Configuration:
    return Configuration(
        owner="a/b",
        registry_directory=certs,
        state_directory=state,
        dial_timeout="500ms",
        probe=Probe(interval=5.0, timeout=1.0, failure_threshold=2, max_backoff=0.0),
        metrics_port=0,
        containerd=Containerd("/none", str(certs), "", {}),
        configure=None,
        caches=(cache,),
    )


class Bench:
    """A keeper with a cache whose answers are set, a real folder, and the state as the readiness probe sees it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start with a cache that answers, and ask nothing yet."""
        self.certs, self.folder = folder / "certs.d", folder / "state"
        self.certs.mkdir()
        self.problem: Exception | None = None
        monkeypatch.setattr(keeper, "probe", self.probe)
        self.settings = settings_for(self.certs, self.folder, CACHE)
        self.metrics = Metrics(["docker.io"])
        self.directory = RegistryDirectory(self.certs, "a/b")
        self.keeper = self.restarted()

    def restarted(self) -> Keeper:
        state = State(self.folder, ["docker.io"])
        self.keeper = Keeper(CACHE, self.settings, self.directory, state, self.metrics)
        return self.keeper

    def probe(self, endpoint: Endpoint, timeout: float) -> None:
        assert endpoint == CACHE.endpoint
        assert 0 < timeout <= self.settings.probe.timeout
        if self.problem:
            raise self.problem

    def round(self, problem: str = "") -> bool:
        """Ask once; whether the cache is in use then."""
        self.problem = NoAnswer(problem, "timeout") if problem else None
        self.keeper.step()
        return self.used

    @property
    def used(self) -> bool:
        return (self.certs / "docker.io" / "hosts.toml").exists()

    @property
    def state(self) -> str:
        names = {path.name for path in self.folder.iterdir()}
        assert len(names) == 1, "one of them, never both or none"
        return "ready" if names == {"ready"} else (self.folder / "not-ready").read_text()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_one_good_answer_uses_and_two_bad_ones_in_a_row_leave(bench: Bench) -> None:
    answers = ["", "bad", "", "bad", "bad", "bad", ""]
    assert [bench.round(answer) for answer in answers] == [True, True, True, True, False, False, True]


def test_state_and_log_tell_each_change_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.state == "docker.io: it was not asked yet\n"
    for _ in range(3):
        bench.round()
    assert bench.state == "ready"
    for _ in range(4):
        bench.round("refused")
    assert bench.state == "docker.io: the cache does not answer: refused\n"
    bench.keeper.close()
    assert bench.state == "docker.io: the program ends\n"
    assert capsys.readouterr().out.splitlines() == [
        "docker.io: in use at http://127.0.0.1:5000",
        "docker.io: not used: the cache does not answer: refused",
        "docker.io: not used: the program ends",
    ]


def test_file_of_an_earlier_run_stays_until_the_first_answer_and_goes_with_a_bad_one(bench: Bench) -> None:
    bench.round()
    bench.restarted()
    assert bench.used
    assert bench.round()
    bench.restarted()
    assert not bench.round("bad")


def test_closed_it_stays_out_whatever_the_cache_answers(bench: Bench) -> None:
    bench.round()
    bench.keeper.close()
    assert not bench.round()


def test_foreign_file_that_cannot_be_merged_is_told_and_ours_goes(bench: Bench) -> None:
    bench.round()
    (bench.certs / "_default").mkdir()
    (bench.certs / "_default" / "hosts.toml").write_text("server =")
    assert not bench.round()
    assert bench.state.startswith("docker.io: _default/hosts.toml is left as it is: it is not TOML: ")


def test_other_release_is_named(bench: Bench) -> None:
    RegistryDirectory(bench.certs, "other/name").activate("docker.io", Mirror("https://x", CACHE.endpoint, "1s"))
    bench.round()
    assert bench.state == "docker.io: the nodes' program of other/name looks after it\n"


def test_folder_that_cannot_be_written_is_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/host/registry/x")

    with monkeypatch.context() as patch:
        patch.setattr(bench.directory, "activate", full)
        for _ in range(3):
            bench.round()
    reason = "hosts.toml cannot be written: No space left on device: /host/registry/x"
    assert bench.state == f"docker.io: {reason}\n"
    assert bench.round()
    assert capsys.readouterr().out.splitlines()[0] == f"docker.io: not used: {reason}"


def test_new_address_that_cannot_be_written_takes_the_old_one_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.round()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.directory, "activate", full)
    assert not bench.round()


def test_file_that_cannot_be_withdrawn_is_told_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.round()

    def read_only(_: str) -> bool:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(bench.directory, "withdraw", read_only)
        bench.round("bad")
        assert bench.round("bad")
    assert bench.state == "docker.io: hosts.toml cannot be withdrawn: Read-only file system\n"
    assert not bench.round("bad")


def test_resolver_and_cache_that_hang_take_no_longer_than_the_timeout(tmp_path: Path) -> None:
    """Both wait on real sockets here; DNS gets half of the time, so that a cache that works is still asked."""
    released = threading.Event()
    certs = tmp_path / "certs.d"
    certs.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        cache = CACHE._replace(endpoint=Endpoint("http", "cache", silent.getsockname()[1]))
        probe = Probe(interval=5.0, timeout=0.4, failure_threshold=1, max_backoff=0.0)
        settings = settings_for(certs, tmp_path / "state", cache)._replace(probe=probe)
        state = State(tmp_path / "state", ["docker.io"])
        made = Keeper(cache, settings, RegistryDirectory(certs, "a/b"), state, Metrics(["docker.io"]))
        made._address._known = "127.0.0.1"
        real = socket.getaddrinfo

        def hang(host: str, *arguments: object, **keywords: object) -> object:
            if host == "cache":
                released.wait(PATIENCE)
            return real("127.0.0.1", *arguments, **keywords)  # type: ignore[arg-type]

        patch.setattr(socket, "getaddrinfo", hang)
        begun = time.monotonic()
        made.step()
        assert time.monotonic() - begun < 0.8
        released.set()
        assert made._address._lookup is not None
        assert made._address._lookup.wait(PATIENCE)
    assert "no answer in time" in (tmp_path / "state" / "not-ready").read_text()


def test_error_that_nobody_thought_of_leaves_the_cache_and_the_thread_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.round()
    stop, asked = threading.Event(), threading.Event()
    rounds = iter(range(1_000_000))

    def surprise(*_: object) -> None:
        if next(rounds) == 2:
            asked.set()
        message = "never seen before"
        raise RuntimeError(message)

    monkeypatch.setattr(keeper, "probe", surprise)
    bench.keeper._settings = bench.settings._replace(probe=bench.settings.probe._replace(interval=0.01))
    thread = threading.Thread(target=bench.keeper.run, args=(stop,))
    thread.start()
    assert asked.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not bench.used
    assert "never seen before" in bench.state


def test_rounds_begin_an_interval_apart_however_long_they_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a cache that hangs would be left later than one that refuses: by its timeout, each round."""
    pauses: list[float] = []
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    monkeypatch.setattr(bench.keeper, "step", lambda: None)

    class Once(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            pauses.append(timeout)
            self.set()
            return True

    bench.keeper.run(Once())
    assert pauses == [3.0], "5 s less the 2 s that the round took"


def test_state_that_cannot_be_written_is_told_once_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State(tmp_path, ["docker.io"])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for reason, before, after in ((None, "not-ready", "ready"), ("away", "ready", "not-ready")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            for _ in range(3):
                state.set("docker.io", reason)
        assert [path.name for path in tmp_path.iterdir()] == [before]
        state.set("docker.io", reason)
        assert [path.name for path in tmp_path.iterdir()] == [after]
    assert capsys.readouterr().out == "the state cannot be written: No space left on device\n" * 2


def test_what_an_earlier_run_left_and_cannot_be_withdrawn_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State(bench.folder, [])
    bench.directory.activate("gone.io", Mirror("https://x", CACHE.endpoint, "1s"))
    real = Path.rename
    with monkeypatch.context() as patch:

        def rename(source: Path, target: Path) -> Path:
            if source.name == "gone.io":
                raise OSError(30, "Read-only file system")
            return real(source, target)

        patch.setattr(Path, "rename", rename)
        for _ in range(2):
            assert not main.tidy(bench.directory, ["docker.io"], state)
    told = "left by an earlier run: cannot be withdrawn: gone.io: Read-only file system"
    assert bench.state == f"{told}\n"
    assert main.tidy(bench.directory, ["docker.io"], state)
    assert bench.state == "ready"
    assert capsys.readouterr().out.splitlines() == [told, "gone.io: withdrawn, left by an earlier run"]


def test_second_question_comes_soon_while_the_cache_is_in_use(bench: Bench) -> None:
    """So that a cache that is away is left in time, and all others are asked seldom."""
    bench.round()
    now = time.monotonic()
    assert 4 < bench.keeper._pause(now) < 6
    bench.round("bad")
    assert bench.keeper._pause(now) == 1.0
    bench.round("bad")
    assert 4 < bench.keeper._pause(now) < 6


def test_patience_grows_with_each_time_and_is_forgotten_in_time() -> None:
    patience = Patience(longest=100)
    asked = []
    for number in range(7):
        asked.append(patience.asked_for(number))
        patience.left(number)
    assert asked == [0, 0, 15, 30, 60, 100, 100]
    assert patience.asked_for(606) == 0, "more than ten minutes after all but the last"


def test_no_patience_is_asked_for_where_none_is_wanted() -> None:
    patience = Patience(longest=0)
    for number in range(2000):
        patience.left(number / 10)
    assert patience.asked_for(200) == 0


def test_cache_that_flaps_is_used_again_once_it_has_answered_long_enough(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now)
    probe = bench.settings.probe._replace(max_backoff=300.0, failure_threshold=1)
    bench.settings = bench.settings._replace(probe=probe)
    bench.restarted()
    for _ in range(2):
        assert bench.round()
        assert not bench.round("bad")
    for seconds, used in ((0, False), (14, False), (1, True)):
        now += seconds
        assert bench.round() is used, seconds
    bench.round("bad")
    for seconds, used in ((0, False), (29, False)):
        now += seconds
        assert bench.round() is used, seconds
    bench.round("bad")
    now += 2
    assert not bench.round(), "the thirty seconds begin anew with each bad answer"
    assert "it came and went; it is used again once it has answered for 30 s" in bench.state
    now += 30
    assert bench.round()
    assert capsys.readouterr().out.count("it came and went") == 3, "a line for each change, none for quiet"


def test_withdrawals_are_counted_by_reason_and_only_where_the_cache_was_in_use(bench: Bench) -> None:
    for answer in ("bad", "bad", "", "bad", "bad", "bad", ""):
        bench.round(answer)
    bench.keeper.close()
    text = bench.metrics.text()
    assert 'registry_cache_node_withdrawals_total{upstream_host="docker.io",reason="timeout"} 1\n' in text
    assert 'registry_cache_node_withdrawals_total{upstream_host="docker.io",reason="program_ends"} 1\n' in text
    assert 'registry_cache_node_probes_total{upstream_host="docker.io",result="timeout"} 5\n' in text
    assert 'registry_cache_node_probes_total{upstream_host="docker.io",result="ok"} 2\n' in text
    assert 'registry_cache_node_probe_duration_seconds_count{upstream_host="docker.io"} 7\n' in text
    assert 'registry_cache_node_mirror_active{upstream_host="docker.io"} 0\n' in text
