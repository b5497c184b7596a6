"""Builds the recording rules and the alerts, for the PrometheusRule of the operator and for a plain rule file.

They depend on what the programs export: the programs set `upstream_host`, the scraper sets `namespace`, `release` and
`pod`, and the rules work without any of the latter. Counters exist from the start with the value 0, so that a first
failure is an increase.

Each alert has a section of its name in docs/runbook.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

# The start of the links of the alerts. The chart replaces it with the address of the published runbook.
RUNBOOK = "docs/runbook.md"
GROUP = "namespace, release, upstream_host"
# All other outcomes are failures. A 404 is an answer, and for 401, 403 and 429 there are other alerts and reasons.
NO_FAILURE = "2xx|3xx|401|403|404|429"


@dataclass(frozen=True)
class Alert:
    """One alert. It fires when the expression has been true for the duration."""

    name: str
    expression: str
    duration: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """The section of the runbook about this alert."""
        return f"{RUNBOOK}#{self.name.lower()}"


def recording_rules() -> dict[str, str]:
    """Return the expressions by name, for what is queried often or is slow to query over a day."""
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
    """Return all alerts, the most important ones first."""
    active = "registry_cache_node_mirror_active"
    failures = f'increase(registry_cache_upstream_requests_total{{outcome!~"{NO_FAILURE}"}}[10m])'
    rate_limited = 'increase(registry_cache_upstream_requests_total{outcome="429"}[15m])'
    no_room = 'sum without (reason) (increase(registry_cache_refused_requests_total{reason=~"no-room|volume"}[15m]))'
    overload = 'increase(registry_cache_refused_requests_total{reason="overload"}[10m])'
    hits = "upstream_host:registry_proxy_hits:ratio_rate"
    our_pods = "(registry_cache_build_info or registry_cache_node_probes_total)"
    return (
        Alert(
            "RegistryCacheDown",
            f"(max by ({GROUP}) ({active}) == 0) or (max by ({GROUP}) (registry_cache_ready) == 0)",
            "5m",
            "critical",
            "The cache of {{ $labels.upstream_host }} is down",
            "No node uses the cache, or none of its pods is ready. Nodes pull from the upstream, at its speed and "
            "within its rate limits. Images that only the cache still has cannot be pulled.",
        ),
        Alert(
            "RegistryCacheReplicaDown",
            f"count by ({GROUP}) (registry_cache_ready == 1) < max by ({GROUP}) (registry_cache_configured_replicas)",
            "15m",
            "warning",
            "A replica of the cache of {{ $labels.upstream_host }} is down",
            "Replicas that are ready: {{ $value }}. Pulls still work, but fewer replicas share the load, and a single "
            "one is not highly available.",
        ),
        Alert(
            "RegistryCacheNodeNotUsingCache",
            f"{active} == 0 and on ({GROUP}) (max by ({GROUP}) ({active}) == 1)",
            "15m",
            "warning",
            "A node does not use the cache of {{ $labels.upstream_host }}",
            "The node program at {{ $labels.instance }} has withdrawn the cache, while other nodes use it. The cache "
            "does not respond to this node, or the registry directory of the node cannot be written.",
        ),
        Alert(
            "RegistryCacheNodeNotReading",
            "registry_cache_node_containerd_reads_registry_directory == 0",
            "15m",
            "warning",
            "containerd on a node does not read the registry directory",
            "The configuration of containerd on the node of {{ $labels.instance }} does not name the registry "
            "directory. The node pulls every image from its upstream.",
        ),
        Alert(
            "RegistryCacheNodeUsesProxy",
            "registry_cache_node_containerd_uses_proxy == 1",
            "15m",
            "warning",
            "containerd on a node would ask the cache of {{ $labels.upstream_host }} through an HTTP proxy",
            "NO_PROXY of containerd on the node of {{ $labels.instance }} does not cover the Service of the cache, so "
            "the node pulls from the upstream. The message of the pod names the file that sets the proxy.",
        ),
        Alert(
            "RegistryCacheHitRatioCollapsed",
            f"{hits}1h < 0.5 * ({hits}1d offset 1h)"
            f" and {_sum('increase(registry_proxy_requests_total[1h])')} > 100"
            f" and {_sum('increase(registry_proxy_requests_total[1d] offset 1h)')} > 100",
            "30m",
            "warning",
            "The hit ratio of the cache of {{ $labels.upstream_host }} has collapsed",
            "{{ $value | humanizePercentage }} of the requests in the last hour were hits, which is less than half of "
            "the ratio of the day before.",
        ),
        Alert(
            "RegistryCacheUpstreamFailing",
            f"upstream_host:registry_cache_upstream_failures:ratio_rate10m > 0.25 and {_sum(failures)} > 2",
            "5m",
            "warning",
            "The upstream {{ $labels.upstream_host }} is failing",
            "{{ $value | humanizePercentage }} of the requests to the upstream failed in the last 10 minutes. Cached "
            "images are still served. For other images containerd goes to the upstream itself.",
        ),
        Alert(
            "RegistryCacheUpstreamLimitsRate",
            f"{_sum(rate_limited)} > 0",
            "0m",
            "warning",
            "The upstream {{ $labels.upstream_host }} limits the request rate",
            "The upstream answered about {{ $value | humanize }} requests with status 429 in the last 15 minutes. "
            "Cached images are still served. Pulls of other images may fail until the limit is lifted.",
        ),
        Alert(
            "RegistryCacheCredentialsRefused",
            f"{_sum('increase(registry_cache_upstream_credentials_refused_total[15m])')} > 0",
            "0m",
            "warning",
            "The upstream {{ $labels.upstream_host }} refuses the credentials of the cache",
            "The upstream or its token server answered with status 401 to the credentials in the Secret of the cache. "
            "Public images are still fetched. The cache serves private images only if it has them already.",
        ),
        Alert(
            "RegistryCacheVolumeFull",
            "(registry_cache_stored_bytes > registry_cache_capacity_bytes * registry_cache_high_water_ratio)"
            f" or ({no_room} > 0) or (registry_cache_inaccessible_files > 0)",
            "10m",
            "warning",
            "The volume of the cache of {{ $labels.upstream_host }} is full or failing",
            "Eviction cannot make enough room on the volume of pod {{ $labels.pod }}, or its file system fails to "
            "read, write or remove files. Cached images are still served. Nodes pull other images from the upstream.",
        ),
        Alert(
            "RegistryCacheVolumeUnusable",
            "registry_cache_volume_usable == 0",
            "5m",
            "warning",
            "The volume of the cache of {{ $labels.upstream_host }} cannot be used",
            "The volume of pod {{ $labels.pod }} takes no content: it is read-only, belongs to another user, is full "
            "of foreign files, or cannot do what the cache needs. The log of the container gate says which.",
        ),
        Alert(
            "RegistryCacheVolumeTooSmall",
            f"{_sum('increase(registry_cache_refetched_bytes_total[6h])')}"
            f" > 0.1 * {_sum('increase(registry_proxy_pulled_bytes_total[6h])')}",
            "30m",
            "warning",
            "The volume of the cache of {{ $labels.upstream_host }} is too small",
            "{{ $value | humanize1024 }}B that were fetched in the last 6 hours had been evicted before. This is more "
            "than a tenth of all bytes that were fetched.",
        ),
        Alert(
            "RegistryCacheCertificateEnds",
            "registry_cache_certificate_expiry_timestamp_seconds - time() < 7 * 86400"
            " or registry_cache_client_certificate_expiry_timestamp_seconds - time() < 7 * 86400",
            "1h",
            "warning",
            "A certificate for the cache of {{ $labels.upstream_host }} ends within a week",
            "The certificate that pod {{ $labels.pod }} serves, or the one that nodes show to it, ends in "
            "{{ $value | humanizeDuration }}. After that, nodes pull from the upstream.",
        ),
        Alert(
            "RegistryCachePodRestarting",
            'changes(process_start_time_seconds{upstream_host!=""}[1h]) > 2'
            f" or (increase(kube_pod_container_status_restarts_total[1h]) > 2 and on (namespace, pod) {our_pods})",
            "0m",
            "warning",
            "A pod of the registry caches restarts repeatedly",
            "Pod {{ $labels.pod }} restarted {{ $value | humanize }} times in the last hour.",
        ),
        Alert(
            "RegistryCacheOverloaded",
            f"{_sum(overload)} > 10",
            "0m",
            "warning",
            "The cache of {{ $labels.upstream_host }} refuses requests because it has too many",
            "About {{ $value | humanize }} requests were refused in the last 10 minutes. Nodes pull from the upstream "
            "instead. One client may take more than its share, or the cache needs more replicas.",
        ),
        Alert(
            "RegistryCacheDefect",
            f"{_sum('increase(registry_cache_defects_total[1h])')} > 0",
            "0m",
            "warning",
            "The gate of the cache of {{ $labels.upstream_host }} has a defect",
            "Unexpected errors in the last hour: about {{ $value | humanize }}. The log of the gate has a traceback, "
            "or its process was killed.",
        ),
        Alert(
            "RegistryCacheNotScraped",
            'up{job="registry-cache"} == 0',
            "10m",
            "warning",
            "Prometheus cannot scrape a pod of the registry caches",
            "Target {{ $labels.instance }} does not respond to scrapes, so no other alert can fire for it.",
        ),
    )


def rules() -> dict[str, Any]:
    """Return the content of a rule file of Prometheus, which is also the `spec` of a PrometheusRule."""
    recorded = [{"record": name, "expr": expression} for name, expression in recording_rules().items()]
    return {
        "groups": [
            {"name": "registry-cache.recorded", "rules": recorded},
            {"name": "registry-cache.alerts", "rules": [_alert(alert) for alert in alerts()]},
        ]
    }


def rules_text() -> str:
    """Return the rule file."""
    header = "# Generated by `make generate` from generator/registry_cache/rules.py. Edit that file instead.\n"
    return header + yaml.safe_dump(rules(), sort_keys=False, width=1000)


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.duration,
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
    """Return a ratio that has no value, rather than NaN, while there are no requests."""
    return f"{_sum(numerator)} / ({_sum(denominator)} > 0)"
