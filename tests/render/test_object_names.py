"""Names of objects are valid and unique, and do not depend on other caches."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from machine.paths import CHART
from registry_cache.names import object_name, upstream_label
from rendering import (
    AWKWARD,
    PRIVATE,
    RenderingFailed,
    by_kind,
    node_configuration,
    render,
    render_text,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_service_is_named_by_its_suffix() -> None:
    objects = render(PRIVATE)
    (service,) = by_kind(objects, "Service")
    assert service["metadata"]["name"] == "registry-private"
    (node,) = [node_configuration(objects)]
    assert node["caches"][0]["endpoint"] == {"scheme": "http", "host": "registry-private.space.svc", "port": 5000}


def test_awkward_upstreams_get_distinct_legal_names() -> None:
    objects = render(AWKWARD)
    found = [one["metadata"]["name"] for one in by_kind(objects, "StatefulSet")]
    assert len(set(found)) == len(found) == 5
    for name in found:
        assert len(name) <= 52
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


def neighbours(upstream: str) -> list[str]:
    """Return an upstream, and upstreams that differ from it only in dots, dashes and colons."""
    host, _, port = upstream.partition(":")
    alike = [upstream, host, host.replace(".", "-"), re.sub("-+", ".", host)]
    return alike + [f"{name}{joint}{port}" for name in alike for joint in (":", "-", ".") if port and ":" not in name]


@pytest.mark.slow
def test_no_upstream_takes_the_name_of_another_or_of_the_charts_own_objects(tmp_path: Path) -> None:
    label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
    host = st.lists(label, min_size=1, max_size=5).map(".".join)
    upstream = st.one_of(host, st.builds("{}:{}".format, host, st.integers(1, 65535)))

    # no shrinking, since a rendering of so many caches takes seconds
    @settings(max_examples=10, derandomize=True, phases=[Phase.generate])
    @given(st.lists(upstream, min_size=5, max_size=15))
    def check(upstreams: list[str]) -> None:
        wanted = {"node", "test", "dashboard", *(one for upstream in upstreams for one in neighbours(upstream))}
        wanted |= {f"{one}.peers" for one in upstreams if ":" not in one}
        caches = [{"upstream": one, "highAvailability": {"enabled": True}} for one in sorted(wanted)]
        found = yaml.load_all(render_text(written(tmp_path, {"caches": caches})), Loader=yaml.CSafeLoader)
        objects = [one for one in found if one]
        assert {
            (one["metadata"]["name"], one["metadata"]["labels"]["upstream-host"])
            for one in by_kind(objects, "StatefulSet")
        } == {(object_name("x-registry-cache", one), upstream_label(one)) for one in wanted}
        seen = [(one["kind"], one["metadata"]["name"]) for one in objects]
        assert [one for one, times in Counter(seen).items() if times > 1] == []
        for kind, name in seen:
            assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert len(name) <= {"StatefulSet": 52, "PersistentVolumeClaim": 67}.get(kind, 63)

    check()


@pytest.mark.parametrize(
    "release",
    [
        pytest.param("my.dotted.release", id="dots"),
        pytest.param("2nd", id="digit-first"),
        pytest.param("r" * 53, id="as-long-as-helm-takes"),
        pytest.param("registry-cache", id="the-charts-name"),
    ],
)
def test_any_release_and_namespace_is_accepted(release: str) -> None:
    """A namespace may consist of digits, and must stay text."""
    objects = render(AWKWARD, "--namespace", "123", release=release)
    for found in objects:
        assert found["metadata"]["namespace"] == "123"
        assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,65}[a-z0-9])?", found["metadata"]["name"])
    services = [found["metadata"]["name"] for found in by_kind(objects, "Service")]
    assert all(re.match("[a-z]", name) for name in services)
    assert {cache["endpoint"]["host"] for cache in node_configuration(objects)["caches"]} == {
        f"{name}.123.svc" for name in services
    }


def test_plain_upstreams_get_plain_names() -> None:
    (found,) = by_kind(render(CHART / "ci" / "one-upstream-values.yaml", release="registry-cache"), "StatefulSet")
    assert found["metadata"]["name"] == "registry-cache-docker-io"


def test_name_that_no_object_can_have_is_refused(tmp_path: Path) -> None:
    document = {"caches": [{"upstream": "docker.io"}], "fullnameOverride": "My_Caches"}
    with pytest.raises(RenderingFailed, match="fullnameOverride"):
        render_text(written(tmp_path, document))
