"""Fuzz targets for everything that the programs parse."""

from __future__ import annotations

import json
import math
import tempfile
import tomllib
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authentication.challenges import parse_challenges
from authentication.tokens import parse_token
from common.config_reader import InvalidConfiguration
from common.endpoint import Endpoint
from gate.configuration import read_configuration, read_limits
from gate.media_types import determine_media_type
from gate.pull_request import parse_pull_request
from hypothesis import strategies as st
from node_program import configuration as node_configuration
from node_program import hosts_toml
from node_program.containerd_configuration import NodeFiles, check_registry_directory
from store.layout import DIGEST, read_references
from upstream.credentials import read_credentials
from upstream.urls import Url
from upstreams import hostile_content, oci

from experiments.fuzz import Target, mutated, mutated_text, nested, replaced

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST_TEXT = f"sha256:{'a' * 64}"
MANIFEST = hostile_content.manifest_of_many_layers("seed")[:2000] + b"]}"
SMALL = {
    "schemaVersion": 2,
    "mediaType": oci.INDEX,
    "manifests": [{"digest": DIGEST_TEXT, "size": 1, "mediaType": oci.MANIFEST, "platform": {"os": "linux"}}],
    "layers": [{"digest": DIGEST_TEXT, "size": 10**18}],
    "config": {"digest": DIGEST_TEXT, "size": -1},
}
TOKEN = {
    "token": "abc",
    "access_token": "x",
    "expires_in": 300,
    "issued_at": "2026-01-01T00:00:00.000000000Z",
}
DATES = ("Thu, 01 Jan 2026 00:00:10 GMT", "Thu, 01 Jan 0001 00:00:10 +2359", "Fri, 31 Dec 9999 23:59:59 -2359")
CHALLENGE = 'Bearer realm="https://auth.example.org/token",service="r",scope="repository:a/b:pull", Basic realm="x"'
CACHE = {
    "upstream": "docker.io",
    "remoteURL": "https://registry-1.docker.io",
    "credentials": "/secret",
    "httpProxy": "",
    "httpsProxy": "",
    "noProxy": ["10.0.0.0/8"],
    "proxyCredentials": "",
    "caFile": "",
    "credentialsSource": "",
    "caSource": "",
    "tagCheckInterval": "5s",
    "fetchAhead": "Adaptive",
    "replicas": [{"scheme": "http", "host": "x", "port": 5000}],
}
ROOM = {"capacity": 1 << 30, "highWaterMarkPercent": 85, "ttl": "168h0m0s", "version": "1"}
NODE = {
    "owner": "space/name",
    "registryDirectory": "/etc/containerd/certs.d",
    "stateDirectory": "/run/x",
    "dialTimeout": "500ms",
    "probe": {"interval": "8s", "timeout": "2s", "failureThreshold": 2, "maxBackoff": "5m"},
    "metricsPort": 9253,
    "containerd": {"configuration": "/etc/x", "registryDirectory": "/etc/y", "version": "", "mounts": {"/etc": "/e"}},
    "caches": [
        {"upstream": "docker.io", "server": "https://x", "endpoint": {"scheme": "http", "host": "1.2.3.4", "port": 5}}
    ],
}
CONTAINERD = """version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
disabled_plugins = ["x"]
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors."docker.io"]
  endpoint = ["https://x"]
"""
HOSTS = """server = "https://registry-1.docker.io"
ca = ["a.crt"]
[host."https://mirror.example.com"]
  capabilities = ["pull", "resolve"]
  client = [["a.cert", "a.key"]]
  [host."https://mirror.example.com".header]
    x = "y"
"""
MIRROR = hosts_toml.Mirror("https://registry-1.docker.io", Endpoint("http", "10.0.0.1", 5000), "500ms")
PATHS = (f"/v2/library/x/blobs/{DIGEST_TEXT}", "/v2/library/x/manifests/1", f"/v2/a/b/c/manifests/{DIGEST_TEXT}")
RANGES = ("bytes=0-99", "bytes=5-", "bytes=-5", "bytes=0-1,4-5", "bytes=99999999999999999999-", "items=0-1")
URLS = ("https://auth.example.org:443/token?x=y", "http://[::1]:80/", "//host/path", "/token", "http://u:p@h/")


def _check_manifest(content: bytes) -> None:
    for digest, size in read_references(content).items():
        assert DIGEST.fullmatch(digest)
        assert type(size) is int
    media_type = determine_media_type(content)
    assert media_type is None or (media_type.isascii() and media_type.isprintable())


def _check_token(given: tuple[bytes, str | None]) -> None:
    try:
        token = parse_token(*given, 1000.0)
    except ValueError:
        return
    assert token.value.isascii()
    assert not math.isnan(token.good_until)


def _check_challenge(header: str) -> None:
    for challenge in parse_challenges([header, header]):
        assert challenge.scheme == challenge.scheme.lower()


def _checked_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Return a check that writes a file into a new folder and calls `read` with the folder."""

    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(content)
            try:
                read(Path(folder))
            except InvalidConfiguration as problem:
                assert str(problem)  # noqa: PT017 - only a file that cannot be used has a message

    return check


def _check_containerd(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.toml").write_bytes(content)
        files = NodeFiles({"/etc/containerd": Path(folder)})
        finding = check_registry_directory("/etc/containerd/config.toml", "/etc/containerd/certs.d", files, "2.4.2")
        assert finding.reads or finding.problem


def _check_hosts(content: bytes) -> None:
    # As the node program reads files: bytes that are not UTF-8 become surrogates.
    text = content.decode("utf-8", "surrogateescape")
    hosts_toml.owner_of(text)
    hosts_toml.names_relative_files(text)
    try:
        merged = hosts_toml.render(MIRROR, "space/name", before=text)
    except hosts_toml.CannotMerge:
        return
    hosts: dict[str, Any] = tomllib.loads(merged)["host"]
    assert next(iter(hosts)) == MIRROR.endpoint.url


def _check_secret(given: tuple[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip(("username", "password"), given, strict=True):
            (Path(folder) / name).write_bytes(content)
        credentials = read_credentials(Path(folder))
        if credentials is not None:
            assert credentials.basic().isascii()
            assert credentials.basic().isprintable()
            assert given[1] not in repr(credentials).encode() or len(given[1]) <= len(repr(credentials))


def _check_pull_request(given: tuple[str, str, str]) -> None:
    path, byte_range, agent = given
    headers = Message()
    headers.add_header("Range", byte_range)
    headers.add_header("User-Agent", agent)
    request = parse_pull_request("GET", path, headers, lambda *_: False)
    if request is not None:
        assert ".." not in request.reference.repository.split("/")
        assert request.first_byte >= 0
        assert request.last_byte is None or request.last_byte >= 0


def _check_url(text: str) -> None:
    try:
        url = Url.parse(text, Url.parse("https://registry-1.docker.io/v2/"))
    except ValueError:
        return
    assert url.origin.scheme in {"http", "https"}
    assert url.target.isascii()
    assert not set(url.target + url.origin.host) & set("\r\n \0")


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


TARGETS = (
    Target(
        "manifest",
        mutated([MANIFEST, _json(SMALL)])
        | replaced(SMALL)
        | nested("[", "]", '{"schemaVersion":2,"x":{}}')
        | nested('{"a":', "}", "{}"),
        _check_manifest,
    ),
    Target(
        "token", st.tuples(mutated([_json(TOKEN)]) | replaced(TOKEN), st.none() | mutated_text(DATES)), _check_token
    ),
    Target("challenge", mutated_text([CHALLENGE, 'Basic realm="x\\"y"', "Bearer"]), _check_challenge),
    Target(
        "gate-configuration",
        mutated([_json(CACHE)]) | replaced(CACHE) | nested("[", "]", '{"upstream": {}}'),
        _checked_file("cache.json", read_configuration),
    ),
    Target("limits", mutated([_json(ROOM)]) | replaced(ROOM), _checked_file("room.json", read_limits)),
    Target(
        "node-configuration",
        mutated([_json(NODE)]) | replaced(NODE),
        _checked_file("node.json", lambda folder: node_configuration.read(folder / "node.json")),
    ),
    Target("containerd-toml", mutated([CONTAINERD.encode()]) | nested("[", "]", "x = {}"), _check_containerd),
    Target("hosts-toml", mutated([HOSTS.encode()]) | nested("[", "]", "x = {}"), _check_hosts),
    Target("secret", st.tuples(mutated([b"user\n"]), mutated([b"pass:word\n"])), _check_secret),
    Target(
        "request",
        st.tuples(mutated_text(PATHS), mutated_text(RANGES), st.sampled_from(["containerd/2", "x"])),
        _check_pull_request,
    ),
    Target("url", mutated_text(URLS), _check_url),
)
