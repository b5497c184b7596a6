"""A fuzz target for what an upstream sends: the store must have the right content, or none."""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from fetching import download, fetches
from gate.manifests import ACCEPT, Manifests
from hypothesis import strategies as st
from store.layout import digest_of
from store.store import Store
from upstream.client import Client, Settings
from upstream.errors import Denied, NotFound, Unavailable
from upstream.reference import BLOB, MANIFEST, Reference
from upstreams import oci
from upstreams.scripted_server import ScriptedServer

from experiments.fuzz import HANG_SECONDS, Target, mutated

if TYPE_CHECKING:
    import socket

CONTENT = b'{"schemaVersion": 2, "layers": []}'
DIGEST = digest_of(CONTENT)
REPOSITORY = "library/x"
PIECES = 4
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 34\r\nDocker-Content-Digest: %b\r\n\r\n%b" % (DIGEST.encode(), CONTENT),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n22\r\n%b\r\n0\r\n\r\n" % CONTENT,
    b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-33/34\r\nContent-Length: 34\r\n\r\n" + CONTENT,
    b"HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\n\r\n" + CONTENT,
    b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="/token",service="x"\r\nContent-Length: 0\r\n\r\n',
    b"HTTP/1.1 307 There\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n" + CONTENT,
)
# Each connection gets the next response, and the last one again; then it ends.
inputs = st.tuples(st.lists(mutated(RESPONSES), min_size=1, max_size=4), st.booleans())


def check_answers(given: tuple[list[bytes], bool]) -> None:
    """Fetch a manifest by tag and by digest, and a blob, from an upstream that sends these responses."""
    responses, is_split = given
    left = list(responses)

    def send(connection: socket.socket, _: str) -> None:
        response = left.pop(0) if len(left) > 1 else left[0]
        for start in range(0, len(response), len(response) // PIECES + 1) if is_split else [0]:
            connection.sendall(response[start : start + len(response) // PIECES + 1] if is_split else response)

    defects: list[object] = []
    with (
        ScriptedServer(send) as server,
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(download, "RESUME_PAUSES_SECONDS", (0.01,)),
        mock.patch.object(download, "RESUME_SECONDS", 0.3),
        mock.patch.object(threading, "excepthook", lambda problem: defects.append(problem.exc_value)),
    ):
        client = Client(Settings(server.url, no_proxy=("*",)), observe=lambda *_: None, log=lambda _: None)
        store = Store(Path(folder), 1 << 20)
        store.load()
        manifests = Manifests(
            store, client, tag_check_interval_seconds=0.0, count_tag_lookup=lambda _: None, log=lambda _: None
        )
        for identifier in ("1", DIGEST, "1"):
            with suppress(Unavailable, NotFound, Denied):
                manifest = manifests.get(Reference(MANIFEST, REPOSITORY, identifier))
                content = manifest.content or store.read_manifest(REPOSITORY, manifest.digest) or b""
                assert digest_of(content) == manifest.digest
                assert identifier in {"1", manifest.digest}
        with (
            suppress(Unavailable, NotFound, Denied),
            client.open("HEAD", Reference(MANIFEST, REPOSITORY, "1"), accept=ACCEPT, timeout=2.0) as answer,
        ):
            answer.read(10)
        fetch, _ = fetches.Fetches(store, client, lambda _: None).get(Reference(BLOB, REPOSITORY, DIGEST))
        assert fetch.wait_for_end(HANG_SECONDS), "the fetch does not end"
        _check_store(Path(folder), store)
    assert not defects, defects


def _check_store(folder: Path, store: Store) -> None:
    """Each blob has its digest, and a new store finds the same."""
    assert oci.damaged_blobs(folder) == []
    digests = {f"sha256:{data.parent.name}" for data in folder.rglob("data")}
    again = Store(folder, 1 << 20)
    again.load()
    for digest in digests:
        # A manifest is not found as a blob.
        assert store.find_blob(digest) == again.find_blob(digest)
        assert store.verify_blob(digest)
        assert again.verify_blob(digest)
    assert store.statistics().stored_bytes == again.statistics().stored_bytes


TARGETS = (Target("upstream", inputs, check_answers, weight=5.0),)
