"""The user name and password of a mounted Secret."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from upstream.credentials import Credentials, read_credentials

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS = 10.0
AWKWARD = [
    "plain",
    "@u",
    "*",
    "&a",
    "q\"uo'te",
    "back\\slash",
    "$HOME `id`",
    "ünï→🔑",
    " spaces ",
    "tab\t",
    "line\nbreak",
    "a:b",
]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("end", ["", "\n"])
def test_credentials_are_sent_byte_for_byte(tmp_path: Path, value: str, end: str) -> None:
    (tmp_path / "username").write_bytes(b"@u" + end.encode())
    (tmp_path / "password").write_bytes((value + end).encode())
    found = read_credentials(tmp_path)
    assert found is not None
    assert base64.b64decode(found.basic().removeprefix("Basic ")) == b"@u:" + value.encode()


def test_one_newline_at_the_end_is_dropped_and_bytes_that_are_not_text_are_kept(tmp_path: Path) -> None:
    (tmp_path / "username").write_bytes(b"\n\n")
    (tmp_path / "password").write_bytes(b"\xff\x00\r\n")
    assert read_credentials(tmp_path) == Credentials(b"\n", b"\xff\x00\r")


def test_missing_or_empty_secret_has_no_credentials(tmp_path: Path) -> None:
    assert read_credentials(None) is None
    assert read_credentials(tmp_path / "none") is None
    assert read_credentials(tmp_path) is None
    for name in ("username", "password"):
        (tmp_path / name).write_bytes(b"\n")
    assert read_credentials(tmp_path) is None


def test_secret_that_the_kubelet_replaces_is_read_in_one_version(tmp_path: Path) -> None:
    """As the kubelet mounts it: the files are links into ..data, which is a link to the folder of a version."""
    for name in ("username", "password"):
        (tmp_path / name).symlink_to(f"..data/{name}")

    def replace(version: str) -> None:
        (tmp_path / version).mkdir()
        for name in ("username", "password"):
            (tmp_path / version / name).write_text(version)
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").rename(tmp_path / "..data")

    replace("..1")
    ended = threading.Event()
    seen: set[Credentials | None] = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(read_credentials(tmp_path))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(2, 200):
            replace(f"..{number}")
            for name in ("username", "password"):
                (tmp_path / f"..{number - 1}" / name).unlink()
            (tmp_path / f"..{number - 1}").rmdir()
        ended.set()
        reader.result(TIMEOUT_SECONDS)
    assert None not in seen
    assert all(found.username == found.password for found in seen if found)
