"""Which token servers get the credentials for an upstream."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from authentication import token_servers
from authentication.token_servers import TokenServers, domain_of, is_related
from upstream.client import Client, Settings
from upstream.reference import Reference
from upstream.urls import Url
from upstreams.scripted_server import ScriptedServer, redirect, send

if TYPE_CHECKING:
    import socket
    from pathlib import Path

TAG = Reference("manifest", "team/app", "1")
TIMEOUT_SECONDS = 20.0
LOGIN = base64.b64encode(b"user:s3cret").decode()


@pytest.mark.parametrize(
    ("registry", "server"),
    [
        pytest.param("registry-1.docker.io", "auth.docker.io", id="Docker Hub"),
        pytest.param("ghcr.io", "ghcr.io", id="GitHub"),
        pytest.param("lscr.io", "ghcr.io", id="LinuxServer"),
        pytest.param("quay.io", "quay.io", id="Quay"),
        pytest.param("eu.gcr.io", "eu.gcr.io", id="Google"),
        pytest.param("europe-docker.pkg.dev", "europe-docker.pkg.dev", id="Google Artifact Registry"),
        pytest.param("public.ecr.aws", "public.ecr.aws", id="Amazon"),
        pytest.param("mine.azurecr.io", "mine.azurecr.io", id="Azure"),
        pytest.param("registry.gitlab.com", "gitlab.com", id="GitLab"),
        pytest.param("registry.example.com", "gitlab.example.com", id="own GitLab"),
        pytest.param("registry.example.co.uk", "gitlab.example.co.uk", id="own GitLab in a country"),
        pytest.param("registry.gitlab.corp.example.com", "gitlab.corp.example.com", id="own GitLab, deeper"),
        pytest.param("harbor.example.com", "harbor.example.com", id="Harbor"),
        pytest.param("mine.jfrog.io", "mine.jfrog.io", id="Artifactory"),
        pytest.param("docker.elastic.co", "docker-auth.elastic.co", id="Elastic"),
        pytest.param("registry.digitalocean.com", "api.digitalocean.com", id="DigitalOcean"),
        pytest.param("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com", id="Alibaba"),
        pytest.param("core.harbor.svc", "token.harbor.svc.cluster.local", id="a namespace of the cluster"),
        pytest.param("10.0.0.7", "10.0.0.7", id="an address"),
        pytest.param("fd00::7", "fd00::7", id="an IPv6 address"),
        pytest.param("registry", "registry", id="a single label"),
    ],
)
def test_token_server_of_a_registry_gets_credentials(registry: str, server: str) -> None:
    assert is_related(server, registry)


@pytest.mark.parametrize(
    ("registry", "server"),
    [
        ("registry.example.com", "registry.example.org"),
        ("registry.example.com", "registry.example.com.evil.org"),
        ("registry.example.com", "evilexample.com"),
        ("registry.example.co.uk", "evil.co.uk"),
        ("example.com.au", "evil.com.au"),
        ("mine.azurecr.io", "evil.azurecr.io"),
        ("mine.jfrog.io", "evil.jfrog.io"),
        ("core.harbor.svc", "core.evil.svc"),
        ("core.harbor.svc.cluster.local", "core.evil.svc.cluster.local"),
        ("ghcr.io", "lscr.io"),
        ("10.0.0.7", "10.0.0.8"),
        ("10.0.0.7", "11.0.0.7"),
        ("fd00::7", "fd00::8"),
        ("registry", "auth"),
        ("", "evil.org"),
    ],
)
def test_other_server_gets_no_credentials(registry: str, server: str) -> None:
    assert not is_related(server, registry)


def test_server_that_the_user_names_gets_credentials() -> None:
    servers = TokenServers(["core.harbor.svc", "harbor.example.com"], ["Auth.example.org"], "tokenServers")
    for host in ("auth.example.org", "harbor.example.com", "AUTH.example.com"):
        assert servers.find_objection(Url.parse(f"https://{host}/").origin) is None
    assert servers.find_objection(Url.parse("https://evil.org/").origin) == (
        "names the token server https://evil.org, which does not seem to belong to it; "
        "if it does, add evil.org to tokenServers"
    )


def test_shared_domains_are_no_names_of_an_owner() -> None:
    for domain in token_servers.SHARED | {"co.uk", "com.au"}:
        assert domain_of(domain) is None
        assert domain_of(f"a.b.{domain}") == f"b.{domain}"


def serve_manifests(realm: str) -> ScriptedServer:
    def serve(connection: socket.socket, head: str) -> None:
        if "Bearer anonymous" in head or "Bearer own" in head:
            send("HTTP/1.1 200 OK\nContent-Length: 1", body=b"m")(connection, head)
        else:
            send(f'HTTP/1.1 401 x\nWWW-Authenticate: Bearer realm="{realm}"\nContent-Length: 0')(connection, head)

    return ScriptedServer(serve)


def give_tokens(connection: socket.socket, head: str) -> None:
    token = json.dumps({"token": "own" if LOGIN in head else "anonymous"}).encode()
    send(f"HTTP/1.1 200 OK\nContent-Length: {len(token)}", body=token)(connection, head)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "username").write_text("user")
    (tmp_path / "password").write_text("s3cret")
    return tmp_path


@pytest.mark.parametrize(("named", "gets"), [((), False), (("localhost",), True)], ids=["unknown", "named"])
def test_foreign_token_server_gets_credentials_only_if_it_is_named(
    secret: Path,
    named: tuple[str, ...],
    gets: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    log: list[str] = []
    with ScriptedServer(give_tokens) as tokens, serve_manifests(f"http://localhost:{tokens.port}/token") as upstream:
        settings = Settings(upstream.url, secret, registry="registry.example.com", token_servers=named)
        client = Client(settings, observe=lambda *_: None, log=log.append)
        for _ in range(2):
            with client.open("GET", TAG, timeout=TIMEOUT_SECONDS) as answer:
                assert answer.read(10) == b"m"
        assert [LOGIN in head for head in tokens.heads] == [gets]
        # One request finds out what is asked for.
        assert len(upstream.heads) == 3
    expected = (
        f"the credentials cannot be used: {upstream.url} names the token server http://localhost:{tokens.port}, which "
        "does not seem to belong to it; if it does, add localhost to "
        'upstreamSettings["registry.example.com"].tokenServers; trying team/app without them'
    )
    assert log == ([] if gets else [expected])


def test_token_server_that_redirects_elsewhere_takes_no_credentials_along(secret: Path) -> None:
    with ScriptedServer(give_tokens) as other, ScriptedServer(redirect(f"http://localhost:{other.port}/x")) as tokens:
        with serve_manifests(f"{tokens.url}/token") as upstream:
            client = Client(Settings(upstream.url, secret), observe=lambda *_: None, log=print)
            with client.open("GET", TAG, timeout=TIMEOUT_SECONDS) as answer:
                assert answer.read(10) == b"m"
        assert [LOGIN in head for head in tokens.heads] == [True]
        assert [LOGIN in head or "Authorization" in head for head in other.heads] == [False]
