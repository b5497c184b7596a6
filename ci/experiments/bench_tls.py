"""The part of `make bench` that compares cache pods with and without TLS: what a gigabyte of cached blobs costs."""

from __future__ import annotations

import base64
import ssl
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import own_network
from registry_cache.certificates import make_secrets
from registry_cache.model.values import Values

from experiments.bench_caches import Figures, measure_warm
from experiments.bench_contenders import ChartPod, print_markdown
from experiments.pod_bench import UPSTREAM, pod_bench

if TYPE_CHECKING:
    from experiments.pod_bench import Bench

RELEASE, NAMESPACE = "x", "space"
# Sizes of blobs: how many blobs there are, and how often each is read in a round.
WARM = {100_000_000: (2, 4), 1_000_000: (20, 10)}
ROUNDS = 3


def bench_tls() -> None:
    """Measure all in turns, and print the table."""
    with tempfile.TemporaryDirectory() as work, pod_bench(Path(work)) as bench:
        pods = {
            "HTTP": ChartPod(bench, 1),
            "TLS": _with_tls(bench, 2, nodes_only=False),
            "TLS, nodes only": _with_tls(bench, 3, nodes_only=True),
        }
        for pod in pods.values():
            pod.start()
        figures = {name: Figures() for name in pods}
        measure_warm(bench, pods, figures, WARM, ROUNDS)
        for pod in pods.values():
            pod.stop()
    rows = [
        [
            name,
            f"{size / 1e6:.0f} MB",
            f"{statistics.median(figures[name].cpu_per_gigabyte[size]):.2f} s",
            f"{statistics.median(figures[name].gigabytes_per_second[size]):.2f} GB/s",
        ]
        for size in figures["HTTP"].cpu_per_gigabyte
        for name in pods
    ]
    print_markdown(["cache pod", "blobs of", "CPU for each GB", "speed for one client"], rows)


def _with_tls(bench: Bench, number: int, *, nodes_only: bool) -> ChartPod:
    """Return a pod with certificates for its own address."""
    fields: dict[str, Any] = {"http": {"tls": True}}
    settings = {"clusterIP": own_network.pod_address(number), "nodesOnly": nodes_only}
    values = {"upstreamSettings": {UPSTREAM: settings}}
    caches = [{"upstream": UPSTREAM, **fields}]
    made = make_secrets(Values.model_validate({"caches": caches, **values}), RELEASE, NAMESPACE, days=1)
    contents = {
        secret.name: {key: base64.b64decode(content).decode() for key, content in secret.manifest["data"].items()}
        for secret in made
    }
    context = ssl.create_default_context(cadata=contents[made[0].name]["ca.crt"])
    if nodes_only:
        client = contents[made[-1].name]
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(client["tls.crt"] + client["tls.key"])
            file.flush()
            context.load_cert_chain(file.name)
    return ChartPod(bench, number, fields, values, contents, context)
