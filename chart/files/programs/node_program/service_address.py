"""The IP address of a cache's Service. Nodes need it since they cannot resolve the names of the cluster."""

from __future__ import annotations

import socket
import time

from common.name_lookup import NameLookup, describe_lookup_error

from node_program.cache_probe import ProbeFailed

# How long the address of a Service that answers is used before it is looked up again. A Service that was created anew
# has another address, and the old one may answer for a while.
FRESH_SECONDS = 60.0


class ServiceAddress:
    """The IP address of a Service, looked up at first, after a failed probe, and else seldom.

    A look-up is several requests to the cluster's DNS, one for each search domain and address family. One before each
    probe would be most of what the nodes of a large cluster ask DNS for. A known address is kept while DNS is down.
    """

    def __init__(self, service: str, port: int) -> None:
        """Take the name of the Service; nothing is looked up yet."""
        self._service = service
        self._port = port
        self._known: str | None = None
        self._fresh_until = 0.0
        self._problem = f"the address of {service} is not known yet"
        self._is_unknown_to_dns = False
        self._lookup: NameLookup | None = None

    def get(self, timeout: float) -> str:
        """Return the IP address; the last known one if DNS does not answer within `timeout` seconds.

        Raises:
            ProbeFailed: No address is known.
        """
        self._use_ended_lookup()
        if self._known is None or time.monotonic() >= self._fresh_until:
            self._lookup = self._lookup or NameLookup(self._service, self._port)
            self._lookup.wait(timeout)
            self._use_ended_lookup()
        if self._known is None:
            raise ProbeFailed(self._problem, "no_address")
        return self._known

    def note_failed_probe(self) -> None:
        """Look the address up again; forget it if DNS says that the Service is gone, since it may get another's."""
        self._fresh_until = 0.0
        if self._is_unknown_to_dns:
            self._known = None

    def _use_ended_lookup(self) -> None:
        if self._lookup is None or not self._lookup.has_ended:
            return
        lookup, self._lookup = self._lookup, None
        try:
            addresses = {str(address[0]) for _, address in lookup.addresses()}
        except (OSError, UnicodeError) as error:
            self._problem = describe_lookup_error(self._service, error)
            self._is_unknown_to_dns = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            return
        # Each of several is as good as the others; always the same one leaves hosts.toml as it is.
        self._known = min(addresses, key=lambda address: (":" in address, address))
        self._is_unknown_to_dns = False
        self._fresh_until = time.monotonic() + FRESH_SECONDS
