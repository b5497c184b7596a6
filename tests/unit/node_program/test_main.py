"""How the node program ends, and what it reports of its own defects: it never leaves a cache in use behind."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from made_node import settings_for
from node_program import __main__ as main
from node_program import keeper
from node_program.configuration import Cache, Configuration, Containerd
from node_program.directory_watch import DirectoryWatch
from node_program.hosts_toml import Mirror
from node_program.metrics import Metrics
from node_program.readiness import Readiness
from node_program.registry_directory import RegistryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

# Far more than anything here needs.
TIMEOUT_SECONDS = 10.0
UPSTREAMS = ("docker.io", "quay.io")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """Two caches that answer, and directories for the program."""
    monkeypatch.setattr(keeper, "probe", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # the program replaces it
    certs = tmp_path / "certs.d"
    certs.mkdir()
    caches = [Cache(name, f"https://{name}", Endpoint("http", "127.0.0.1", 5000)) for name in UPSTREAMS]
    return settings_for(certs, tmp_path / "state", *caches, interval=0.05)


def are_in_use(settings: Configuration) -> bool:
    return all((settings.registry_directory / name / "hosts.toml").exists() for name in UPSTREAMS)


@pytest.mark.parametrize("end", [RuntimeError("a defect"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_everything_is_withdrawn_whatever_ends_the_program(
    settings: Configuration, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    def wait_for_signal(*_: object) -> None:
        if are_in_use(settings):
            raise end

    monkeypatch.setattr(signal, "sigtimedwait", wait_for_signal)
    with pytest.raises(type(end)):
        main.run(settings)
    assert list(settings.registry_directory.iterdir()) == []


def test_cache_that_cannot_be_withdrawn_keeps_no_other_one_in_use(
    settings: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RegistryDirectory(settings.registry_directory, "a/b")
    readiness, metrics = Readiness(settings.state_directory, UPSTREAMS), Metrics([*UPSTREAMS])
    keepers = [keeper.Keeper(cache, settings, directory, readiness, metrics) for cache in settings.caches]
    for cache in settings.caches:
        directory.activate(cache.upstream, Mirror(cache.server, cache.endpoint, "1s"))

    def fail() -> None:
        message = "a defect"
        raise RuntimeError(message)

    keepers[0].close = fail  # type: ignore[method-assign]
    main.withdraw_all(keepers, directory)
    assert [path.name for path in settings.registry_directory.iterdir()] == ["docker.io"]
    assert "a cache cannot be withdrawn: RuntimeError('a defect')" in capsys.readouterr().out


def test_thread_that_ends_by_a_defect_is_in_the_log_the_metrics_and_the_readiness(
    settings: Configuration, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    readiness, metrics = Readiness(settings.state_directory, []), Metrics([])
    assert "registry_cache_node_defects_total 0\n" in metrics.render()
    monkeypatch.setattr(threading, "excepthook", main.DefectReport(readiness, metrics))
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert "registry_cache_node_defects_total 1\n" in metrics.render()
    reason = (settings.state_directory / "not-ready").read_text()
    assert reason.startswith("the node program: a part of it ended by a defect: ZeroDivisionError(")


def remove(certs: Path) -> None:
    while certs.exists():  # the keepers may write into it
        shutil.rmtree(certs, ignore_errors=True)


def remove_and_create(certs: Path) -> None:
    remove(certs)
    certs.mkdir()


def move_away_and_create(certs: Path) -> None:
    certs.rename(certs.with_name("old"))
    certs.mkdir()


def exchange(certs: Path) -> None:
    new = certs.with_name("new")
    new.mkdir()
    certs.rename(certs.with_name("old"))
    new.rename(certs)


@pytest.mark.parametrize("replace", [remove, remove_and_create, move_away_and_create, exchange])
@pytest.mark.parametrize("sees_parent", [True, False])
def test_program_restarts_when_its_registry_directory_is_replaced(
    settings: Configuration,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    replace: Callable[[Path], None],
    *,
    sees_parent: bool,
) -> None:
    """A descriptor follows the directory itself, as a mount does; without its parent, only a removal shows."""
    certs = settings.registry_directory
    shows = sees_parent or replace in (remove, remove_and_create)
    descriptor = os.open(certs, os.O_RDONLY)
    rounds = iter(range(20))

    def wait_for_signal(*_: object) -> None:
        if next(rounds) == 3:
            replace(certs)

    monkeypatch.setattr(signal, "sigtimedwait", wait_for_signal)
    mounts = {"/etc/containerd": certs.parent} if sees_parent else {}
    containerd = Containerd("/none", "/etc/containerd/certs.d", "", mounts)
    settings = settings._replace(registry_directory=Path(f"/proc/self/fd/{descriptor}"), containerd=containerd)
    with pytest.raises(SystemExit if shows else StopIteration):
        main.run(settings)
    assert ("/etc/containerd/certs.d was replaced on the node" in capsys.readouterr().out) is shows
    assert next(rounds, 20) == (4 if shows else 20), "at once, and not without a reason"
    os.close(descriptor)


def test_path_that_leads_elsewhere_from_the_start_restarts_nothing(settings: Configuration, tmp_path: Path) -> None:
    (tmp_path / "parent" / "certs.d").mkdir(parents=True)
    containerd = Containerd("/none", "/etc/containerd/certs.d", "", {"/etc/containerd": tmp_path / "parent"})
    assert not DirectoryWatch(settings.registry_directory, containerd).is_replaced()
