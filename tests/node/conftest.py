"""Fixtures of the tests of cache pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.pod_bench import pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from experiments.pod_bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Upstream registries for one file of tests, and cache pods before them."""
    with pod_bench(tmp_path_factory.mktemp("folder with spaces")) as running:
        yield running


@pytest.fixture
def faults_end(bench: Bench) -> Iterator[None]:
    """End all faults of the upstreams after the test."""
    yield
    bench.upstream.resume()
