"""A real distribution reads the volume: its responses are right after any change, and during changes."""

from __future__ import annotations

import http.client
import os
import random
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine.cgroups import Cgroup
from machine.processes import Place, wait_for
from made_stores import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    KIB,
    MIB,
    Killed,
    failing_system_call,
    index_of,
    manifest_of,
    put_blob,
)
from store.store import NoRoom, Store
from upstreams.distribution import start_distribution
from upstreams.oci import INDEX, MANIFEST, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCEPT = f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
REPOSITORIES = ["one", "one/two"]
TAGS = ["latest", "v1"]
LAYERS = [bytes([number]) * size for number, size in enumerate([10, 70 * KIB, 300 * KIB, 1500 * KIB])]
CONFIG = b'{"architecture": "amd64", "os": "linux"}'
IMAGES = [
    manifest_of(CONFIG, LAYERS[:2], MANIFEST),
    manifest_of(CONFIG, LAYERS[1:3], DOCKER_MANIFEST),
    manifest_of(CONFIG, LAYERS[2:], None),
]
INDEXES = [index_of(IMAGES[:2], INDEX), index_of(IMAGES[1:], None), index_of(IMAGES, DOCKER_LIST)]
MANIFESTS = [*IMAGES, *INDEXES]
BLOBS = [*LAYERS, CONFIG]
TIMEOUT_SECONDS = 60.0


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket at a path."""
        super().__init__("registry", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        import socket  # noqa: PLC0415

        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


@dataclass
class Distribution:
    """A real distribution that reads the volume, as in a cache pod."""

    place: Place
    root: Path
    responses: Counter[int | str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.place.folder / "distribution.sock"

    def start(self) -> None:
        configuration = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.root)},
                "maintenance": {"readonly": {"enabled": True}, "uploadpurging": {"enabled": False}},
            },
            "http": {"net": "unix", "addr": str(self.socket)},
        }
        start_distribution(self.place, "distribution", configuration)
        wait_for("distribution to listen", self.socket.exists, TIMEOUT_SECONDS)

    def get(self, path: str) -> tuple[int, bytes, str | None]:
        connection = Connection(self.socket)
        try:
            connection.request("GET", path, headers={"Accept": ACCEPT, "Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read(), response.headers["Docker-Content-Digest"]
        finally:
            connection.close()

    def check(self, path: str, expected: list[bytes]) -> None:
        """Request something, and note a fault unless the response is one of the expected contents, or "not found".

        A blob can be removed between the moments when distribution finds it and opens it (blobserver.go, ServeBlob).
        The response is then cut before its first byte. That is not wrong content: every client sees that the body is
        shorter than the announced length. A blob that is removed while distribution looks for it causes a 500 instead
        of a 404. The front asks distribution for blobs only while the gate, which alone removes them, is away.
        """
        try:
            status, body, name = self.get(path)
        except http.client.IncompleteRead as cut:
            if cut.partial or "/blobs/" not in path:
                self.faults.append(f"{path}: cut after {len(cut.partial)} bytes")
            self.responses["cut"] += 1
            return
        self.responses[status] += 1
        absent = status == 404 or (status == 500 and "/blobs/" in path and b"unknown blob" in body)
        if not (absent or (status == 200 and body in expected and name == digest(body))):
            self.faults.append(f"{path}: {status} {name} {len(body)} bytes {body[:200]!r}")

    def check_all(self) -> None:
        for repository in REPOSITORIES:
            for content in BLOBS:
                self.check(f"/v2/{repository}/blobs/{digest(content)}", [content])
            for content in MANIFESTS:
                self.check(f"/v2/{repository}/manifests/{digest(content)}", [content])
            for tag in TAGS:
                self.check(f"/v2/{repository}/manifests/{tag}", MANIFESTS)


@pytest.fixture
def distribution(tmp_path: Path) -> Iterator[Distribution]:
    # The path of a socket must be short (unix(7)).
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), Cgroup(f"rcache-store-{os.getpid()}"))
        place.cgroup.create()
        try:
            distribution = Distribution(place, tmp_path)
            distribution.start()
            yield distribution
        finally:
            place.cgroup.kill()
            place.cgroup.remove()
            print(place.log("distribution").read_text()[-3000:])


def change_store(store: Store, chosen: random.Random) -> None:
    """Do one of the things that are done to a store."""
    repository = chosen.choice(REPOSITORIES)
    content = chosen.choice(BLOBS)
    manifest = chosen.choice(MANIFESTS)
    action = chosen.randrange(8)
    if action <= 1:
        put_blob(store, repository, content)
    elif action <= 3:
        store.put_manifest(repository, manifest, chosen.choice([None, *TAGS]))
    elif action == 4:
        store.mark_used(repository, digest(chosen.choice([content, manifest])))
        store.read_manifest(repository, digest(manifest))
    elif action == 5:
        store.remove_tag(repository, chosen.choice(TAGS))
    elif action == 6:
        with suppress(FileNotFoundError):
            store.set_tag(repository, chosen.choice(TAGS), digest(manifest))
    else:
        for name in [*store._index.blobs][:1]:
            store._removal.remove_blob(name, "evicted")


def test_all_stored_content_is_served(distribution: Distribution, tmp_path: Path) -> None:
    store = Store(tmp_path, 64 * MIB)
    store.load()
    for repository in REPOSITORIES:
        for content in BLOBS:
            put_blob(store, repository, content)
        for content in MANIFESTS:
            store.put_manifest(repository, content)
    for content in MANIFESTS:
        for tag in TAGS:
            store.put_manifest("one", content, tag)
            assert distribution.get(f"/v2/one/manifests/{tag}")[:2] == (200, content)
    store.put_manifest("one/two", MANIFESTS[0], "latest")
    store.put_manifest("one/two", MANIFESTS[1], "v1")
    distribution.check_all()
    assert distribution.faults == []
    assert set(distribution.responses) == {200}


def test_every_response_is_right_after_any_sequence_and_after_kills(distribution: Distribution, tmp_path: Path) -> None:
    chosen = random.Random(1)  # noqa: S311 - the same each time
    store = Store(tmp_path, 3 * MIB)
    store.load()
    for _ in range(120):
        for _ in range(chosen.randrange(6)):
            with suppress(NoRoom, FileNotFoundError):
                change_store(store, chosen)
        if chosen.random() < 0.5:
            with (
                suppress(Killed, NoRoom, FileNotFoundError),
                failing_system_call(chosen.randrange(60), Killed, lasting=True),
            ):
                change_store(store, chosen)
            distribution.check_all()
            store = Store(tmp_path, 3 * MIB)
            store.load()
        distribution.check_all()
    assert distribution.faults == []
    assert set(distribution.responses) == {200, 404}


def test_every_response_is_right_while_the_store_changes(distribution: Distribution, tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * MIB)
    store.load()
    ended = threading.Event()
    raised: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                distribution.check_all()
        except BaseException as error:  # noqa: BLE001 - reported below
            raised.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    chosen = random.Random(2)  # noqa: S311 - the same each time
    try:
        for _ in range(1000):
            with suppress(NoRoom, FileNotFoundError):
                change_store(store, chosen)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    print(distribution.responses)
    assert raised == []
    assert distribution.faults == []
    assert distribution.responses[200]
    assert distribution.responses[404]
