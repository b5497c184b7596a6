"""The names in the rendered inventory, computed without helm, and Gardener's names."""

from __future__ import annotations

import pytest
import yaml
from registry_cache.model.registry_config import Cache
from registry_cache.names import fullname, gardener_service_name, object_name, service_names, suffixed_name
from registry_cache.regenerate import REPOSITORY
from registry_cache.values_file import load_values

INVENTORY: dict[str, list[str]] = yaml.safe_load((REPOSITORY / "tests" / "render" / "inventory.yaml").read_text())


@pytest.mark.parametrize("scenario", INVENTORY)
def test_names_equal_those_of_the_chart(scenario: str) -> None:
    values = load_values(yaml.safe_load((REPOSITORY / "chart" / "ci" / f"{scenario}-values.yaml").read_text()))
    prefix = fullname("x", name_override=values.nameOverride, fullname_override=values.fullnameOverride)
    names = {f"StatefulSet {object_name(prefix, cache.upstream)}" for cache in values.caches}
    names |= {
        f"Service {name}"
        for cache in values.caches
        for name in service_names(prefix, cache, values.count_replicas(cache))
    }
    if values.monitoring.serviceMonitor.enabled:
        names.add(f"Service {suffixed_name(prefix, 'node')}")
    assert names == {name for name in INVENTORY[scenario] if name.startswith(("StatefulSet ", "Service "))}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("registry-cache", "", ""), "registry-cache"),
        (("my-registry-cache", "", ""), "my-registry-cache"),
        (("x", "", ""), "x-registry-cache"),
        (("x", "caches", ""), "x-caches"),
        (("x.y", "", "a.b"), "a-b"),
        (("x.y", "", ""), "x-y-registry-cache"),
        (("x" * 53, "", ""), f"{'x' * 53}-registry"),
    ],
)
def test_fullname(arguments: tuple[str, str, str], name: str) -> None:
    release, name_override, fullname_override = arguments
    assert fullname(release, name_override=name_override, fullname_override=fullname_override) == name


def test_service_begins_with_a_letter() -> None:
    assert service_names("1x", Cache(upstream="a.b")) == ["s1x-a-b"]


@pytest.mark.parametrize(
    ("upstream", "name"),
    [
        ("docker.io", "registry-docker-io"),
        ("my-registry.io:5000", "registry-my-registry-io-5000"),
        (
            "my-very-long-registry.very-long-subdomain.io",
            "registry-my-very-long-registry-very-long-subdo-2fae3",
        ),
        (
            "my-very-long-registry.long-subdomain.io:8443",
            "registry-my-very-long-registry-long-subdomain--8cb9e",
        ),
    ],
)
def test_gardeners_names_equal_those_in_its_tests(upstream: str, name: str) -> None:
    assert gardener_service_name(Cache(upstream=upstream)) == name
