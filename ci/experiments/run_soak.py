"""`make soak`: random pulls with evictions, faults of the upstreams and killed caches on a real cluster."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from cluster import interface
from cluster.cli import choose
from cluster.native import NativeCluster
from cluster.release import Release
from cluster.small_volumes import small_volume
from machine import environment
from machine.links import UNLIMITED, Links, parse_rate
from machine.paths import REPOSITORY

from experiments.soak import VOLUME_BYTES, Outcome, Soak
from experiments.soak_faults import keep_log

LINK = 200_000_000
LOGS = REPOSITORY / "build" / "soak"


def main(arguments: list[str]) -> int:
    """Soak, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="test", help="the test cluster to use (default: test)")
    parser.add_argument("--minutes", type=float, default=10, help="duration (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="the seed of all random choices")  # noqa: S311
    parser.add_argument(
        "--link",
        type=parse_rate,
        default=LINK,
        metavar="RATE",
        help=f"the rate of each node's link, so that bodies are under way when faults strike; {UNLIMITED} is possible "
        "(default: 200mbit)",
    )
    options = parser.parse_args(arguments)
    environment.clean_process()
    cluster = choose(options.name)
    if not isinstance(cluster, NativeCluster):
        print("this needs the native test cluster", file=sys.stderr)
        return 1
    cluster.up()
    rate = f"{options.link / 1e6:g} Mbit/s" if options.link else UNLIMITED
    print(f"seed {options.seed}, {options.minutes:g} min, link of each node {rate}", flush=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    release = Release(cluster, name="soak", namespace="soak")
    release.uninstall()
    with ExitStack() as stack:
        volumes = {
            upstream: stack.enter_context(small_volume(cluster, node, f"soak-{node.number}", size))
            for (upstream, size), node in zip(VOLUME_BYTES.items(), cluster.nodes, strict=True)
        }
        stack.callback(release.uninstall)
        caches = [
            {
                "upstream": upstream,
                "remoteURL": f"https://{'registry-1.docker.io' if upstream == 'docker.io' else upstream}",
                "volume": {"size": str(volume.size), "storageClassName": volume.name},
            }
            for upstream, volume in volumes.items()
        ]
        # The same cache comes and goes many times, and the nodes must use it as soon as it answers.
        values = {"caches": caches, "nodeProgram": {"probe": {"interval": "2s", "maxBackoff": "0s"}}}
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "values.yaml"
            path.write_text(json.dumps(values))
            release.install("--values", str(path))
        soak = Soak(cluster, release, volumes, options.seed, LOGS)
        stack.callback(soak.clean)
        stack.callback(cluster.upstream.resume)
        soak.fill()
        stack.callback(cluster.set_links, Links())
        cluster.set_links(Links(node_rate=options.link))
        begun, mark = time.monotonic(), cluster.upstream.mark()
        soak.run(options.minutes * 60)
        sent = sum(request.body_bytes for request in cluster.upstream.requests(mark))
        seconds = time.monotonic() - begun
        summaries = soak.check()
        failed = print_table(soak, seconds, sent, summaries)
        if failed:
            keep_logs(soak)
            print(f"\nThe soak failed; its logs are in {LOGS.relative_to(REPOSITORY)}")
    return 1 if failed else 0


def print_table(soak: Soak, seconds: float, sent: int, summaries: dict[str, str]) -> bool:
    """Print what happened, and return whether the soak has failed."""
    outcomes = soak.outcomes
    counted = [one for one in outcomes if not one.excused]
    failed = [one for one in counted if one.failures]
    succeeded = [one for one in counted if not one.failures]
    excused = Counter(one.excused for one in outcomes if one.excused)
    pulled = sum(one.image.size for one in outcomes)
    rows = [("seconds", f"{seconds:.0f}"), ("pulls", f"{len(outcomes)}")]
    rows += [(f"  by {node}", f"{count}") for node, count in sorted(Counter(one.node for one in outcomes).items())]
    rows += [
        (f"  served by {who}", f"{count}") for who, count in sorted(Counter(one.served_by for one in succeeded).items())
    ]
    rows.append(("failed", f"{len(failed)}"))
    rows += [(f"  not counted: {why}", f"{count}") for why, count in sorted(excused.items())]
    rows += [
        ("slowest while its upstream was available", _slowest([one for one in succeeded if not one.away])),
        (
            "slowest while its upstream was unavailable, cached",
            _slowest([one for one in succeeded if one.away and one.cached]),
        ),
    ]
    rows += [("faults", f"{soak.disruption.counts.total()}")]
    rows += [(f"  {name}", f"{count}") for name, count in sorted(soak.disruption.counts.items())]
    rows += [
        ("blobs evicted", f"{soak.evicted}"),
        ("bytes of the pulled images", f"{pulled / 1e6:.0f} MB"),
        ("bytes from the upstreams", f"{sent / 1e6:.0f} MB"),
        ("saved", f"{1 - sent / pulled:.0%}" if pulled else "-"),
        *((f"cache of {upstream}", summary) for upstream, summary in summaries.items()),
    ]
    print("\n".join(f"{title:<52}{value}" for title, value in rows))
    for one in failed:
        print(f"\nFAILED: {one.image.reference} on {one.node}, {'cached' if one.cached else 'not cached'}")
        print("\n".join(one.failures))
    for error in soak.errors:
        print(f"\nERROR: {error}")
    return bool(failed or soak.errors or not outcomes)


def _slowest(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return "-"
    one = max(outcomes, key=lambda each: each.seconds)
    return f"{one.seconds:.1f} s, {one.image.size / 1e6:.0f} MB served by {one.served_by}"


def keep_logs(soak: Soak) -> None:
    """Keep the logs and events that explain failures, beside the log of the soak."""
    release = soak.release
    for pod in release.get("pods")["items"]:
        keep_log(release, pod["metadata"]["name"], LOGS)
    events = interface.kubectl(soak.cluster.kubeconfig, "get", "events", "--all-namespaces", "--output=wide")
    (LOGS / "events").write_text(events)
    for name in ("access.log", "nginx-error.log"):
        shutil.copy(soak.cluster.upstream.folder / name, LOGS / f"upstream-{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
