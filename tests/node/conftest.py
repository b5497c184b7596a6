"""What the tests of cache pods share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.pod_bench import pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from experiments.pod_bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Upstream registries of a file's own, and cache pods before them."""
    with pod_bench(tmp_path_factory.mktemp("pods")) as made:
        yield made


@pytest.fixture
def faults_end(bench: Bench) -> Iterator[None]:
    """The upstreams have no faults afterwards."""
    yield
    bench.upstream.resume()
