"""Whether containerd uses a proxy, from the files of the services that start it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from made_node import settings_for
from node_program import containerd_proxy, find_proxy, keeper
from node_program.cache_probe import ProbeFailed
from node_program.configuration import Cache, ProxyCheck
from node_program.containerd_proxy import ContainerdProxy, Service
from node_program.keeper import Keeper
from node_program.metrics import Metrics
from node_program.readiness import Readiness
from node_program.registry_directory import RegistryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYSTEM = "/etc/systemd/system"
UNIT = f"{SYSTEM}/containerd.service"
DROP_IN = f"{UNIT}.d/http-proxy.conf"
PROXY = "http://proxy.example.com:3128"
SECRET = "s3cret"
# A cache's Service.
ENDPOINT = Endpoint("http", "10.96.0.10", 5000)
RANGE = "10.96.0.0/12"


def service(*lines: str) -> str:
    return "\n".join(["[Service]", *lines, ""])


def check_of(root: Path, files: dict[str, str], *directories: str) -> ProxyCheck:
    """Write files of a node, and return the configuration with which a pod sees these directories of it."""
    for path, text in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    directories = directories or (SYSTEM,)
    for directory in directories:
        (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return ProxyCheck(
        ("containerd.service",), directories, {directory: root / directory.lstrip("/") for directory in directories}
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({UNIT: service("ExecStart=/usr/bin/containerd")}, None, id="no proxy"),
        pytest.param({DROP_IN: service(f"Environment=NO_PROXY={RANGE}")}, None, id="NO_PROXY alone"),
        pytest.param(
            {DROP_IN: service(f'Environment="HTTP_PROXY={PROXY}" "NO_PROXY=localhost,{RANGE}"')},
            Service(DROP_IN, "", f"localhost,{RANGE}"),
            id="drop-in, quoted",
        ),
        pytest.param(
            {DROP_IN: service(f"Environment=HTTP_PROXY={PROXY} NO_PROXY='a, b'")},
            Service(DROP_IN, "", "a, b"),
            id="several in a line",
        ),
        pytest.param(
            {DROP_IN: service(f"Environment=https_proxy={PROXY}", "Environment=no_proxy=a")},
            Service("", DROP_IN, "a"),
            id="lower case",
        ),
        pytest.param(
            {DROP_IN: service(f"Environment=HTTP_PROXY={PROXY} NO_PROXY=a no_proxy=b")},
            Service(DROP_IN, "", "a"),
            id="upper case comes first",
        ),
        pytest.param(
            {DROP_IN: service(f"Environment=HTTP_PROXY={PROXY} NO_PROXY= no_proxy=b")},
            Service(DROP_IN, "", "b"),
            id="empty upper case counts as none",
        ),
        pytest.param(
            {UNIT: service(f"Environment=HTTP_PROXY={PROXY}"), DROP_IN: service("Environment=", "Environment=X=y")},
            None,
            id="reset in a drop-in",
        ),
        pytest.param(
            {UNIT: service(f"Environment=HTTP_PROXY={PROXY}"), DROP_IN: service("UnsetEnvironment=HTTP_PROXY")},
            None,
            id="unset",
        ),
        pytest.param(
            {
                f"{UNIT}.d/20.conf": service(f"Environment=HTTP_PROXY={PROXY} NO_PROXY=late"),
                f"{UNIT}.d/10.conf": service("Environment=NO_PROXY=early"),
            },
            Service(f"{UNIT}.d/20.conf", "", "late"),
            id="drop-ins in the order of their names",
        ),
        pytest.param(
            {f"{SYSTEM}/service.d/proxy.conf": service(f"Environment=HTTP_PROXY={PROXY}")},
            Service(f"{SYSTEM}/service.d/proxy.conf", "", ""),
            id="drop-in of all services",
        ),
        pytest.param(
            {
                DROP_IN: service(
                    "# Environment=HTTP_PROXY=x", "; Environment=HTTP_PROXY=x", "  #Environment=HTTP_PROXY=x"
                )
            },
            None,
            id="comments",
        ),
        pytest.param(
            {DROP_IN: service(f"Environment=HTTP_PROXY={PROXY} \\", "# a comment between", "  NO_PROXY=a")},
            Service(DROP_IN, "", "a"),
            id="continued line",
        ),
        pytest.param({DROP_IN: f"[Unit]\nEnvironment=HTTP_PROXY={PROXY}\n"}, None, id="other section"),
        pytest.param({f"{UNIT}.d/proxy.conf.bak": service(f"Environment=HTTP_PROXY={PROXY}")}, None, id="other suffix"),
        pytest.param({DROP_IN: service(f'Environment="HTTP_PROXY={PROXY}')}, None, id="open quote"),
        pytest.param({f"{SYSTEM}/docker.service": service(f"Environment=HTTP_PROXY={PROXY}")}, None, id="other unit"),
        pytest.param(
            {
                UNIT: service(f"EnvironmentFile=-{SYSTEM}/containerd.env", "Environment=NO_PROXY=a"),
                f"{SYSTEM}/containerd.env": f'# x\nHTTP_PROXY="{PROXY}"\nNO_PROXY = a,b \nexport HTTPS_PROXY=x\n',
            },
            Service(f"{SYSTEM}/containerd.env", "", "a,b"),
            id="file of variables, which wins",
        ),
        pytest.param({UNIT: service(f"EnvironmentFile=-{SYSTEM}/none.env")}, None, id="file that does not exist"),
        pytest.param(
            {UNIT: service("EnvironmentFile=/etc/environment", "EnvironmentFile=")}, None, id="file that was reset"
        ),
    ],
)
def test_environment_is_what_systemd_makes_of_the_files(
    files: dict[str, str], found: Service | None, tmp_path: Path
) -> None:
    assert find_proxy.find(check_of(tmp_path, files)) == ContainerdProxy((found,) if found else ())


def test_directories_are_in_the_order_of_systemd(tmp_path: Path) -> None:
    other = "/usr/lib/systemd/system"
    lines = {
        UNIT: service("Environment=NO_PROXY=own"),
        f"{other}/containerd.service": service(f"Environment=HTTP_PROXY={PROXY}"),
        f"{other}/containerd.service.d/a.conf": service(f"Environment=HTTPS_PROXY={PROXY}"),
        f"{other}/containerd.service.d/b.conf": service(f"Environment=HTTP_PROXY={PROXY}"),
        f"{UNIT}.d/b.conf": service("Environment=X=y"),
    }
    found = find_proxy.find(check_of(tmp_path, lines, SYSTEM, other))
    assert found.services == (Service("", f"{other}/containerd.service.d/a.conf", "own"),)


def test_defaults_of_systemd_itself_count_if_their_directory_is_mounted(tmp_path: Path) -> None:
    defaults = "/etc/systemd/system.conf.d"
    files = {
        f"{defaults}/proxy.conf": f'[Manager]\nDefaultEnvironment="HTTP_PROXY={PROXY}" "NO_PROXY=a"\n',
        DROP_IN: service("Environment=NO_PROXY=b"),
    }
    assert find_proxy.find(check_of(tmp_path, files, SYSTEM)).services == ()
    found = find_proxy.find(check_of(tmp_path, files, SYSTEM, defaults))
    assert found.services == (Service(f"{defaults}/proxy.conf", "", "b"),)


def link_out(root: Path) -> None:
    (root / UNIT.lstrip("/")).symlink_to("/usr/lib/systemd/system/containerd.service")


def forbid(root: Path) -> None:
    (root / SYSTEM.lstrip("/")).rmdir()


@pytest.mark.parametrize(
    ("files", "change", "problem"),
    [
        ({UNIT: service("EnvironmentFile=-/etc/default/x")}, None, "/etc/default/x is not mounted into this pod"),
        ({UNIT: service("EnvironmentFile=/etc/*/x.env")}, None, "a pattern other than a \\*"),
        ({}, link_out, "is a symbolic link that leads out of /etc/systemd/system"),
        ({}, forbid, "/etc/systemd/system cannot be read: "),
    ],
)
def test_what_the_pod_cannot_see_is_unknown(
    files: dict[str, str], change: Callable[[Path], None] | None, problem: str, tmp_path: Path
) -> None:
    check = check_of(tmp_path, files)
    if change:
        change(tmp_path)
    with pytest.raises(find_proxy.Unknown, match=problem):
        find_proxy.find(check)


def test_program_leaves_the_result_and_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    proxied = {DROP_IN: service(f"Environment=HTTP_PROXY=http://user:{SECRET}@proxy:3128 NO_PROXY=localhost")}
    assert run(tmp_path, check_of(tmp_path, proxied), state) == 0
    found = containerd_proxy.read(state)
    assert found is not None
    assert SECRET not in (state / containerd_proxy.FILE).read_text()
    assert found.describe_detour(ENDPOINT) == (
        f"containerd would ask it through the proxy that {DROP_IN} sets, because NO_PROXY does not cover 10.96.0.10: "
        "add the range of the cluster's Services to NO_PROXY, restart containerd, and delete this pod so that it "
        "looks again"
    )
    # Unknown now: what an earlier start of the same pod found is gone.
    unknown = {DROP_IN: service("EnvironmentFile=-/etc/default/containerd")}
    assert run(tmp_path, check_of(tmp_path, unknown), state) == 0
    assert containerd_proxy.read(state) is None
    assert "unknown: /etc/default/containerd is not mounted into this pod" in capsys.readouterr().out


def run(folder: Path, check: ProxyCheck, state: Path) -> int:
    mounts = {node: str(pod) for node, pod in check.mounts.items()}
    configuration = {
        "owner": "space/name",
        "registryDirectory": "/host/registry",
        "stateDirectory": str(state),
        "dialTimeout": "500ms",
        "probe": {"interval": "8s", "timeout": "2s", "failureThreshold": 2, "maxBackoff": "0s"},
        "metricsPort": 0,
        "containerd": {"configuration": "/c.toml", "registryDirectory": "/certs.d", "version": "", "mounts": {}},
        "proxyCheck": {"units": check.units, "directories": check.directories, "mounts": mounts},
        "caches": [],
    }
    path = folder / "node.json"
    path.write_text(json.dumps(configuration))
    return find_proxy.main(["--config", str(path)])


@pytest.mark.parametrize(
    ("found", "endpoint", "is_detour"),
    [
        (Service("x", "", ""), ENDPOINT, True),
        (Service("x", "", "10.0.0.0/8"), ENDPOINT, False),
        (Service("", "x", ""), ENDPOINT, False),
        (Service("", "x", ""), ENDPOINT._replace(scheme="https"), True),
        (Service("x", "x", ".svc,.cluster.local"), ENDPOINT, True),
        (Service("x", "x", "10.96.0.10:5000"), ENDPOINT, False),
        (Service("x", "x", "10.96.0.10:443"), ENDPOINT, True),
        (Service("x", "x", "fd00::/108"), ENDPOINT._replace(host="fd00::a"), False),
        (Service("x", "x", ""), ENDPOINT._replace(host="127.0.0.1"), False),
    ],
)
def test_detour_is_what_go_makes_of_the_environment(found: Service, endpoint: Endpoint, *, is_detour: bool) -> None:
    assert (ContainerdProxy((found,)).describe_detour(endpoint) is not None) is is_detour


@pytest.mark.parametrize("uses_proxy", [True, False, None])
def test_node_does_not_use_a_cache_that_containerd_asks_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, uses_proxy: bool | None
) -> None:
    certs, state = tmp_path / "certs.d", tmp_path / "state"
    certs.mkdir()
    if uses_proxy is not None:
        services = (Service("/etc/x.conf", "", "localhost" if uses_proxy else RANGE),)
        containerd_proxy.write(state, ContainerdProxy(services))
    cache = Cache("docker.io", "https://registry-1.docker.io", ENDPOINT)
    metrics, directory = Metrics(["docker.io"]), RegistryDirectory(certs, "a/b")
    one = Keeper(cache, settings_for(certs, state, cache), directory, Readiness(state, ["docker.io"]), metrics)
    monkeypatch.setattr(keeper, "probe", lambda *_: None)
    one.probe_once()
    assert (certs / "docker.io" / "hosts.toml").exists() is not bool(uses_proxy)
    series = 'registry_cache_node_containerd_uses_proxy{upstream_host="docker.io"}'
    assert (f"{series} {int(bool(uses_proxy))}\n" in metrics.render()) is (uses_proxy is not None)
    if uses_proxy:
        reason = (state / "not-ready").read_text()
        assert reason.startswith("docker.io: containerd would ask it through the proxy that /etc/x.conf sets, because")
    else:
        assert (state / "ready").exists()

    problem = ProbeFailed("no answer", "timeout")

    def fail(*_: object) -> None:
        raise problem

    # A cache that does not answer is reported as such.
    monkeypatch.setattr(keeper, "probe", fail)
    one.probe_once()
    one.probe_once()
    assert (state / "not-ready").read_text() == "docker.io: no answer\n"
