"""What `registry-cache plan` says of an upgrade is what differs between the two renderings."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from registry_cache.plan import Change, plan
from rendering import Object, by_kind, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Strategy = st.SearchStrategy[Any]


def some(**parts: Strategy) -> Strategy:
    return st.fixed_dictionaries({}, optional=parts)


CACHE = some(
    remoteURL=st.sampled_from(["https://mirror.example.com", "https://mirror.example.com/"]),
    volume=some(size=st.sampled_from(["10Gi", "10240Mi", "20Gi", 10 * 2**30, "1e3"]), storageClassName=st.just("fast")),
    garbageCollection=st.sampled_from([{"ttl": "168h"}, {"ttl": "0s"}]),
    secretReferenceName=st.just("login"),
    proxy=some(httpProxy=st.just("http://proxy:1"), httpsProxy=st.just("http://proxy:2")),
    http=st.just({"tls": False}),
    serviceNameSuffix=st.just("suffix"),
)


def caches(entries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """At most one with the suffix."""
    made = [{"upstream": upstream, **fields} for upstream, fields in entries.items()]
    for entry in [one for one in made if "serviceNameSuffix" in one][1:]:
        del entry["serviceNameSuffix"]
    return made


CACHES = st.dictionaries(st.sampled_from(["docker.io", "a.b:5000", "quay.io"]), CACHE, min_size=1).map(caches)
VALUES = st.fixed_dictionaries(
    {"caches": CACHES},
    optional={
        "fullnameOverride": st.just("other"),
        "nameOverride": st.sampled_from(["cache", "other"]),
        "commonLabels": st.just({"team": "platform"}),
        "imagePullSecrets": st.just([{"name": "login"}]),
        "cache": some(image=st.just({"tag": "3.1.2"}), podAnnotations=st.just({"x": "y"})),
        "node": some(
            enabled=st.booleans(),
            dialTimeout=st.just("1s"),
            updateStrategy=st.just({"type": "OnDelete"}),
            image=st.just({"tag": "3.14-alpine"}),
        ),
        "monitoring": some(dashboard=st.just({"enabled": False})),
        "test": st.just({"images": {"a.b": "c"}}),
    },
)


ONE = {"caches": [{"upstream": "docker.io"}]}
SETTINGS: list[dict[str, Any]] = [
    {"nameOverride": "other"},
    {"fullnameOverride": "other"},
    {"commonLabels": {"team": "platform"}},
    {"imagePullSecrets": [{"name": "login"}]},
    {"cache": {"image": {"tag": "3.1.2"}}},
    {"node": {"enabled": False}},
    {"node": {"dialTimeout": "1s"}},
    {"node": {"updateStrategy": {"type": "OnDelete"}}},
    {"monitoring": {"dashboard": {"enabled": False}}},
    {"test": {"images": {"a.b": "c"}}},
]
FIELDS: list[tuple[str, Any]] = [
    ("remoteURL", "https://mirror.example.com"),
    ("volume", {"size": "20Gi"}),
    ("volume", {"size": "10240Mi"}),
    ("volume", {"storageClassName": "fast"}),
    ("garbageCollection", {"ttl": "0s"}),
    ("secretReferenceName", "login"),
    ("proxy", {"httpsProxy": "http://proxy:2"}),
    ("http", {"tls": False}),
    ("serviceNameSuffix", "suffix"),
]


@st.composite
def pairs(draw: Callable[[Strategy], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two values files, mostly with one difference, so that each kind of change is seen alone."""
    old = draw(VALUES)
    if draw(st.integers(0, 4)) == 0:
        return old, draw(VALUES)
    new = json.loads(json.dumps(old))
    if draw(st.booleans()):
        new |= draw(st.sampled_from(SETTINGS))
    else:
        index = draw(st.integers(0, len(new["caches"]) - 1))
        key, value = draw(st.sampled_from(FIELDS))
        if key != "serviceNameSuffix" or not any(key in one for one in new["caches"]):
            new["caches"][index][key] = value
    return old, new


def without(found: Object | None, *labels: str) -> Object | None:
    """An object without some labels of its own, which no pull depends on."""
    if found is None:
        return None
    kept = {key: value for key, value in found["metadata"]["labels"].items() if key not in labels}
    return {**found, "metadata": {**found["metadata"], "labels": kept}}


def of_upstream(objects: list[Object], kind: str, upstream: str) -> Object | None:
    label = upstream.replace(":", "-")
    found = [one for one in by_kind(objects, kind) if one["metadata"]["labels"].get("upstream-host") == label]
    return without(found[0], "team") if found else None


def storage(stateful_set: Object) -> tuple[int, str | None]:
    """Bytes and class, as the API server compares them."""
    spec = stateful_set["spec"]["volumeClaimTemplates"][0]["spec"]
    sizes = {"10Gi": 10 * 2**30, "10240Mi": 10 * 2**30, "20Gi": 20 * 2**30, "1e3": 1000}
    written = spec["resources"]["requests"]["storage"]
    return int(sizes.get(written) or float(written)), spec.get("storageClassName")


def check_cache(change: Change | None, old: list[Object], new: list[Object], upstream: str) -> None:
    before, after = (of_upstream(objects, "StatefulSet", upstream) for objects in (old, new))
    if before is None or after is None:
        assert change is not None
        assert (change.action, change.data) == (("created", "none") if after else ("removed", "left behind"))
        return
    if before["metadata"]["name"] != after["metadata"]["name"]:
        assert change is not None
        assert (change.action, change.restart, change.data) == ("changed", True, "lost")
        return
    for immutable in ("selector", "serviceName"):
        assert before["spec"][immutable] == after["spec"][immutable]
    assert (change is not None and change.action == "refused") == (storage(before) != storage(after))
    if change is not None and change.action == "refused":
        return
    restarts = before["spec"]["template"] != after["spec"]["template"]
    assert (change is not None and change.restart) == restarts
    services = [of_upstream(objects, "Service", upstream) for objects in (old, new)]
    assert (change is not None) == (restarts or services[0] != services[1])
    assert change is None or change.data == "kept"


def check_nodes(change: Change | None, old: list[Object], new: list[Object]) -> None:
    sets = [by_kind(objects, "DaemonSet") for objects in (old, new)]
    if not sets[0] or not sets[1]:
        assert (change.action if change else None) == (
            "created" if sets[1] and not sets[0] else "removed" if sets[0] else None
        )
        return
    before, after = (without(found[0], "team") for found in sets)
    assert before is not None
    assert after is not None
    names = [found["metadata"]["name"] for found in (before, after)]
    restarts = names[0] != names[1] or before["spec"]["template"] != after["spec"]["template"]
    assert (change is not None and change.restart) == restarts
    assert (change is not None) == (before != after)


def test_plan_is_what_differs_between_the_renderings(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def rendered(values: object) -> list[Object]:
        path = tmp_path / "values.yaml"
        path.write_text(json.dumps(values))
        text = render_text.__wrapped__(path, release="registry-cache")
        return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]

    # a rendering takes a fifth of a second: a failure is shown as it is found, not made smaller for minutes
    @settings(max_examples=120, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    @given(pairs())
    @example((ONE, {"caches": [{"upstream": "docker.io", "serviceNameSuffix": "suffix"}]}))
    @example((ONE, {**ONE, "node": {"enabled": False}}))
    def check(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        old, new = (rendered(values) for values in pair)
        made = plan(*pair)
        by_upstream = {change.upstream: change for change in made.changes if change.part == "cache"}
        for upstream in {cache["upstream"] for values in pair for cache in values["caches"]}:
            check_cache(by_upstream.get(upstream), old, new, upstream)
        parts = {change.part: change for change in made.changes if change.part != "cache"}
        check_nodes(parts.get("nodes"), old, new)
        dashboards = [
            [without(one, "team") for one in by_kind(objects, "ConfigMap") if "dashboard" in one["metadata"]["name"]]
            for objects in (old, new)
        ]
        assert ("dashboard" in parts) == (dashboards[0] != dashboards[1])
        teams = [{one["metadata"]["labels"].get("team") for one in objects} for objects in (old, new)]
        assert ("labels" in parts) == (teams[0] != teams[1])
        assert bool({change.part for change in made.changes} - {"test"}) == (strip(old) != strip(new))
        seen.update(f"{one.part} {one.action} {one.restart} {one.data}" for one in made.changes)
        seen.update(["nothing"] if not made.changes else [])

    check()
    assert set(seen) == {
        "nothing",
        "cache created False none",
        "cache removed False left behind",
        "cache changed True kept",
        "cache changed False kept",
        "cache changed True lost",
        "cache refused False kept",
        "nodes created False none",
        "nodes removed False none",
        "nodes changed True none",
        "nodes changed False none",
        "dashboard changed False none",
        "labels changed False none",
        "test changed False none",
    }, "every kind of change was made"


def strip(objects: list[Object]) -> list[Object]:
    """All objects but those of the test, with a volume's size as a number."""
    plain = [one for one in json.loads(json.dumps(objects)) if "helm.sh/hook" not in str(one["metadata"])]
    for found in by_kind(plain, "StatefulSet"):
        found["spec"]["volumeClaimTemplates"] = storage(found)
    return sorted(plain, key=lambda one: (one["kind"], one["metadata"]["name"]))
