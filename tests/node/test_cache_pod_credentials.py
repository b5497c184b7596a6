"""Credentials of a cache pod for the upstream, its token server and a proxy: where they are sent, and nowhere else."""

from __future__ import annotations

import base64
import json
import select
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path, send_request
from experiments.pod_bench import UPSTREAM
from machine import own_network
from machine.processes import wait_for
from node.cache_pod_support import is_right, pull
from upstreams import pki
from upstreams.plain_server import PlainServer
from upstreams.sites import PASSWORD, USERNAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

PRIVATE = "registry.example.com"
TOKENS = "lscr.example.com"
# It is in another domain than the registry.
TRUSTING = {"upstreamSettings": {TOKENS: {"tokenServers": ["auth.example.org"]}}}
RIGHT = {"username": USERNAME, "password": PASSWORD}
WRONG = {"username": USERNAME, "password": "another-password"}
PROXY_LOGIN = {"username": "proxy-user", "password": "proxy-password-%41:"}
PROXY_PORT = 3128
NO_KEYS = "has neither the keys username and password nor a key .dockerconfigjson or .dockercfg"
ABSENT = "does not exist or is empty"


def cache_of(site: str, **more: Any) -> dict[str, Any]:
    return {"upstream": site, "remoteURL": f"https://{site}", "secretReferenceName": "login", **more}


def assert_nowhere(pod: CachePod, *secrets: str) -> None:
    """Check that no log, environment or command line of the pod has a secret, neither plain nor encoded for HTTP."""
    places = {f"log of {name}": pod.log_file(name).read_bytes() for name in pod.containers}
    for name in pod.containers:
        for process in pod.processes(name):
            for kind in ("environ", "cmdline"):
                places[f"{kind} of {name}"] = Path(f"/proc/{process}/{kind}").read_bytes()
    for where, content in places.items():
        for secret in secrets:
            for form in (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")):
                assert form not in content, where
        assert b"Bearer ey" not in content, where


def test_rotated_secret_takes_effect_without_a_restart(bench: Bench) -> None:
    images = [bench.push(f"private-{number}", site=PRIVATE) for number in range(2)]
    with bench.pod(cache_of(PRIVATE), secrets={"login": RIGHT}) as pod:
        pull(pod, "private-0", images[0])
        pod.set_secret("login", WRONG)
        got = send_request(pod, manifest_path("private-1"))
        assert (got.status, got.refused) == (403, True)
        pull(pod, "private-0", images[0])
        pod.set_secret("login", RIGHT)
        pull(pod, "private-1", images[1])
        assert_nowhere(pod, PASSWORD, WRONG["password"], f"{USERNAME}:{PASSWORD}")


def test_wrong_credentials_are_logged_once_and_counted(bench: Bench) -> None:
    bench.push("wrong", site=PRIVATE)
    mark = bench.upstream.mark()
    with bench.pod(cache_of(PRIVATE), secrets={"login": WRONG}) as pod:
        for number in range(20):
            assert send_request(pod, manifest_path("wrong", f"{number}")).status == 403
        lines = [line for line in pod.log("gate").splitlines() if "credentials" in line]
        print(*lines, sep="\n")
        # One line for the try without credentials, and one for its result.
        assert len(lines) == 2
        assert all("registry.example.com" in line and "401" in line for line in lines)
        assert pod.metrics()["registry_cache_upstream_credentials_refused_total"] >= 1
        assert_nowhere(pod, WRONG["password"])
    tried = [each for each in bench.upstream.requests(mark) if each.scheme == "Basic"]
    print(f"the wrong credentials were tried {len(tried)} times")
    assert len(tried) <= 20


def test_public_images_are_served_without_and_with_wrong_credentials(bench: Bench) -> None:
    public = [bench.push(f"public-{number}", site=TOKENS) for number in range(2)]
    with bench.pod(cache_of(TOKENS), values=TRUSTING) as pod:
        pull(pod, "public-0", public[0])
        pod.set_secret("login", WRONG)
        pull(pod, "public-1", public[1])
        assert len([line for line in pod.log("gate").splitlines() if "credentials" in line]) == 1
        assert pod.metrics()["registry_cache_upstream_credentials_refused_total"] >= 1
        assert_nowhere(pod, WRONG["password"])


def test_private_images_need_credentials_at_the_token_server(bench: Bench) -> None:
    image = bench.push("secret", site=TOKENS)
    bench.upstream.push(f"{TOKENS}/private/secret:1", image)
    with bench.pod(cache_of(TOKENS), values=TRUSTING) as pod:
        assert send_request(pod, "/v2/private/secret/manifests/1").refused
        pod.set_secret("login", RIGHT)
        got = send_request(pod, "/v2/private/secret/manifests/1")
        assert got.status == 200
        assert is_right(got, image.manifest)
        for digest, content in image.blobs.items():
            assert is_right(send_request(pod, f"/v2/private/secret/blobs/{digest}"), content)
        assert_nowhere(pod, PASSWORD)


@dataclass
class Proxy:
    """An HTTP proxy that asks for credentials, and the hosts that it connected to."""

    login: dict[str, str]
    tunnels: list[str] = field(default_factory=list)
    refused: int = 0
    clients: list[socket.socket] = field(default_factory=list)

    def change_login(self, login: dict[str, str]) -> None:
        """Accept other credentials, and end the open tunnels, which nobody would have to log in for."""
        self.login = login
        for client in self.clients:
            with suppress(OSError):  # it has ended already
                client.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def running(self) -> Iterator[None]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                login = f"{proxy.login['username']}:{proxy.login['password']}"
                expected = f"Basic {base64.b64encode(login.encode()).decode()}"
                if self.headers["Proxy-Authorization"] != expected:
                    proxy.refused += 1
                    self.send_response_only(407)
                    self.end_headers()
                    return
                proxy.tunnels.append(self.path)
                proxy.clients.append(self.connection)
                with socket.create_connection((own_network.ADDRESS, 443)) as server:
                    self.send_response_only(200)
                    self.end_headers()
                    _pass_on(self.connection, server)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        with PlainServer((own_network.ADDRESS, PROXY_PORT), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield
            server.shutdown()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    other = {client: server, server: client}
    while True:
        for each in select.select([client, server], [], [])[0]:
            try:
                content = each.recv(1 << 16)
                other[each].sendall(content)
            except ConnectionError:
                return  # one of them has closed its connection
            if not content:
                return


def test_proxy_with_credentials_and_no_proxy(bench: Bench) -> None:
    """For the upstream, its token server and its blobs' host, whose addresses the pod cannot resolve."""
    image = bench.push("proxied", site=TOKENS)
    other = bench.push("proxied-2", site=TOKENS)
    url = f"http://{own_network.ADDRESS}:{PROXY_PORT}"
    cache = cache_of(TOKENS, proxy={"httpsProxy": url})
    values: dict[str, Any] = {"upstreamSettings": {TOKENS: {"proxySecretName": "proxy-login"}}}
    proxy = Proxy(PROXY_LOGIN)
    with proxy.running(), bench.pod(cache, values=values, secrets={"proxy-login": PROXY_LOGIN}, hosts="") as pod:
        pull(pod, "proxied", image)
        assert set(proxy.tunnels) == {f"{host}:443" for host in (TOKENS, "auth.example.org", "cdn.example.org")}
        proxy.change_login({"username": "new", "password": "new-password"})
        assert send_request(pod, manifest_path("proxied-2")).refused
        pull(pod, "proxied", image)
        pod.set_secret("proxy-login", proxy.login)
        wait_for(
            "the proxy to be asked", lambda: send_request(pod, manifest_path("proxied-2")).status == 200, HANG_SECONDS
        )
        pull(pod, "proxied-2", other)
        assert_nowhere(pod, PROXY_LOGIN["password"], "new-password")
        print(*pod.log("gate").splitlines(), sep="\n")
    values["cachePods"] = {"noProxy": [".example.com", "auth.example.org", "cdn.example.org"]}
    with bench.pod(cache, values=values, secrets={"proxy-login": PROXY_LOGIN}) as pod:
        pull(pod, "proxied", image)


@pytest.mark.parametrize("kind", ["caSecretName", "caConfigMapName"])
def test_certificates_of_a_private_authority_are_taken_from_a_bundle(bench: Bench, kind: str) -> None:
    """The current bundle counts: one without a certificate is reported, and costs no cached image."""
    image = bench.push(f"bundle-{kind}".lower())
    values = {"upstreamSettings": {UPSTREAM: {kind: "bundle"}}}
    bundle = {"ca.crt": pki.authority_file().read_text()}
    given: dict[str, Any] = {"secrets": {"bundle": bundle}} if kind == "caSecretName" else {}
    pod = bench.new_pod({"upstream": UPSTREAM}, values=values, **given)
    if kind == "caConfigMapName":
        pod.config_maps["bundle"] = bundle
    try:
        pod.start()
        pull(pod, f"bundle-{kind}".lower(), image)
        (pod.set_secret if kind == "caSecretName" else pod.set_config_map)("bundle", {"ca.crt": "no certificate"})
        got = send_request(pod, manifest_path("other"))
        print(got.status, got.body)
        assert got.refused
        pull(pod, f"bundle-{kind}".lower(), image)
    finally:
        pod.close()


@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_pull_secret_of_the_kubelet_is_taken(bench: Bench, key: str) -> None:
    """The entry of the upstream is used, and those of other registries are sent nowhere."""
    image = bench.push(f"pull-secret-{key[1:]}", site=PRIVATE)
    auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    entries = {"other.example.com": {"username": "x", "password": "y"}, f"https://{PRIVATE}": {"auth": auth}}
    content = json.dumps({"auths": entries} if key == ".dockerconfigjson" else entries)
    with bench.pod(cache_of(PRIVATE), secrets={"login": {key: content}}) as pod:
        pull(pod, f"pull-secret-{key[1:]}", image)
        assert "ready" in pod.log("gate").splitlines()
        assert_nowhere(pod, PASSWORD, auth)


def test_missing_secret_delays_nothing(bench: Bench) -> None:
    image = bench.push("no-secret")
    with bench.pod({"upstream": UPSTREAM, "secretReferenceName": "nowhere"}) as pod:
        begun = time.monotonic()
        pull(pod, "no-secret", image)
        for digest in image.blobs:
            assert send_request(pod, blob_path("no-secret", digest)).status == 200
        print(f"{time.monotonic() - begun:.1f} s")
        assert pod.log("gate").splitlines().count(f"the Secret nowhere {ABSENT}, continuing without it") == 1


def test_secret_with_other_keys_is_reported_at_the_start_without_its_values(bench: Bench) -> None:
    other = {"user": USERNAME, "token": PASSWORD}
    with bench.pod(cache_of(PRIVATE), secrets={"login": other}) as pod:
        lines = pod.log("gate").splitlines()
        assert lines.count(f"the Secret login {NO_KEYS}, continuing without it") == 1
        assert lines.count(f"ready, but the Secret login {NO_KEYS}") == 1
        assert json.loads(send_request(pod, "/v2/").body) == {"warning": f"the Secret login {NO_KEYS}"}
        assert send_request(pod, manifest_path("any")).status == 403
        assert_nowhere(pod, PASSWORD)


@pytest.mark.parametrize("kind", ["caSecretName", "caConfigMapName"])
def test_missing_authority_is_reported_and_cached_images_are_served(bench: Bench, tmp_path: Path, kind: str) -> None:
    """It is reported at the start and when the upstream is asked, which answers as soon as the authority is there."""
    repository = f"authority-{kind}".lower()
    image = bench.push(repository)
    bundle = {"ca.crt": pki.authority_file().read_text()}
    name = {"caSecretName": "Secret", "caConfigMapName": "ConfigMap"}[kind]
    missing = f'the {name} bundle (upstreamSettings["{UPSTREAM}"].{kind}) does not exist or has no key ca.crt'
    with bench.pod({"upstream": UPSTREAM}, volume=tmp_path) as pod:
        pull(pod, repository, image)
    with bench.pod(
        {"upstream": UPSTREAM}, values={"upstreamSettings": {UPSTREAM: {kind: "bundle"}}}, volume=tmp_path
    ) as pod:
        assert pod.log("gate").splitlines().count(missing) == 1
        pull(pod, repository, image)
        assert send_request(pod, manifest_path("not-cached")).refused
        assert f"is unavailable, serving what is cached: {missing}" in pod.log("gate")
        (pod.set_secret if kind == "caSecretName" else pod.set_config_map)("bundle", bundle)
        wait_for(
            "the upstream to answer", lambda: send_request(pod, manifest_path("not-cached")).status == 404, HANG_SECONDS
        )
