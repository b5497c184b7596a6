"""The panels of the dashboard "Registry Caches", in rows.

Counters exist from the start of a cache, with the value 0, so a sum has a value from the first scrape. A ratio has no
value, rather than NaN, while there are no requests. No query depends on the name of a pod or a volume, so all replicas
count.
"""

from __future__ import annotations

from dataclasses import dataclass

# A scraper that sets no namespace, or no release, leaves "All" as the choice.
PLACE = 'namespace=~"$namespace",release=~"$release"'
CHOSEN = f'{PLACE},upstream_host=~"$upstream"'
BY_POD = "upstream_host, pod, instance"
POD_LEGEND = "{{upstream_host}} {{pod}}"
LEGEND = "{{upstream_host}}"
FULL, HALF, THIRD, SIXTH = 24, 12, 8, 4
TALL, LOW = 8, 5
FOUR_DAYS_SECONDS = 4 * 24 * 3600


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are pairs of PromQL and legend, and `unit` is the name of a unit in Grafana."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    width: int = HALF
    height: int = TALL
    kind: str = "timeseries"
    no_value: str = ""
    minimum: float | None = 0
    maximum: float | None = None


def rows() -> list[tuple[str, list[Panel]]]:
    """Return the title and the panels of each row."""
    return [
        ("Savings", _savings()),
        ("Traffic by upstream", _traffic()),
        ("Upstreams", _upstreams()),
        ("Storage", _storage()),
        ("Nodes", _nodes()),
        ("Pods", _pods()),
    ]


def _savings() -> list[Panel]:
    pushed, pulled = _increase("registry_proxy_pushed_bytes_total"), _increase("registry_proxy_pulled_bytes_total")
    saved = f"{_rate('registry_proxy_pushed_bytes_total')} - {_rate('registry_proxy_pulled_bytes_total')}"
    share = f"{_rate('registry_proxy_pulled_bytes_total')} / ({_rate('registry_proxy_pushed_bytes_total')} > 0)"
    return [
        _stat(
            "Bytes saved",
            "Bytes that nodes received from the caches and that did not come from the upstreams, in the time range.",
            f"{pushed} - {pulled}",
            "decbytes",
            minimum=None,
            width=THIRD,
        ),
        _stat(
            "Hit ratio",
            "Share of the requests that needed no fetch from an upstream, in the time range.",
            f"{_increase('registry_proxy_hits_total')} / ({_increase('registry_proxy_requests_total')} > 0)",
            "percentunit",
            no_value="no requests",
        ),
        _stat(
            "Byte hit ratio",
            "Share of the bytes to nodes that did not come from the upstreams, in the time range.",
            f"clamp_min(1 - {pulled} / ({pushed} > 0), 0)",
            "percentunit",
            no_value="no bytes sent",
        ),
        _stat("Bytes to nodes", "Bytes that the caches sent to nodes, in the time range.", pushed, "decbytes"),
        _stat(
            "Bytes from upstreams",
            "Bytes that the caches fetched from upstreams, in the time range.",
            pulled,
            "decbytes",
        ),
        Panel(
            "Rate of bytes saved",
            "Bytes to nodes minus bytes from the upstream. The rate is negative while content is fetched the first "
            "time, since a response is counted when it has ended.",
            ((saved, LEGEND),),
            "Bps",
            minimum=None,
        ),
        Panel(
            "Hit ratios over time",
            "Share of the requests, and of the bytes, that did not come from the upstream.",
            (
                (
                    f"{_rate('registry_proxy_hits_total')} / ({_rate('registry_proxy_requests_total')} > 0)",
                    f"{LEGEND} requests",
                ),
                (f"clamp_min(1 - {share}, 0)", f"{LEGEND} bytes"),
            ),
            "percentunit",
            maximum=1,
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        Panel(
            "Requests",
            "Requests from nodes for blobs and manifests.",
            ((_rate("registry_proxy_requests_total"), LEGEND),),
            "reqps",
        ),
        Panel(
            "Hits and misses",
            "Requests that needed no fetch from the upstream, and requests that needed one.",
            (
                (_rate("registry_proxy_hits_total"), f"{LEGEND} hits"),
                (_rate("registry_proxy_misses_total"), f"{LEGEND} misses"),
            ),
            "reqps",
        ),
        Panel(
            "Rate of bytes to nodes",
            "Bytes that were sent to nodes, counted when a response has ended.",
            ((_rate("registry_proxy_pushed_bytes_total"), LEGEND),),
            "Bps",
        ),
        Panel(
            "Rate of bytes from upstreams",
            "Bytes that were fetched from the upstream, and bytes that one replica fetched from another one instead.",
            (
                (_rate("registry_proxy_pulled_bytes_total"), LEGEND),
                (_rate("registry_cache_replica_fetched_bytes_total"), f"{LEGEND} from other replicas"),
            ),
            "Bps",
        ),
        Panel(
            "Coalesced requests",
            "Requests for a blob that another request was already fetching. They cost the upstream nothing.",
            ((_rate("registry_cache_coalesced_requests_total"), LEGEND),),
            "reqps",
        ),
        Panel(
            "Tag lookups",
            "How the cache found out what a tag means: it asked the upstream (revalidated), it had asked within the "
            "check interval (fresh), it could not ask (stale), or the upstream does not have the tag any more (gone).",
            ((_rate("registry_cache_tag_lookups_total", "result"), f"{LEGEND} {{{{result}}}}"),),
            "reqps",
        ),
    ]


def _upstreams() -> list[Panel]:
    requests = "registry_cache_upstream_requests_total"
    seconds = "registry_cache_upstream_request_duration_seconds"
    return [
        Panel(
            "Upstream availability",
            "1 if the last request to the upstream got a usable response, 0 if it did not.",
            ((f"min by (upstream_host) (registry_cache_upstream_up{{{CHOSEN}}})", LEGEND),),
            "none",
            maximum=1,
        ),
        Panel(
            "Requests to upstreams",
            "Requests to the upstream and its token server, by status or by the reason for having none.",
            ((f"{_rate(requests, 'outcome')} > 0", f"{LEGEND} {{{{outcome}}}}"),),
            "reqps",
        ),
        Panel(
            "Upstream latency",
            "Time until the head of a response from the upstream, at the median and at the 95th percentile.",
            tuple(
                (
                    f"histogram_quantile({quantile}, {_rate(f'{seconds}_bucket', 'le')}) > 0",
                    f"{LEGEND} {quantile:.0%}",
                )
                for quantile in (0.5, 0.95)
            ),
            "s",
        ),
        Panel(
            "Upstream latency by method",
            "Mean time until the head of a response: GET for content, HEAD for tags, token for the token server.",
            (
                (
                    f"{_rate(f'{seconds}_sum', 'method')} / ({_rate(f'{seconds}_count', 'method')} > 0)",
                    _legend_with("method"),
                ),
            ),
            "s",
        ),
        Panel(
            "Rate limits and refused credentials",
            "Responses with status 429, and responses with status 401 to requests with credentials.",
            (
                (_increase_by(f'{requests}{{{CHOSEN},outcome="429"}}'), f"{LEGEND} 429"),
                (
                    _increase_by(f"registry_cache_upstream_credentials_refused_total{{{CHOSEN}}}"),
                    f"{LEGEND} credentials",
                ),
            ),
            "short",
        ),
        Panel(
            "Refused requests",
            "Requests that the caches answered with an error, so that containerd goes to the upstream, by reason.",
            ((f"{_rate('registry_cache_refused_requests_total', 'reason')} > 0", _legend_with("reason")),),
            "reqps",
            no_value="none",
        ),
    ]


def _storage() -> list[Panel]:
    stored, capacity = _by_pod("registry_cache_stored_bytes"), _by_pod("registry_cache_capacity_bytes")
    forecast = f"max by ({BY_POD}) (predict_linear(registry_cache_stored_bytes{{{CHOSEN}}}[6h], {FOUR_DAYS_SECONDS}))"
    return [
        Panel(
            "Capacity in use",
            "Share of the capacity that content takes, and the share above which content is evicted.",
            (
                (f"{stored} / ({capacity} > 0)", POD_LEGEND),
                (f"max by (upstream_host) (registry_cache_high_water_ratio{{{CHOSEN}}})", f"{LEGEND} high water"),
            ),
            "percentunit",
            maximum=1,
        ),
        Panel(
            "Capacity in use in four days",
            "A linear forecast from the last six hours. Eviction keeps the share below the high water mark.",
            ((f"clamp(({forecast}) / ({capacity} > 0), 0, 1)", POD_LEGEND),),
            "percentunit",
            maximum=1,
        ),
        Panel("Stored bytes", "Bytes that content takes on each volume.", ((stored, POD_LEGEND),), "decbytes"),
        Panel(
            "Free bytes",
            "Capacity that is not in use, and bytes that are free on the file system.",
            (
                (f"{capacity} - {stored}", POD_LEGEND),
                (_by_pod("registry_cache_volume_free_bytes"), f"{POD_LEGEND} file system"),
            ),
            "decbytes",
        ),
        Panel(
            "Removed blobs",
            "Blobs and manifests that were evicted to make room, expired, or were discarded because of damage.",
            ((_rate("registry_cache_removed_blobs_total", "reason"), _legend_with("reason")),),
            "ops",
        ),
        Panel(
            "Fetched again after eviction",
            "Bytes that a larger volume would have saved.",
            ((_rate("registry_cache_refetched_bytes_total"), LEGEND),),
            "Bps",
        ),
        Panel(
            "Age of the least recent use",
            "Time since the least recently used content was used. It shows how long unused content is kept.",
            (
                (
                    f"time() - min by ({BY_POD}) (registry_cache_least_recent_use_timestamp_seconds{{{CHOSEN}}})",
                    POD_LEGEND,
                ),
            ),
            "s",
        ),
        Panel(
            "Stored objects",
            "Blobs (including manifests) and tags on each volume, and files that the file system failed to read or "
            "remove.",
            tuple(
                (_by_pod(f"registry_cache_{name}"), f"{POD_LEGEND} {legend}")
                for name, legend in (
                    ("stored_blobs", "blobs"),
                    ("stored_tags", "tags"),
                    ("inaccessible_files", "inaccessible files"),
                )
            ),
            "short",
        ),
    ]


def _nodes() -> list[Panel]:
    active = f"registry_cache_node_mirror_active{{{CHOSEN}}}"
    probes = f"registry_cache_node_probes_total{{{CHOSEN}"
    reads = f"registry_cache_node_containerd_reads_registry_directory{{{PLACE}}}"
    bucket = f"registry_cache_node_probe_duration_seconds_bucket{{{CHOSEN}}}"
    return [
        Panel(
            "Nodes that use each cache",
            "Nodes whose containerd uses the cache, and all nodes.",
            (
                (f"sum by (upstream_host) ({active})", f"{LEGEND} in use"),
                (f"count by (upstream_host) ({active})", f"{LEGEND} all nodes"),
            ),
            "short",
        ),
        Panel(
            "Caches in use by node",
            "1 if containerd on the node uses the cache of the upstream, 0 if it does not.",
            ((f"max by (node, instance, upstream_host) ({active})", ""),),
            "none",
            kind="table",
        ),
        Panel(
            "Withdrawals",
            "How often a node stopped using a cache, by reason.",
            ((_increase_by(f"registry_cache_node_withdrawals_total{{{CHOSEN}}}", "reason"), _legend_with("reason")),),
            "short",
            no_value="none",
        ),
        Panel(
            "Failed probes",
            "Probes from nodes that got no good response from the cache, by result.",
            (
                (
                    f'sum by (upstream_host, result) (rate({probes},result!="ok"}}[$__rate_interval]))',
                    _legend_with("result"),
                ),
            ),
            "ops",
            no_value="none",
        ),
        Panel(
            "Probe latency",
            "Time until the response to a probe from a node, at the 95th percentile.",
            ((f"histogram_quantile(0.95, sum by (upstream_host, le) (rate({bucket}[$__rate_interval])))", LEGEND),),
            "s",
        ),
        Panel(
            "containerd reads the directory",
            "1 if the configuration of containerd on the node names the registry directory, 0 if it does not.",
            ((f"min by (node, instance) ({reads})", "{{node}} {{instance}}"),),
            "none",
            maximum=1,
        ),
    ]


def _pods() -> list[Panel]:
    configured = (
        f"registry_cache_config_info{{{CHOSEN}}} * on ({BY_POD}) group_left (version) "
        f"registry_cache_build_info{{{CHOSEN}}}"
    )
    columns = f"{BY_POD}, remote_url, tag_check_interval, credentials, proxy, ca, version"
    started = f'process_start_time_seconds{{{CHOSEN},upstream_host!=""}}'
    return [
        Panel(
            "Ready",
            "1 if the cache pod can serve requests, 0 if it cannot.",
            ((_by_pod("registry_cache_ready", "min"), POD_LEGEND),),
            "none",
            maximum=1,
        ),
        Panel(
            "Uptime",
            "Time since the gate started.",
            ((f"time() - max by ({BY_POD}) ({started})", POD_LEGEND),),
            "s",
        ),
        Panel(
            "Memory",
            "Resident memory of the gate. nginx and distribution are not included.",
            ((_by_pod("process_resident_memory_bytes"), POD_LEGEND),),
            "bytes",
        ),
        Panel(
            "CPU",
            "Share of a core that the gate uses.",
            ((f"sum by ({BY_POD}) (rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval]))", POD_LEGEND),),
            "percentunit",
        ),
        Panel(
            "Active fetches",
            "Blobs that are being fetched from the upstream.",
            ((_by_pod("registry_cache_active_fetches"), POD_LEGEND),),
            "short",
        ),
        Panel(
            "Uncounted responses",
            "Responses that are missing from the bytes to nodes, since nginx sent more of them than the gate could "
            "count.",
            ((_rate("registry_cache_uncounted_responses_total"), LEGEND),),
            "ops",
        ),
        Panel(
            "Validity of certificates",
            "Time until the certificate of each cache with TLS ends, and until that of the nodes does.",
            tuple(
                (
                    f"min by ({BY_POD}) (registry_cache_{name}_expiry_timestamp_seconds{{{CHOSEN}}}) - time()",
                    f"{POD_LEGEND} {legend}",
                )
                for name, legend in (("certificate", "cache"), ("client_certificate", "nodes"))
            ),
            "s",
            FULL,
            no_value="no TLS",
        ),
        Panel(
            "Configuration",
            "The configuration of each cache pod, and the version of the chart that wrote it.",
            ((f"max by ({columns}) ({configured})", ""),),
            "none",
            FULL,
            kind="table",
        ),
    ]


def _stat(  # noqa: PLR0913 - each is one property of the panel
    title: str, description: str, query: str, unit: str, no_value: str = "", *, minimum: float | None = 0,
    width: int = SIXTH,
) -> Panel:  # fmt: skip
    maximum = 1 if unit == "percentunit" else None
    return Panel(title, description, ((query, ""),), unit, width, LOW, "stat", no_value, minimum, maximum)


def _legend_with(label: str) -> str:
    return f"{LEGEND} {{{{{label}}}}}"


def _by_pod(metric: str, aggregation: str = "max") -> str:
    return f"{aggregation} by ({BY_POD}) ({metric}{{{CHOSEN}}})"


def _increase_by(selector: str, *labels: str) -> str:
    return f"sum by ({', '.join(('upstream_host', *labels))}) (increase({selector}[$__rate_interval]))"


def _increase(metric: str) -> str:
    return f"sum(increase({metric}{{{CHOSEN}}}[$__range]))"


def _rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(('upstream_host', *labels))}) (rate({metric}{{{CHOSEN}}}[$__rate_interval]))"
