"""Every rule, with a document that just passes and one that just fails, and what the failing one is told."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings
from made_documents import VALUES
from pydantic import ValidationError
from registry_cache.document import parse
from registry_cache.model.cache_pods import CacheResources, UpstreamSettings
from registry_cache.model.pods import Toleration
from registry_cache.model.values import RENAMED_VALUES, Values
from registry_cache.schema import model_schema, values_schema
from registry_cache.validation import find_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = ".".join(["a" * 63] * 3 + ["a" * 61])


def problems(document: object) -> list[str]:
    """The problems of a document, without the lines."""
    return [f"{problem.path}: {problem.text}" for problem in find_problems(parse(json.dumps(document).encode()))]


def caches(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"caches": list(entries)}


def one(**fields: object) -> dict[str, Any]:
    return caches({"upstream": "docker.io", **fields})


PROXIED = {"proxy": {"httpsProxy": "http://p:3128"}}


def nested(path: str, value: object) -> dict[str, Any]:
    """A document in which a value stands at a path."""
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(one(), {}, ': caches is missing; write caches: [{"upstream": "docker.io"}]', id="caches-required"),
        pytest.param(one(), {"caches": []}, "caches: no cache is defined; write for example", id="caches-empty"),
        pytest.param(one(), {"caches": {}}, "caches: {} is not a list", id="caches-a-list"),
        pytest.param(one(), {"caches": ["docker.io"]}, 'caches[0]: "docker.io" is not a mapping', id="cache-a-mapping"),
        pytest.param(one(), caches({}), "caches[0]: upstream is missing; write upstream: ", id="upstream-required"),
        pytest.param(
            caches({"upstream": "a.b"}, {"upstream": "a-b"}),
            caches({"upstream": "a.b"}, {"upstream": "a.b"}),
            "caches[1].upstream: a.b has a cache already, at caches[0]; write each upstream once",
            id="upstream-twice",
        ),
        pytest.param(
            one(upstream="ghcr.io"), one(upstream="Ghcr.io"), 'caches[0].upstream: "Ghcr.io" is not', id="case"
        ),
        pytest.param(one(upstream="10.0.0.1"), one(upstream="[::1]"), 'caches[0].upstream: "[::1]"', id="ip-version-6"),
        pytest.param(one(upstream="a.b:1"), one(upstream="a.b:0"), 'caches[0].upstream: "a.b:0"', id="port-0"),
        pytest.param(
            one(upstream="a:65535"), one(upstream="a:65536"), 'caches[0].upstream: "a:65536"', id="port-65536"
        ),
        pytest.param(one(upstream="a:80"), one(upstream="a:080"), 'caches[0].upstream: "a:080"', id="port-zero-first"),
        pytest.param(one(upstream="a-b"), one(upstream="a-"), 'caches[0].upstream: "a-"', id="dash-last"),
        pytest.param(one(upstream="a.b"), one(upstream="a..b"), 'caches[0].upstream: "a..b"', id="dots"),
        pytest.param(one(upstream="a.b"), one(upstream="https://a.b"), "caches[0].upstream: ", id="upstream-a-url"),
        pytest.param(one(upstream="a.b"), one(upstream="a.b\n"), "caches[0].upstream: ", id="newline-last"),
        pytest.param(
            one(upstream=LONG),
            one(upstream=LONG + "a"),
            "aaaaaaaaaaaa… is not a host of at most 253 characters",
            id="upstream-long",
        ),
        pytest.param(
            one(upstream=LONG + ":1"),
            one(upstream=LONG + ":10"),
            "caches[0].upstream: has 256 characters; write at most 255",
            id="upstream-longer-than-the-name-of-a-folder",
        ),
        pytest.param(
            one(remoteURL=f"https://{LONG}:443/"),
            one(remoteURL=f"https://{LONG}a:443/"),
            "is not a host of at most 253 characters",
            id="url-long",
        ),
        pytest.param(one(remoteURL="HTTPS://a"), one(remoteURL="HTTPS://A"), "caches[0].remoteURL: ", id="url-case"),
        pytest.param(
            one(remoteURL="https://a.b/"), one(remoteURL="https://a.b/c"), "caches[0].remoteURL: ", id="url-with-path"
        ),
        pytest.param(
            one(remoteURL="http://a:5000"),
            one(remoteURL="ftp://a"),
            "a URL of a scheme, a host and optionally a port",
            id="scheme",
        ),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://u:p@a"), "caches[0].remoteURL: ", id="url-user"),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://a?q"), "caches[0].remoteURL: ", id="url-query"),
        pytest.param(
            one(remoteURL="http://a"), one(remoteURL="http://a#f"), "caches[0].remoteURL: ", id="url-fragment"
        ),
        pytest.param(
            one(proxy={"httpsProxy": "http://p:3128"}),
            one(proxy={"httpsProxy": "p:3128"}),
            "caches[0].proxy.httpsProxy: ",
            id="proxy",
        ),
        pytest.param(
            one(proxy={"httpProxy": "http://p:3128"}, remoteURL="http://a.b"),
            one(proxy={"httpProxy": "http://p:3128"}, remoteURL="HTTPS://a.b"),
            "caches[0].proxy.httpProxy: is not used, because the cache speaks https to its upstream; write httpsProxy",
            id="proxy-that-is-not-used",
        ),
        pytest.param(
            one(proxy={"httpProxy": "http://p:3128", "httpsProxy": "http://p:3128"}),
            one(proxy={"httpProxy": "http://p:3128"}),
            "caches[0].proxy.httpProxy: is not used",
            id="proxy-that-is-not-used-by-default",
        ),
        *(
            pytest.param(
                one(),
                caches({"upstream": written}),
                'caches[0].upstream: image references name Docker Hub docker.io; write "docker.io"',
                id=written,
            )
            for written in ("index.docker.io", "hub.docker.com", "registry-1.docker.io")
        ),
        pytest.param(
            caches({"upstream": "registry-1.docker.io"}, {"upstream": "docker.io"}),
            caches({"upstream": "index.docker.io"}, {"upstream": "docker.io"}),
            "caches[0].upstream: image references name Docker Hub",
            id="beside-docker-hub",
        ),
        pytest.param(
            one(volume={"size": "1Mi"}),
            one(volume={"size": "0"}),
            'caches[0].volume.size: "0" is not a quantity of bytes greater than zero; write for example "10Gi"',
            id="size-zero",
        ),
        pytest.param(one(volume={"size": "0.1Gi"}), one(volume={"size": "0.0Gi"}), "volume.size", id="size-zero-point"),
        pytest.param(one(volume={"size": "1e7"}), one(volume={"size": "-1Gi"}), "volume.size", id="size-negative"),
        pytest.param(one(volume={"size": 67108864}), one(volume={"size": 0}), "volume.size", id="size-number"),
        *(
            pytest.param(
                one(volume={"size": good}),
                one(volume={"size": bad}),
                f"caches[0].volume.size: {said}",
                id=f"size-{bad}",
            )
            for good, bad, said in (
                ("10Gi", 10, 'a volume of 10 bytes is too small; write at least "1Mi"; did you mean "10Gi"?'),
                ("10Gi", "10", 'a volume of 10 bytes is too small; write at least "1Mi"; did you mean "10Gi"?'),
                ("100Mi", "100m", 'a volume of 0 bytes is too small; write at least "1Mi"; did you mean "100Mi"?'),
                ("64Mi", "1000k", 'a volume of 1000000 bytes is too small; write at least "1Mi"'),
                (1048576, 1048575, 'a volume of 1048575 bytes is too small; write at least "1Mi"'),
                ("1e99999999999999999999", "1e-99999999999", "a volume of 0 bytes is too small"),
            )
        ),
        pytest.param(one(volume={"size": "10Gi"}), one(volume={"size": "10GiB"}), "volume.size", id="size-unit"),
        pytest.param(
            one(volume={"size": "10G"}), one(volume={"size": True}), "volume.size: true is not", id="size-type"
        ),
        pytest.param(
            one(volume={"storageClassName": "fast.ssd"}),
            one(volume={"storageClassName": "Fast"}),
            "caches[0].volume.storageClassName: ",
            id="storage-class",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "-0s"}),
            one(garbageCollection={"ttl": "-1s"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-negative",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1h30m"}),
            one(garbageCollection={"ttl": "7d"}),
            '"7d" is not a duration in hours, minutes and seconds, zero or longer; there is no unit for days; '
            'write "168h"',
            id="ttl-days",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "999999h"}),
            one(garbageCollection={"ttl": "9999999h"}),
            'caches[0].garbageCollection.ttl: "9999999h" is not',
            id="ttl-longer-than-go-can-hold",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1.5h"}),
            one(garbageCollection={"ttl": "168"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-without-unit",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "90m0s"}),
            one(garbageCollection={}),
            'caches[0].garbageCollection: ttl is missing; write ttl: "168h"',
            id="ttl-required",
        ),
        pytest.param(
            one(serviceNameSuffix="a" * 54),
            one(serviceNameSuffix="a" * 55),
            "caches[0].serviceNameSuffix: has 55 characters; write at most 54",
            id="suffix-long",
        ),
        pytest.param(one(serviceNameSuffix="a-b"), one(serviceNameSuffix="a.b"), "serviceNameSuffix", id="suffix-dot"),
        pytest.param(
            caches({"upstream": "a", "serviceNameSuffix": "x"}, {"upstream": "b", "serviceNameSuffix": "y"}),
            caches({"upstream": "a", "serviceNameSuffix": "x"}, {"upstream": "b", "serviceNameSuffix": "x"}),
            "caches[1].serviceNameSuffix: the name registry-x belongs to the Service of caches[0]; write another",
            id="suffix-twice",
        ),
        pytest.param(
            caches({"upstream": "a.b"}, {"upstream": "b.c", "serviceNameSuffix": "cache-a"}),
            caches({"upstream": "a.b"}, {"upstream": "b.c", "serviceNameSuffix": "cache-a-b"}),
            "caches[1].serviceNameSuffix: the name registry-cache-a-b belongs to the Service of caches[0]",
            id="suffix-as-another-caches-name",
        ),
        pytest.param(
            one(http={"tls": False}),
            one(http={"tls": True}),
            "caches[0].http.tls: true is not supported yet; write false",
            id="tls",
        ),
        pytest.param(
            one(highAvailability={"enabled": True}),
            one(highAvailability={"enabled": "true"}),
            'caches[0].highAvailability.enabled: "true" is not true or false',
            id="high-availability",
        ),
        pytest.param(
            caches({"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"}, {"upstream": "b.c"}),
            caches(
                {"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"},
                {"upstream": "b.c", "highAvailability": {"enabled": True}},
            ),
            "caches[1].serviceNameSuffix: the name registry-cache-b-c--peers belongs to the Service of caches[0]",
            id="suffix-as-the-name-of-the-service-of-replicas",
        ),
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


GARDENER = "Gardener names the Service of caches"
LONG_NAME = "my-very-long-registry-very-long-subdo-2fae3"


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        pytest.param(
            [{"upstream": "docker.io"}, {"upstream": "b.c", "serviceNameSuffix": "docker-i"}],
            [{"upstream": "docker.io"}, {"upstream": "b.c", "serviceNameSuffix": "docker-io"}],
            f"caches[1].serviceNameSuffix: {GARDENER}[0] registry-docker-io; write another suffix",
            id="suffix-as-gardeners-name",
        ),
        pytest.param(
            [
                {"upstream": "docker.io", "serviceNameSuffix": "x"},
                {"upstream": "b.c", "serviceNameSuffix": "docker-io"},
            ],
            [{"upstream": "b.c", "serviceNameSuffix": "docker-io"}, {"upstream": "docker.io"}],
            f"caches[0].serviceNameSuffix: {GARDENER}[1] registry-docker-io; write another suffix",
            id="suffix-as-gardeners-name-of-a-later-one",
        ),
        pytest.param(
            [{"upstream": "a.b", "serviceNameSuffix": "x"}],
            [
                {"upstream": "a.b", "serviceNameSuffix": LONG_NAME},
                {"upstream": "my-very-long-registry.very-long-subdomain.io"},
            ],
            f"caches[0].serviceNameSuffix: {GARDENER}[1] registry-{LONG_NAME}; write another suffix",
            id="suffix-as-gardeners-long-name",
        ),
        pytest.param(
            [{"upstream": "a.b"}],
            [{"upstream": "a.b"}, {"upstream": "a.b"}, {"upstream": "c.d", "serviceNameSuffix": "a-b"}],
            f"caches[2].serviceNameSuffix: {GARDENER}[0] registry-a-b; write another suffix",
            id="beside-another-problem",
        ),
    ],
)
def test_suffix_that_gardener_refuses_is_refused_in_a_shoot_alone(good: list[Any], bad: list[Any], reason: str) -> None:
    def shoot(entries: list[Any]) -> dict[str, Any]:
        extension = {"type": "registry-cache", "providerConfig": caches(*entries)}
        return {"kind": "Shoot", "spec": {"extensions": [extension]}}

    assert problems(shoot(good)) == []
    assert f"spec.extensions[0].providerConfig.{reason}" in problems(shoot(bad))
    assert not any("Gardener" in problem for problem in problems(caches(*bad)))


def present(path: str) -> dict[str, Any]:
    """A document in which a value stands at a path of a valid one."""
    return {**one(), **nested(path, {})}


@pytest.mark.parametrize(("old", "new"), RENAMED_VALUES.items())
def test_old_name_of_a_value_is_answered_with_the_new_one(old: str, new: str) -> None:
    assert f"{old}: has a new name; write {new}" in problems(present(old))


def test_new_names_are_those_of_values() -> None:
    paths = {path for path, _ in leaves(model_schema())}
    assert set(RENAMED_VALUES.values()) <= paths
    assert not paths & set(RENAMED_VALUES)


def test_every_problem_is_told_with_its_line() -> None:
    text = b"caches:\n  - upstream: Docker.io\n    volume:\n      size: 0\n  - remoteURL: x\n"
    assert [(problem.line, problem.path) for problem in find_problems(parse(text))] == [
        (2, "caches[0].upstream"),
        (4, "caches[0].volume.size"),
        (5, "caches[1]"),
        (5, "caches[1].remoteURL"),
    ]


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("upstream", "https://Docker.io/v2/", "docker.io"),
        ("upstream", "registry.example.com:5000/team", "registry.example.com:5000"),
        ("remoteURL", "registry.example.com", "https://registry.example.com"),
        ("remoteURL", "http://user:secret@registry.example.com/v2?x#y", "http://registry.example.com"),
        ("proxy.httpsProxy", "proxy:3128", "http://proxy:3128"),
        ("volume.size", "10 GiB", "10Gi"),
        ("garbageCollection.ttl", "7d", "168h"),
        ("garbageCollection.ttl", "1d12h", "24h12h"),
    ],
)
def test_what_was_meant_is_offered(field: str, written: str, meant: str) -> None:
    assert problems(caches({"upstream": "docker.io", **nested(field, written)}))[0].endswith(f'write "{meant}"')


def test_credentials_in_a_url_are_not_repeated() -> None:
    (said,) = problems(one(proxy={"httpsProxy": "http://user:p@ss/word@proxy:3128"}))
    assert '"http://…@proxy:3128" is not a URL' in said
    assert "word" not in said


def test_shape_and_combinations_are_told_at_once() -> None:
    document = caches({"upstream": "a.b"}, {"upstream": "a.b", "volume": {"size": 0}})
    assert [problem.partition(": ")[0] for problem in problems(document)] == [
        "caches[1].upstream",
        "caches[1].volume.size",
    ]


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every value, those that hold others included."""
    for name, part in schema["properties"].items():
        yield f"{path}{name}", part
        if "properties" in part:
            yield from leaves(part, f"{path}{name}.")
        if "properties" in part.get("items", {}):
            yield from leaves(part["items"], f"{path}{name}[].")
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            yield from leaves(each, f"{path}{name}.<>.")


def test_schema_is_closed_and_says_its_draft() -> None:
    schema = values_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    for path, part in [("", schema), *leaves(schema)]:
        if path == "global":  # which a parent chart shares with all its dependencies
            continue
        for inner in (part, part.get("items", {})):
            assert "properties" not in inner or inner["additionalProperties"] is False, f"{path} is open"
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            assert each["additionalProperties"] is False, f"{path} is open"


def test_what_has_no_default_is_left_out_or_must_be_written() -> None:
    without = {path for path, part in leaves(model_schema()) if "properties" not in part and "default" not in part}
    assert without == {
        "caches",
        "caches[].upstream",
        *(f"caches[].{name}" for name in ("remoteURL", "secretReferenceName", "serviceNameSuffix")),
        *(f"caches[].{name}" for name in ("volume.storageClassName", "proxy.httpProxy", "proxy.httpsProxy")),
        *(
            f"{holder}.tolerations[].{name}"
            for holder in ("cachePods", "nodeProgram", "upstreamSettings.<>")
            for name in Toleration.model_fields
        ),
        *("global.imagePullSecrets[].name", "imagePullSecrets[].name"),
        *(
            f"upstreamSettings.<>.{name}"
            for name in {*UpstreamSettings.model_fields} - {"resources"}
            | {f"resources.{container}" for container in CacheResources.model_fields}
        ),
    }


@pytest.mark.parametrize(
    ("path", "part"),
    [(path, part) for path, part in leaves(values_schema()) if "deprecationMessage" not in part],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_is_described_and_shown(path: str, part: dict[str, Any]) -> None:
    assert part["description"].endswith((".", '"'))
    if "properties" not in part:
        assert part["examples"], f"{path} has no example"
        for value in [*part["examples"], *([part["default"]] if "default" in part else [])]:
            jsonschema.Draft7Validator(part).validate(value)


@pytest.mark.slow
def test_schema_and_model_agree() -> None:
    taken: Counter[bool] = Counter()

    @settings(max_examples=3000)
    @given(VALUES)
    def check(document: dict[str, Any]) -> None:
        try:
            Values.model_validate_json(json.dumps(document), strict=True)
            model_takes_it = True
        except ValidationError:
            model_takes_it = False
        taken[model_takes_it] += 1
        schema = jsonschema.Draft7Validator(values_schema())
        assert schema.is_valid(document) == model_takes_it

    check()
    assert min(taken[True], taken[False]) > 300, "documents of both kinds"
