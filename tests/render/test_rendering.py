"""What the chart renders, for each shape of values that it supports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from gate import status
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from machine import tools
from machine.paths import CHART, REPOSITORY
from registry_cache.model.pods import Images
from registry_cache.names import object_name, upstream_label
from rendering import SCENARIOS, RenderingFailed, by_kind, names, pod_specs, render, render_text

THREE = CHART / "ci" / "three-upstreams-values.yaml"
PRIVATE = CHART / "ci" / "private-values.yaml"
AWKWARD = CHART / "ci" / "awkward-names-values.yaml"
EVERYTHING = CHART / "ci" / "everything-values.yaml"
PROGRAMS = ("x-registry-cache-cache", "all-caches-cache")  # one ConfigMap for all caches
INVENTORY = Path(__file__).with_name("inventory.yaml")

scenarios = pytest.mark.parametrize("values", SCENARIOS, ids=lambda path: path.name.removesuffix("-values.yaml"))


def written(folder: Path, document: object) -> Path:
    """A values file."""
    path = folder / f"{abs(hash(json.dumps(document)))}.yaml"
    path.write_text(json.dumps(document))
    return path


@scenarios
def test_inventory_is_exact(values: Path) -> None:
    assert names(render(values)) == yaml.safe_load(INVENTORY.read_text())[values.name.removesuffix("-values.yaml")]


@scenarios
def test_two_renderings_are_the_same_bytes(values: Path) -> None:
    first = render_text(values)
    render_text.cache_clear()
    assert render_text(values) == first


@scenarios
def test_lint_finds_nothing(values: Path) -> None:
    command = [str(tools.helm()), "lint", "--strict", str(CHART), "--values", str(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_bare_chart_passes_lint_and_is_refused_in_words_when_it_is_rendered(tmp_path: Path) -> None:
    command = [str(tools.helm()), "lint", "--strict", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with pytest.raises(RenderingFailed, match="caches: no cache is defined"):
        render_text(written(tmp_path, {}))


def test_chart_says_what_artifact_hub_and_helm_show_of_it() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    images = [{"name": name, "image": f"{image.registry}/{image.repository}:{image.tag}"} for name, image in Images()]
    annotations = {key: yaml.safe_load(text) for key, text in chart["annotations"].items()}
    assert annotations["artifacthub.io/images"] == images
    assert {one["kind"] for one in annotations["artifacthub.io/changes"]} <= {"added", "changed", "fixed", "removed"}
    assert "support" in {one["name"] for one in annotations["artifacthub.io/links"]}
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == package, "the programs come with the chart"
    blob = "https://raw.githubusercontent.com/registry-cache/registry-cache/main/"
    assert (REPOSITORY / chart["icon"].removeprefix(blob)).read_text().startswith("<svg ")


def test_values_files_of_the_scenarios_are_found_by_chart_testing_and_not_packaged(tmp_path: Path) -> None:
    """`ct lint` takes ci/*-values.yaml beside the Chart.yaml (chart-testing, pkg/chart/chart.go, NewChart)."""
    chart_dirs = yaml.safe_load((REPOSITORY / "ct.yaml").read_text())["chart-dirs"]
    found = [path for folder in chart_dirs for path in (REPOSITORY / folder).glob("*/ci/*-values.yaml")]
    assert sorted(found) == SCENARIOS
    subprocess.run([str(tools.helm()), "package", str(CHART), "--destination", tmp_path], check=True)
    (package,) = tmp_path.iterdir()
    with tarfile.open(package) as archive:
        assert not [name for name in archive.getnames() if "/ci/" in name]


@scenarios
def test_labels_are_on_everything(values: Path) -> None:
    for found in render(values):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "registry-cache"
        assert labels["app.kubernetes.io/instance"] == "x"
        assert {"app.kubernetes.io/component", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} <= set(
            labels
        )
        if (
            labels["app.kubernetes.io/component"] == "cache"
            and found["kind"] != "ServiceAccount"
            and found["metadata"]["name"] != PROGRAMS[values == EVERYTHING]
        ):
            assert labels["upstream-host"]
        for text in (*labels.values(), found["metadata"]["name"]):
            assert len(text) <= (67 if found["kind"] == "PersistentVolumeClaim" else 63)


@scenarios
def test_version_is_on_no_pod_and_no_claim(values: Path) -> None:
    """Or a new version of the chart would restart every pod, and could not change a claim at all."""
    for found in by_kind(render(values), "StatefulSet") + by_kind(render(values), "DaemonSet"):
        templates = [found["spec"]["template"], *found["spec"].get("volumeClaimTemplates", [])]
        for template in templates:
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(template["metadata"]["labels"])


@scenarios
def test_selectors_find_their_own_pods_alone(values: Path) -> None:
    objects = render(values)
    pods = {
        found["metadata"]["name"]: found["spec"]["template"]["metadata"]["labels"]
        for found in by_kind(objects, "StatefulSet") + by_kind(objects, "DaemonSet")
    }
    for found in by_kind(objects, "StatefulSet") + by_kind(objects, "DaemonSet"):
        selector = found["spec"]["selector"]["matchLabels"]
        assert _selected(selector, pods) == [found["metadata"]["name"]]
    for found in by_kind(objects, "Service"):
        assert _selected(found["spec"]["selector"], pods) == [
            found["metadata"]["labels"].get("app", found["metadata"]["name"])
        ]
    for found in by_kind(objects, "PodDisruptionBudget"):
        assert _selected(found["spec"]["selector"]["matchLabels"], pods) == [found["metadata"]["name"]]


@scenarios
def test_each_replica_has_the_claim_that_its_statefulset_would_make(values: Path) -> None:
    """Of the same name, so that it is taken as it is; the labels of the template are among its own."""
    objects = render(values)
    expected = {}
    for found in by_kind(objects, "StatefulSet"):
        (template,) = found["spec"]["volumeClaimTemplates"]
        for replica in range(found["spec"]["replicas"]):
            expected[f"{template['metadata']['name']}-{found['metadata']['name']}-{replica}"] = template
    claims = {found["metadata"]["name"]: found for found in by_kind(objects, "PersistentVolumeClaim")}
    assert sorted(claims) == sorted(expected)
    for name, claim in claims.items():
        template = expected[name]
        assert template["metadata"]["labels"].items() <= claim["metadata"]["labels"].items()
        assert template["spec"]["accessModes"] == claim["spec"]["accessModes"]


def test_volume_has_the_size_and_class_that_are_asked_for() -> None:
    claims = {
        found["metadata"]["labels"]["upstream-host"]: found["spec"]
        for found in by_kind(render(THREE), "PersistentVolumeClaim")
    }
    assert claims["docker.io"]["resources"]["requests"]["storage"] == "20Gi"
    assert claims["quay.io"]["resources"]["requests"]["storage"] == "10Gi"
    assert claims["quay.io"]["storageClassName"] == "fast"
    assert "storageClassName" not in claims["docker.io"]


def test_statefulset_never_changes_with_the_volume(tmp_path: Path) -> None:
    """Kubernetes would refuse a change of its template of claims, and a change of the pod would be a restart."""
    found = []
    for volume in ({}, {"size": "1Mi"}, {"size": "1Ti", "storageClassName": "fast"}):
        document = {"caches": [{"upstream": "docker.io", "volume": volume}]}
        found += by_kind(render(written(tmp_path, document)), "StatefulSet")
    assert found[0] == found[1] == found[2]
    (template,) = found[0]["spec"]["volumeClaimTemplates"]
    assert template["spec"]["resources"] == {"requests": {"storage": "1"}}, "which is no more than any volume has"
    assert "storageClassName" not in template["spec"]


def test_volume_is_kept_where_that_is_asked_for_alone(tmp_path: Path) -> None:
    kept = {
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Delete=false,Prune=false",
    }
    for retention, expected in (("Delete", None), ("Retain", kept)):
        document = {
            "caches": [{"upstream": "docker.io"}],
            "cachePods": {"volumeClaims": {"retentionPolicy": retention}},
        }
        (claim,) = by_kind(render(written(tmp_path, document)), "PersistentVolumeClaim")
        assert claim["metadata"].get("annotations") == expected


def test_claim_says_which_class_the_values_named() -> None:
    """As it will have one too where that is the cluster's default."""
    said = {
        found["metadata"]["labels"]["upstream-host"]: found["metadata"].get("annotations")
        for found in by_kind(render(THREE), "PersistentVolumeClaim")
    }
    assert said == {"docker.io": None, "registry.k8s.io": None, "quay.io": {"registry-cache/storage-class": "fast"}}


def test_two_replicas_find_each_other_and_are_spread_where_there_are_nodes(tmp_path: Path) -> None:
    caches = [{"upstream": "docker.io", "highAvailability": {"enabled": True}}, {"upstream": "quay.io"}]
    objects = render(written(tmp_path, {"caches": caches}))
    two, one = sorted(by_kind(objects, "StatefulSet"), key=lambda found: str(found["metadata"]["name"]))
    assert (two["spec"]["replicas"], one["spec"]["replicas"]) == (2, 1)
    (constraint,) = two["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == two["spec"]["selector"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "the only node of a cluster takes both"
    assert "topologySpreadConstraints" not in one["spec"]["template"]["spec"]
    (peers,) = [found for found in by_kind(objects, "Service") if found["spec"].get("clusterIP") == "None"]
    assert peers["metadata"]["name"] == two["spec"]["serviceName"] == "x-registry-cache-docker-io--peers"
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert peers["spec"]["selector"] == two["spec"]["selector"]["matchLabels"]


def test_drain_takes_one_of_two_replicas_and_is_not_held_up_by_a_single_one(tmp_path: Path) -> None:
    caches = [{"upstream": "docker.io", "highAvailability": {"enabled": True}}, {"upstream": "quay.io"}]
    objects = render(written(tmp_path, {"caches": caches}))
    (budget,) = by_kind(objects, "PodDisruptionBudget")
    (two,) = [found for found in by_kind(objects, "StatefulSet") if found["spec"]["replicas"] == 2]
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": two["spec"]["selector"],
    }


def test_second_replica_changes_nothing_that_cannot_change(tmp_path: Path) -> None:
    made = []
    for enabled in (False, True):
        document = {"caches": [{"upstream": "docker.io", "highAvailability": {"enabled": enabled}}]}
        (found,) = by_kind(render(written(tmp_path, document)), "StatefulSet")
        changeable = ("replicas", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit")
        made.append({key: value for key, value in found["spec"].items() if key not in changeable})
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", 1),
        ("+1.5E", 1500 * 10**15),
        ("1500e15", 1500 * 10**15),
        ("1E3", 1000),
        ("1E", 10**18),
        ("10Gi", 10 * 2**30),
        ("10240Mi", 10 * 2**30),
        ("1.5Ti", 1536 * 2**30),
        (".5Ki", 512),
        ("007.k", 7000),
        ("5000000000000000m", 5 * 10**12),
        ("123e-1", 12),
        ("8Ei", 8 * 2**60),
        (10737418240, 10 * 2**30),
        ("107374182400m", 107374182),
        ("0.1Gi", 107374182),
    ],
)
def test_chart_reads_quantities_as_kubernetes_does(quantity: object, number: int, tmp_path: Path) -> None:
    """The check of the claims that are there compares them; tests/cluster has the check itself."""
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(json.dumps({"apiVersion": "v2", "name": "bytes", "version": "1.0.0"}))
    shutil.copy(CHART / "templates" / "_quantities.tpl", chart / "templates")
    (chart / "templates" / "made.yaml").write_text('made: {{ include "registry-cache.bytes" .Values.quantity }}')
    text = render_text(written(tmp_path, {"quantity": quantity}), chart=chart)
    assert yaml.safe_load(text) == {"made": number}


def test_configuration_of_the_caches() -> None:
    three = configurations(THREE)
    assert three["docker.io"]["remoteURL"] == "https://registry-1.docker.io"
    assert three["registry.k8s.io"]["remoteURL"] == "https://registry.k8s.io"
    assert {one["tagCheckInterval"] for one in three.values()} == {"5s"}
    (private,) = configurations(PRIVATE).values()
    assert private["remoteURL"] == "http://registry.example.com:5000"
    assert private["httpProxy"] == private["httpsProxy"] == "http://proxy.example.com:3128"
    assert ".svc" in private["noProxy"]


# A client-side `kubectl apply` writes each object into an annotation, and all of those may have 262,144 bytes
# (apimachinery, pkg/api/validation, TotalAnnotationSizeLimitB).
LARGEST_OBJECT = 100_000


@scenarios
def test_every_object_is_small_enough_for_a_client_side_apply(values: Path) -> None:
    sizes = {f"{one['kind']} {one['metadata']['name']}": len(json.dumps(one)) for one in render(values)}
    assert {name: size for name, size in sizes.items() if size > LARGEST_OBJECT} == {}


def test_distribution_only_serves_what_is_there() -> None:
    (program,) = [one["data"] for one in by_kind(render(THREE), "ConfigMap") if "distribution.yml" in one["data"]]
    config = yaml.safe_load(program["distribution.yml"])
    assert config["storage"]["maintenance"]["readonly"] == {"enabled": True}
    assert "cache" not in config["storage"], "with a cache of descriptors, a blob shared by two images can come empty"
    assert "proxy" not in config


def test_credentials_are_mounted_and_nowhere_else() -> None:
    objects = render(PRIVATE)
    (stateful_set,) = by_kind(objects, "StatefulSet")
    volume = next(v for v in stateful_set["spec"]["template"]["spec"]["volumes"] if v["name"] == "credentials")
    assert volume["secret"] == {"secretName": "registry-example-com", "defaultMode": 0o440, "optional": True}
    assert not by_kind(objects, "Secret")
    for found in by_kind(objects, "ConfigMap"):
        assert "registry-example-com" not in re.sub(
            "the Secret registry-example-com|registry-example-com-[0-9a-f]{8}", "", json.dumps(found["data"])
        )


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_authority_and_credentials_of_a_proxy_are_mounted_for_their_cache_alone(kind: str, tmp_path: Path) -> None:
    settings = {"configMap": {"caConfigMapName": "authority"}, "secret": {"caSecretName": "authority"}}[kind]
    document = {
        "caches": [{"upstream": "docker.io"}, {"upstream": "a.b:5000", "proxy": {"httpsProxy": "http://proxy:1"}}],
        "upstreamSettings": {"a.b:5000": {**settings, "proxySecretName": "login"}},
    }
    objects = render(written(tmp_path, document))
    plain, own = sorted(by_kind(objects, "StatefulSet"), key=lambda one: "a-b" in one["metadata"]["name"])
    volumes = {volume["name"]: volume for volume in own["spec"]["template"]["spec"]["volumes"]}
    assert volumes["ca"][kind].get("name", volumes["ca"][kind].get("secretName")) == "authority"
    assert volumes["proxy-credentials"]["secret"]["secretName"] == "login"
    assert not {"ca", "proxy-credentials"} & {one["name"] for one in plain["spec"]["template"]["spec"]["volumes"]}
    told = {name: (one["caFile"], one["proxyCredentials"]) for name, one in configurations_of(objects).items()}
    mounts = {one["name"]: one["mountPath"] for one in _container(own, "gate")["volumeMounts"]}
    assert told == {"docker.io": ("", ""), "a.b-5000": (f"{mounts['ca']}/ca.crt", mounts["proxy-credentials"])}


def test_service_is_named_by_its_suffix() -> None:
    objects = render(PRIVATE)
    (service,) = by_kind(objects, "Service")
    assert service["metadata"]["name"] == "registry-private"
    (node,) = [node_configuration(objects)]
    assert node["caches"][0]["service"] == "registry-private.space.svc"


def test_node_program_is_told_every_cache() -> None:
    node = node_configuration(render(THREE))
    assert node["owner"] == "space/x-registry-cache"
    assert [(cache["upstream"], cache["server"]) for cache in node["caches"]] == [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("registry.k8s.io", "https://registry.k8s.io"),
    ]


def test_awkward_upstreams_get_distinct_legal_names() -> None:
    objects = render(AWKWARD)
    found = [one["metadata"]["name"] for one in by_kind(objects, "StatefulSet")]
    assert len(set(found)) == len(found) == 5
    for name in found:
        assert len(name) <= 52
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


def neighbours(upstream: str) -> list[str]:
    """An upstream and those that look like it once dots, dashes and colons are all the same."""
    host, _, port = upstream.partition(":")
    alike = [upstream, host, host.replace(".", "-"), re.sub("-+", ".", host)]
    return alike + [f"{name}{joint}{port}" for name in alike for joint in (":", "-", ".") if port and ":" not in name]


@pytest.mark.slow
def test_no_upstream_takes_the_name_of_another_or_of_the_charts_own_objects(tmp_path: Path) -> None:
    label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
    host = st.lists(label, min_size=1, max_size=5).map(".".join)
    upstream = st.one_of(host, st.builds("{}:{}".format, host, st.integers(1, 65535)))

    # a rendering takes half a second: a failure is shown as it is found, not made smaller for minutes
    @settings(max_examples=10, derandomize=True, phases=[Phase.generate])
    @given(st.lists(upstream, min_size=20, max_size=40))
    def check(upstreams: list[str]) -> None:
        wanted = {"node", "test", "dashboard", *(one for upstream in upstreams for one in neighbours(upstream))}
        wanted |= {f"{one}.peers" for one in upstreams if ":" not in one}
        caches = [{"upstream": one, "highAvailability": {"enabled": True}} for one in sorted(wanted)]
        found = yaml.load_all(render_text(written(tmp_path, {"caches": caches})), Loader=yaml.CSafeLoader)
        objects = [one for one in found if one]
        assert {
            (one["metadata"]["name"], one["metadata"]["labels"]["upstream-host"])
            for one in by_kind(objects, "StatefulSet")
        } == {(object_name("x-registry-cache", one), upstream_label(one)) for one in wanted}
        seen = [(one["kind"], one["metadata"]["name"]) for one in objects]
        assert [one for one, times in Counter(seen).items() if times > 1] == []
        for kind, name in seen:
            assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert len(name) <= {"StatefulSet": 52, "PersistentVolumeClaim": 67}.get(kind, 63)

    check()


@pytest.mark.parametrize(
    "release",
    [
        pytest.param("my.dotted.release", id="dots"),
        pytest.param("2nd", id="digit-first"),
        pytest.param("r" * 53, id="as-long-as-helm-takes"),
        pytest.param("registry-cache", id="the-charts-name"),
    ],
)
def test_any_release_and_namespace_will_do(release: str) -> None:
    """A namespace may be all digits, and then is text all the same."""
    objects = render(AWKWARD, "--namespace", "123", release=release)
    for found in objects:
        assert found["metadata"]["namespace"] == "123"
        assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,65}[a-z0-9])?", found["metadata"]["name"])
    services = [found["metadata"]["name"] for found in by_kind(objects, "Service")]
    assert all(re.match("[a-z]", name) for name in services)
    assert {cache["service"] for cache in node_configuration(objects)["caches"]} == {
        f"{name}.123.svc" for name in services
    }


def test_plain_upstreams_get_plain_names() -> None:
    (found,) = by_kind(render(CHART / "ci" / "one-upstream-values.yaml", release="registry-cache"), "StatefulSet")
    assert found["metadata"]["name"] == "registry-cache-docker-io"


def test_one_more_cache_leaves_the_others_objects_as_they_are(tmp_path: Path) -> None:
    one = render(written(tmp_path, {"caches": [{"upstream": "docker.io"}]}))
    two = render(written(tmp_path, {"caches": [{"upstream": "quay.io"}, {"upstream": "docker.io"}]}))
    wanted = [found for found in one if found["metadata"]["labels"]["app.kubernetes.io/component"] == "cache"]
    kinds = ["ConfigMap", "ConfigMap", "PersistentVolumeClaim", "Service", "StatefulSet"]
    assert sorted(found["kind"] for found in wanted) == kinds
    for found in wanted:
        assert found in two


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ({"remoteURL": "https://mirror.example.com"}, ["x-registry-cache-docker-io"]),
        ({"garbageCollection": {"ttl": "1h"}}, []),
        ({"volume": {"size": "20Gi"}}, []),
    ],
)
def test_change_restarts_that_cache_alone_or_none(change: dict[str, Any], restarted: list[str], tmp_path: Path) -> None:
    def templates(change: dict[str, Any]) -> dict[str, Any]:
        caches = [{"upstream": "docker.io", **change}, {"upstream": "quay.io"}]
        return {
            found["metadata"]["name"]: found["spec"]["template"]
            for found in by_kind(render(written(tmp_path, {"caches": caches})), "StatefulSet")
        }

    before, after = templates({}), templates(change)
    assert [name for name in before if before[name] != after[name]] == restarted


def test_all_wrong_combinations_are_told_at_once(tmp_path: Path) -> None:
    caches: list[dict[str, Any]] = [
        {"upstream": "docker.io", "serviceNameSuffix": "one"},
        {"upstream": "docker.io"},
        {"upstream": "quay.io", "serviceNameSuffix": "one"},
    ]
    with pytest.raises(RenderingFailed) as refused:
        render_text(written(tmp_path, {"caches": caches}))
    assert "caches[1].upstream: docker.io has a cache already, at caches[0]" in str(refused.value)
    assert "caches[2].serviceNameSuffix: the name registry-one belongs to the Service of caches[0]" in str(
        refused.value
    )


def test_name_that_no_object_can_have_is_refused(tmp_path: Path) -> None:
    document = {"caches": [{"upstream": "docker.io"}], "fullnameOverride": "My_Caches"}
    with pytest.raises(RenderingFailed, match="fullnameOverride"):
        render_text(written(tmp_path, document))


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="no-caches"),
        pytest.param({"caches": []}, id="empty"),
        pytest.param({"caches": [{"upstream": "Docker.io"}]}, id="upper-case"),
        pytest.param({"caches": [{"upstream": "docker.io", "volume": {"size": "0"}}]}, id="no-size"),
        pytest.param({"caches": [{"upstream": "docker.io", "garbageCollection": {"ttl": "7d"}}]}, id="days"),
        pytest.param({"caches": [{"upstream": "docker.io", "http": {"tls": True}}]}, id="tls"),
        pytest.param({"caches": [{"upstream": "docker.io", "size": "1Gi"}]}, id="unknown-field"),
    ],
)
def test_wrong_values_render_nothing(tmp_path: Path, document: object) -> None:
    with pytest.raises(RenderingFailed, match="caches"):
        render_text(written(tmp_path, document))


@scenarios
def test_pods_meet_what_pod_security_asks(values: Path) -> None:
    """Caches and tests meet "restricted"; the node program has no capability, no API token and one folder."""
    for name, pod in pod_specs(render(values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & set(container["securityContext"])
            assert not any("hostPort" in port for port in container.get("ports", []))
        asked_for = {"hostPID", "initContainers"} if values == EVERYTHING and name.endswith("-node") else set()
        assert {"hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod) == asked_for
        kinds = sorted(key for volume in pod["volumes"] for key in volume if key != "name")
        if name.endswith("-node"):
            assert pod["hostNetwork"] is True
            assert kinds == ["configMap", "configMap", "configMap", "emptyDir", "hostPath", "hostPath"]
            (mounts,) = [container["volumeMounts"] for container in pod["containers"]]
            writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
            assert writable == {"/host/registry", "/run/registry-cache"}
        else:
            assert "hostNetwork" not in pod
            extra = {"csi"} if values == EVERYTHING else set()
            assert set(kinds) <= {"configMap", "secret", "emptyDir", *extra}
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] > 0


@scenarios
def test_no_list_holds_a_name_twice(values: Path) -> None:
    """Server-side apply refuses it."""
    for _, pod in pod_specs(render(values)):
        for container in pod["containers"]:
            for key in ("env", "ports", "volumeMounts"):
                found = [entry.get("mountPath", entry.get("name")) for entry in container.get(key, [])]
                assert len(found) == len(set(found))


def test_labels_and_annotations_of_the_user_come_once(tmp_path: Path) -> None:
    """The chart's own labels stay, since selectors live on them; what is said to Prometheus is the user's to change."""
    document = {
        "caches": [{"upstream": "docker.io"}],
        "commonLabels": {"app": "mine", "app.kubernetes.io/name": "mine", "grafana_dashboard": "0", "team": "platform"},
        "cachePods": {"podAnnotations": {"prometheus.io/scrape": "false", "checksum/config": "mine"}},
        "nodeProgram": {"podAnnotations": {"checksum/config": "mine"}},
        "monitoring": {"dashboard": {"enabled": True}},
    }
    objects = render(written(tmp_path, document))
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "registry-cache"
        assert found["metadata"]["labels"]["team"] == "platform"
    (dashboard,) = [found for found in objects if found["metadata"]["name"].endswith("-dashboard")]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    (stateful_set,), (daemon_set,) = by_kind(objects, "StatefulSet"), by_kind(objects, "DaemonSet")
    assert stateful_set["metadata"]["labels"]["app"] == "x-registry-cache-docker-io"
    annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "false"
    assert annotations["prometheus.io/port"] == "5001"
    for found in (stateful_set, daemon_set):
        assert len(found["spec"]["template"]["metadata"]["annotations"]["checksum/config"]) == 64


def test_request_or_limit_goes_where_it_is_null(tmp_path: Path) -> None:
    document = {
        "caches": [{"upstream": "docker.io"}],
        "cachePods": {"resources": {"gate": {"limits": {"memory": None}}, "front": {"limits": None}}},
        "nodeProgram": {"resources": {"requests": {"cpu": None}}},
    }
    objects = render(written(tmp_path, document))
    (cache,), (node,) = by_kind(objects, "StatefulSet"), by_kind(objects, "DaemonSet")
    assert not _container(cache, "gate")["resources"].get("limits")
    assert "limits" not in _container(cache, "front")["resources"]
    assert _container(node, "node")["resources"]["requests"] == {"memory": "25Mi"}


def test_scenario_with_everything_has_every_value_at_another_than_its_default() -> None:
    """But for those that can have no other, or switch off what is to be seen."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(_unset(schema, yaml.safe_load(EVERYTHING.read_text()))) == {
        *("enabled", "apiVersion", "kind"),
        *("nodeProgram.enabled", "nodeProgram.metrics.enabled", "cachePods.podDisruptionBudget.enabled"),
        *("upstreamSettings.docker.io.resources.front", "upstreamSettings.docker.io.resources.gate"),
        "caches.http.tls",
        "upstreamSettings.docker.io.caSecretName",  # since caConfigMapName is there
    }


def test_every_value_reaches_the_manifests() -> None:
    """What is written in the scenario with everything is found again in what it renders."""
    text = render_text(EVERYTHING)
    for value in _leaves(yaml.safe_load(EVERYTHING.read_text())):
        if value in ("registry.extensions.gardener.cloud/v1alpha3", "RegistryConfig", "caches", "k3s", "Retain"):
            # The format's name, a name that fullnameOverride replaces, a preset of which nothing is left, and what
            # test_volume_is_kept_where_that_is_asked_for_alone looks for.
            continue
        if "{{" in value:
            continue  # test_extra_objects_are_templates looks for what becomes of it
        if value in ("registry.example.com", "RegistryCacheNotScraped"):
            assert f'"{value}/' not in text, "global.imageRegistry wins"
            assert f"alert: {value}" not in text, "the alert is disabled"
            continue
        if value in ("3.1.1-alpine", "1.28.0-alpine-slim", "3.12-alpine"):
            assert value not in text, "the digest wins over the tag"
        else:
            assert value in text, value


def test_dashboard_carries_its_labels() -> None:
    (found,) = [
        one for one in by_kind(render(EVERYTHING), "ConfigMap") if one["metadata"]["name"].endswith("-dashboard")
    ]
    assert found["metadata"]["labels"]["dashboards"] == "yes"
    assert json.loads(found["data"]["registry-caches.json"])["title"] == "Registry Caches"


def test_templates_depend_on_nothing_but_their_input() -> None:
    """No look at the cluster, no chance, no clock: Argo CD would see a drift in each.

    But for one look at the claims that are there, in a definition whose only outcomes are nothing and a refusal.
    """
    forbidden = (
        r"\b(lookup|rand\w+|uuidv4|now|genCA|genSignedCert|genSelfSignedCert|derivePassword|htpasswd|getHostByName)\b"
    )
    for path in sorted((CHART / "templates").rglob("*.*")):
        actions = "\n".join(
            re.findall(r"\{\{(.*?)\}\}", re.sub(r"\{\{-? */\*.*?\*/", "", path.read_text(), flags=re.DOTALL), re.DOTALL)
        )
        if path.name == "_validate-claims.tpl":
            (actions, checked) = _without_definition(actions, "registry-cache.validateClaims")
            assert checked.count("lookup ") == 1
            silent = re.compile(r"- (range|with|if|else|end|\$\w+ :?=) ?")
            printing = [action for action in checked.splitlines() if not silent.match(action)]
            assert printing == ['- include "registry-cache.refuse" ($problems | uniq) -']
        assert not re.search(forbidden, actions), path
        assert ".Capabilities" not in actions, path
        for name in re.findall(r'\b(?:define|include|template) "([^"]*)"', actions):
            assert name.startswith("registry-cache."), path


def test_values_that_templates_use_are_declared() -> None:
    declared = yaml.safe_load((CHART / "values.yaml").read_text())
    text = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*.*")))
    used = set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", text))
    for path in used:
        found: Any = declared
        for part in path.split("."):
            assert part in found, path
            found = found[part]


def test_ports_of_the_programs_are_those_of_the_chart() -> None:
    """The chart has them in the record of a cache; nginx and the gate have them in their own code."""
    objects = render(THREE)
    (service, *_) = by_kind(objects, "Service")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    (shared,) = [one["data"] for one in by_kind(objects, "ConfigMap") if "nginx.conf" in one["data"]]
    assert f"listen {ports['registry-cache']} " in shared["nginx.conf"]
    assert ports["debug"] == status.PORT


def test_package_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        command = [str(tools.helm()), "package", str(CHART), "--destination", str(tmp_path / folder)]
        subprocess.run(command, check=True, capture_output=True)
        (package,) = (tmp_path / folder).iterdir()
        made.append(package.read_bytes())
    assert made[0] == made[1]


def test_chart_works_as_a_dependency(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "registry-cache").symlink_to(CHART)
    dependency = {"name": "registry-cache", "version": "0.1.0", "condition": "registry-cache.enabled"}
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(json.dumps(chart))
    values = {"global": {"x": 1}, "registry-cache": {"enabled": True, "caches": [{"upstream": "docker.io"}]}}
    objects = render(written(tmp_path, values), chart=parent)
    assert "StatefulSet x-registry-cache-docker-io" in names(objects)


def configurations(values: Path) -> dict[str, Any]:
    """What each cache is told, by its upstream."""
    return configurations_of(render(values))


def configurations_of(objects: list[Any]) -> dict[str, Any]:
    return {
        found["metadata"]["labels"]["upstream-host"]: json.loads(found["data"]["cache.json"])
        for found in by_kind(objects, "ConfigMap")
        if "cache.json" in found["data"]
    }


def node_configuration(objects: list[Any]) -> Any:
    (found,) = [one for one in by_kind(objects, "ConfigMap") if "node.json" in one["data"]]
    return json.loads(found["data"]["node.json"])


def _without_definition(actions: str, name: str) -> tuple[str, str]:
    """A template's actions, one a line, without those of one definition, and those."""
    before, start, rest = actions.partition(f'- define "{name}" -\n')
    assert start
    inside, _, after = rest.partition("- define ")
    return f"{before}- define {after}", inside


def _selected(selector: dict[str, str], pods: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, labels in pods.items() if selector.items() <= labels.items()]


def _container(workload: Any, name: str) -> Any:
    (found,) = [one for one in workload["spec"]["template"]["spec"]["containers"] if one["name"] == name]
    return found


def _unset(schema: Any, values: Any, path: str = "") -> list[str]:
    """What of a schema is not in the values, or is there as it is by default."""
    found = []
    for name, part in schema["properties"].items():
        if "properties" in part:
            found += _unset(part, values.get(name, {}), f"{path}{name}.")
        elif name == "caches":
            found += _unset(part["items"], values[name][0], f"{path}{name}.")
        elif isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            for key, settings in values[name].items():
                found += _unset(each, settings, f"{path}{name}.{key}.")
        elif "deprecationMessage" not in part and values.get(name) == part.get("default"):
            found.append(path + name)
    return found


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("preset", sorted(yaml.safe_load((CHART / "files" / "presets.yaml").read_text())))
def test_preset_says_where_containerds_files_are(preset: str, tmp_path: Path) -> None:
    places = yaml.safe_load((CHART / "files" / "presets.yaml").read_text())[preset]
    objects = render(written(tmp_path, {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"preset": preset}}))
    node = node_configuration(objects)["containerd"]
    assert (node["registryDirectory"], node["configuration"]) == (
        places["registryDirectory"],
        places["containerdConfig"],
    )
    (daemon_set,) = by_kind(objects, "DaemonSet")
    folders = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in daemon_set["spec"]["template"]["spec"]["volumes"]
        if "hostPath" in volume
    }
    assert folders["registry-directory"] == places["registryDirectory"]
    assert places["containerdConfig"].startswith(folders["containerd"] + "/")
    mounts = {mount["name"]: mount["mountPath"] for mount in _container(daemon_set, "node")["volumeMounts"]}
    assert node["mounts"] == {path: mounts[name] for name, path in folders.items()}


def test_presets_are_those_of_the_contract_and_are_explained() -> None:
    presets = yaml.safe_load((CHART / "files" / "presets.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["nodeProgram"]["properties"]["preset"]["enum"] == list(presets)
    explained = (REPOSITORY / "docs" / "containerd.md").read_text()
    for places in presets.values():
        assert f"`{places['registryDirectory']}`" in explained


def test_metrics_of_the_nodes_are_announced_where_they_are(tmp_path: Path) -> None:
    for metrics, port in (({}, 9253), ({"port": 1234}, 1234), ({"enabled": False}, 0)):
        objects = render(
            written(tmp_path, {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"metrics": metrics}})
        )
        assert node_configuration(objects)["metricsPort"] == port
        (daemon_set,) = by_kind(objects, "DaemonSet")
        annotations = daemon_set["spec"]["template"]["metadata"]["annotations"]
        assert annotations.get("prometheus.io/port") == (str(port) if port else None)


def test_container_that_changes_containerd_is_there_where_it_is_asked_for_alone(tmp_path: Path) -> None:
    for enabled in (False, True):
        document = {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"configureContainerd": {"enabled": enabled}}}
        objects = render(written(tmp_path, document))
        (daemon_set,) = by_kind(objects, "DaemonSet")
        pod = daemon_set["spec"]["template"]["spec"]
        assert ("hostPID" in pod) is ("initContainers" in pod) is enabled
        assert ("configure" in node_configuration(objects)) is enabled
    (container,) = pod["initContainers"]
    assert container["securityContext"]["privileged"] is True
    assert node_configuration(objects)["configure"]["restartCommand"] == ["systemctl", "restart", "containerd"]
