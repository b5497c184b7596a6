"""How a cache says which one it is, so that a node takes no other server at its address for it."""

from __future__ import annotations

# A header of the response to /v2/; its value is the name of the upstream, such as docker.io. It keeps away a server
# that got the address of a Service that is gone. It is no proof: a server that wants to pass for the cache can send it.
UPSTREAM_HEADER = "Registry-Cache-Upstream"
