"""What the node program does after good and bad probes, and what it reports."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from common.endpoint import Endpoint
from made_node import settings_for
from node_program import __main__ as main
from node_program import keeper
from node_program.cache_probe import ProbeFailed
from node_program.configuration import Cache, Probe
from node_program.hosts_toml import Mirror
from node_program.keeper import Backoff, Keeper
from node_program.metrics import Metrics
from node_program.readiness import Readiness
from node_program.registry_directory import RegistryDirectory

CACHE = Cache("docker.io", "https://registry-1.docker.io", Endpoint("http", "127.0.0.1", 5000), "docker.io")
# Far more than anything here needs.
TIMEOUT_SECONDS = 10.0


class Bench:
    """A keeper of a cache whose answers tests set, with a real registry directory and readiness file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start with a cache that answers; nothing is probed yet."""
        self.certs, self.folder = folder / "certs.d", folder / "state"
        self.certs.mkdir()
        self.problem: Exception | None = None
        monkeypatch.setattr(keeper, "probe", self.fake_probe)
        self.settings = settings_for(self.certs, self.folder, CACHE)
        self.metrics = Metrics(["docker.io"])
        self.directory = RegistryDirectory(self.certs, "a/b")
        self.keeper = self.restarted()

    def restarted(self) -> Keeper:
        readiness = Readiness(self.folder, ["docker.io"])
        self.keeper = Keeper(CACHE, self.settings, self.directory, readiness, self.metrics)
        return self.keeper

    def fake_probe(self, endpoint: Endpoint, timeout: float, identity: str | None, secure: object) -> None:
        assert secure is None
        assert (endpoint, identity) == (CACHE.endpoint, CACHE.identity)
        assert 0 < timeout <= self.settings.probe.timeout
        if self.problem:
            raise self.problem

    def probe_once(self, problem: str = "") -> bool:
        """Probe once, and return whether the cache is in use then."""
        self.problem = ProbeFailed(problem, "timeout") if problem else None
        self.keeper.probe_once()
        return self.used

    @property
    def used(self) -> bool:
        return (self.certs / "docker.io" / "hosts.toml").exists()

    @property
    def readiness(self) -> str:
        names = {path.name for path in self.folder.iterdir()}
        assert len(names) == 1, "one of them, never both or none"
        return "ready" if names == {"ready"} else (self.folder / "not-ready").read_text()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_one_success_activates_and_two_failures_in_a_row_withdraw(bench: Bench) -> None:
    answers = ["", "bad", "", "bad", "bad", "bad", ""]
    assert [bench.probe_once(answer) for answer in answers] == [True, True, True, True, False, False, True]


def test_certificate_of_the_nodes_that_the_cache_does_not_know_yet_is_used_after_the_earlier_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache may get the authority of a new certificate later than a node gets the certificate."""
    authorities, client = tmp_path / "x-tls.crt", tmp_path / "x-client"
    authorities.write_text("authority\n")
    client.mkdir()
    (client / "tls.key").write_text("key\n")
    endpoint = Endpoint("https", "127.0.0.1", 5000, authorities, client)
    cache = CACHE._replace(endpoint=endpoint)
    known, shown, refused = "old", [], ("the cache does not accept the certificate of the nodes", "certificate")

    def fake_probe(_: Endpoint, __: float, ___: str | None, secure: Any) -> None:
        shown.append(secure.keywords["client"].splitlines()[0])
        if shown[-1] != known:
            raise ProbeFailed(*refused)

    monkeypatch.setattr(keeper, "probe", fake_probe)
    readiness = Readiness(bench.folder, ["docker.io"])
    one = Keeper(cache, bench.settings, bench.directory, readiness, bench.metrics)

    def files() -> list[str]:
        return [file.read_text() for file in bench.certs.glob(".registry-cache-*.pem")]

    (client / "tls.crt").write_text("old\n")
    one.probe_once()
    assert (bench.used, files()) == (True, ["old\nkey\n"])
    (client / "tls.crt").write_text("new\n")
    one.probe_once()
    assert (bench.used, files(), shown) == (True, ["old\nkey\n"], ["old", "new", "old"])
    known = "new"
    one.probe_once()
    assert (bench.used, files(), shown[-1]) == (True, ["new\nkey\n"], "new")
    known = "neither"
    for _ in range(2):
        one.probe_once()
    bench.directory.close()
    assert (bench.used, files()) == (False, [])


def test_readiness_and_log_report_each_change_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.readiness == "docker.io: not probed yet\n"
    for _ in range(3):
        bench.probe_once()
    assert bench.readiness == "ready"
    for _ in range(4):
        bench.probe_once("refused")
    assert bench.readiness == "docker.io: refused\n"
    bench.keeper.close()
    assert bench.readiness == "docker.io: the node program is stopping\n"
    assert capsys.readouterr().out.splitlines() == [
        "docker.io: using the cache at http://127.0.0.1:5000",
        "docker.io: not using the cache: refused",
        "docker.io: not using the cache: the node program is stopping",
    ]


def test_file_of_an_earlier_run_is_kept_until_the_first_probe_and_withdrawn_if_it_fails(bench: Bench) -> None:
    bench.probe_once()
    bench.restarted()
    assert bench.used
    assert bench.probe_once()
    bench.restarted()
    assert not bench.probe_once("bad")


def test_closed_keeper_does_not_activate_whatever_the_cache_answers(bench: Bench) -> None:
    bench.probe_once()
    bench.keeper.close()
    assert not bench.probe_once()


def test_foreign_file_that_cannot_be_combined_is_reported_and_ours_withdrawn(bench: Bench) -> None:
    bench.probe_once()
    (bench.certs / "_default").mkdir()
    (bench.certs / "_default" / "hosts.toml").write_text("server =")
    assert not bench.probe_once()
    assert bench.readiness.startswith("docker.io: _default/hosts.toml is left unchanged: it is not TOML: ")


def test_other_release_is_named(bench: Bench) -> None:
    RegistryDirectory(bench.certs, "other/name").activate("docker.io", Mirror("https://x", CACHE.endpoint, "1s"))
    bench.probe_once()
    assert bench.readiness == "docker.io: the upstream is managed by the node program of other/name\n"


def test_folder_that_cannot_be_written_is_reported_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/host/registry/x")

    with monkeypatch.context() as patch:
        patch.setattr(bench.directory, "activate", full)
        for _ in range(3):
            bench.probe_once()
    reason = "hosts.toml cannot be written: No space left on device: /host/registry/x"
    assert bench.readiness == f"docker.io: {reason}\n"
    assert bench.probe_once()
    assert capsys.readouterr().out.splitlines()[0] == f"docker.io: not using the cache: {reason}"


def test_old_address_is_withdrawn_if_the_new_one_cannot_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe_once()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.directory, "activate", full)
    assert not bench.probe_once()


def test_file_that_cannot_be_withdrawn_is_reported_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe_once()

    def read_only(_: str) -> bool:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(bench.directory, "withdraw", read_only)
        bench.probe_once("bad")
        assert bench.probe_once("bad")
    assert bench.readiness == "docker.io: hosts.toml cannot be withdrawn: Read-only file system\n"
    assert not bench.probe_once("bad")


def test_resolver_and_cache_that_hang_take_no_longer_than_the_timeout(tmp_path: Path) -> None:
    """Both wait on real sockets here. DNS gets half of the time, so that a cache that works is still probed."""
    released = threading.Event()
    certs = tmp_path / "certs.d"
    certs.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        cache = CACHE._replace(endpoint=Endpoint("http", "cache", silent.getsockname()[1]))
        probe = Probe(interval=5.0, timeout=0.4, failure_threshold=1, max_backoff=0.0)
        settings = settings_for(certs, tmp_path / "state", cache)._replace(probe=probe)
        readiness = Readiness(tmp_path / "state", ["docker.io"])
        directory = RegistryDirectory(certs, "a/b")
        keeper_of_hanging_cache = Keeper(cache, settings, directory, readiness, Metrics(["docker.io"]))
        keeper_of_hanging_cache._address._known = "127.0.0.1"
        real = socket.getaddrinfo

        def hang(host: str, *arguments: object, **keywords: object) -> object:
            if host == "cache":
                released.wait(TIMEOUT_SECONDS)
            return real("127.0.0.1", *arguments, **keywords)  # type: ignore[arg-type]

        patch.setattr(socket, "getaddrinfo", hang)
        begun = time.monotonic()
        keeper_of_hanging_cache.probe_once()
        assert time.monotonic() - begun < 0.8
        released.set()
        assert keeper_of_hanging_cache._address._lookup is not None
        assert keeper_of_hanging_cache._address._lookup.wait(TIMEOUT_SECONDS)
    assert "the cache did not answer in time" in (tmp_path / "state" / "not-ready").read_text()


def test_unexpected_error_withdraws_the_cache_and_the_thread_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe_once()
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
    assert asked.wait(TIMEOUT_SECONDS)
    stop.set()
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()
    assert not bench.used
    assert "never seen before" in bench.readiness


def test_probes_start_an_interval_apart_however_long_they_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a cache that hangs would be withdrawn later than one that refuses: by the timeout of each probe."""
    pauses: list[float] = []
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    monkeypatch.setattr(bench.keeper, "probe_once", lambda: None)

    class Once(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            pauses.append(timeout)
            self.set()
            return True

    bench.keeper.run(Once())
    assert pauses == [3.0], "5 s less the 2 s that the probe took"


def test_readiness_file_that_cannot_be_written_is_reported_once_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readiness = Readiness(tmp_path, ["docker.io"])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for reason, before, after in ((None, "not-ready", "ready"), ("away", "ready", "not-ready")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            for _ in range(3):
                readiness.set("docker.io", reason)
        assert [path.name for path in tmp_path.iterdir()] == [before]
        readiness.set("docker.io", reason)
        assert [path.name for path in tmp_path.iterdir()] == [after]
    assert capsys.readouterr().out == "the readiness file cannot be written: No space left on device\n" * 2


def test_earlier_run_whose_files_cannot_be_withdrawn_is_reported(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readiness = Readiness(bench.folder, [])
    bench.directory.activate("gone.io", Mirror("https://x", CACHE.endpoint, "1s"))
    real = Path.rename
    with monkeypatch.context() as patch:

        def rename(source: Path, target: Path) -> Path:
            if source.name == "gone.io":
                raise OSError(30, "Read-only file system")
            return real(source, target)

        patch.setattr(Path, "rename", rename)
        for _ in range(2):
            assert not main.tidy(bench.directory, ["docker.io"], readiness)
    problem = "earlier run: what it left cannot be withdrawn: gone.io: Read-only file system"
    assert bench.readiness == f"{problem}\n"
    assert main.tidy(bench.directory, ["docker.io"], readiness)
    assert bench.readiness == "ready"
    assert capsys.readouterr().out.splitlines() == [
        problem,
        "gone.io: withdrew the hosts.toml that an earlier run left",
    ]


def test_failed_probe_is_repeated_soon_while_the_cache_is_in_use(bench: Bench) -> None:
    """So that a cache that is down is withdrawn in time, and all others are probed seldom."""
    bench.probe_once()
    now = time.monotonic()
    assert 4 < bench.keeper._pause(now) < 6
    bench.probe_once("bad")
    assert bench.keeper._pause(now) == 1.0
    bench.probe_once("bad")
    assert 4 < bench.keeper._pause(now) < 6


def test_backoff_grows_with_each_withdrawal_and_is_forgotten_in_time() -> None:
    backoff = Backoff(max_seconds=100)
    required = []
    for number in range(7):
        required.append(backoff.required_seconds(number))
        backoff.note_withdrawal(number)
    assert required == [0, 0, 15, 30, 60, 100, 100]
    assert backoff.required_seconds(606) == 0, "more than ten minutes after all but the last"


def test_backoff_can_be_turned_off() -> None:
    backoff = Backoff(max_seconds=0)
    for number in range(2000):
        backoff.note_withdrawal(number / 10)
    assert backoff.required_seconds(200) == 0


def test_unsteady_cache_is_used_again_once_it_has_answered_long_enough(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    probe = bench.settings.probe._replace(max_backoff=300.0, failure_threshold=1)
    bench.settings = bench.settings._replace(probe=probe)
    bench.restarted()
    for _ in range(2):
        assert bench.probe_once()
        assert not bench.probe_once("bad")
    for seconds, used in ((0, False), (14, False), (1, True)):
        now += seconds
        assert bench.probe_once() is used, seconds
    bench.probe_once("bad")
    for seconds, used in ((0, False), (29, False)):
        now += seconds
        assert bench.probe_once() is used, seconds
    bench.probe_once("bad")
    now += 2
    assert not bench.probe_once(), "the thirty seconds start again with each failed probe"
    assert "the cache was unsteady, and has to answer for 30 s before it is used again" in bench.readiness
    now += 30
    assert bench.probe_once()
    assert capsys.readouterr().out.count("the cache was unsteady") == 3, "a line for each change, and no other"


def test_withdrawals_are_counted_by_reason_and_only_if_the_cache_was_in_use(bench: Bench) -> None:
    for answer in ("bad", "bad", "", "bad", "bad", "bad", ""):
        bench.probe_once(answer)
    bench.keeper.close()
    text = bench.metrics.render()
    assert 'registry_cache_node_withdrawals_total{upstream_host="docker.io",reason="timeout"} 1\n' in text
    assert 'registry_cache_node_withdrawals_total{upstream_host="docker.io",reason="program_ends"} 1\n' in text
    assert 'registry_cache_node_probes_total{upstream_host="docker.io",result="timeout"} 5\n' in text
    assert 'registry_cache_node_probes_total{upstream_host="docker.io",result="ok"} 2\n' in text
    assert 'registry_cache_node_probe_duration_seconds_count{upstream_host="docker.io"} 7\n' in text
    assert 'registry_cache_node_mirror_active{upstream_host="docker.io"} 0\n' in text
