"""Reading the files that the chart writes; what their fields may be is tested with the programs that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from common.config_reader import Fields, InvalidConfiguration, read_config, to_port, to_text, to_texts

if TYPE_CHECKING:
    from pathlib import Path


class Server(NamedTuple):
    """A configuration with all kinds of fields."""

    name: str
    aliases: tuple[str, ...]
    port: int
    friends: tuple[str, ...]


def _read_server(fields: Fields) -> Server:
    return Server(
        name=fields.take("name", to_text),
        aliases=fields.take("aliases", to_texts),
        port=fields.take_object("listen", lambda listen: listen.take("port", to_port)),
        friends=fields.take_objects("friends", lambda friend: friend.take("name", to_text)),
    )


def read(folder: Path, text: str) -> Server:
    (folder / "server.json").write_text(text)
    return read_config(folder / "server.json", _read_server)


def test_objects_and_lists_are_read_and_other_fields_ignored(tmp_path: Path) -> None:
    text = '{"name": "a", "aliases": ["b"], "listen": {"port": 1}, "friends": [{"name": "c"}, {"name": "d"}], "x": 1}'
    assert read(tmp_path, text) == Server("a", ("b",), 1, ("c", "d"))


def test_each_problem_has_a_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        read(tmp_path, '{"name": null, "aliases": ["b", 1], "listen": {"port": true}, "friends": [{"name": ""}, 3]}')
    file = tmp_path / "server.json"
    assert str(refused.value).splitlines() == [
        f"{file}: name: must be a string that is not empty, but is missing",
        f"{file}: aliases: must be a list of strings, but is ['b', 1]",
        f"{file}: listen.port: must be a port from 1 to 65535, but is True",
        f"{file}: friends[0].name: must be a string that is not empty, but is ''",
        f"{file}: friends[1].name: must be a string that is not empty, but is missing",
    ]


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"'])
def test_file_that_holds_no_object_has_no_fields(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="name: must be a string that is not empty, but is missing"):
        read(tmp_path, text)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "server.json").write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=r"server\.json: is not JSON: "):
        read_config(tmp_path / "server.json", _read_server)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r": cannot be read: Is a directory$"):
        read_config(tmp_path, _read_server)
