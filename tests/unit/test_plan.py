"""`registry-cache plan`: what it says, and how it ends. tests/render/test_plan.py tells whether it is true."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from registry_cache import cli
from registry_cache.model.pods import Images
from registry_cache.plan import Plan, plan
from registry_cache.regenerate import REPOSITORY
from registry_cache.values_file import load_values

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = REPOSITORY / "examples" / "registry-config.yaml"


def one(**fields: object) -> dict[str, Any]:
    return {"caches": [{"upstream": "docker.io", **fields}]}


def planned(old: dict[str, Any], new: dict[str, Any], release: str = "registry-cache") -> Plan:
    """Return the plan for two valid values files."""
    return plan(load_values(old), load_values(new), release)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        pytest.param(one(), one(volume={"size": "10Gi"}), "Nothing changes.", id="default-written-out"),
        pytest.param(
            one(volume={"size": "1Gi"}), one(volume={"size": "1024Mi"}), "Nothing changes.", id="same-size-otherwise"
        ),
        pytest.param(
            one(volume={"size": "+1.5E"}),
            one(volume={"size": "1500e15"}),
            "Nothing changes.",
            id="same-size-as-an-exponent",
        ),
        pytest.param(
            {"caches": [{"upstream": "a.b"}, {"upstream": "c.d"}]},
            {"caches": [{"upstream": "c.d"}, {"upstream": "a.b"}]},
            "Nothing changes.",
            id="another-order",
        ),
        pytest.param(
            one(),
            one(garbageCollection={"ttl": "1h"}),
            "docker.io: changed\n"
            "  garbageCollection.ttl: 168h -> 1h\n"
            "  the new ttl applies without a restart, also to stored content",
            id="ttl",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"highWaterMarkPercent": 50}},
            "docker.io: changed\n"
            "  cachePods.highWaterMarkPercent: 85 -> 50\n"
            "  the new high-water mark applies without a restart",
            id="high-water-mark",
        ),
        pytest.param(
            one(),
            one(remoteURL="https://mirror.example.com"),
            "docker.io: changed, restarts\n"
            "  remoteURL: https://registry-1.docker.io -> https://mirror.example.com\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "nodes: changed, restarts\n"
            "  the node program restarts on a few nodes at a time; these pull from the upstreams until it is back",
            id="remote",
        ),
        pytest.param(
            one(),
            one(volume={"storageClassName": "fast"}),
            "docker.io: refused\n"
            "  volume.storageClassName: unset -> fast\n"
            "  helm upgrade refuses this and changes nothing: a volume cannot shrink or change its class or access "
            "modes\n"
            "  keep volume.storageClassName unset, or remove the cache, wait until its claim is gone, and add it "
            "again, empty",
            id="storage-class",
        ),
        pytest.param(
            one(volume={"size": "10Gi"}),
            one(volume={"size": "10e9", "storageClassName": "fast"}),
            "docker.io: refused\n"
            "  volume.size: 10Gi -> 10e9\n"
            "  volume.storageClassName: unset -> fast\n"
            "  helm upgrade refuses this and changes nothing: a volume cannot shrink or change its class or access "
            "modes\n"
            "  keep volume.size 10Gi and volume.storageClassName unset, or remove the cache, wait until its claim is "
            "gone, and add it again, empty",
            id="smaller-volume",
        ),
        pytest.param(
            one(),
            one(volume={"size": "20Gi"}),
            "docker.io: changed\n"
            "  volume.size: 10Gi -> 20Gi\n"
            "  the volume grows while the cache runs, if its storage class allows volume expansion",
            id="larger-volume",
        ),
        pytest.param(
            one(),
            one(highAvailability={"enabled": True}),
            "docker.io: changed, restarts\n"
            "  highAvailability.enabled: false -> true\n"
            "  the replicas restart one after the other; the cached content stays\n"
            "  the second replica starts empty",
            id="second-replica",
        ),
        pytest.param(
            one(highAvailability={"enabled": True}),
            one(highAvailability={"enabled": False}),
            "docker.io: changed, restarts\n"
            "  highAvailability.enabled: true -> false\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "  the volume of the second replica is deleted",
            id="one-replica-less",
        ),
        pytest.param(
            {**one(highAvailability={"enabled": True}), "cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}},
            one(),
            "docker.io: changed, restarts\n"
            "  highAvailability.enabled: true -> false\n"
            "  cachePods.volumeClaims.retentionPolicy: Retain -> Delete\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "  the volume of the second replica stays until its claim is deleted\n"
            "  from now on, its volume is deleted when the cache is removed or the release is uninstalled",
            id="one-replica-less-with-its-volume-retained",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"replicas": 4}},
            "docker.io: changed, restarts\n"
            "  cachePods.replicas: 1 -> 4\n"
            "  the replicas restart one after the other; the cached content stays\n"
            "  3 more replicas start empty",
            id="more-replicas",
        ),
        pytest.param(
            {**one(), "cachePods": {"replicas": 4, "volumeClaims": {"retentionPolicy": "Retain"}}},
            {
                **one(),
                "cachePods": {"replicas": 4, "volumeClaims": {"retentionPolicy": "Retain"}},
                "upstreamSettings": {"docker.io": {"replicas": 2}},
            },
            "docker.io: changed, restarts\n"
            "  upstreamSettings.replicas: 4 -> 2\n"
            "  the replicas restart one after the other; the cached content stays\n"
            "  the volumes of the last 2 replicas stay until their claims are deleted",
            id="fewer-replicas-of-one-upstream",
        ),
        pytest.param(
            {**one(highAvailability={"enabled": True}), "cachePods": {"replicas": 3}},
            one(highAvailability={"enabled": True}),
            "docker.io: changed, restarts\n"
            "  cachePods.replicas: 3 -> 1\n"
            "  the replicas restart one after the other; the cached content stays\n"
            "  the volume of the last replica is deleted",
            id="as-many-replicas-as-high-availability-has",
        ),
        pytest.param(
            one(highAvailability={"enabled": True}),
            {**one(), "cachePods": {"replicas": 2}},
            "Nothing changes.",
            id="as-many-replicas-by-another-value",
        ),
        pytest.param(
            one(highAvailability={"enabled": True}),
            {**one(highAvailability={"enabled": True}), "cachePods": {"tagCheckInterval": "0s"}},
            "docker.io: changed, restarts\n"
            "  cachePods.tagCheckInterval: 5s -> 0s\n"
            "  the replicas restart one after the other; the cached content stays",
            id="two-replicas",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}},
            "docker.io: changed\n"
            "  cachePods.volumeClaims.retentionPolicy: Delete -> Retain\n"
            "  from now on, its volume stays when the cache is removed or the release is uninstalled",
            id="volume-retention",
        ),
        pytest.param(
            {"caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}]},
            {**one(), "cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}},
            "docker.io: changed\n"
            "  cachePods.volumeClaims.retentionPolicy: Delete -> Retain\n"
            "  from now on, its volume stays when the cache is removed or the release is uninstalled\n"
            "quay.io: removed\n"
            "  nodes pull from the upstream\n"
            "  its volume is deleted\n"
            "nodes: changed, restarts\n"
            "  the node program restarts on a few nodes at a time; these pull from the upstreams until it is back",
            id="retention-comes-too-late",
        ),
        pytest.param(
            {"caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}]},
            {
                "caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}],
                "upstreamSettings": {"quay.io": {"caSecretName": "authority"}},
            },
            "quay.io: changed, restarts\n"
            "  upstreamSettings.caSecretName: unset -> authority\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays",
            id="settings-of-one-upstream",
        ),
        pytest.param(
            one(),
            {**one(), "images": {"nginx": {"tag": "1.28.1-alpine"}}},
            "docker.io: changed, restarts\n"
            f"  images.nginx.tag: {Images().nginx.tag} -> 1.28.1-alpine\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays",
            id="image",
        ),
        pytest.param(
            one(),
            {**one(), "images": {"python": {"tag": "3.14-alpine"}}},
            "docker.io: changed, restarts\n"
            f"  images.python.tag: {Images().python.tag} -> 3.14-alpine\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "nodes: changed, restarts\n"
            f"  images.python.tag: {Images().python.tag} -> 3.14-alpine\n"
            "  the node program restarts on a few nodes at a time; these pull from the upstreams until it is back",
            id="image-of-all",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"nodeSelector": {"kubernetes.io/os": None, "pool": "x"}}},
            "docker.io: changed, restarts\n"
            "  cachePods.nodeSelector.kubernetes.io/os: linux -> unset\n"
            "  cachePods.nodeSelector.pool: unset -> x\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays",
            id="default-taken-away",
        ),
        pytest.param(
            {**one(), "monitoring": {"dashboard": {"enabled": True}}},
            {**one(), "monitoring": {"dashboard": {"enabled": True}}, "fullnameOverride": "mine"},
            "docker.io: changed, restarts\n"
            "  its objects are renamed from registry-cache-… to mine-…, so it starts with an empty volume\n"
            "  the old volume is deleted\n"
            "nodes: changed, restarts\n"
            "  the node program restarts on a few nodes at a time; these pull from the upstreams until it is back\n"
            "dashboard: changed\n"
            "  its ConfigMap gets another name or namespace",
            id="renamed",
        ),
        pytest.param(
            one(),
            {**one(), "namespaceOverride": "elsewhere", "nodeProgram": {"enabled": False}},
            "docker.io: changed, restarts\n"
            "  its objects move to the namespace elsewhere, so it starts with an empty volume\n"
            "  the old volume is deleted\n"
            "nodes: removed\n"
            "  nodeProgram.enabled: true -> false\n"
            "  the configuration of every node is restored, and it pulls from the upstreams",
            id="moved",
        ),
        pytest.param(
            {"caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}]},
            {
                "caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}],
                "cachePods": {"nodeSelector": {"pool": "x"}},
                "upstreamSettings": {
                    "quay.io": {"nodeSelector": {"kubernetes.io/os": "linux"}, "clusterIP": "10.96.0.100"}
                },
            },
            "docker.io: changed, restarts\n"
            "  cachePods.nodeSelector.pool: unset -> x\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "quay.io: changed\n"
            "  upstreamSettings.clusterIP: unset -> 10.96.0.100\n"
            "  a Service that exists cannot get another address: delete it first",
            id="setting-of-one-upstream-in-place-of-the-shared-one",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"volumeClaims": {"accessModes": ["ReadWriteOncePod"]}}},
            "docker.io: refused\n"
            '  cachePods.volumeClaims.accessModes: ["ReadWriteOnce"] -> ["ReadWriteOncePod"]\n'
            "  helm upgrade refuses this and changes nothing: a volume cannot shrink or change its class or access "
            "modes\n"
            '  keep cachePods.volumeClaims.accessModes ["ReadWriteOnce"], or remove the cache, wait until its claim is '
            "gone, and add it again, empty",
            id="access-modes",
        ),
        pytest.param(
            one(),
            {**one(), "global": {"imageRegistry": "mirror.example.com/", "imagePullSecrets": ["login"]}},
            "docker.io: changed, restarts\n"
            "  images.distribution.registry: public.ecr.aws/docker -> mirror.example.com\n"
            "  images.nginx.registry: public.ecr.aws/docker -> mirror.example.com\n"
            "  images.python.registry: public.ecr.aws/docker -> mirror.example.com\n"
            '  imagePullSecrets: [] -> ["login"]\n'
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "nodes: changed, restarts\n"
            "  images.python.registry: public.ecr.aws/docker -> mirror.example.com\n"
            '  imagePullSecrets: [] -> ["login"]\n'
            "  the node program restarts on a few nodes at a time; these pull from the upstreams until it is back",
            id="global-values",
        ),
        pytest.param(
            one(),
            {**one(), "cachePods": {"podDisruptionBudget": {"enabled": False}, "serviceAccount": {"create": True}}},
            "docker.io: changed, restarts\n"
            "  cachePods.serviceAccount.name: unset -> registry-cache-cache\n"
            "  nodes pull from the upstream while the cache restarts; the cached content stays\n"
            "service accounts: changed\n"
            "  cachePods.serviceAccount.create: false -> true\n"
            "  service accounts are created, changed or removed",
            id="service-account",
        ),
    ],
)
def test_plan_describes_each_change(old: dict[str, Any], new: dict[str, Any], text: str) -> None:
    assert planned(old, new).text() == text


def test_name_of_the_release_decides_whether_an_override_renames() -> None:
    """The name of the chart is omitted if the release's name contains it."""
    new = {**one(), "nameOverride": "cache"}
    assert planned(one(), new, "registry-cache").text() == "Nothing changes."
    assert {change.data for change in planned(one(), new, "mine").changes if change.upstream} == {"lost"}


def test_claim_of_a_long_upstream_is_found_by_its_label() -> None:
    """The value of the label is cut; tests/render compares it with the chart's."""
    upstream = ".".join(["a" * 30] * 3) + ":5000"
    old = {
        "caches": [*one()["caches"], {"upstream": upstream}],
        "cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}},
    }
    text = planned(old, one()).text()
    assert f"{upstream}: removed" in text
    assert f"--selector upstream-host={'a' * 30}.{'a' * 23}-" in text


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Three configurations: the first one, a possible upgrade of it, and an impossible one."""
    paths = []
    for name, document in (
        ("old", one()),
        ("new", one(proxy={"httpsProxy": "http://proxy:3128"})),
        ("refused", one(volume={"size": "5Gi"})),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(document))
        paths.append(str(path))
    return paths[0], paths[1], paths[2]


def test_exit_code_shows_whether_the_upgrade_would_be_refused(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, refused = files
    assert cli.main(["plan", old, new]) == 0
    assert "docker.io: changed, restarts" in capsys.readouterr().out
    assert cli.main(["plan", old, refused]) == 2
    assert "docker.io: refused" in capsys.readouterr().out


def test_plan_for_machines(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--output", "json", files[0], files[2]]) == 2
    made = json.loads(capsys.readouterr().out)
    assert made["refused"] is True
    (change,) = made["changes"]
    assert {key: change[key] for key in ("part", "upstream", "action", "restart", "data", "differences")} == {
        "part": "cache",
        "upstream": "docker.io",
        "action": "refused",
        "restart": False,
        "data": "kept",
        "differences": [{"path": "volume.size", "old": "10Gi", "new": "5Gi"}],
    }


def test_shoot_and_its_conversion_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shoot = REPOSITORY / "examples" / "shoot.yaml"
    assert cli.main(["convert", str(shoot)]) == 0
    path = tmp_path / "converted.yaml"
    path.write_text(capsys.readouterr().out)
    assert cli.main(["plan", str(shoot), str(path)]) == 0
    assert capsys.readouterr().out == "Nothing changes.\n"


def test_one_of_the_two_may_be_standard_input(
    files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(one()).encode())))
    assert cli.main(["plan", "-", files[0]]) == 0
    assert capsys.readouterr().out == "Nothing changes.\n"
    assert cli.main(["plan", "-", "-"]) == 1
    assert "both standard input" in capsys.readouterr().err


def test_invalid_document_has_no_plan(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", files[0], "/dev/null"]) == 1
    assert capsys.readouterr().err == "/dev/null: is empty\n"


def test_cert_manager_does_nothing_for_caches_without_tls() -> None:
    assert not planned(one(), {**one(), "certManager": {"enabled": True}}).changes
