"""Which credentials of a Secret are for an upstream, and what is wrong with a Secret that has none."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from authentication.pull_secret import MountedSecret, UnusableSecret, read_pull_secret
from authentication.token_servers import TokenServers
from upstream.authorization import Authorizer
from upstream.credentials import Credentials
from upstream.exchange import Reply, Request
from upstream.urls import Url

if TYPE_CHECKING:
    from pathlib import Path

HUB = ("docker.io", "registry-1.docker.io")
PRIVATE = ("registry.example.com:5000", "registry.example.com:5000")


def login(name: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:s3cret:{name}".encode()).decode()}


def write_config(folder: Path, entries: Any) -> None:
    (folder / ".dockerconfigjson").write_text(json.dumps({"auths": entries, "HttpHeaders": {}}))


def choose(folder: Path, registries: tuple[str, ...], repository: str) -> list[str]:
    return [one.username.decode() for one in read_pull_secret(folder, registries).choose(repository)]


@pytest.mark.parametrize(
    ("entry", "registries"),
    [
        ("https://index.docker.io/v1/", HUB),
        ("index.docker.io", HUB),
        ("docker.io", HUB),
        ("https://registry-1.docker.io/v2/", HUB),
        ("registry.example.com:5000", PRIVATE),
        ("http://registry.example.com:5000/v2/", PRIVATE),
        ("*.example.com:5000", PRIVATE),
        ("registry.*.com:5000", PRIVATE),
    ],
)
def test_entry_of_a_pull_secret_is_found_by_each_name_that_the_kubelet_knows(
    tmp_path: Path, entry: str, registries: tuple[str, ...]
) -> None:
    write_config(tmp_path, {"other.example.com": login("other"), entry: login("right")})
    assert choose(tmp_path, registries, "library/app") == ["right"]


@pytest.mark.parametrize(
    "entry", ["registry.example.com", "example.com:5000", "*.com:5000", "*:5000", "registry.example.com:50", "*"]
)
def test_entry_for_another_host_or_port_is_not_used(tmp_path: Path, entry: str) -> None:
    write_config(tmp_path, {entry: login("other")})
    with pytest.raises(UnusableSecret, match=r"without an entry for registry\.example\.com:5000"):
        read_pull_secret(tmp_path, PRIVATE)


def test_entry_with_a_path_comes_first_and_only_for_the_repositories_below_it(tmp_path: Path) -> None:
    names = ["registry.example.com:5000", "registry.example.com:5000/team", "registry.example.com:5000/team/app"]
    write_config(tmp_path, {name: login(str(number)) for number, name in enumerate(names)})
    assert choose(tmp_path, PRIVATE, "team/app") == ["2", "1", "0"]
    assert choose(tmp_path, PRIVATE, "team/web") == ["1", "0"]
    assert choose(tmp_path, PRIVATE, "library/app") == ["0"]


def test_old_form_without_auths_and_plain_fields_are_taken(tmp_path: Path) -> None:
    (tmp_path / ".dockercfg").write_text(json.dumps({"docker.io": {"username": "u", "password": "p", "email": "x"}}))
    assert read_pull_secret(tmp_path, HUB).choose("library/app") == (Credentials(b"u", b"p"),)


def test_username_and_password_are_for_every_repository_and_win(tmp_path: Path) -> None:
    write_config(tmp_path, {"docker.io": login("other")})
    (tmp_path / "username").write_text("u\n")
    (tmp_path / "password").write_text("p\n")
    assert read_pull_secret(tmp_path, HUB).choose("library/app") == (Credentials(b"u", b"p"),)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "does not exist or is empty"),
        ({"user": "u", "token": "s3cret"}, "has neither the keys username and password nor a key .dockerconfigjson"),
        ({"username": "s3cret"}, "has neither the keys username and password nor a key .dockerconfigjson"),
        ({"username": "\n", "password": "\n"}, "has an empty username and an empty password"),
        ({".dockerconfigjson": "s3cret"}, "has a key .dockerconfigjson that is not a Docker configuration"),
        ({".dockerconfigjson": '{"docker.io": {}}'}, "has a key .dockerconfigjson that is not a Docker configuration"),
        ({".dockercfg": "[]"}, "has a key .dockercfg that is not a Docker configuration"),
        ({".dockercfg": '{"quay.io": {"auth": "s3cret"}}'}, "has a key .dockercfg without an entry for docker.io"),
        ({".dockercfg": '{"docker.io": {"email": "s3cret"}}'}, "entry docker.io has no username and password, auth or"),
        ({".dockercfg": '{"docker.io": {"auth": "s3cret"}}'}, "entry docker.io has an auth that is not base64 of"),
        ({".dockercfg": '{"docker.io": {"auth": "czNjcmV0"}}'}, "entry docker.io has an auth that is not base64 of"),
    ],
)
def test_secret_without_credentials_is_described_without_its_values(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UnusableSecret) as problem:
        read_pull_secret(tmp_path, HUB)
    assert message in str(problem.value)
    assert "s3cret" not in str(problem.value)


class FakeUpstream:
    """An upstream with a token server, which accepts one account or one identity token."""

    def __init__(self, folder: Path, *, accepts: bytes) -> None:
        """Take what the token server accepts."""
        self.requests: list[tuple[Request, str | None]] = []
        self.log: list[str] = []
        self._accepts = accepts
        origin = Url.parse("https://registry.example.com:5000").origin
        token_servers = TokenServers([origin.host], [], "tokenServers")
        self.authorizer = Authorizer(
            origin,
            MountedSecret(folder, "the Secret login", PRIVATE),
            token_servers,
            send=self._send,
            log=self.log.append,
        )

    def get(self, repository: str) -> int:
        url = Url.parse(f"https://registry.example.com:5000/v2/{repository}/manifests/1")
        request = Request("GET", "GET", url, {}, time.monotonic() + 5)
        return self.authorizer.open(request, repository).status

    def _send(self, request: Request, authorization: str | None) -> Reply:
        self.requests.append((request, authorization))
        challenge = 'Bearer realm="https://tokens.example.com/token",service="registry"'
        if request.label == "token":
            basic = base64.b64decode((authorization or " ").partition(" ")[2])
            status = (
                200
                if self._accepts in (basic, dict(urllib.parse.parse_qsl(request.body)).get(b"refresh_token"))
                else 401
            )
            return self._reply(request, status, b'{"access_token": "good"}')
        if authorization == "Bearer good":
            return self._reply(request, 200, b"")
        return self._reply(request, 401, b"", challenge)

    @staticmethod
    def _reply(request: Request, status: int, body: bytes, challenge: str = "") -> Reply:
        rest = [body, b""]
        headers = SimpleNamespace(
            get_all=lambda name, default=None: [challenge] if name == "WWW-Authenticate" and challenge else default,
            get=lambda _, default=None: default,
        )
        reply = SimpleNamespace(
            status=status,
            url=request.url,
            headers=_Headers(headers),
            refuses_access=status in (401, 403),
            read=lambda _: rest.pop(0),
            discard=lambda: None,
        )
        return cast("Reply", reply)


class _Headers:
    def __init__(self, plain: Any) -> None:
        self.get_all = plain.get_all
        self.get = plain.get

    def __getitem__(self, _: str) -> None:
        return None


def test_identity_token_is_exchanged_in_the_body_of_a_post(tmp_path: Path) -> None:
    write_config(tmp_path, {"registry.example.com:5000": {**login("00000000"), "identitytoken": "refresh+me"}})
    upstream = FakeUpstream(tmp_path, accepts=b"refresh+me")
    assert upstream.get("team/app") == 200
    (exchange,) = [one for one in upstream.requests if one[0].label == "token"]
    request, authorization = exchange
    assert (request.method, str(request.url), authorization) == ("POST", "https://tokens.example.com/token", None)
    assert urllib.parse.parse_qs(request.body.decode()) == {
        "grant_type": ["refresh_token"],
        "client_id": ["registry-cache"],
        "refresh_token": ["refresh+me"],
        "service": ["registry"],
        "scope": ["repository:team/app:pull"],
    }
    assert request.headers["Content-Length"] == str(len(request.body))


def test_next_matching_entry_is_tried_if_the_first_one_is_refused(tmp_path: Path) -> None:
    names = ["registry.example.com:5000/team", "registry.example.com:5000"]
    write_config(tmp_path, {name: login(str(number)) for number, name in enumerate(names)})
    upstream = FakeUpstream(tmp_path, accepts=b"1:s3cret:1")
    assert upstream.get("team/app") == 200
    assert upstream.log == []


def test_problem_of_a_secret_names_it(tmp_path: Path) -> None:
    write_config(tmp_path, {"quay.io": login("other")})
    authorizer = FakeUpstream(tmp_path, accepts=b"").authorizer
    message = "the Secret login has a key .dockerconfigjson without an entry for registry.example.com:5000"
    assert authorizer.find_problem() == message
    write_config(tmp_path, {"registry.example.com:5000": login("right")})
    assert authorizer.find_problem() is None
