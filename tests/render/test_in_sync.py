"""What the API server fills in where a server-side apply takes a value as a whole: left out, it is never in sync.

The lists and mappings are those of Kubernetes' OpenAPI document with `x-kubernetes-list-type: atomic` (also lists
without a type) and `x-kubernetes-map-type: atomic`, and the fields are those of pkg/apis/*/v1/defaults.go and, for the
claims of a StatefulSet, of the encoder, which adds their kind. Argo CD compares what it applied with what comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rendering import Object, by_kind, render, scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLAIM = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}}


@scenarios
def test_claims_of_a_statefulset_have_what_the_api_server_fills_in(values: Path) -> None:
    for found in by_kind(render(values), "StatefulSet"):
        for claim in found["spec"]["volumeClaimTemplates"]:
            assert {key: claim.get(key) for key in CLAIM} == CLAIM
            assert claim["spec"]["volumeMode"] == "Filesystem"


@scenarios
def test_references_to_fields_of_a_pod_have_what_the_api_server_fills_in(values: Path) -> None:
    for found in render(values):
        for key, value in _entries(found):
            if key == "fieldRef":
                assert value["apiVersion"] == "v1"
            if key == "resourceFieldRef":
                assert "divisor" in value


@scenarios
def test_ports_have_their_protocol_where_it_is_part_of_their_key(values: Path) -> None:
    """A list of the ports of a Service has the keys port and protocol."""
    for found in by_kind(render(values), "Service"):
        assert [port["protocol"] for port in found["spec"]["ports"]] == ["TCP"] * len(found["spec"]["ports"])


def _entries(document: Any) -> Iterator[tuple[str, Object]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(document, list):
        for value in document:
            yield from _entries(value)
