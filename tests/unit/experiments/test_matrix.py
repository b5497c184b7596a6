"""The pairs of releases that `make matrix` tries, and what it says about them."""

from __future__ import annotations

import tomllib

import pytest
from cluster.containerd_configuration import containerd_configuration
from cluster.versions import Versions, containerd_releases, kubernetes_releases
from experiments.faults import IN_CLUSTER
from experiments.run_matrix import FAULTS, Result, figures, pairs


def test_each_release_is_tried() -> None:
    assert {pair.kubernetes for pair in pairs()} == set(kubernetes_releases())
    assert {pair.containerd for pair in pairs()} == set(containerd_releases())
    assert Versions() in pairs(), "the test cluster's own pair"


def test_faults_are_those_of_the_cluster() -> None:
    assert set(FAULTS) <= {fault.title for fault in IN_CLUSTER}


@pytest.mark.parametrize("release", containerd_releases())
def test_configuration_has_the_form_of_its_release(release: str) -> None:
    configuration = tomllib.loads(containerd_configuration(Versions(containerd=release)))
    version, plugin = (2, "io.containerd.grpc.v1.cri") if release < "2" else (3, "io.containerd.cri.v1.images")
    assert configuration["version"] == version
    assert configuration["plugins"][plugin]["registry"]["config_path"] == "/etc/containerd/certs.d"


def test_pair_that_did_not_work_is_in_the_table_with_the_reason() -> None:
    result = Result(Versions("1.36", "1.7"), failure="waited 60 s for containerd on node-1")
    assert not result.holds
    assert "| 1.36 | 1.7 | **fails**: waited 60 s for containerd on node-1 | not reached |" in figures([result])
