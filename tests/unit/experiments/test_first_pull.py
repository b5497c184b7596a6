"""The rows, images and figures of the bench of first pulls."""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile

import pytest
from experiments.first_pull import DEFAULT, PRIVATE, Row, choose_rows, parse_shape
from experiments.first_pull_bed import MEBIBYTE, Sample, Shape, link_share, processors_in_use
from machine.links import Links


def options(**given: object) -> argparse.Namespace:
    """Return the options of the command, of which only some are given."""
    return argparse.Namespace(
        **{"images": None, "rates": None, "delays": None, "connections": None, "all": False, "private": False, **given}
    )


def test_default_rows_are_a_selection_of_all_combinations() -> None:
    every = choose_rows(options(all=True))
    assert len(every) == 4 * 3 * 2 * 2
    assert choose_rows(options()) == list(DEFAULT)
    assert set(DEFAULT) < set(every)
    assert choose_rows(options(private=True)) == list(PRIVATE)


def test_each_option_keeps_all_values_of_the_others() -> None:
    rows = choose_rows(options(images=[Shape(10, 2)], rates=[None], delays=[0.0]))
    assert rows == [Row(Shape(10, 2), None), Row(Shape(10, 2), None, connection=160_000_000)]
    assert rows[1].links == Links(connection_rate=160_000_000)


def test_cells_have_units() -> None:
    assert Row(Shape(1, 2048), 10**9, 0.05).cells == ["1 × 2 GiB", "1 Gbit/s", "50 ms", "unlimited"]  # noqa: RUF001
    assert Row(Shape(10, 20), 2 * 10**8, 0, 160_000_000).cells[1:] == ["200 Mbit/s", "0 ms", "20 MB/s"]
    assert Row(Shape(10, 20), None).cells[1:] == ["unlimited", "0 ms", "unlimited"]


@pytest.mark.parametrize("text", ["", "10", "10x", "x20", "10x20MiB"])
def test_wrong_shape_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write for example 10x20"):
        parse_shape(text)


def test_image_has_the_layers_of_its_shape_and_no_other_image_has_them() -> None:
    shape = parse_shape("3x4")
    image, other = shape.image(), shape.image()
    assert len(image.layers) == 3
    assert all(abs(len(layer) - 4 * MEBIBYTE) < 65536 for layer in image.layers)
    assert len(set(image.layers) | set(other.layers)) == 6
    with tarfile.open(fileobj=io.BytesIO(image.layers[0])) as layer:
        assert {"bin/busybox", "content/0"} <= set(layer.getnames())
    config = json.loads(image.blobs[json.loads(image.manifest)["config"]["digest"]])
    assert config["config"]["Entrypoint"][0] == "/bin/busybox"


def test_share_of_a_link_is_that_while_the_bulk_of_the_bytes_comes() -> None:
    # Nothing for a second, then 10 MB in a second, and nothing again.
    samples = [Sample(t / 100, min(max(t - 100, 0), 100) * 100_000) for t in range(300)]
    payload = 1448 / 1514
    assert link_share(samples, 80_000_000) == pytest.approx(1 / payload, rel=0.02)
    assert link_share(samples, 160_000_000) == pytest.approx(0.5 / payload, rel=0.02)


def test_share_of_the_processors_is_that_of_the_time_in_which_the_bytes_came() -> None:
    """Half of one processor is busy in the second of the bytes, and none before and after it."""
    samples = [
        Sample(t / 100, min(max(t - 100, 0), 100) * 100_000, min(max(t - 100, 0), 100) / 200) for t in range(300)
    ]
    assert processors_in_use(samples) == pytest.approx(0.5 / (os.cpu_count() or 1), rel=0.02)


@pytest.mark.parametrize("pairs", [[], [(0.0, 5)], [(0.0, 5), (1.0, 5)], [(0.0, 0), (1.0, 10)]])
def test_shares_need_samples_and_that_of_a_link_a_rate(pairs: list[tuple[float, int]]) -> None:
    samples = [Sample(*pair) for pair in pairs]
    assert link_share(samples, 1000) is None
    assert processors_in_use(samples) is None
    assert link_share([Sample(0.0, 0), Sample(1.0, 500), Sample(2.0, 600), Sample(3.0, 1000)], None) is None
