"""The text of hosts.toml: the cache first, then everything that was there before."""

from __future__ import annotations

import tomllib

import pytest
from common.endpoint import Endpoint
from node_program import hosts_toml
from node_program.hosts_toml import CannotMerge, Mirror

MIRROR = Mirror(
    server="https://registry-1.docker.io", endpoint=Endpoint("http", "10.0.0.1", 5000), dial_timeout="500ms"
)
CACHE = {"capabilities": ["pull", "resolve"], "dial_timeout": "500ms"}


def test_file_with_the_cache_only() -> None:
    assert hosts_toml.render(MIRROR, "space/name") == (
        "# registry-cache: written by space/name\n"
        'server = "https://registry-1.docker.io"\n'
        "\n"
        '[host."http://10.0.0.1:5000"]\n'
        '  capabilities = ["pull", "resolve"]\n'
        '  dial_timeout = "500ms"\n'
    )


def test_owner_is_read_back() -> None:
    assert hosts_toml.owner_of(hosts_toml.render(MIRROR, "space/name")) == "space/name"
    assert hosts_toml.owner_of('server = "x"\n') is None
    assert hosts_toml.owner_of("") is None


def test_created_folder_is_read_back() -> None:
    assert hosts_toml.folder_was_created(hosts_toml.render(MIRROR, "a/b", created_folder=True))
    assert not hosts_toml.folder_was_created(hosts_toml.render(MIRROR, "a/b"))


@pytest.mark.parametrize(
    "before",
    [
        pytest.param('server = "https://other"\n', id="server-alone"),
        pytest.param('[host."https://mirror"]\n  capabilities = ["pull"]\n', id="host-alone"),
        pytest.param(
            '# note\nserver = "https://other"\nca = "x.crt"\n\n[host."https://one"]\n[host."https://two"]\n', id="all"
        ),
        pytest.param('[host."https://one"]\n[host."https://one".header]\n  x = ["1"]\n', id="header"),
        pytest.param('capabilities = [\n  "pull",\n  "resolve",\n]\n[host."https://one"]\n', id="list-over-lines"),
        pytest.param('[host."https://one"] # no newline at the end', id="no-newline"),
        pytest.param("", id="empty"),
        pytest.param("# only a comment\n", id="comment"),
    ],
)
def test_existing_mirrors_follow_the_cache(before: str) -> None:
    found = tomllib.loads(before)
    text = hosts_toml.render(MIRROR, "space/name", before=before)
    merged = tomllib.loads(text)
    assert merged == {"server": MIRROR.server, **found, "host": {MIRROR.endpoint.url: CACHE, **found.get("host", {})}}
    assert list(merged["host"]) == [MIRROR.endpoint.url, *found.get("host", {})]
    for line in before.splitlines():
        assert line in text, "comments stay"


@pytest.mark.parametrize(
    ("before", "message"),
    [
        pytest.param("server = \n", "not TOML", id="broken"),
        pytest.param(f"x = {'[' * 2000}{']' * 2000}\n", "not TOML", id="nested-too-deeply"),
        pytest.param(f"x = {'9' * 5000}\n", "not TOML", id="huge-number"),
        pytest.param('host."https://one".capabilities = ["pull"]\n', "not TOML|in front", id="dotted"),
        pytest.param('x = [\n  ["a"],\n]\n', "not TOML|in front", id="list-of-lists"),
        pytest.param('[host."http://10.0.0.1:5000"]\n', "names http://10.0.0.1:5000 already", id="same-host"),
    ],
)
def test_file_that_cannot_be_combined_is_refused(before: str, message: str) -> None:
    with pytest.raises(CannotMerge, match=message):
        hosts_toml.render(MIRROR, "space/name", before=before)


def test_certificate_files_become_keys() -> None:
    assert hosts_toml.keys_for_certificates(["b.crt", "a.crt", "notes"]) == 'ca = ["a.crt", "b.crt"]\n'
    assert hosts_toml.keys_for_certificates(["c.cert", "c.key"]) == 'client = [["c.cert", "c.key"]]\n'
    assert hosts_toml.keys_for_certificates(["c.cert"]) == 'client = ["c.cert"]\n'
    assert hosts_toml.keys_for_certificates(["notes"]) == ""
    with pytest.raises(CannotMerge):
        hosts_toml.keys_for_certificates(["c.cert", "c.key", "d.cert"])


@pytest.mark.parametrize(
    ("text", "relative"),
    [
        ('ca = "x.crt"', True),
        ('ca = ["/x.crt", "y.crt"]', True),
        ('[host."https://a"]\nclient = [["/c", "k"]]', True),
        ('ca = "/x.crt"', False),
        ('server = "https://a"', False),
        ("broken =", False),
    ],
)
def test_relative_paths_are_noticed(text: str, relative: bool) -> None:  # noqa: FBT001 - a table
    assert hosts_toml.names_relative_files(text) is relative
