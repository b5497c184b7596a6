"""`make matrix`: tries each release of Kubernetes and containerd, and writes docs/tested-versions.md.

Each pair of releases is a cluster of its own. The chart is installed in it, used, put into five faults and uninstalled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.native import CannotRun, NativeCluster
from cluster.pulls import PullFailed, new_image, pull
from cluster.release import Release
from cluster.versions import Versions, containerd_releases, kubernetes_releases
from machine import SetupFailed, environment
from machine.paths import REPOSITORY

from experiments.cluster_fault_costs import Row, measure
from experiments.cluster_faults import UPSTREAM, VALUES, Scene
from experiments.fault_pages import replace_figures, table
from experiments.faults import IN_CLUSTER

PAGE = REPOSITORY / "docs" / "tested-versions.md"
# The last Kubernetes that runs with containerd 1, of which its kubelet warns.
LAST_WITH_CONTAINERD_1 = "1.35"
FAULTS = (
    "nothing listens",
    "packets dropped",
    "status 503",
    "every body breaks off",
    "cache pod killed while a layer is sent",
)


@dataclass
class Result:
    """What held with a pair of releases; `failure` says what did not."""

    versions: Versions
    main_way: bool = False
    faults: dict[str, Row] = field(default_factory=dict)
    failure: str = ""

    @property
    def holds(self) -> bool:
        return self.main_way and not self.failure and set(self.faults) == set(FAULTS)


def pairs() -> list[Versions]:
    """Return the pairs that are tried: each Kubernetes with the newest containerd, and the others with a recent one."""
    kubernetes, containerds = kubernetes_releases(), containerd_releases()
    newest = [Versions(release, containerds[-1]) for release in kubernetes]
    others = [
        Versions(LAST_WITH_CONTAINERD_1 if release.startswith("1.") else kubernetes[-1], release)
        for release in containerds[:-1]
    ]
    return [*others, *newest]


def main(arguments: list[str]) -> int:
    """Try the pairs, print or write the results, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument(
        "--kubernetes", choices=kubernetes_releases(), help="try this release only, and print the result"
    )
    parser.add_argument(
        "--containerd", choices=containerd_releases(), help="try this release only, and print the result"
    )
    options = parser.parse_args(arguments)
    environment.clean_process()
    if options.kubernetes or options.containerd:
        chosen = [
            Versions(kubernetes, containerd)
            for kubernetes in ([options.kubernetes] if options.kubernetes else kubernetes_releases())
            for containerd in ([options.containerd] if options.containerd else containerd_releases())
        ]
    else:
        chosen = pairs()
    results = []
    for versions in chosen:
        _print(f"Kubernetes {versions.kubernetes}, containerd {versions.containerd} …")
        results.append(try_pair(versions))
        _print(f"  {results[-1].failure or 'holds'}")
    if options.kubernetes or options.containerd:
        print(figures(results))
    else:
        replace_figures(PAGE, figures(results))
    return 0 if all(result.holds for result in results) else 1


def try_pair(versions: Versions) -> Result:
    """Start a cluster with two releases, and go the main way and through the faults in it."""
    result = Result(versions)
    cluster = NativeCluster("matrix", versions=versions)
    try:
        cluster.down()
        cluster.up()
        _go(cluster, result)
    except (CannotRun, SetupFailed):
        raise
    except (AssertionError, PullFailed, RuntimeError, TimeoutError) as error:
        _print(str(error))
        result.failure = str(error).splitlines()[0]
    finally:
        cluster.down()
    return result


def _go(cluster: NativeCluster, result: Result) -> None:
    release = Release(cluster, name="matrix", namespace="matrix")
    before = registry_directories(cluster)
    with tempfile.TemporaryDirectory() as work:
        values = Path(work) / "values.yaml"
        values.write_text(json.dumps(VALUES))
        release.install("--values", str(values))
    check_main_way(cluster, release)
    scene = Scene(cluster, release)
    for fault in IN_CLUSTER:
        if fault.title in FAULTS:
            result.faults[fault.title] = measure(scene, fault)
            _print(f"  {result.faults[fault.title]}")
    release.uninstall()
    after = registry_directories(cluster)
    assert after == before, f"the uninstall left {after} instead of {before}"
    result.main_way = True


def check_main_way(cluster: NativeCluster, release: Release) -> None:
    """Pull through the cache, from the cache, and without the cache.

    Raises:
        AssertionError: A pull was served by another than it should be.
    """
    first, second = cluster.nodes
    image, _ = new_image(cluster, f"{UPSTREAM}/library/cached:1")
    for node, expected in ((first, "upstream through the cache"), (second, "cache")):
        served_by = pull(cluster, image, node).served_by
        assert served_by == expected, f"{node.name} was served by the {served_by}, not by the {expected}"
    release.take_away(UPSTREAM)
    other, _ = new_image(cluster, f"{UPSTREAM}/library/fallback:1")
    served_by = pull(cluster, other, first).served_by
    assert served_by == "upstream", f"without the cache, {first.name} was served by the {served_by}"
    release.bring_back(UPSTREAM)


def registry_directories(cluster: NativeCluster) -> list[str]:
    """Return the files in the registry directory of each node."""
    return [node.run("find", REGISTRY_DIRECTORY, "-mindepth", "1") for node in cluster.nodes]


def figures(results: list[Result]) -> str:
    """Return the table for the page: seconds of a pull that a fault meets, with a line for each pair."""
    head = ("Kubernetes", "containerd", "install, cached pull, fallback, uninstall", *FAULTS)
    lines = [head, ("---",) * 3 + ("---:",) * len(FAULTS)]
    for result in results:
        main_way = "works" if result.main_way else f"**fails**: {result.failure}"
        cells = [_cell(result.faults.get(title)) for title in FAULTS]
        lines.append((result.versions.kubernetes, result.versions.containerd, main_way, *cells))
    return table(lines)


def _cell(row: Row | None) -> str:
    if row is None or row.before is None:
        return "not reached"
    seconds = "hangs" if row.before.seconds is None else f"{row.before.seconds:.1f} s"
    failed = len(row.before.failed_tries)
    return f"{seconds}, {failed} failed tries" if failed else seconds


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
