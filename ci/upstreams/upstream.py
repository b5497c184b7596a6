"""The upstream registries: real distribution behind nginx, which has the TLS, the access log and the faults.

One distribution for each upstream, all at one address, told apart by name as on the internet. Their names resolve to
that address on the cluster's nodes and in its DNS, and nowhere else. One of them gives out tokens and the content of
blobs under other names, as large registries do:

    client ─► nginx :443 ─┬─► registry of the site           (through the spoiler while a fault needs it)
                          ├─► token server                   auth.example.org
                          └─► nginx, the blobs' files        cdn.example.org
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bcrypt
from machine import tools
from machine.paths import REPOSITORY
from machine.processes import wait_for

from upstreams import oci, pki, token_server
from upstreams.push import push_image
from upstreams.upstream_faults import Fault

if TYPE_CHECKING:
    from machine.processes import Place


@dataclass(frozen=True)
class Site:
    """One upstream: the name that image references start with, the host that serves it, and its plain port.

    Where `tokens` names a host, the registry wants bearer tokens of it; where `content` does, it sends those who ask
    for a blob there. Such a one has a second way in for pushes, without tokens and with no other host in the way: those
    names mean nothing outside the cluster.
    """

    upstream: str
    server_name: str
    port: int
    private: bool = False
    tokens: str = ""
    content: str = ""
    push_port: int = 0

    def names(self) -> dict[str, tuple[str, int]]:
        """Host and plain port of each name under which it can be faulty, and under which its requests are counted."""
        found = {self.upstream: (self.server_name, self.port)}
        if self.tokens:
            found[self.tokens] = (self.tokens, TOKEN_PORT)
        if self.content:
            found[self.content] = (self.content, CONTENT_PORT)
        return found


SITES = (
    Site("docker.io", "registry-1.docker.io", 5001),
    Site("registry.k8s.io", "registry.k8s.io", 5002),
    Site("ghcr.io", "ghcr.io", 5003),
    Site("quay.io", "quay.io", 5004),
    Site("registry.example.com", "registry.example.com", 5005, private=True),
    Site(
        "lscr.example.com",
        "lscr.example.com",
        5006,
        tokens="auth.example.org",
        content="cdn.example.org",
        push_port=5007,
    ),
)
TOKEN_SERVICE = "lscr.example.com"  # noqa: S105 - what tokens are for
UNAUTHORIZED = 401
# As registries name a blob, and as the file behind it is named (distribution, registry/storage/paths.go).
BLOB = re.compile(r"/blobs/sha256(?::|/[0-9a-f]{2}/)([0-9a-f]{64})")
CONTROL_PORT = 5000
TOKEN_PORT = 5020
CONTENT_PORT = 5021
SPOILER_PORT = 5022

# On purpose with every character that configuration files and shells trip over.
USERNAME = "@puller*&"
PASSWORD = "p\"a'ss\\w$1 `x` *&@ü"  # noqa: S105


@dataclass(frozen=True)
class Request:
    """One line of the upstream's access log.

    `body_bytes` is what was sent of the body; where an answer without a length broke off, the marks between its
    chunks count too. `range` and `scheme` are what was asked for and how who asked was known: `bytes=5-`, `Bearer`.
    """

    upstream: str
    client: str
    method: str
    path: str
    status: int
    body_bytes: int
    agent: str
    range: str = ""
    scheme: str = ""

    @property
    def is_blob(self) -> bool:
        return self.method == "GET" and BLOB.search(self.path) is not None

    @property
    def digest(self) -> str:
        """The blob or manifest that was asked for, `sha256:…`, or the tag."""
        blob = BLOB.search(self.path)
        return f"sha256:{blob[1]}" if blob else self.path.partition("?")[0].rpartition("/")[2]


@dataclass
class Upstream:
    """All upstream registries of one cluster, running in `place`, reached at `address`."""

    place: Place
    address: str
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.place.folder

    def start(self) -> None:
        """Start all of it and wait until each upstream answers."""
        hosts = [host for host, _ in _names().values()]
        pki.issue(self.folder, "server", *hosts, "docker.io", common_name="upstream")
        self._issue_expired(hosts)
        (self.folder / "htpasswd").write_bytes(
            USERNAME.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)) + b"\n"
        )
        trusted = token_server.prepare(self._token_folder(), TOKEN_SERVICE, f"{USERNAME}:{PASSWORD}")
        for site in SITES:
            self._start_registry(site, site.port, self._doors(site, trusted))
            if site.push_port:
                self._start_registry(site, site.push_port, {})
        self._start_script("token_server", TOKEN_PORT, self._token_folder())
        self._write_configuration()
        self._start_nginx()

    def stop(self) -> None:
        """Take the upstreams away: connections are refused."""
        self.place.stop("nginx")

    def resume(self) -> None:
        """Bring the upstreams back after `stop`, `hang` or faults; what a fault still held ends."""
        self.faults.clear()
        self.place.stop("spoiler")
        self._write_configuration()
        for process in self._nginx_processes():
            os.kill(process, signal.SIGCONT)
        if self.place.process_id("nginx") is None:
            self._start_nginx()
        else:
            self._reload()

    def hang(self) -> None:
        """Make the upstreams accept connections and never answer."""
        for process in self._nginx_processes():
            os.kill(process, signal.SIGSTOP)

    def slow(self, upstream: str, bytes_per_second: int) -> None:
        """Limit each response of an upstream to so many bytes a second."""
        self._add(upstream, bytes_per_second=bytes_per_second)

    def bandwidth(self, upstream: str, bytes_per_second: int) -> None:
        """Limit all responses of an upstream together to so many bytes a second."""
        self._add(upstream, shared_bytes_per_second=bytes_per_second)

    def fail(self, upstream: str, status: int) -> None:
        """Make an upstream answer every request with an error status."""
        self._add(upstream, status=status, headers=())

    def deny(self, upstream: str, status: int = 403) -> None:
        """Make an upstream refuse every request, 403 or 401, whoever asks; with 401 it says how to log in."""
        self._add(upstream, status=status, headers=_challenge(upstream) if status == UNAUTHORIZED else ())

    def too_many_requests(self, upstream: str, retry_after: int | str) -> None:
        """Make an upstream answer every request with 429; `retry_after` is in seconds, or a date as HTTP has it."""
        self._add(upstream, status=429, headers=(("Retry-After", str(retry_after)),))

    def expire(self, upstream: str) -> None:
        """Give an upstream a certificate that was good until yesterday."""
        self._add(upstream, expired=True)

    def silent(self, upstream: str) -> None:
        """Make an upstream accept requests and never answer; the others go on."""
        self._add(upstream, silent=True)

    def break_off(self, upstream: str, after_bytes: int, *, ranges: bool = True) -> None:
        """End each body of a blob, and its connection, after so many bytes; without `ranges` it is always the first."""
        self._add(upstream, after_bytes=after_bytes, stalls=False, ranges=ranges)

    def stall(self, upstream: str, after_bytes: int, *, ranges: bool = True) -> None:
        """Have each body of a blob stop after so many bytes, and its connection stay; `ranges` as for `break_off`."""
        self._add(upstream, after_bytes=after_bytes, stalls=True, ranges=ranges)

    def no_length(self, upstream: str) -> None:
        """Send the bodies of blobs in chunks, without saying how long they are."""
        self._add(upstream, length=False)

    def corrupt(self, upstream: str) -> None:
        """Change the first byte of each body of a blob."""
        self._add(upstream, corrupt=True)

    def tokens_last(self, host: str, seconds: int) -> None:
        """Have the token server at a host give out tokens that are good for so many seconds, and say so."""
        self._add(host, token_seconds=seconds)

    def push(self, reference: str, image: oci.Image) -> None:
        """Push an image to the upstream that its reference names, for example `docker.io/library/x:1`."""
        upstream, _, rest = reference.partition("/")
        site = _site(upstream)
        repository, _, tag = rest.rpartition(":")
        login = (USERNAME, PASSWORD) if site.private else None
        push_image(f"{self.address}:{site.push_port or site.port}", repository, tag, image, login)

    def mark(self) -> int:
        """A place in the access log; `requests(mark)` gives what came after it."""
        self._flush_log()
        return self._access_log().stat().st_size

    def requests(self, mark: int = 0) -> list[Request]:
        """What was asked of the upstreams since `mark`, answered completely or not, in the order of their ends."""
        self._flush_log()
        with self._access_log().open("rb") as log:
            log.seek(mark)
            entries = [json.loads(line) for line in log.read().splitlines()]
        names = {host: name for name, (host, _) in _names().items()}
        return [
            Request(
                upstream=names.get(entry["host"], entry["host"]),
                client=entry["client"],
                method=entry["method"],
                path=entry["uri"],
                status=entry["status"],
                body_bytes=_body_bytes(entry),
                agent=entry["agent"],
                range=entry["range"],
                scheme=entry["scheme"],
            )
            for entry in entries
            if not entry["uri"].startswith("/-/")
        ]

    def host_lines(self) -> str:
        """Lines for /etc/hosts that lead the upstreams' names to here."""
        return "".join(f"{self.address} {host}\n" for host, _ in _names().values())

    def _add(self, name: str, **changes: Any) -> None:
        """Have one more thing wrong with a name; what is under way with another fault of the spoiler's ends."""
        if name not in _names():
            message = f"{name} is none of the test cluster's upstreams: {', '.join(_names())}"
            raise ValueError(message)
        self.faults[name] = replace(self.faults.get(name, Fault()), **changes)
        self.place.stop("spoiler")
        if any(fault.spoils for fault in self.faults.values()):
            self._start_script("spoiler", SPOILER_PORT)
        self._write_configuration()
        self._reload()

    def _start_script(self, name: str, port: int, *arguments: object) -> None:
        """Start a program of this package, and wait until it listens."""
        command = [sys.executable, "-m", f"upstreams.{name}", self.address, port, *arguments]
        self.place.start(name, command, {"PYTHONPATH": str(REPOSITORY / "ci")})
        wait_for(name, lambda: self._listens(name, port), timeout=30)

    def _listens(self, name: str, port: int) -> bool:
        self.place.fail_if_dead(name)
        try:
            socket.create_connection((self.address, port), timeout=2).close()
        except OSError:
            return False
        return True

    def _issue_expired(self, hosts: list[str]) -> None:
        day = timedelta(days=1)
        now = datetime.now(UTC)
        made = pki.authority().issue_cert(*hosts, common_name="expired", not_before=now - 9 * day, not_after=now - day)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        (self.folder / "expired.pem").write_bytes(chain)
        made.private_key_pem.write_to_path(str(self.folder / "expired.key"))

    def _token_folder(self) -> Path:
        return self.folder / "tokens"

    def _doors(self, site: Site, trusted_keys: Path) -> dict[str, Any]:
        """What distribution asks of clients of a site, and where it sends them."""
        configuration: dict[str, Any] = {}
        if site.private:
            configuration["auth"] = {"htpasswd": {"realm": "private", "path": str(self.folder / "htpasswd")}}
        if site.tokens:
            configuration["auth"] = {
                "token": {
                    "realm": f"https://{site.tokens}/token",
                    "service": TOKEN_SERVICE,
                    "issuer": token_server.ISSUER,
                    "jwks": str(trusted_keys),
                }
            }
        if site.content:
            redirect = {"name": "redirect", "options": {"baseurl": f"https://{site.content}"}}
            configuration["middleware"] = {"storage": [redirect]}
        return configuration

    def _start_registry(self, site: Site, port: int, doors: dict[str, Any]) -> None:
        configuration = {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage" / site.upstream)}},
            "http": {"addr": f"{self.address}:{port}", "secret": "upstream"},
            **doors,
        }
        path = self.folder / f"registry-{port}.yaml"
        path.write_text(json.dumps(configuration))
        binary = tools.go_binary("distribution", "registry")
        self.place.start(f"registry-{port}", [binary, "serve", path], {"OTEL_TRACES_EXPORTER": "none"})

    def _start_nginx(self) -> None:
        binary = tools.debian_program("nginx")
        command = [binary, "-p", self.folder, "-e", self.folder / "nginx-error.log", "-c", self._configuration()]
        self.place.start("nginx", command)
        wait_for("the upstream registries", self._answers, timeout=30)

    def _answers(self) -> bool:
        self.place.fail_if_dead("nginx")
        ports = [site.port for site in SITES] + [site.push_port for site in SITES if site.push_port]
        for port in ports:
            self.place.fail_if_dead(f"registry-{port}")
            try:
                connection = http.client.HTTPConnection(self.address, port, timeout=2)
                connection.request("GET", "/v2/")
                connection.getresponse().read()
                connection.close()
            except OSError:
                return False
        return self._generation() is not None

    def _configuration(self) -> Path:
        return self.folder / "nginx.conf"

    def _access_log(self) -> Path:
        return self.folder / "access.log"

    def _write_configuration(self) -> None:
        """Write nginx's configuration; the generation in it tells when a reload has taken effect."""
        self._generation_wanted = uuid.uuid4().hex
        self._configuration().write_text(_nginx_configuration(self, self._generation_wanted))

    def _reload(self) -> None:
        self.place.signal("nginx", signal.SIGHUP)
        wait_for("nginx to take its configuration", lambda: self._generation() == self._generation_wanted, timeout=10)
        wait_for("nginx's old worker to end", lambda: len(self._nginx_processes()) <= 2, timeout=60)  # noqa: PLR2004

    def _control(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.address, CONTROL_PORT, timeout=2)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def _generation(self) -> str | None:
        try:
            return self._control("/-/generation")
        except OSError:
            return None

    def _flush_log(self) -> None:
        """Wait until every request that ended before now is in the log: the one worker writes them in order."""
        if self.place.process_id("nginx") is None:
            return
        marker = f"/-/{uuid.uuid4().hex}"
        self._control(marker)
        wait_for("the access log", lambda: marker in self._access_log().read_text(errors="replace"), timeout=10)

    def _nginx_processes(self) -> list[int]:
        master = self.place.process_id("nginx")
        if master is None:
            return []
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]


def _site(upstream: str) -> Site:
    for site in SITES:
        if site.upstream == upstream:
            return site
    message = f"{upstream} is none of the test cluster's upstreams: {', '.join(site.upstream for site in SITES)}"
    raise ValueError(message)


def _names() -> dict[str, tuple[str, int]]:
    """Host and plain port of all that requests are counted for and that can be faulty, by name."""
    return {name: where for site in SITES for name, where in site.names().items()}


def _challenge(name: str) -> tuple[tuple[str, str], ...]:
    """How the registry of a name says that it wants to know who asks (RFC 9110, 11.6.1)."""
    tokens = next((site.tokens for site in SITES if site.upstream == name), "")
    how = f'Bearer realm="https://{tokens}/token",service="{TOKEN_SERVICE}"' if tokens else 'Basic realm="private"'
    return (("WWW-Authenticate", how),)


def _body_bytes(entry: dict[str, Any]) -> int:
    """What went out of a body: nginx counts the marks between chunks with it, but not in what it got itself."""
    sent: int = entry["bytes"]
    return min(sent, int(entry["received"])) if entry["encoding"] == "chunked" and entry["received"].isdigit() else sent


def _nginx_configuration(upstream: Upstream, generation: str) -> str:
    folder, address = upstream.folder, upstream.address
    servers = []
    for name, (host, port) in _names().items():
        fault = upstream.faults.get(name, Fault())
        certificate = "expired" if fault.expired else "server"
        # As S3 does: a signed address and a login at once are refused.
        refusal = "if ($http_authorization) { return 400; } " if port == CONTENT_PORT else ""
        servers.append(
            f"""
  server {{
    listen {address}:443 ssl;
    server_name {host};
    ssl_certificate {folder}/{certificate}.pem;
    ssl_certificate_key {folder}/{certificate}.key;
    location / {{ {refusal}{fault.directives(name, address, port, SPOILER_PORT)} }}
    location @nothing {{ return 444; }}
  }}"""
        )
    servers += [
        f"""
  server {{
    listen {address}:{CONTENT_PORT};
    access_log off;
    default_type application/octet-stream;
    location / {{ root {folder}/storage/{site.upstream}; }}
  }}"""
        for site in SITES
        if site.content
    ]
    log_format = (
        '{"host":"$host","client":"$remote_addr","method":"$request_method","uri":"$request_uri",'
        '"status":$status,"bytes":$body_bytes_sent,"received":"$upstream_response_length",'
        '"encoding":"$sent_http_transfer_encoding","agent":"$http_user_agent","range":"$http_range",'
        '"scheme":"$scheme_of_login"}'
    )
    return f"""daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.run;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
  map $http_authorization $scheme_of_login {{ ~^(?<first>[A-Za-z]+) $first; }}
  log_format line escape=json '{log_format}';
  access_log {folder}/access.log line;
  client_body_temp_path {folder}/tmp-body;
  proxy_temp_path {folder}/tmp-proxy;
  fastcgi_temp_path {folder}/tmp-fastcgi;
  uwsgi_temp_path {folder}/tmp-uwsgi;
  scgi_temp_path {folder}/tmp-scgi;
  client_max_body_size 0;
  proxy_max_temp_file_size 0;
  proxy_http_version 1.1;
  server {{
    listen {address}:{CONTROL_PORT};
    location / {{ return 200 '{generation}'; }}
  }}{"".join(servers)}
}}
"""
