"""The values of the NetworkPolicies."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.scalars import Labels, NetworkAddress, Objects, Port

# Everything but the addresses of a link, where clouds have their metadata.
OUTSIDE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}},
]


class NetworkPolicies(Model):
    """A NetworkPolicy for the pods of each cache."""

    enabled: bool = Field(
        False,
        description="Creates a NetworkPolicy for each cache (docs/guide/network-policies.md), which the network of the "
        "cluster must enforce.",
    )
    nodes: list[NetworkAddress] = Field(
        [],
        description="The networks from which the packets of nodes come: their own addresses, and those of tunnels if "
        "your network has any. Without them, no node reaches a cache, and all pull from the upstream.",
        examples=[["10.0.0.0/16"]],
    )
    monitoring: Labels = Field(
        {"kubernetes.io/metadata.name": "monitoring"},
        description="Labels of the namespaces whose pods may read the metrics.",
    )
    upstreams: Objects = Field(
        OUTSIDE,
        description="Where caches may connect to at the ports of their upstreams and proxies and at 443, as `to` of a "
        "NetworkPolicy. Policies know no host names.",
    )
    dnsPorts: Annotated[list[Port], Field(min_length=1)] = Field(
        [53, 5353, 8053],
        description="The ports at which caches reach DNS, as its pods have them: 5353 on OpenShift, 8053 in Gardener.",
    )
    extraIngress: Objects = Field(
        [],
        description="More rules for who may connect to the caches.",
        examples=[[{"from": [{"podSelector": {"matchLabels": {"app": "mirror"}}}], "ports": [{"port": 5000}]}]],
    )
    extraEgress: Objects = Field(
        [],
        description="More rules for where the caches may connect to.",
        examples=[[{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 8443}]}]],
    )
