"""Every rule of the values that the chart adds, with a document that just passes and one that just fails."""

from __future__ import annotations

from typing import Any

import pytest
from made_documents import nested, one, problems
from registry_cache.model.values import RENAMED_VALUES

PROXIED = {"proxy": {"httpsProxy": "http://p:3128"}}


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(
            {**one(), "upstreamSettings": {"docker.io": {"caSecretName": "x"}}},
            {**one(), "upstreamSettings": {"dokcer.io": {"caSecretName": "x"}}},
            'upstreamSettings["dokcer.io"]: no cache has this upstream; did you mean docker.io?',
            id="settings-of-no-upstream",
        ),
        pytest.param(
            {**one(), "upstreamSettings": {}},
            {**one(), "upstreamSettings": {"a": {}}},
            "upstreamSettings.a: no cache has this upstream; the upstreams are docker.io",
            id="settings-of-no-upstream-that-is-near",
        ),
        pytest.param(
            {**one(), "upstreamSettings": {"docker.io": {"caSecretName": "x"}}},
            {**one(), "upstreamSettings": {"docker.io": {"caSecretName": "x", "caConfigMapName": "y"}}},
            'upstreamSettings["docker.io"].caSecretName: caConfigMapName is set too; keep one of the two',
            id="two-authorities",
        ),
        pytest.param(
            {**one(**PROXIED), "upstreamSettings": {"docker.io": {"proxySecretName": "a-b"}}},
            {**one(**PROXIED), "upstreamSettings": {"docker.io": {"proxySecretName": "A"}}},
            'upstreamSettings["docker.io"].proxySecretName: "A" is not the name of a Kubernetes object; write "a"',
            id="name-of-a-secret",
        ),
        pytest.param(
            {**one(**PROXIED), "upstreamSettings": {"docker.io": {"proxySecretName": "x"}}},
            {**one(proxy={}), "upstreamSettings": {"docker.io": {"proxySecretName": "x"}}},
            'upstreamSettings["docker.io"].proxySecretName: the cache has no proxy; write '
            "caches[0].proxy.httpsProxy, or leave this out",
            id="login-for-no-proxy",
        ),
        pytest.param(
            {**one(), "helmTest": {"images": {"docker.io": "x"}}},
            {**one(), "helmTest": {"images": {"docker.iO": "x"}}},
            'helmTest.images["docker.iO"]: no cache has this upstream; did you mean docker.io?',
            id="test-of-no-upstream",
        ),
        pytest.param(
            {**one(), "upstreamSettings": {"docker.io": {}}},
            {**one(), "upstreamSettings": {"docker.io": {"caConfigMap": "x"}}},
            'upstreamSettings["docker.io"].caConfigMap: is not a known key; did you mean caConfigMapName?',
            id="setting-that-is-not-known",
        ),
        pytest.param(
            {**one(), "upstreamSettings": {"docker.io": {}}},
            {**one(), "upstreamSettings": {"docker.io": None}},
            'upstreamSettings["docker.io"]: null is not allowed; leave the key out',
            id="no-settings",
        ),
        pytest.param(
            {**one(), "cachePods": {"tagCheckInterval": "0s"}},
            {**one(), "cachePods": {"tagCheckInterval": "-1s"}},
            'cachePods.tagCheckInterval: "-1s" is not a duration',
            id="tag-window",
        ),
        pytest.param(
            {**one(), "cachePods": {"highWaterMarkPercent": 100}},
            {**one(), "cachePods": {"highWaterMarkPercent": 101}},
            "cachePods.highWaterMarkPercent: 101 is not a percentage from 1 to 100; write for example 85",
            id="high-water-mark",
        ),
        pytest.param(
            {**one(), "cachePods": {"highWaterMarkPercent": 1}},
            {**one(), "cachePods": {"highWaterMarkPercent": 0}},
            "cachePods.highWaterMarkPercent: 0 is not a percentage from 1 to 100",
            id="no-water",
        ),
        pytest.param(
            {**one(), "cachePods": {"replicas": 16}},
            {**one(), "cachePods": {"replicas": 17}},
            "cachePods.replicas: 17 is not a whole number from 1 to 16; write for example 1",
            id="too-many-replicas",
        ),
        pytest.param(
            {**one(), "upstreamSettings": {"docker.io": {"replicas": 1}}},
            {**one(), "upstreamSettings": {"docker.io": {"replicas": 0}}},
            'upstreamSettings["docker.io"].replicas: 0 is not a whole number from 1 to 16',
            id="no-replica",
        ),
        pytest.param(
            {**one(), "cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}},
            {**one(), "cachePods": {"volumeClaims": {"retentionPolicy": "Keep"}}},
            'cachePods.volumeClaims.retentionPolicy: "Keep" is not a known value; write "Delete" or "Retain"',
            id="volume-retention",
        ),
        pytest.param(
            {**one(), "cachePods": {"noProxy": []}},
            {**one(), "cachePods": {"noProxy": [""]}},
            'cachePods.noProxy[0]: "" is not a host, a domain or an address, with or without a port',
            id="no-proxy",
        ),
        *(
            pytest.param(
                {**one(), "cachePods": {"noProxy": [good]}},
                {**one(), "cachePods": {"noProxy": [bad]}},
                f'cachePods.noProxy[0]: "{bad}" is not a host, a domain or an address, with or without a port, '
                f"or a network, or *; write {instead}",
                id=f"no-proxy-{bad}",
            )
            for good, bad, instead in (
                ("foo", "http://foo", '"foo"'),
                ("10.0.0.0/32", "10.0.0.0/99", 'for example ".example.com"'),
                ("fd00::/128", "fd00::/129", 'for example ".example.com"'),
                ("[::1]:443", "[::1]", 'for example ".example.com"'),
                ("::ffff:10.0.0.1", "::ffff:10.0.0", 'for example ".example.com"'),
                ("A.example.com:80", "a.example.com:0", 'for example ".example.com"'),
                ("*.example.com", "*example.com", 'for example ".example.com"'),
                ("*", "**", 'for example ".example.com"'),
            )
        ),
        pytest.param(
            {**one(), "cachePods": {"resources": {"gate": {}}}},
            {**one(), "cachePods": {"resources": {"requests": {}}}},
            "cachePods.resources.requests: is not a known key; the known keys are front, gate, distribution",
            id="resources-of-a-container",
        ),
        *(
            pytest.param({**one(), **nested(path, good)}, {**one(), **nested(path, bad)}, said, id=f"{path}-{bad}")
            for path in (
                "cachePods.resources.front",
                "cachePods.resources.gate",
                "cachePods.resources.distribution",
                "nodeProgram.resources",
            )
            for good, bad, said in (
                (
                    {"limits": {"memory": "1G"}},
                    {"limits": {"memory": "1GB"}},
                    f'{path}.limits.memory: "1GB" is not an amount of a resource; write "1G"',
                ),
                (
                    {"requests": {"cpu": 0.5}},
                    {"requests": {"cpu": -0.5}},
                    f'{path}.requests.cpu: -0.5 is not an amount of a resource; write for example "100m"',
                ),
                (
                    {"limits": {"nvidia.com/gpu": 1}},
                    {"limits": {"nvidia.com/": 1}},
                    f'{path}.limits["nvidia.com/"]: is not a key of Kubernetes: at most 63',
                ),
                ({"limits": {}}, {"foo": {}}, f"{path}.foo: is not a known key; the known keys are requests, limits"),
                ({}, {"limit": {}}, f"{path}.limit: is not a known key; did you mean limits?"),
                ({}, {"limits": {"memory": True}}, f"{path}.limits.memory: true is not an amount of a resource"),
            )
        ),
        *(
            pytest.param({**one(), **nested(path, good)}, {**one(), **nested(path, bad)}, said, id=f"{path}-{bad}")
            for path in ("cachePods.tolerations", "nodeProgram.tolerations")
            for good, bad, said in (
                (
                    [{"key": "a.b/c", "value": "x"}],
                    [{"keys": "a"}],
                    f"{path}[0].keys: is not a known key; did you mean",
                ),
                (
                    [{"operator": "Equal", "tolerationSeconds": 0}],
                    [{"operator": "In"}],
                    f'{path}[0].operator: "In" is not a known value; write "Exists" or "Equal"',
                ),
                ([{"effect": "NoExecute"}], [{"effect": "Never"}], f'{path}[0].effect: "Never" is not a known value'),
                ([], ["x"], f'{path}[0]: "x" is not a mapping'),
            )
        ),
        *(
            pytest.param(
                {**one(), **nested(path, {"a.b/C_d": "X.y"})}, {**one(), **nested(path, {bad: "x"})}, said, id=path
            )
            for path in (
                *(
                    "commonLabels",
                    "cachePods.nodeSelector",
                    "nodeProgram.nodeSelector",
                    "cachePods.podAnnotations",
                    "nodeProgram.podAnnotations",
                ),
                *("monitoring.dashboard.labels", "monitoring.dashboard.annotations"),
                *("monitoring.podMonitor.labels", "monitoring.prometheusRule.labels"),
            )
            for bad, said in (("a b", f'{path}["a b"]: is not a key of Kubernetes'),)
        ),
        pytest.param(
            {**one(), "commonLabels": {"a": "x" * 63}},
            {**one(), "commonLabels": {"a": "x" * 64}},
            "is not the value of a label: at most 63 letters",
            id="label-long",
        ),
        pytest.param(
            {**one(), "cachePods": {"podAnnotations": {"a": "any text {}"}}},
            {**one(), "commonLabels": {"a": "any text {}"}},
            'commonLabels.a: "any text {}" is not the value of a label',
            id="label-any-text",
        ),
        pytest.param(
            {**one(), "cachePods": {"affinity": {"podAntiAffinity": {}}}},
            {**one(), "cachePods": {"affinity": {"antiAffinity": {}}}},
            "cachePods.affinity.antiAffinity: is not a known key; did you mean podAntiAffinity?",
            id="affinity",
        ),
        pytest.param(
            one(secretReferenceName="x"),
            one(secretReferenceNam="x"),
            "caches[0].secretReferenceNam: is not a known key; did you mean secretReferenceName?",
            id="unknown-near",
        ),
        pytest.param(
            one(), one(x=1), "caches[0].x: is not a known key; the known keys are upstream, remoteURL", id="unknown-far"
        ),
        *(
            pytest.param({**one(), **nested(path, good)}, {**one(), **nested(path, bad)}, f"{path}{said}", id=path)
            for path, good, bad, said in (
                ("namespaceOverride", "caches", "a.b", ': "a.b" is not the name of a namespace, or empty'),
                ("global.imageRegistry", "a.b:5000/c/", "https://a.b", ': "https://a.b" is not a registry'),
                ("global.imagePullSecrets", ["a", {"name": "b"}], [{"names": "a"}], "[0].names: is not a known key"),
                ("imagePullSecrets", ["a", {"name": "b"}], [{}], '[0]: name is missing; write name: "registry-login"'),
                ("extraObjects", [{"kind": "Secret"}, "kind: Secret"], [1], "[0]: 1 is not a mapping or text"),
                ("cachePods.volumeClaims.accessModes", ["ReadWriteMany"], [], ": the list is empty"),
                (
                    "cachePods.volumeClaims.accessModes",
                    ["ReadWriteOncePod"],
                    ["RWO"],
                    '[0]: "RWO" is not a known value',
                ),
                ("cachePods.service.ipFamilies", ["IPv6"], ["ipv6"], '[0]: "ipv6" is not a known value'),
                ("cachePods.service.trafficDistribution", "PreferClose", "Near", ': "Near" is not a known value'),
                (
                    "cachePods.podDisruptionBudget.maxUnavailable",
                    "50%",
                    "101%",
                    ': "101%" is not a number or a percent',
                ),
                ("cachePods.livenessProbe.periodSeconds", 1, 0, ": 0 is not a whole number from 1"),
                ("cachePods.serviceAccount.name", "a", "A", ': "A" is not the name of a Kubernetes object, or empty'),
                ("monitoring.podMonitor.scrapeTimeout", "10s", "1d", ': "1d" is not a whole number of ms, s, m or h'),
                ("monitoring.dashboard.namespace", "grafana", "a.b", ': "a.b" is not the name of a namespace'),
                (
                    "monitoring.prometheusRule.disabledAlerts",
                    ["RegistryCacheDown"],
                    ["CacheDown"],
                    '[0]: "CacheDown" is not the name of an alert; write "RegistryCacheDown" or ',
                ),
            )
        ),
        *(
            pytest.param(
                {**one(), "upstreamSettings": {"docker.io": {"clusterIP": good}}},
                {**one(), "upstreamSettings": {"docker.io": {"clusterIP": bad}}},
                f'upstreamSettings["docker.io"].clusterIP: "{bad}" is not an IP address',
                id=f"cluster-ip-{bad}",
            )
            for good, bad in (("10.96.0.100", "10.96.0.256"), ("fd00::1", "None"))
        ),
        pytest.param(
            {
                **one(http={"tls": True}),
                "upstreamSettings": {"docker.io": {"access": "Puller", "clusterIP": "10.96.0.100"}},
            },
            {**one(), "upstreamSettings": {"docker.io": {"access": "Puller"}}},
            "caches[0].http.tls: pullers show their credentials (access: Puller), which needs TLS; "
            "write true, or access: Anyone",
            id="pullers-without-tls",
        ),
        pytest.param(
            {
                **one(http={"tls": True}, secretReferenceName="login"),
                "upstreamSettings": {"docker.io": {"access": "Anyone", "clusterIP": "10.96.0.100"}},
                "cachePods": {"access": "Puller"},
            },
            {
                **one(http={"tls": True}, secretReferenceName="login"),
                "upstreamSettings": {"docker.io": {"clusterIP": "10.96.0.100"}},
                "cachePods": {"access": "Puller"},
            },
            "caches[0].secretReferenceName: pullers show their own credentials (access: Puller); "
            "leave it out, or write access: Anyone",
            id="pullers-and-a-secret",
        ),
        pytest.param(
            {**one(), "kind": "RegistryConfig"},
            {**one(), "kind": "MirrorConfig"},
            'kind: "MirrorConfig" is not a known value; write "RegistryConfig"',
            id="kind",
        ),
        pytest.param(
            {**one(), "apiVersion": "registry.extensions.gardener.cloud/v1alpha3"},
            {**one(), "apiVersion": "registry.extensions.gardener.cloud/v1alpha4"},
            'write "registry.extensions.gardener.cloud/v1alpha3"',
            id="api-version",
        ),
        pytest.param(
            {**one(), "fullnameOverride": "my-x"},
            {**one(), "fullnameOverride": "My_X"},
            'fullnameOverride: "My_X" is not a name of lower case letters',
            id="fullname",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"probe": {"failureThreshold": 1}}},
            {**one(), "nodeProgram": {"probe": {"failureThreshold": 0}}},
            "nodeProgram.probe.failureThreshold: 0 is not",
            id="threshold",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"probe": {"interval": "0.5s"}}},
            {**one(), "nodeProgram": {"probe": {"interval": "0.0s"}}},
            'nodeProgram.probe.interval: "0.0s" is not a duration in hours, minutes and seconds, longer than zero',
            id="interval",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"dialTimeout": "0h1ms"}},
            {**one(), "nodeProgram": {"dialTimeout": "0"}},
            'nodeProgram.dialTimeout: "0" is not',
            id="dial-timeout",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"registryDirectory": "/.k/y..d/"}},
            {**one(), "nodeProgram": {"registryDirectory": "/etc/../x"}},
            "nodeProgram.registryDirectory: ",
            id="directory-up",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"registryDirectory": "/x"}},
            {**one(), "nodeProgram": {"registryDirectory": "/"}},
            "nodeProgram.registryDirectory: ",
            id="directory-root",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"registryDirectory": "/etc/x"}},
            {**one(), "nodeProgram": {"registryDirectory": "etc/x"}},
            "nodeProgram.registryDirectory: ",
            id="directory",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"registryDirectory": "", "containerdConfig": "/etc/x.toml"}},
            {**one(), "nodeProgram": {"containerdConfig": "/x.toml"}},
            'nodeProgram.containerdConfig: "/x.toml" is not the absolute path of a file in a directory, or empty',
            id="containerds-configuration",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"containerdVersion": "v2.2.1~rc"}},
            {**one(), "nodeProgram": {"containerdVersion": "2"}},
            'nodeProgram.containerdVersion: "2" is not a version, or empty; write for example "2.2.1"',
            id="containerds-version",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"preset": "k0s"}},
            {**one(), "nodeProgram": {"preset": "K0s"}},
            'nodeProgram.preset: "K0s" is not a known value; write "kubeadm" or "kind" or "k3s" or "rke2" or',
            id="preset",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"configureContainerd": {"restartCommand": ["x"]}}},
            {**one(), "nodeProgram": {"configureContainerd": {"restartCommand": []}}},
            "nodeProgram.configureContainerd.restartCommand: the list is empty; write for example "
            '["systemctl", "restart", "containerd"]',
            id="commands",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"metrics": {"port": 65535}}},
            {**one(), "nodeProgram": {"metrics": {"port": 0}}},
            "nodeProgram.metrics.port: 0 is not a port from 1 to 65535",
            id="metrics-port",
        ),
        pytest.param(
            {**one(), "nodeProgram": {"probe": {"maxBackoff": "0s"}}},
            {**one(), "nodeProgram": {"probe": {"maxBackoff": "-1s"}}},
            "nodeProgram.probe.maxBackoff: ",
            id="maxBackoff",
        ),
        pytest.param(
            {**one(), "images": {"distribution": {"pullPolicy": "Never"}}},
            {**one(), "images": {"distribution": {"pullPolicy": "never"}}},
            'write "Always" or "IfNotPresent" or "Never"',
            id="pull-policy",
        ),
        pytest.param(
            {**one(), "images": {"python": {"tag": "3.10"}}},
            {**one(), "images": {"python": {"tag": 3.10}}},
            "images.python.tag: 3.1 is not text; write it in quotes",
            id="tag-a-number",
        ),
        pytest.param(
            {**one(), "cachePods": {"nodeSelector": {"kubernetes.io/os": None}}},
            {**one(), "cachePods": {"nodeSelector": {"pool/x": None}}},
            'cachePods.nodeSelector["pool/x"]: null is not allowed; leave the key out',
            id="null-takes-a-default-away",
        ),
        pytest.param(
            {**one(), "cachePods": {"resources": {"gate": {"limits": {"memory": None}}, "front": {"requests": None}}}},
            {**one(), "cachePods": {"resources": {"gate": {"limits": {"cpu": None}}}}},
            "cachePods.resources.gate.limits.cpu: null is not allowed; leave the key out",
            id="null-takes-a-limit-away",
        ),
        pytest.param(
            {**one(), "images": {"python": {"tag": "", "digest": f"sha256:{'0' * 64}"}}},
            {**one(), "images": {"python": {"tag": ""}}},
            "images.python.tag: is empty, and there is no digest; write one of the two",
            id="no-tag",
        ),
    ],
)
def test_rule(good: object, bad: object, message: str) -> None:
    assert problems(good) == []
    assert any(message in problem for problem in problems(bad)), problems(bad)


def present(path: str) -> dict[str, Any]:
    """Return a valid document with another value at a path."""
    return {**one(), **nested(path, {})}


@pytest.mark.parametrize(("old", "new"), RENAMED_VALUES.items())
def test_old_name_of_a_value_is_answered_with_the_new_one(old: str, new: str) -> None:
    assert f"{old}: has a new name; write {new}" in problems(present(old))
