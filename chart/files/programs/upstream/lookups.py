"""Looks up the names of servers; all who want the same name at the same time share one look-up."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from common.name_lookup import NameLookup, describe_lookup_error, to_address
from common.recent import RecentDict

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from common.name_lookup import Address

# The new names that may be looked up at once. Token servers and redirects can name any number of them, and DNS may not
# answer for any.
MAX_LOOKUPS = 32
# The names that had an address before, as those of the upstream and its token server. They do not count.
MAX_KNOWN = 64


class Lookups:
    """The look-ups of one client, for many threads at once."""

    def __init__(self) -> None:
        """Look up nothing yet."""
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], NameLookup] = {}
        self._known: RecentDict[str, None] = RecentDict(MAX_KNOWN)

    def find_addresses(self, host: str, port: int, deadline: float) -> list[Address]:
        """Return the addresses of a host, at least one, in the order in which to try them.

        Raises:
            Unavailable: The host has none, or DNS did not answer in time.
        """
        with suppress(ValueError):
            return [to_address(host, port)]
        with self._lock:
            lookup = self._join_or_start(host, port)
        if not lookup.wait(deadline - time.monotonic()):
            message = f"DNS did not answer in time for {host}"
            raise Unavailable(Kind.DNS, message)
        try:
            addresses = lookup.addresses()
        except (OSError, UnicodeError) as error:
            raise Unavailable(Kind.DNS, describe_lookup_error(host, error)) from None
        with self._lock:
            self._known[host] = None
        return addresses

    def _join_or_start(self, host: str, port: int) -> NameLookup:
        self._running = {key: lookup for key, lookup in self._running.items() if not lookup.has_ended}
        if (lookup := self._running.get((host, port))) is not None:
            return lookup
        unknown = sum(name not in self._known for name, _ in self._running)
        if host not in self._known and unknown >= MAX_LOOKUPS:
            message = f"DNS does not answer for {unknown} other names, so {host} is not looked up"
            raise Unavailable(Kind.DNS, message)
        lookup = self._running[host, port] = NameLookup(host, port)
        return lookup
