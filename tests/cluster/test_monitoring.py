"""Metrics, rules and dashboard are right: a real Prometheus scrapes caches and nodes during pulls and faults.

Then every query of every panel has given data, the rules are evaluated, the numbers are those of the upstream's own
log, and the alerts that should fire do.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster.pulls import new_image
from cluster_support import fill_cache, installed, pull_at_first, request_status
from machine import tools
from machine.cgroups import Cgroup
from machine.paths import CHART
from machine.processes import Place, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster
    from cluster.release import Release
    from upstreams.access_log import Request
    from upstreams.oci import Image

pytestmark = pytest.mark.cluster

# One cache each for exact numbers, a volume that is too small, an upstream that fails, the loss of one of two replicas,
# refused credentials, and the loss of a cache.
EXACT, SMALL, FAILING, DOUBLED = "docker.io", "quay.io", "ghcr.io", "registry.k8s.io"
PRIVATE = "registry.example.com"
MIB = 1 << 20
PORT = 19090
ADDRESS = f"http://127.0.0.1:{PORT}"
MONITORING = CHART / "files" / "monitoring"
VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "2m",
    "$namespace": "watched",
    "$release": "watched",
    "$upstream": ".+",
}
# The durations of the rules are shortened from hours to seconds, in the same order.
SHORTER = {"5m": "10s", "10m": "15s", "15m": "20s", "1h": "25s", "6h": "120s", "1d": "150s"}
LIMIT_SECONDS = 90.0
# The alerts that fire here; the others are tested with promtool only.
EXPECTED = {
    ("RegistryCacheUpstreamFailing", FAILING),
    ("RegistryCacheUpstreamLimitsRate", FAILING),
    ("RegistryCacheCredentialsRefused", PRIVATE),
    ("RegistryCacheVolumeFull", SMALL),
    ("RegistryCacheVolumeTooSmall", SMALL),
    ("RegistryCacheReplicaDown", DOUBLED),
    ("RegistryCacheDown", PRIVATE),
    ("RegistryCacheNotScraped", ""),
}


@dataclass
class Watched:
    """The release that Prometheus watched, what happened to it, and since when, in seconds since the epoch."""

    release: Release
    image: Image
    requests: list[Request]
    pulls: int
    began: float = field(default_factory=time.time)


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    caches = [
        {"upstream": EXACT, "volume": {"size": "1Gi"}},
        {"upstream": SMALL, "volume": {"size": "8Mi"}},
        {"upstream": FAILING, "volume": {"size": "1Gi"}},
        {"upstream": DOUBLED, "volume": {"size": "1Gi"}, "highAvailability": {"enabled": True}},
        {"upstream": PRIVATE, "volume": {"size": "1Gi"}, "secretReferenceName": "registry-example-com"},
    ]
    path = tmp_path_factory.mktemp("monitoring") / "values.yaml"
    path.write_text(json.dumps({"caches": caches, "cachePods": {"tagCheckInterval": "0s"}}))
    with installed(cluster, "watched", "--values", str(path)) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prometheus that scrapes pods through the API server, as in Gardener, and has the rules."""
    folder = tmp_path_factory.mktemp("prometheus")
    place = Place(folder, Cgroup(f"rcache-prometheus-{os.getpid()}"))
    place.cgroup.create()
    (folder / "rules.yaml").write_text(shortened((MONITORING / "registry-caches.rules.yaml").read_text()))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(cluster, release, folder)))
    program = tools.debian_program("prometheus")
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    place.start("prometheus", [program, *options, f"--web.listen-address=127.0.0.1:{PORT}"])

    def ready() -> bool:
        place.fail_if_dead("prometheus")
        try:
            return bool(query("up"))
        except OSError:
            return False

    try:
        wait_for("Prometheus", ready, timeout=60)
        yield
    finally:
        place.cgroup.kill()
        place.cgroup.remove()


def shortened(rules: str) -> str:
    """Return the rules with other durations."""
    rules = re.sub(r"(?<=\[)\w+(?=\])|(?<=offset )\w+", lambda found: SHORTER[found[0]], rules)
    return re.sub(r"(?<=  for: )\w+", "2s", rules)


def configuration(cluster: Cluster, release: Release, folder: Path) -> dict[str, Any]:
    """Scrape and evaluate every second.

    Debian's Prometheus cannot find Kubernetes' objects by itself, so they are listed here, with the labels that the
    chart's PodMonitors give them.
    """
    client = yaml.safe_load(cluster.kubeconfig.read_text())
    api = urllib.parse.urlsplit(client["clusters"][0]["cluster"]["server"])
    tls = {"insecure_skip_verify": True}
    for key, name in (("client-certificate-data", "cert_file"), ("client-key-data", "key_file")):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(client["users"][0]["user"][key]))
        tls[name] = str(path)
    jobs = []
    for pod in release.get("pods", "--selector=app.kubernetes.io/component in (cache, node)")["items"]:
        metadata = pod["metadata"]
        name, wanted = metadata["name"], metadata["annotations"]
        target = f"{name}:{wanted['prometheus.io/port']}"
        pods = f"/api/v1/namespaces/{release.namespace}/pods"
        labels = {
            "job": metadata["labels"]["app.kubernetes.io/name"],
            "instance": target,
            "namespace": metadata["namespace"],
            "pod": name,
            "release": metadata["labels"]["app.kubernetes.io/instance"],
            "node": pod["spec"]["nodeName"],
        }
        jobs.append(
            {
                "job_name": name,
                "scheme": "https",
                "tls_config": tls,
                "metrics_path": f"{pods}/{target}/proxy{wanted['prometheus.io/path']}",
                "static_configs": [{"targets": [api.netloc], "labels": labels}],
            }
        )
    times = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": times, "rule_files": [str(folder / "rules.yaml")], "scrape_configs": jobs}


def asked(path: str, **parameters: str) -> Any:
    """Return the response of Prometheus.

    Raises:
        OSError: it does not answer, or refuses.
    """
    with urllib.request.urlopen(f"{ADDRESS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
        return json.load(answer)["data"]


def query(expression: str) -> list[dict[str, Any]]:
    """Return the result of an instant query."""
    result: list[dict[str, Any]] = asked("query", query=expression)["result"]
    return result


def number(expression: str) -> float:
    """Return the only value of an instant query."""
    (found,) = query(expression)
    return float(found["value"][1])


def had_data(expression: str, began: float) -> bool:
    """Return whether an expression has had a finite value since then."""
    result = asked("query_range", query=expression, start=str(began), end=str(time.time()), step="2")["result"]
    return any(value not in ("NaN", "+Inf", "-Inf") for series in result for _, value in series["values"])


def firing() -> set[tuple[str, str]]:
    """Return the names and upstreams of all alerts that have fired since the start of Prometheus."""
    found = asked("series", **{"match[]": 'ALERTS{alertstate="firing"}'})
    return {(each["alertname"], each.get("upstream_host", "")) for each in found}


@pytest.fixture(scope="module")
def watched(cluster: Cluster, release: Release, prometheus: None) -> Iterator[Watched]:
    """Hits, misses and evictions, an upstream that fails in two ways, one that refuses, and pods that are lost."""
    assert cluster.upstream is not None
    upstream = cluster.upstream
    mark = upstream.mark()
    made = Watched(release, None, [], 2)  # type: ignore[arg-type]
    reference, made.image = new_image(cluster, f"{EXACT}/library/watched:1")
    for node in cluster.nodes:
        pull_at_first(cluster, reference, node)

    small = [
        new_image(cluster, f"{SMALL}/tests/small-{number}:1", layers=1, layer_bytes=5 * MIB) for number in range(2)
    ]
    for reference, image in (*small, small[0]):
        fill_cache(release.pod(SMALL), reference, image)
    _, too_large = new_image(cluster, f"{SMALL}/tests/large:1", layers=1, layer_bytes=9 * MIB)
    refused = [
        f"/v2/tests/large/blobs/{digest}" for digest, content in too_large.blobs.items() if len(content) > 8 * MIB
    ]

    new_image(cluster, f"{PRIVATE}/team/private:1")
    try:
        upstream.deny(PRIVATE, 401)
        upstream.fail(FAILING, 500)
        for number_ in range(4):
            request_status(release.pod(FAILING), f"/v2/tests/failing-{number_}/manifests/1")
            request_status(release.pod(PRIVATE), "/v2/team/private/manifests/1")
            for path in refused:
                request_status(release.pod(SMALL), path)
        upstream.too_many_requests(FAILING, retry_after=1)
        request_status(release.pod(FAILING), "/v2/tests/limited/manifests/1")
        made.requests = upstream.requests(mark)
        name = release.object_name(DOUBLED)
        release.kubectl("scale", "statefulset", name, "--replicas=1")
        wait_for(
            "the alert of what failed", lambda: {each[0] for each in EXPECTED} & {e[0] for e in firing()}, LIMIT_SECONDS
        )
        release.take_away(PRIVATE)
        yield made
    finally:
        upstream.resume()


def test_expected_alerts_fire_and_no_others(watched: Watched) -> None:
    def missing() -> set[tuple[str, str]]:
        return EXPECTED - firing()

    try:
        wait_for("the alerts", lambda: not missing(), LIMIT_SECONDS, 1)
    except TimeoutError:
        pytest.fail(f"did not fire: {sorted(missing())}")
    print(f"all alerts {time.time() - watched.began:.0f} s after the first pull")
    # While one node notices that a cache is gone, another one may still use it.
    assert firing() - EXPECTED <= {("RegistryCacheNodeNotUsingCache", PRIVATE)}


def test_every_rule_is_evaluated_and_recording_rules_have_data(watched: Watched) -> None:
    found = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
    written = yaml.safe_load((MONITORING / "registry-caches.rules.yaml").read_text())
    assert len(found) == sum(len(group["rules"]) for group in written["groups"]) >= 16
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    recorded = [rule["name"] for rule in found if rule["type"] == "recording"]
    assert [name for name in recorded if not had_data(name, watched.began)] == []


def expressions() -> list[tuple[str, str]]:
    """Return every query of the dashboard with its panel's title."""
    found = []
    for panel in json.loads((MONITORING / "registry-caches.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def test_every_query_of_the_dashboard_has_data(watched: Watched) -> None:
    """Except for those of certificates, which no cache has here; the tests of TLS on the node rung read them."""
    wanted = [(title, expression) for title, expression in expressions() if "certificate_expiry" not in expression]
    assert len(wanted) >= 40

    def without_data() -> list[tuple[str, str]]:
        return [(title, expression) for title, expression in wanted if not had_data(expression, watched.began)]

    try:
        wait_for("every query to have data", lambda: not without_data(), LIMIT_SECONDS, 1)
    except TimeoutError:
        missing = "\n".join(f"{title}: {expression}" for title, expression in without_data())
        pytest.fail(f"no data for\n{missing}")


def test_variables_of_the_dashboard_offer_every_value(watched: Watched) -> None:
    for label, expected in (
        ("namespace", {"watched"}),
        ("release", {"watched"}),
        ("upstream_host", {EXACT, SMALL, FAILING, DOUBLED, PRIVATE}),
    ):
        assert set(asked(f"label/{label}/values", **{"match[]": "registry_proxy_requests_total"})) == expected


def test_bytes_match_the_upstreams_access_log_and_the_nodes(watched: Watched) -> None:
    """Exactly as many as the upstream sent, and as the kubelets received."""
    size = sum(map(len, watched.image.blobs.values()))
    of = f'type="blob", upstream_host="{EXACT}"'
    asked_for = [each for each in watched.requests if each.upstream == EXACT]
    sent = sum(each.body_bytes for each in asked_for if each.is_blob)
    assert number(f"sum(registry_proxy_pulled_bytes_total{{{of}}})") == sent == size
    wait_for(
        "the last bytes to be counted", lambda: number(f"sum(registry_proxy_pushed_bytes_total{{{of}}})") > size, 30
    )
    assert number(f"sum(registry_proxy_pushed_bytes_total{{{of}}})") == watched.pulls * size
    assert number(f"sum(registry_proxy_misses_total{{{of}}})") == len(watched.image.blobs)
    assert number(f"sum(registry_proxy_hits_total{{{of}}})") == (watched.pulls - 1) * len(watched.image.blobs)
    of = f'type="manifest", upstream_host="{EXACT}"'
    manifests = sum(each.body_bytes for each in asked_for if each.method == "GET" and "/manifests/" in each.path)
    assert number(f"sum(registry_proxy_pulled_bytes_total{{{of}}})") == manifests == len(watched.image.manifest)


def test_requests_by_outcome_match_the_upstreams_access_log(watched: Watched) -> None:
    pods = {
        pod["status"]["podIP"]
        for pod in watched.release.get("pods", "--selector=app.kubernetes.io/component=cache")["items"]
    }
    for upstream in (EXACT, SMALL, FAILING):
        logged = Counter(
            (each.method, str(each.status) if each.status in (401, 403, 404, 429) else f"{each.status // 100}xx")
            for each in watched.requests
            if each.upstream == upstream and each.client in pods
        )
        told = {
            (each["metric"]["method"], each["metric"]["outcome"]): float(each["value"][1])
            for each in query(f'registry_cache_upstream_requests_total{{upstream_host="{upstream}"}} > 0')
        }
        assert told == logged, upstream


def test_metrics_explain_a_volume_that_is_too_small(watched: Watched) -> None:
    of = f'{{upstream_host="{SMALL}"}}'
    assert number(f"registry_cache_refetched_bytes_total{of}") >= 5 * MIB
    assert number(f'registry_cache_removed_blobs_total{{upstream_host="{SMALL}",reason="evicted"}}') >= 2
    assert number(f'registry_cache_refused_requests_total{{upstream_host="{SMALL}",reason="no-room"}}') >= 4
    assert number(f"registry_cache_capacity_bytes{of}") == 8 * MIB
    assert number(f"registry_cache_stored_bytes{of}") <= 8 * MIB
