"""The node program's results about containerd's configuration match real containerds of two versions."""

from __future__ import annotations

import subprocess
import threading
import time
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from machine import tools
from node_program.containerd_configuration import (
    DEFAULT_CONFIG_PATH,
    HEADER,
    IMAGES,
    SERVICE,
    SHORT,
    NodeFiles,
    assess_files,
    check_registry_directory,
    find_obstacles,
    parse_file,
    parse_release,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

UPSTREAM = "registry.invalid"
LIMIT_SECONDS = 60.0
LOCALLY = """
[plugins."io.containerd.grpc.v1.cri".containerd]
  discard_unpacked_layers = true
"""
RUNTIMES = """
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""
PROGRAMS = {"1.x": tools.containerd_1_6, "2.x": lambda: tools.go_binary("containerd", "containerd")}


@dataclass
class Containerd:
    """A real containerd and a folder for its files; in them FOLDER stands for that."""

    program: Path
    folder: Path

    @property
    def version(self) -> str:
        """Return what `containerd --version` prints."""
        return subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True).stdout

    @property
    def main(self) -> Path:
        return self.folder / "config.toml"

    def configure(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text.replace("FOLDER", str(self.folder)))

    def dump(self) -> str | None:
        """Return what `containerd config dump` prints, None if it refuses the files."""
        command = [self.program, "--config", self.main, "config", "dump"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def config_path(self) -> str | None:
        """Return the config_path in the dump, None if it refuses the files or has no CRI plugin."""
        plugins = tomllib.loads(self.dump() or "").get("plugins", {})
        table: dict[str, Any] = next((plugins[name] for name in (IMAGES, SERVICE) if name in plugins), {})
        return table["registry"]["config_path"] if table else None

    def reads(self, directory: str, version: str) -> bool | None:
        """Return the program's result for the files."""
        node = NodeFiles({str(self.folder): self.folder})
        return check_registry_directory(str(self.main), directory, node, version).reads

    @contextmanager
    def running(self) -> Iterator[grpc.Channel]:
        """Run it, with an /etc of its own over the machine's, and connect to its CRI plugin."""
        (self.folder / "upper").mkdir(exist_ok=True)
        (self.folder / "work").mkdir()
        overlay = f"lowerdir=/etc,upperdir={self.folder}/upper,workdir={self.folder}/work"
        script = f"mount -t overlay -o {overlay} overlay /etc && exec {self.program} --config {self.main}"
        log = self.folder / "containerd.log"
        with log.open("wb") as output:
            process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=output, stderr=output)
        try:
            with grpc.insecure_channel(f"unix://{self.folder}/containerd.sock") as channel:
                yield channel
        finally:
            process.terminate()
            process.wait()
            print(log.read_text(errors="replace"))


@dataclass
class Mirror:
    """A server that records its requests, and has no content."""

    asked: list[str] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[str]:
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_GET = do_HEAD  # noqa: N815 - as the base class calls it

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.fixture(params=PROGRAMS)
def containerd(request: pytest.FixtureRequest, tmp_path: Path) -> Containerd:
    tools.ensure_containerds()
    return Containerd(PROGRAMS[request.param](), tmp_path)


def line(plugin: str, path: str) -> str:
    return f"{HEADER.format(plugin)}\nconfig_path = '{path}'\n"


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"config.toml": ""}, id="empty"),
        pytest.param({"config.toml": line(SHORT, "/a")}, id="version-1"),
        pytest.param({"config.toml": line(SERVICE, "/a")}, id="version-1-and-name-of-2"),
        pytest.param({"config.toml": f"version = 2\n{line(SERVICE, '/a')}"}, id="version-2"),
        pytest.param({"config.toml": f"version = 2\n{line(SHORT, '/a')}"}, id="version-2-and-name-of-1"),
        pytest.param({"config.toml": f"version = 2\n{line(IMAGES, '/a')}"}, id="version-2-and-name-of-3"),
        pytest.param({"config.toml": f"version = 2\ndisabled_plugins = ['cri']\n{line(SERVICE, '/a')}"}, id="disabled"),
        pytest.param({"config.toml": "version = '2'\n"}, id="version-as-text"),
        pytest.param({"config.toml": "version = 2\nimports = '*'\n"}, id="imports-as-text"),
        pytest.param({"config.toml": f"version = 2\n{HEADER.format(SERVICE)}\nconfig_path = 1\n"}, id="number"),
        pytest.param({"config.toml": f"version = 2\n{line(SERVICE, '/a')}{line(SERVICE, '/b')}"}, id="table-twice"),
        pytest.param(
            {
                "config.toml": f"version = 2\nimports = ['1.toml']\n{line(SERVICE, '/a')}",
                "1.toml": 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nmax_concurrent_downloads = 4\n',
            },
            id="import-with-another-key",
        ),
        pytest.param(
            {
                "config.toml": f"version = 2\nimports = ['1.toml']\n{line(SERVICE, '/a')}",
                "1.toml": line(SERVICE, "/b"),
            },
            id="import-without-version",
        ),
        pytest.param(
            {"config.toml": f"version = 2\nimports = ['1.toml']\n{line(SERVICE, '/a')}", "1.toml": line(SERVICE, "")},
            id="import-that-empties",
        ),
        pytest.param(
            {
                "config.toml": f"version = 2\nimports = ['1.toml', 'FOLDER/./2.toml']\n{line(SERVICE, '/a')}",
                "1.toml": f"version = 2\nimports = ['3.toml', 'config.toml']\n{line(SERVICE, '/1')}",
                "2.toml": f"version = 2\n{line(SERVICE, '/2')}",
                "3.toml": f"version = 2\n{line(SERVICE, '/3')}",
            },
            id="imports-of-imports-in-a-circle",
        ),
        pytest.param(
            {
                "config.toml": f"version = 2\nimports = ['FOLDER/[^x]*.toml']\n{line(SERVICE, '/a')}",
                "10.toml": f"version = 2\n{line(SERVICE, '/10')}",
                "9.toml": f"version = 2\n{line(SERVICE, '/9')}",
                ".8.toml": f"version = 2\n{line(SERVICE, '/8')}",
                "x.toml": "no TOML",
            },
            id="pattern",
        ),
    ],
)
def test_result_for_files_matches_containerd(containerd: Containerd, files: dict[str, str]) -> None:
    _compare(containerd, files)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"config.toml": f"version = 3\n{line(IMAGES, '/a')}"}, id="version-3"),
        pytest.param({"config.toml": f"version = 4\n{line(IMAGES, '/a')}"}, id="version-4"),
        pytest.param({"config.toml": f"version = 5\n{line(IMAGES, '/a')}"}, id="version-5"),
        pytest.param({"config.toml": f"version = 3\n{line(SERVICE, '/a')}"}, id="version-3-and-name-of-2"),
        pytest.param({"config.toml": f"version = 4\n{line(SERVICE, '/a')}"}, id="version-4-and-name-of-2"),
        pytest.param({"config.toml": f"version = 3\n{line(IMAGES, '/a')}{line(SERVICE, '/b')}"}, id="both-in-3"),
        pytest.param({"config.toml": f"version = 4\n{line(IMAGES, '/a')}{line(SERVICE, '/b')}"}, id="both-in-4"),
        pytest.param(
            {"config.toml": f"version = 3\nimports = ['1.toml']\n{line(IMAGES, '/a')}", "1.toml": line(SHORT, "/b")},
            id="import-of-version-1",
        ),
        pytest.param(
            {
                "config.toml": f"version = 2\nimports = ['1.toml']\n{line(SERVICE, '/a')}",
                "1.toml": f"version = 4\n{line(IMAGES, '/b')}",
            },
            id="import-of-version-4",
        ),
    ],
)
@pytest.mark.parametrize("containerd", ["2.x"], indirect=True)
def test_result_for_files_matches_containerd_2(containerd: Containerd, files: dict[str, str]) -> None:
    _compare(containerd, files)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"config.toml": f"version = 2\n{line(SERVICE, '/a')}"}, id="version-2"),
        pytest.param({"config.toml": f"version = 2\n{line(SERVICE, '/b')}"}, id="version-2-and-another-directory"),
        pytest.param({"config.toml": "version = 2\n"}, id="nothing"),
        pytest.param(
            {"config.toml": "version = 2\nimports = ['FOLDER/*.d']\n", "1.d": f"version = 2\n{line(SERVICE, '/a')}"},
            id="import",
        ),
    ],
)
def test_common_files_are_known_without_a_version(containerd: Containerd, files: dict[str, str]) -> None:
    containerd.configure(files)
    assert containerd.reads("/a", "") is (containerd.config_path() == "/a")


@pytest.mark.parametrize(
    ("text", "directory", "known"),
    [
        pytest.param(line(SERVICE, "FOLDER/certs"), "FOLDER/certs", True, id="directory"),
        pytest.param(line(SERVICE, "FOLDER/other"), "FOLDER/certs", True, id="other-directory"),
        pytest.param(line(SERVICE, "FOLDER/certs:FOLDER/other"), "FOLDER/certs", True, id="list"),
        pytest.param(
            line(SERVICE, "FOLDER/certs:FOLDER/other") + LOCALLY, "FOLDER/certs", True, id="list-and-half-a-switch"
        ),
        pytest.param(
            line(SERVICE, "FOLDER/certs:FOLDER/other") + LOCALLY + RUNTIMES, "FOLDER/certs", True, id="local-pull"
        ),
        pytest.param(
            line(SERVICE, "FOLDER/other:FOLDER/certs") + LOCALLY + RUNTIMES,
            "FOLDER/certs",
            False,
            id="second-of-a-list",
        ),
        pytest.param("", DEFAULT_CONFIG_PATH.split(":")[0], True, id="default"),
        pytest.param(LOCALLY + RUNTIMES, DEFAULT_CONFIG_PATH.split(":")[0], True, id="default-and-local-pull"),
        pytest.param(
            f"{line(SERVICE, 'FOLDER/certs')}[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.x]\nendpoint = []\n",
            "FOLDER/certs",
            True,
            id="mirrors-beside-it",
        ),
    ],
)
def test_cri_pull_reads_the_directory_exactly_if_that_was_the_result(
    containerd: Containerd, text: str, directory: str, *, known: bool
) -> None:
    folder = containerd.folder
    sockets = f"[grpc]\naddress = '{folder}/containerd.sock'\n[ttrpc]\naddress = '{folder}/containerd.sock.ttrpc'\n"
    containerd.configure({"config.toml": f"version = 2\nroot = 'FOLDER/root'\nstate = 'FOLDER/state'\n{sockets}{text}"})
    directory = directory.replace("FOLDER", str(folder))
    # What is below /etc has to be in containerd's own.
    place = Path(f"{folder}/upper{directory.removeprefix('/etc')}" if directory.startswith("/etc/") else directory)
    (place / UPSTREAM).mkdir(parents=True)
    mirror = Mirror()
    with mirror.serving() as url:
        (place / UPSTREAM / "hosts.toml").write_text(f"[host.'{url}']\n  capabilities = ['pull', 'resolve']\n")
        with containerd.running() as channel:
            _pull(channel)

    reads = containerd.reads(directory, containerd.version)
    assert reads is (bool(mirror.asked) if known else None)
    assert containerd.reads(directory, "") in {None, bool(mirror.asked)}
    # The container that changes containerd uses the dump.
    dump = assess_files([parse_file("dump", containerd.dump() or "")], directory, parse_release(containerd.version))
    assert dump.reads is reads


@pytest.mark.parametrize("containerd", ["1.x"], indirect=True)
@pytest.mark.parametrize(
    ("key", "found"), [("auth]\nusername = 'x'", ""), ("tls]\nca_file = '/x'", "registry.configs.*.tls")]
)
def test_settings_that_stop_the_cri_plugin_are_found_in_the_dump(containerd: Containerd, key: str, found: str) -> None:
    table = f"[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'x'.{key}\n"
    containerd.configure({"config.toml": f"version = 2\n{table}"})
    assert find_obstacles(parse_file("dump", containerd.dump() or "")) == found


def _compare(containerd: Containerd, files: dict[str, str]) -> None:
    """Compare the program's result for files, for this release and for any, with what containerd reads."""
    containerd.configure(files)
    truth = containerd.config_path() == "/a"
    for version in (containerd.version, ""):
        assert containerd.reads("/a", version) in {None, truth}


def _pull(channel: grpc.Channel) -> None:
    """Have the CRI plugin try to pull an image (CRI's api.proto: PullImageRequest.image.image); it cannot succeed."""
    name = f"{UPSTREAM}/image:1".encode()
    image = b"\x0a" + bytes([len(name)]) + name
    pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        with pytest.raises(grpc.RpcError) as caught:
            pull(b"\x0a" + bytes([len(image)]) + image, timeout=LIMIT_SECONDS)
        if caught.value.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert caught.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
