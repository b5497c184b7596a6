"""The upstream registries: real distribution behind nginx, which has the TLS, the access log and the faults.

One distribution for each upstream, all at one address, told apart by name as on the internet. Their names resolve to
that address on the cluster's nodes and in its DNS, and nowhere else.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt

from testcluster import oci, pki, tools
from testcluster.processes import wait_for

if TYPE_CHECKING:
    from testcluster.processes import Place


@dataclass(frozen=True)
class Site:
    """One upstream: the name that image references start with, the host that serves it, and its plain port."""

    upstream: str
    server_name: str
    port: int
    private: bool = False


SITES = (
    Site("docker.io", "registry-1.docker.io", 5001),
    Site("registry.k8s.io", "registry.k8s.io", 5002),
    Site("ghcr.io", "ghcr.io", 5003),
    Site("quay.io", "quay.io", 5004),
    Site("registry.example.com", "registry.example.com", 5005, private=True),
)

# On purpose with every character that configuration files and shells trip over.
USERNAME = "@puller*&"
PASSWORD = "p\"a'ss\\w$1 `x` *&@ü"  # noqa: S105


@dataclass(frozen=True)
class Request:
    """One line of the upstream's access log."""

    upstream: str
    client: str
    method: str
    path: str
    status: int
    body_bytes: int
    agent: str

    @property
    def is_blob(self) -> bool:
        return self.method == "GET" and "/blobs/sha256:" in self.path

    @property
    def digest(self) -> str:
        """The blob that was asked for, `sha256:…`."""
        return self.path.partition("?")[0].rpartition("/")[2]


@dataclass
class Fault:
    """What is wrong with an upstream: bytes a second for each request, or an error status for every request."""

    bytes_per_second: int | None = None
    status: int | None = None


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
        pki.issue(self.folder, "server", *[site.server_name for site in SITES], "docker.io", common_name="upstream")
        (self.folder / "htpasswd").write_bytes(
            USERNAME.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)) + b"\n"
        )
        for site in SITES:
            self._start_registry(site)
        self._write_configuration()
        self._start_nginx()

    def stop(self) -> None:
        """Take the upstreams away: connections are refused."""
        self.place.stop("nginx")

    def resume(self) -> None:
        """Bring the upstreams back after `stop`, `hang` or a fault."""
        self.faults.clear()
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
        self.faults[upstream] = Fault(bytes_per_second=bytes_per_second)
        self._write_configuration()
        self._reload()

    def fail(self, upstream: str, status: int) -> None:
        """Make an upstream answer every request with an error status."""
        self.faults[upstream] = Fault(status=status)
        self._write_configuration()
        self._reload()

    def push(self, reference: str, image: oci.Image) -> None:
        """Put an image into the upstream that its reference names, as `docker.io/library/x:1`."""
        upstream, _, rest = reference.partition("/")
        site = _site(upstream)
        archive = self.folder / "push.tar"
        image.write_archive(archive, reference)
        authfile = self.folder / "push-auth.json"
        login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        target = f"{self.address}:{site.port}"
        authfile.write_text(json.dumps({"auths": {target: {"auth": login}} if site.private else {}}))
        options = ["--insecure-policy", "copy", "--quiet", "--preserve-digests"]
        options += ["--dest-tls-verify=false", "--dest-authfile", str(authfile)]
        tag = rest.rpartition(":")[2]
        try:
            subprocess.run(
                ["skopeo", *options, f"oci-archive:{archive}:{tag}", f"docker://{target}/{rest}"],
                check=True,
                capture_output=True,
                text=True,
                env=tools.environment(),
            )
        except subprocess.CalledProcessError as error:
            message = f"{reference} could not be pushed: {error.stderr}"
            raise RuntimeError(message) from error
        finally:
            archive.unlink()

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
        names = {site.server_name: site.upstream for site in SITES}
        return [
            Request(
                upstream=names.get(entry["host"], entry["host"]),
                client=entry["client"],
                method=entry["method"],
                path=entry["uri"],
                status=entry["status"],
                body_bytes=entry["bytes"],
                agent=entry["agent"],
            )
            for entry in entries
            if not entry["uri"].startswith("/-/")
        ]

    def host_lines(self) -> str:
        """Lines for /etc/hosts that lead the upstreams' names to here."""
        return "".join(f"{self.address} {site.server_name}\n" for site in SITES)

    def _start_registry(self, site: Site) -> None:
        configuration = {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage" / site.upstream)}},
            "http": {"addr": f"{self.address}:{site.port}", "secret": "upstream"},
        }
        if site.private:
            configuration["auth"] = {"htpasswd": {"realm": "private", "path": str(self.folder / "htpasswd")}}
        path = self.folder / f"registry-{site.port}.yaml"
        path.write_text(json.dumps(configuration))
        binary = tools.go_binary("distribution", "registry")
        self.place.start(f"registry-{site.port}", [binary, "serve", path], {"OTEL_TRACES_EXPORTER": "none"})

    def _start_nginx(self) -> None:
        binary = tools.debian_root() / "usr" / "sbin" / "nginx"
        command = [binary, "-p", self.folder, "-e", self.folder / "nginx-error.log", "-c", self._configuration()]
        self.place.start("nginx", command)
        wait_for("the upstream registries", self._answers, timeout=30)

    def _answers(self) -> bool:
        self.place.fail_if_dead("nginx")
        for site in SITES:
            self.place.fail_if_dead(f"registry-{site.port}")
            try:
                connection = http.client.HTTPConnection(self.address, site.port, timeout=2)
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


CONTROL_PORT = 5000


def _site(upstream: str) -> Site:
    for site in SITES:
        if site.upstream == upstream:
            return site
    message = f"{upstream} is none of the test cluster's upstreams: {', '.join(site.upstream for site in SITES)}"
    raise ValueError(message)


def _nginx_configuration(upstream: Upstream, generation: str) -> str:
    folder, address = upstream.folder, upstream.address
    servers = []
    for site in SITES:
        fault = upstream.faults.get(site.upstream, Fault())
        limit = f"limit_rate {fault.bytes_per_second};" if fault.bytes_per_second else ""
        answer = f"return {fault.status};" if fault.status else f"proxy_pass http://{address}:{site.port};"
        names = site.server_name
        servers.append(
            f"""
  server {{
    listen {address}:443 ssl;
    server_name {names};
    location / {{ {limit} {answer} }}
  }}"""
        )
    log_format = (
        '{"host":"$host","client":"$remote_addr","method":"$request_method","uri":"$request_uri",'
        '"status":$status,"bytes":$body_bytes_sent,"agent":"$http_user_agent"}'
    )
    return f"""daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.run;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
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
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-Proto https;
  ssl_certificate {folder}/server.pem;
  ssl_certificate_key {folder}/server.key;
  server {{
    listen {address}:{CONTROL_PORT};
    location / {{ return 200 '{generation}'; }}
  }}{"".join(servers)}
}}
"""
