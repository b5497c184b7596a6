"""Look-ups of host names that nobody has to wait for: getaddrinfo takes no timeout and cannot be interrupted.

A pod has search domains and `ndots:5`, so that a C library tries almost every name below each of those domains first,
or all at once. There, a wildcard would answer in place of the name, and a domain whose server fails would stop the
look-up. Names are therefore looked up with a dot at their end, below no domain. C libraries compare the names in
/etc/hosts with this dot, so that file is read here (musl, src/network/lookup_name.c, name_from_hosts).
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import threading
from pathlib import Path

# What socket.connect takes, and the family of the socket to call it on.
Address = tuple[socket.AddressFamily, tuple[object, ...]]

HOSTS_FILE = Path("/etc/hosts")
RESOLVER_FILE = Path("/etc/resolv.conf")
# The search domain of a pod that all Services of the cluster are in; the rest of it is the domain of the cluster.
SERVICE_DOMAIN = re.compile(r"svc\.(\S+?)\.?")
SERVICE_ENDING = ".svc"


class NameLookup:
    """A look-up in a thread of its own, which is left behind if it takes too long."""

    def __init__(self, host: str, port: int) -> None:
        """Start to look up the addresses of a host."""
        self._host = host
        self._port = port
        self._addresses: list[Address] = []
        self._error: OSError | UnicodeError | None = None
        self._ended = threading.Event()
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:  # the container has as many threads as it may have
            self._error = OSError(errno.EAGAIN, str(error))
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the look-up has ended, and return whether it has."""
        return self._ended.wait(max(0.0, seconds))

    @property
    def has_ended(self) -> bool:
        """Whether there is a result."""
        return self._ended.is_set()

    def addresses(self) -> list[Address]:
        """Return the result of a look-up that has ended: at least one address, in the order in which to try them.

        Raises:
            OSError, UnicodeError: The host has no address, or DNS could not be asked.
        """
        if self._error is not None:
            raise self._error
        return self._addresses

    def _run(self) -> None:
        try:
            self._addresses = _find_in_hosts(self._host, self._port) or _find(self._host, self._port)
        except (OSError, UnicodeError) as error:
            self._error = error
        finally:
            self._ended.set()


def describe_lookup_error(host: str, error: OSError | UnicodeError) -> str:
    """Return a sentence about a host whose look-up failed."""
    return f"{host} has no address: {getattr(error, 'strerror', None) or error}"


def to_address(text: str, port: int) -> Address:
    """Return an IP address as an address to connect to.

    Raises:
        ValueError: It is not an IP address.
    """
    ip = ipaddress.ip_address(text)
    return (socket.AF_INET6 if ip.version == 6 else socket.AF_INET, (text, port))  # noqa: PLR2004 - IPv6


def _find(host: str, port: int) -> list[Address]:
    try:
        return _ask(_absolute(host), port)
    except socket.gaierror as error:
        # A name with a single dot may be that of a Service and its namespace.
        if error.errno != socket.EAI_NONAME or host.count(".") != 1 or host.endswith("."):
            raise
        return _ask(host, port)


def _ask(name: str, port: int) -> list[Address]:
    return [(entry[0], entry[4]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def _absolute(host: str) -> str:
    """Return a name that is in no search domain, unless it has no dot or ends with .svc in an unknown cluster."""
    if "." not in host or host.endswith(".") or _is_ip_address(host):
        return host
    if not host.endswith(SERVICE_ENDING):
        return f"{host}."
    domain = _cluster_domain()
    return f"{host}.{domain}." if domain else host


def _cluster_domain() -> str:
    """Return the domain of the cluster, such as cluster.local, or "" if the resolver has no search domain with it."""
    domains: list[str] = []
    for line in _read_lines(RESOLVER_FILE):
        keyword, *words = line.split() or [""]
        if keyword == "search":
            # As for the resolver, the last line counts.
            domains = words
    return next((match[1] for domain in domains if (match := SERVICE_DOMAIN.fullmatch(domain))), "")


def _find_in_hosts(host: str, port: int) -> list[Address]:
    """Return the addresses that /etc/hosts has for a name, in its order."""
    found: list[Address] = []
    wanted = host.rstrip(".").lower()
    for line in _read_lines(HOSTS_FILE):
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in map(str.lower, names):
            try:
                found.append(to_address(address, port))
            except ValueError:
                continue
    return list(dict.fromkeys(found))


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a file, or none if it cannot be read: C libraries do without it, too."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
