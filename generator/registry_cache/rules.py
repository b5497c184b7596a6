"""Makes the recording rules and the alerts, for the operator's PrometheusRule and for a Prometheus without it alike.

What they go by is what the programs tell of themselves: `upstream_host` they write, `namespace`, `release` and `pod`
come from whoever scrapes them, and nothing breaks where one of these is missing. Counters are there, at 0, from the
start, so that a first failure is an increase.

Each alert has a section of its name in docs/runbook.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

# What an alert's link begins with; the chart puts the address there under which somebody can read it.
RUNBOOK = "docs/runbook.md"
GROUP = "namespace, release, upstream_host"
# The rest are failures: 404 is an answer, and those three have alerts or reasons of their own.
NO_FAILURE = "2xx|3xx|401|403|404|429"


@dataclass(frozen=True)
class Alert:
    """One alert; `lasts` is how long it must hold before somebody is told."""

    name: str
    expression: str
    lasts: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """The section that says what it means, how to look and what to do."""
        return f"{RUNBOOK}#{self.name.lower()}"


def recording_rules() -> dict[str, str]:
    """Expression by name: what is asked for again and again, and what is slow to ask over a day."""
    rates = {
        f"upstream_host:registry_proxy_{name}:rate5m": _sum(f"rate(registry_proxy_{name}_total[5m])")
        for name in ("requests", "hits", "pulled_bytes", "pushed_bytes")
    }
    ratios = {
        f"upstream_host:registry_proxy_hits:ratio_rate{span}": _ratio(
            f"rate(registry_proxy_hits_total[{span}])", f"rate(registry_proxy_requests_total[{span}])"
        )
        for span in ("1h", "1d")
    }
    failures = f'rate(registry_cache_upstream_requests_total{{outcome!~"{NO_FAILURE}"}}[10m])'
    return {
        **rates,
        **ratios,
        "upstream_host:registry_cache_upstream_failures:ratio_rate10m": _ratio(
            failures, "rate(registry_cache_upstream_requests_total[10m])"
        ),
        "pod:registry_cache_stored_bytes:ratio": "registry_cache_stored_bytes / (registry_cache_capacity_bytes > 0)",
    }


def alerts() -> tuple[Alert, ...]:
    """All alerts, those that matter most first."""
    cache = "The cache of {{ $labels.upstream_host }}"
    active = "registry_cache_node_mirror_active"
    failures = f'increase(registry_cache_upstream_requests_total{{outcome!~"{NO_FAILURE}"}}[10m])'
    limited = 'increase(registry_cache_upstream_requests_total{outcome="429"}[15m])'
    no_room = 'sum without (reason) (increase(registry_cache_refused_requests_total{reason=~"no-room|volume"}[15m]))'
    hits = "upstream_host:registry_proxy_hits:ratio_rate"
    ours = "(registry_cache_build_info or registry_cache_node_probes_total)"
    return (
        Alert(
            "RegistryCacheDown",
            f"(max by ({GROUP}) ({active}) == 0) or (max by ({GROUP}) (registry_cache_ready) == 0)",
            "5m",
            "critical",
            f"{cache} is down",
            "No node uses it, or it says itself that it cannot serve. Images come from the upstream, at its speed and "
            "within its limits; what only the cache still has does not come.",
        ),
        Alert(
            "RegistryCacheReplicaDown",
            f"count by ({GROUP}) (registry_cache_ready == 1) < max by ({GROUP}) (registry_cache_replicas)",
            "15m",
            "warning",
            "A replica of the cache of {{ $labels.upstream_host }} is down",
            "Only {{ $value }} of its replicas can serve. Pulls go to the other one, which is now the only one.",
        ),
        Alert(
            "RegistryCacheNodeNotUsingCache",
            f"{active} == 0 and on ({GROUP}) (max by ({GROUP}) ({active}) == 1)",
            "15m",
            "warning",
            "A node does not use the cache of {{ $labels.upstream_host }}",
            "The node program at {{ $labels.instance }} has withdrawn the cache, and other nodes use it: the cache "
            "does not answer this node, or the node's registry folder cannot be written.",
        ),
        Alert(
            "RegistryCacheNodeNotReading",
            "registry_cache_node_containerd_reads_registry_directory == 0",
            "15m",
            "warning",
            "containerd on a node does not read the registry folder",
            "containerd's configuration on the node of {{ $labels.instance }} does not name the folder in which the "
            "caches stand: every image there comes from its upstream.",
        ),
        Alert(
            "RegistryCacheHitRatioCollapsed",
            f"{hits}1h < 0.5 * ({hits}1d offset 1h)"
            f" and {_sum('increase(registry_proxy_requests_total[1h])')} > 100"
            f" and {_sum('increase(registry_proxy_requests_total[1d] offset 1h)')} > 100",
            "30m",
            "warning",
            f"{cache} serves much less than a day before",
            "In the last hour {{ $value | humanizePercentage }} of the requests were served from the volume, less than "
            "half of what it was in the day before.",
        ),
        Alert(
            "RegistryCacheUpstreamFailing",
            f"upstream_host:registry_cache_upstream_failures:ratio_rate10m > 0.25 and {_sum(failures)} > 2",
            "5m",
            "warning",
            "The upstream {{ $labels.upstream_host }} fails",
            "{{ $value | humanizePercentage }} of the requests to it in the last ten minutes came to nothing. What is "
            "cached is served; what is not comes from nowhere, or past the cache.",
        ),
        Alert(
            "RegistryCacheUpstreamLimitsRate",
            f"{_sum(limited)} > 0",
            "0m",
            "warning",
            "The upstream {{ $labels.upstream_host }} limits our rate",
            "It answered 429 about {{ $value | humanize }} times in 15 minutes. What is cached is served; new images "
            "do not come until the limit is over.",
        ),
        Alert(
            "RegistryCacheCredentialsRefused",
            f"{_sum('increase(registry_cache_refused_credentials_total[15m])')} > 0",
            "0m",
            "warning",
            "The upstream {{ $labels.upstream_host }} does not take the cache's credentials",
            "It, or its token server, answered 401 to the credentials of the cache's Secret. Public images still come, "
            "private ones only as far as they are cached.",
        ),
        Alert(
            "RegistryCacheVolumeFull",
            "(registry_cache_stored_bytes > registry_cache_capacity_bytes * registry_cache_high_water_ratio)"
            f" or ({no_room} > 0) or (registry_cache_stuck_files > 0)",
            "10m",
            "warning",
            "The volume of the cache of {{ $labels.upstream_host }} is full, or fails, and eviction does not help",
            "The pod {{ $labels.pod }} finds no room for what is pulled, or its disk refuses to be written or emptied. "
            "What is cached is served; the rest comes past the cache.",
        ),
        Alert(
            "RegistryCacheVolumeTooSmall",
            f"{_sum('increase(registry_cache_returned_bytes_total[6h])')}"
            f" > 0.1 * {_sum('increase(registry_proxy_pulled_bytes_total[6h])')}",
            "30m",
            "warning",
            "The volume of the cache of {{ $labels.upstream_host }} is too small for what is in use",
            "More than a tenth of what was fetched in the last six hours, {{ $value | humanize1024 }}B, had been on "
            "the volume before and was evicted for room.",
        ),
        Alert(
            "RegistryCachePodRestarting",
            'changes(process_start_time_seconds{upstream_host!=""}[1h]) > 2'
            f" or (increase(kube_pod_container_status_restarts_total[1h]) > 2 and on (namespace, pod) {ours})",
            "0m",
            "warning",
            "A pod of the caches restarts again and again",
            "{{ $labels.pod }} restarted {{ $value | humanize }} times in the last hour.",
        ),
        Alert(
            "RegistryCacheNotScraped",
            'up{job="registry-cache"} == 0',
            "10m",
            "warning",
            "Prometheus cannot scrape a pod of the caches",
            "{{ $labels.instance }} does not answer, so that no other alert can tell of it.",
        ),
    )


def rules() -> dict[str, Any]:
    """What a rule file of Prometheus holds, and the `spec` of a PrometheusRule."""
    recorded = [{"record": name, "expr": expression} for name, expression in recording_rules().items()]
    return {
        "groups": [
            {"name": "registry-cache.recorded", "rules": recorded},
            {"name": "registry-cache.alerts", "rules": [_alert(alert) for alert in alerts()]},
        ]
    }


def rules_text() -> str:
    """The rule file as it is committed."""
    header = "# Made by `make generate` from generator/registry_cache/rules.py; change it there.\n"
    return header + yaml.safe_dump(rules(), sort_keys=False, width=1000)


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasts,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook,
        },
    }


def _sum(expression: str) -> str:
    return f"sum by ({GROUP}) ({expression})"


def _ratio(numerator: str, denominator: str) -> str:
    """No value where nothing was asked for, rather than NaN."""
    return f"{_sum(numerator)} / ({_sum(denominator)} > 0)"
