"""Recognizes the other replicas of a cache by the addresses that the cluster's DNS has for them.

A request says in a header which replica sends it. Anyone could send that, so it counts only if the connection to the
front comes from an address of that replica. The front itself sets the header X-Real-IP to that address.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.name_lookup import NameLookup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.endpoint import Endpoint

# A pod that is replaced gets another address, and its old one may be given to another pod.
VALID_SECONDS = 10.0
# An unexpected address makes the name be looked up again, but not more often than this.
RETRY_SECONDS = 1.0
# A request that waits longer is answered like that of a node, which is slower but right.
WAIT_SECONDS = 0.5

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class _Known:
    endpoint: Endpoint
    addresses: frozenset[Address] = frozenset()
    lookup: NameLookup | None = None
    looked_up_at: float = field(default=0.0)


class ReplicaAddresses:
    """The addresses of all replicas of a cache."""

    def __init__(self, replicas: Iterable[Endpoint]) -> None:
        """Look up nothing yet."""
        self._known = {pod_name(endpoint): _Known(endpoint) for endpoint in replicas}
        self._lock = threading.Lock()

    def includes(self, name: str, address: str) -> bool:
        """Return whether the replica with this name has an address; the last known ones count while DNS is away."""
        known = self._known.get(name)
        if known is None:
            return False
        try:
            wanted = ipaddress.ip_address(address)
        except ValueError:
            return False
        now = time.monotonic()
        with self._lock:
            if wanted in known.addresses and now - known.looked_up_at < VALID_SECONDS:
                return True
            if known.lookup is None or (known.lookup.has_ended and now - known.looked_up_at >= RETRY_SECONDS):
                known.lookup = NameLookup(known.endpoint.host, known.endpoint.port)
                known.looked_up_at = now
            lookup = known.lookup
        if lookup.wait(WAIT_SECONDS):
            try:
                found = lookup.addresses()
            except (OSError, UnicodeError):
                pass
            else:
                known.addresses = frozenset(ipaddress.ip_address(str(entry[0])) for _, entry in found)
        return wanted in known.addresses


def pod_name(endpoint: Endpoint) -> str:
    """Return the name of the pod at an endpoint, which is its host name too."""
    return endpoint.host.partition(".")[0]
