"""The upstream registries: a real distribution each, behind one nginx for TLS, the access log and the faults.

All have the same address, and differ by name as on the internet. Their names resolve to that address on the cluster's
nodes and in its DNS, and nowhere else. One of them has other hosts for tokens and the content of blobs, as large
registries do:

    client ─► nginx :443 ─┬─► registry of the site           (through the fault server while a fault needs it)
                          ├─► token server                   auth.example.org
                          └─► nginx, the blobs' files        cdn.example.org
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
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
from upstreams.access_log import Request, read_requests
from upstreams.distribution import start_distribution
from upstreams.nginx_configuration import nginx_configuration
from upstreams.push import push_image
from upstreams.sites import (
    CONTROL_PORT,
    FAULT_PORT,
    HOSTS,
    PASSWORD,
    SITES,
    TOKEN_PORT,
    TOKEN_SERVICE,
    USERNAME,
    Site,
    challenge,
    find_site,
)
from upstreams.upstream_faults import UpstreamFault

if TYPE_CHECKING:
    from machine.processes import Place


@dataclass
class Upstream:
    """All upstream registries of one cluster, which run in `place` and listen at `address`."""

    place: Place
    address: str
    faults: dict[str, UpstreamFault] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.place.folder

    def start(self) -> None:
        """Start all programs, and wait until each upstream answers."""
        hosts = [host for host, _ in HOSTS.values()]
        pki.issue(self.folder, "server", *hosts, "docker.io", common_name="upstream")
        self._issue_expired(hosts)
        (self.folder / "htpasswd").write_bytes(
            USERNAME.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)) + b"\n"
        )
        trusted = token_server.TokenServer(TOKEN_SERVICE, f"{USERNAME}:{PASSWORD}").save(self._token_folder())
        for site in SITES:
            self._start_registry(site, site.port, self._access_settings(site, trusted))
            if site.push_port:
                self._start_registry(site, site.push_port, {})
        self._start_script("token_server", TOKEN_PORT, self._token_folder())
        self._write_configuration()
        self._start_nginx()

    def stop(self) -> None:
        """Stop the upstreams: connections are refused."""
        self.place.stop("nginx")

    def resume(self) -> None:
        """Bring the upstreams back after `stop`, `hang` or faults, and cut the connections that a fault held."""
        self.faults.clear()
        self.place.stop("fault_server")
        self._write_configuration()
        for process in self._nginx_processes():
            os.kill(process, signal.SIGCONT)
        if self.place.process_id("nginx") is None:
            self._start_nginx()
        else:
            self._reload()

    def restart(self, pause_seconds: float) -> None:
        """Stop the upstreams for a while; their faults stay."""
        self.stop()
        time.sleep(pause_seconds)
        self._start_nginx()

    def hang(self) -> None:
        """Make the upstreams accept connections and never answer."""
        for process in self._nginx_processes():
            os.kill(process, signal.SIGSTOP)

    def slow(self, upstream: str, bytes_per_second: int) -> None:
        """Limit the bandwidth of each response of an upstream."""
        self._add(upstream, bytes_per_second=bytes_per_second)

    def bandwidth(self, upstream: str, bytes_per_second: int) -> None:
        """Limit the bandwidth of all responses of an upstream together."""
        self._add(upstream, shared_bytes_per_second=bytes_per_second)

    def limit_connections(self, bytes_per_second: int | None) -> None:
        """Limit the bandwidth of each connection to the upstreams; `resume` does not end this limit."""
        if bytes_per_second == self._connection_limit():
            return
        self._connection_limit_file().write_text(str(bytes_per_second or ""))
        self._write_configuration()
        self._reload()

    def fail(self, upstream: str, status: int) -> None:
        """Make an upstream answer every request with an error status."""
        self._add(upstream, status=status, headers=())

    def deny(self, upstream: str, status: int = 403) -> None:
        """Make an upstream refuse every request with 403 or 401, with credentials too; 401 has the usual challenge."""
        self._add(
            upstream, status=status, headers=challenge(upstream) if status == http.HTTPStatus.UNAUTHORIZED else ()
        )

    def too_many_requests(self, upstream: str, retry_after: int | str) -> None:
        """Make an upstream answer every request with 429; `retry_after` is in seconds, or an HTTP date."""
        self._add(upstream, status=429, headers=(("Retry-After", str(retry_after)),))

    def expire(self, upstream: str) -> None:
        """Give an upstream a certificate that expired yesterday."""
        self._add(upstream, expired=True)

    def silent(self, upstream: str) -> None:
        """Make one upstream accept requests and never answer."""
        self._add(upstream, silent=True)

    def break_off(self, upstream: str, after_bytes: int, *, ranges: bool = True) -> None:
        """End each body of a blob, and its connection, after some bytes; without `ranges`, after the first ones."""
        self._add(upstream, after_bytes=after_bytes, stalls=False, ranges=ranges)

    def stall(self, upstream: str, after_bytes: int, *, ranges: bool = True) -> None:
        """Send only some bytes of each body of a blob, and keep the connection; `ranges` is as in `break_off`."""
        self._add(upstream, after_bytes=after_bytes, stalls=True, ranges=ranges)

    def no_length(self, upstream: str) -> None:
        """Send the bodies of blobs in chunks, without their length."""
        self._add(upstream, length=False)

    def corrupt(self, upstream: str) -> None:
        """Change the first byte of each body of a blob."""
        self._add(upstream, corrupt=True)

    def tokens_last(self, host: str, seconds: int) -> None:
        """Make the token server at a host issue tokens with this lifetime."""
        self._add(host, token_seconds=seconds)

    def push(self, reference: str, image: oci.Image) -> None:
        """Push an image to the upstream that its reference names, for example `docker.io/library/x:1`."""
        upstream, _, rest = reference.partition("/")
        site = find_site(upstream)
        repository, _, tag = rest.rpartition(":")
        login = (USERNAME, PASSWORD) if site.private else None
        push_image(f"{self.address}:{site.push_port or site.port}", repository, tag, image, login)

    def set_accounts(self, accounts: dict[str, str]) -> None:
        """Set the accounts of the token server besides the usual one.

        `accounts` are logins, which are `user:password`, and the prefix of the repositories that each may pull.
        """
        new = self._token_folder() / "new"
        new.write_text(json.dumps(accounts))
        new.rename(self._token_folder() / token_server.ACCOUNTS)

    def mark(self) -> int:
        """Return a position in the access log, for `requests`."""
        self._flush_log()
        return self._access_log().stat().st_size

    def requests(self, mark: int = 0) -> list[Request]:
        """Return the requests since `mark`, complete or not, in the order in which they ended."""
        self._flush_log()
        with self._access_log().open("rb") as log:
            log.seek(mark)
            return read_requests(log.read().splitlines())

    def host_lines(self) -> str:
        """Return the lines of /etc/hosts with the upstreams' names."""
        return "".join(f"{self.address} {host}\n" for host, _ in HOSTS.values())

    def _add(self, name: str, **changes: Any) -> None:
        """Add a fault to a name; responses that have another fault of the fault server are cut."""
        if name not in HOSTS:
            message = f"{name} is not an upstream of the test bed: {', '.join(HOSTS)}"
            raise ValueError(message)
        self.faults[name] = replace(self.faults.get(name, UpstreamFault()), **changes)
        self.place.stop("fault_server")
        if any(fault.needs_fault_server for fault in self.faults.values()):
            self._start_script("fault_server", FAULT_PORT)
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
        issued = pki.authority().issue_cert(
            *hosts, common_name="expired", not_before=now - 9 * day, not_after=now - day
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (self.folder / "expired.pem").write_bytes(chain)
        issued.private_key_pem.write_to_path(str(self.folder / "expired.key"))

    def _token_folder(self) -> Path:
        return self.folder / "tokens"

    def _access_settings(self, site: Site, trusted_keys: Path) -> dict[str, Any]:
        """Return which credentials distribution asks clients of a site for, and to which host it redirects them."""
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

    def _start_registry(self, site: Site, port: int, access: dict[str, Any]) -> None:
        configuration = {
            "log": {"accesslog": {"disabled": True}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage" / site.upstream)}},
            "http": {"addr": f"{self.address}:{port}", "secret": "upstream"},
            **access,
        }
        start_distribution(self.place, f"registry-{port}", configuration)

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

    def _connection_limit_file(self) -> Path:
        return self.folder / "bytes-per-second-of-a-connection"

    def _connection_limit(self) -> int | None:
        """Return the limit, which another process may have set."""
        file = self._connection_limit_file()
        return int(text) if file.exists() and (text := file.read_text()) else None

    def _access_log(self) -> Path:
        return self.folder / "access.log"

    def _write_configuration(self) -> None:
        """Write nginx's configuration, with a generation in it by which a reload is known to have taken effect."""
        self._generation_wanted = uuid.uuid4().hex
        self._configuration().write_text(
            nginx_configuration(
                self.folder, self.address, self.faults, self._generation_wanted, self._connection_limit()
            )
        )

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
        """Wait until every request that ended before now is in the log, which the only worker writes in order."""
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
