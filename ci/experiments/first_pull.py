"""Measures first pulls over links with a rate and a delay: direct, through the cache, through distribution alone.

Real kubelets pull on the test cluster: `python -m experiments.first_pull`. Each pull is of a new image, which neither
the node nor a cache has. docs/benchmarks.md has the results.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

from cluster.native import NativeCluster
from machine import environment
from machine.links import Links, parse_delay, parse_rate

from experiments.bench_contenders import print_markdown
from experiments.first_private_pull import PrivateBed
from experiments.first_pull_bed import CACHE, DIRECT, WAYS, Bed, Measured, Shape

TIMES_DIRECT = "times direct"
REPETITIONS = 3
# One has the caches, one pulls what is new, and one what the second one has pulled.
NODE_COUNT = 3
GIGABIT, SLOW = 10**9, 2 * 10**8
DELAY = 0.05
CONNECTION = 160_000_000
SHAPES = (Shape(1, 300), Shape(10, 20), Shape(10, 2), Shape(1, 2048))
RATES = (GIGABIT, SLOW, None)
DELAYS = (0.0, DELAY)
CONNECTIONS = (None, CONNECTION)
SHAPE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Row:
    """An image, and the links over which it is pulled."""

    shape: Shape
    rate: int | None
    delay: float = 0.0
    connection: int | None = None

    @property
    def links(self) -> Links:
        return Links(node_rate=self.rate, upstream_delay=self.delay, connection_rate=self.connection)

    @property
    def has_second(self) -> bool:
        """Whether a second pull is measured, which does not depend on the delay or the limit of the upstream."""
        return not self.delay and self.connection is None

    @property
    def cells(self) -> list[str]:
        rate = "unlimited" if self.rate is None else f"{self.rate / 1e6:g} Mbit/s".replace("000 M", " G")
        connection = "unlimited" if self.connection is None else f"{self.connection / 8e6:g} MB/s"
        return [str(self.shape), rate, f"{self.delay * 1000:g} ms", connection]


# About 25 minutes; the complete product takes hours.
DEFAULT = (
    Row(Shape(1, 300), GIGABIT),
    Row(Shape(10, 20), GIGABIT),
    Row(Shape(10, 2), GIGABIT),
    Row(Shape(1, 2048), GIGABIT),
    Row(Shape(1, 300), SLOW),
    Row(Shape(1, 300), None),
    Row(Shape(1, 300), GIGABIT, DELAY),
    Row(Shape(10, 20), GIGABIT, DELAY),
    Row(Shape(10, 2), GIGABIT, DELAY),
    Row(Shape(1, 300), GIGABIT, connection=CONNECTION),
)
# About 4 minutes.
PRIVATE = (Row(Shape(10, 20), GIGABIT, DELAY), Row(Shape(10, 2), GIGABIT, DELAY))
PRIVATE_REPETITIONS = 5


@dataclass
class Results:
    """The pulls of one row; `first` has them by way, and `second` those from a cache that has the image."""

    row: Row
    first: defaultdict[str, list[Measured]] = field(default_factory=lambda: defaultdict(list))
    second: list[Measured] = field(default_factory=list)

    @property
    def ways(self) -> list[str]:
        """The ways in their order."""
        return [way for way in WAYS if way in self.first]


def main(arguments: list[str]) -> int:
    """Measure, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.first_pull",
        description=__doc__,
        epilog="With --images, --rates, --delays or --connections, all combinations are measured. The default is a "
        "selection.",
    )
    parser.add_argument(
        "--images", nargs="+", type=parse_shape, help="layers and MiB of each, for example: 1x300 10x20"
    )
    parser.add_argument(
        "--rates", nargs="+", type=parse_rate, help="rates of each node's link, for example: 1gbit 200mbit unlimited"
    )
    parser.add_argument(
        "--delays", nargs="+", type=parse_delay, help="round-trip times to the upstream, for example: 0 50ms"
    )
    parser.add_argument(
        "--connections",
        nargs="+",
        type=parse_rate,
        help="rates of each connection to the upstream, for example: 160mbit unlimited",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="pull private images with a pull secret, directly and through a cache with access: Puller and TLS",
    )
    parser.add_argument("--all", action="store_true", help="measure all combinations, which takes hours")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"default: {REPETITIONS}")
    parser.add_argument("--name", default="bench", help="the test cluster to use (default: bench)")
    parser.add_argument("--disk", action="store_true", help="keep the files of all hosts on the disk, not in memory")
    parser.add_argument("--keep-cluster", action="store_true", help="leave the test cluster running")
    options = parser.parse_args(arguments)
    environment.clean_process()
    rows = choose_rows(options)
    cluster = NativeCluster(options.name, NODE_COUNT, files_in_memory=not options.disk)
    bed = PrivateBed(cluster) if options.private else Bed(cluster)
    measure_on(bed, rows, options.repetitions, keep=options.keep_cluster)
    return 0


def bench_first_pull() -> None:
    """Measure the default rows, as a part of `make bench`."""
    cluster = NativeCluster("bench", NODE_COUNT, files_in_memory=True)
    measure_on(Bed(cluster), list(DEFAULT), REPETITIONS)


def bench_private_pull() -> None:
    """Measure first pulls of private images, as a part of `make bench`."""
    cluster = NativeCluster("bench", NODE_COUNT, files_in_memory=True)
    measure_on(PrivateBed(cluster), list(PRIVATE), PRIVATE_REPETITIONS)


def choose_rows(options: argparse.Namespace) -> list[Row]:
    """Return the rows that the options select."""
    given = (options.images, options.rates, options.delays, options.connections)
    if not options.all and all(each is None for each in given):
        return list(PRIVATE if options.private else DEFAULT)
    values = [each or default for each, default in zip(given, (SHAPES, RATES, DELAYS, CONNECTIONS), strict=True)]
    return [Row(*combination) for combination in itertools.product(*values)]


def parse_shape(text: str) -> Shape:
    """Return the shape of an image from text such as `10x20`.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    match = SHAPE.fullmatch(text)
    if match is None:
        message = f"{text!r} is not the shape of an image; write for example 10x20 for 10 layers of 20 MiB"
        raise argparse.ArgumentTypeError(message)
    return Shape(int(match[1]), int(match[2]))


def measure_on(bed: Bed, rows: list[Row], repetitions: int, *, keep: bool = False) -> None:
    """Start the cluster, measure the rows, and print the tables; remove the cluster unless it is kept."""
    cluster = bed.cluster
    try:
        cluster.up()
        bed.install()
        try:
            results = [measure_row(bed, row, repetitions) for row in rows]
        finally:
            cluster.set_links(Links())
            bed.remove()
    finally:
        if not keep:
            cluster.down()
    print_tables(results, repetitions)


def measure_row(bed: Bed, row: Row, repetitions: int) -> Results:
    """Pull new images in each way in turns, and a second time through the cache; print a line of progress."""
    begun, results, ways = time.monotonic(), Results(row), list(bed.ways)
    bed.cluster.set_links(row.links)
    for number in range(repetitions):
        bed.prepare()
        with bed.stored(row.shape) as image:
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                results.first[way].append(bed.pull(way, image, row.rate))
            # The upstream is asked about each pull of a private image.
            if row.has_second or bed.secret:
                results.second.append(bed.pull(CACHE, image, row.rate, is_second=True))
    seconds = {way: [f"{each.seconds:.2f}" for each in results.first[way]] for way in ways}
    seconds["second"] = [f"{each.seconds:.2f}" for each in results.second]
    print(", ".join(row.cells), seconds, f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return results


def print_tables(results: list[Results], repetitions: int) -> None:
    """Print the tables of first and of second pulls, with medians."""
    heads = ["image", "links of the nodes", "delay", "a connection", DIRECT]
    ways = results[0].ways
    print(f"First pulls, medians of {repetitions}; at last, for each way ({', '.join(ways)}): how many times the")
    print("upstream sent the image's bytes, how many requests it got, and how busy the processors were\n")
    compared = [head for way in ways if way != DIRECT for head in (way, TIMES_DIRECT)]
    of_each = ("upstream's bytes", "upstream's requests", "processors")
    print_markdown([*heads, *compared, *of_each], [first_cells(each) for each in results])
    again = [each for each in results if each.second]
    if not again:
        return
    print(f"\nSecond pulls through the cache, medians of {repetitions}\n")
    print_markdown([*heads, "second pull", "share of the link in use"], [second_cells(each) for each in again])


def first_cells(results: Results) -> list[str]:
    """Return the cells of a row of the first table."""
    median = {way: statistics.median(each.seconds for each in pulls) for way, pulls in results.first.items()}
    cells = [*results.row.cells, f"{median[DIRECT]:.1f} s"]
    for way in results.ways:
        if way == DIRECT:
            continue
        cells += [f"{median[way]:.1f} s", f"{median[way] / median[DIRECT]:.2f}"]
    of_each = [
        ", ".join(f"{statistics.median(each.multiple for each in results.first[way]):.2f}" for way in results.ways),
        ", ".join(f"{statistics.median(each.requests for each in results.first[way]):.0f}" for way in results.ways),
        ", ".join(_median_share([each.processors for each in results.first[way]]) for way in results.ways),
    ]
    return [*cells, *of_each]


def second_cells(results: Results) -> list[str]:
    """Return the cells of a row of the second table."""
    direct = statistics.median(each.seconds for each in results.first[DIRECT])
    second = statistics.median(each.seconds for each in results.second)
    share = _median_share([each.link_share for each in results.second])
    return [*results.row.cells, f"{direct:.1f} s", f"{second:.1f} s", share]


def _median_share(shares: list[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{statistics.median(known):.2f}" if known else "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
