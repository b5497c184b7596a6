"""The dashboard shows data: every query of every panel, in a real Prometheus that scrapes the caches."""

from __future__ import annotations

import base64
import json
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster_support import installed
from testcluster import interface, tools
from testcluster.cgroups import Cgroup
from testcluster.paths import CHART, cluster_folder
from testcluster.processes import Place, wait_for
from testcluster.pulls import new_image, pull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testcluster.interface import Cluster
    from testcluster.release import Release

pytestmark = pytest.mark.cluster

PORT = 19090
VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "5m",
    "$__interval": "1s",
    "$upstream": ".+",
    "${upstream:pipe}": ".+",
}


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """One cache."""
    path = tmp_path_factory.mktemp("dashboard") / "values.yaml"
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io", "volume": {"size": "1Gi"}}]}))
    with installed(cluster, "watched", "--values", str(path)) as made:
        yield made


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, release: Release) -> Iterator[str]:
    """A Prometheus that scrapes pods and kubelets through the API server, as in Gardener; its address."""
    folder = cluster_folder("test") / "prometheus"
    place = Place(folder, Cgroup("rcache-test/prometheus"))
    place.cgroup.create()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape_configuration(cluster, folder)))
    program = tools.debian_root() / "usr" / "bin" / "prometheus"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    place.start("prometheus", [program, *options, f"--web.listen-address=127.0.0.1:{PORT}"])

    def ready() -> bool:
        place.fail_if_dead("prometheus")
        try:
            return bool(query(f"http://127.0.0.1:{PORT}", "up"))
        except OSError:
            return False

    try:
        wait_for("Prometheus", ready, timeout=60)
        yield f"http://127.0.0.1:{PORT}"
    finally:
        place.stop("prometheus")


def scrape_configuration(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Scrape, every second, the pods that ask for it with annotations, and the kubelets for the use of volumes.

    Debian's Prometheus cannot find Kubernetes' objects by itself, so they are listed here, with the labels that are
    customary: the pod's `upstream-host` as `upstream_host`, namespace and pod.
    """
    client = yaml.safe_load(cluster.kubeconfig.read_text())
    api = urllib.parse.urlsplit(client["clusters"][0]["cluster"]["server"])
    tls = {"insecure_skip_verify": True}
    for key, name in (("client-certificate-data", "cert_file"), ("client-key-data", "key_file")):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(client["users"][0]["user"][key]))
        tls[name] = str(path)
    targets = {
        f"/api/v1/nodes/{node['metadata']['name']}/proxy/metrics": {}
        for node in interface.get(cluster.kubeconfig, "nodes")["items"]
    }
    for pod in interface.get(cluster.kubeconfig, "pods", "--all-namespaces")["items"]:
        metadata = pod["metadata"]
        wanted = metadata.get("annotations", {})
        if wanted.get("prometheus.io/scrape") == "true":
            address = f"{metadata['name']}:{wanted['prometheus.io/port']}"
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{address}/proxy{wanted['prometheus.io/path']}"
            targets[path] = {"namespace": metadata["namespace"], "pod": metadata["name"]}
            if "upstream-host" in metadata["labels"]:  # the nodes' pods say it in each sample
                targets[path]["upstream_host"] = metadata["labels"]["upstream-host"]
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": path,
                "scheme": "https",
                "tls_config": tls,
                "metrics_path": path,
                "static_configs": [{"targets": [api.netloc], "labels": labels}],
            }
            for path, labels in targets.items()
        ],
    }


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """The result of an instant query.

    Raises:
        OSError: Prometheus does not answer or refuses the query.
    """
    parameters = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{parameters}", timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboard with its panel's title."""
    dashboard = json.loads((CHART / "files" / "monitoring" / "registry-caches.json").read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def test_every_query_of_the_dashboard_gives_data(cluster: Cluster, release: Release, prometheus: str) -> None:
    reference, image = new_image(cluster, "docker.io/library/watched:1")
    first = pull(cluster, reference, cluster.nodes[0])
    pull(cluster, reference, cluster.nodes[1])
    wanted = expressions()
    assert len(wanted) >= 8

    def without_data() -> list[tuple[str, str]]:
        return [(title, expression) for title, expression in wanted if not _finite(query(prometheus, expression))]

    try:
        wait_for("every query to give data", lambda: not without_data(), timeout=90, interval=1)
    except TimeoutError:
        missing = "\n".join(f"{title}: {expression}" for title, expression in without_data())
        pytest.fail(f"no data for\n{missing}")

    (pulled,) = query(prometheus, 'sum(registry_proxy_pulled_bytes_total{type="blob", upstream_host="docker.io"})')
    sent = sum(request.body_bytes for request in first.requests if request.is_blob)
    assert float(pulled["value"][1]) == sent == sum(map(len, image.blobs.values())), "to the byte as the upstream says"


def _finite(result: list[dict[str, Any]]) -> bool:
    return any(sample["value"][1] not in ("NaN", "+Inf", "-Inf") for sample in result)
