"""Makes the dashboard "Registry Caches", for Grafana and for Plutono 7.5 alike.

What both understand: schemaVersion 27 (Plutono knows none above it and Grafana migrates from it), a data source named
by a variable, and the panel types stat, timeseries, table and row, which are folders of public/app/plugins/panel in the
sources of both. A table needs no transformation: its query leaves just the labels that are to be its columns.

Counters are there, at 0, from a cache's start, so a sum has a value from the first scrape; a ratio has none, and is no
NaN, while nobody asks for anything. All replicas count: nothing here goes by the name of a pod or a volume.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

UID = "registry-caches"
# A scraper that gives no namespace, or no release, leaves "All".
PLACE = 'namespace=~"$namespace",release=~"$release"'
CHOSEN = f'{PLACE},upstream_host=~"$upstream"'
BY_POD = "upstream_host, pod, instance"
OF_POD = "{{upstream_host}} {{pod}}"
OF = "{{upstream_host}}"
FULL, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4
COLUMNS = 24
TALL, LOW = 8, 5
FOUR_DAYS = 4 * 24 * 3600


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` are pairs of PromQL and legend; `unit` is Grafana's name of it."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    width: int = HALF
    height: int = TALL
    kind: str = "timeseries"
    without_value: str = ""
    least: float | None = 0
    most: float | None = field(default=None)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "annotations": {"list": []},
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": _place(_rows()),
        "refresh": "1m",
        "schemaVersion": 27,
        "tags": ["registry", "cache"],
        "templating": {"list": _variables()},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": "Registry Caches",
        "uid": UID,
        "version": 1,
    }


def dashboard_text() -> str:
    """The dashboard as it is committed."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _rows() -> list[tuple[str, list[Panel]]]:
    return [
        ("Worth", _worth()),
        ("Traffic by upstream", _traffic()),
        ("Upstreams", _upstreams()),
        ("Storage", _storage()),
        ("Nodes", _nodes()),
        ("Pods", _pods()),
    ]


def _worth() -> list[Panel]:
    pushed, pulled = _increase("registry_proxy_pushed_bytes_total"), _increase("registry_proxy_pulled_bytes_total")
    saved = f"{_rate('registry_proxy_pushed_bytes_total')} - {_rate('registry_proxy_pulled_bytes_total')}"
    share = f"{_rate('registry_proxy_pulled_bytes_total')} / ({_rate('registry_proxy_pushed_bytes_total')} > 0)"
    return [
        _number(
            "Not fetched",
            "Bytes that nodes got and the upstreams did not send, over the time shown.",
            f"{pushed} - {pulled}",
            "decbytes",
            least=None,
            width=THIRD,
        ),
        _number(
            "Hit ratio",
            "Share of requests for which nothing left the upstream, over the time shown.",
            f"{_increase('registry_proxy_hits_total')} / ({_increase('registry_proxy_requests_total')} > 0)",
            "percentunit",
            without_value="no requests",
        ),
        _number(
            "Hit ratio by bytes",
            "Share of the bytes that nodes got that did not come from the upstreams, over the time shown.",
            f"clamp_min(1 - {pulled} / ({pushed} > 0), 0)",
            "percentunit",
            without_value="nothing sent",
        ),
        _number("To nodes", "Bytes that the caches sent to nodes, over the time shown.", pushed, "decbytes"),
        _number("From upstreams", "Bytes that the caches fetched, over the time shown.", pulled, "decbytes"),
        Panel(
            "Not fetched, over time",
            "Bytes that nodes got less those that the upstream sent; below zero where something is fetched first, "
            "since what is sent counts when it has been sent.",
            ((saved, OF),),
            "Bps",
            least=None,
        ),
        Panel(
            "Hit ratio, over time",
            "Share of requests, and of bytes, that did not go to the upstream.",
            (
                (
                    f"{_rate('registry_proxy_hits_total')} / ({_rate('registry_proxy_requests_total')} > 0)",
                    f"{OF} requests",
                ),
                (f"clamp_min(1 - {share}, 0)", f"{OF} bytes"),
            ),
            "percentunit",
            most=1,
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        Panel(
            "Requests",
            "Requests for blobs and manifests that nodes sent to the caches.",
            ((_rate("registry_proxy_requests_total"), OF),),
            "reqps",
        ),
        Panel(
            "Hits and misses",
            "Requests for which nothing left the upstream, and those for which something did.",
            (
                (_rate("registry_proxy_hits_total"), f"{OF} hits"),
                (_rate("registry_proxy_misses_total"), f"{OF} misses"),
            ),
            "reqps",
        ),
        Panel(
            "Bytes to nodes",
            "What nodes were sent, counted when it has been sent.",
            ((_rate("registry_proxy_pushed_bytes_total"), OF),),
            "Bps",
        ),
        Panel(
            "Bytes from upstreams",
            "What was fetched; and what one replica had from the other instead.",
            (
                (_rate("registry_proxy_pulled_bytes_total"), OF),
                (_rate("registry_cache_replica_bytes_total"), f"{OF} from the other replica"),
            ),
            "Bps",
        ),
        Panel(
            "Joined requests",
            "Requests for a blob that was being fetched for somebody else: they cost the upstream nothing.",
            ((_rate("registry_cache_coalesced_requests_total"), OF),),
            "reqps",
        ),
        Panel(
            "Tags",
            "How it was found what a tag means: asked of the upstream, known from a moment before (window), from "
            "before the upstream was away (stale), or gone from the upstream.",
            ((_rate("registry_cache_tag_lookups_total", "result"), f"{OF} {{{{result}}}}"),),
            "reqps",
        ),
    ]


def _upstreams() -> list[Panel]:
    requests = "registry_cache_upstream_requests_total"
    seconds = "registry_cache_upstream_request_duration_seconds"
    return [
        Panel(
            "Upstream answers",
            "1 where the upstream gave an answer of use when it was asked last, 0 where it was away.",
            ((f"min by (upstream_host) (registry_cache_upstream_up{{{CHOSEN}}})", OF),),
            "none",
            most=1,
        ),
        Panel(
            "Requests to upstreams",
            "What the upstream and its token server answered, or why they did not.",
            ((f"{_rate(requests, 'outcome')} > 0", f"{OF} {{{{outcome}}}}"),),
            "reqps",
        ),
        Panel(
            "Latency of upstreams",
            "Time to the head of an answer: half of them come sooner, and 95 of 100.",
            tuple(
                (
                    f"histogram_quantile({share}, {_rate(f'{seconds}_bucket', 'le')}) > 0",
                    f"{OF} {share:.0%}",
                )
                for share in (0.5, 0.95)
            ),
            "s",
        ),
        Panel(
            "Latency by method",
            "Mean time to the head of an answer: for content (GET), for what a tag means (HEAD), for tokens.",
            ((f"{_rate(f'{seconds}_sum', 'method')} / ({_rate(f'{seconds}_count', 'method')} > 0)", _with("method")),),
            "s",
        ),
        Panel(
            "Rate limits and refused credentials",
            "Answers 429, and credentials that were answered with 401, in the time before each point.",
            (
                (_grown(f'{requests}{{{CHOSEN},outcome="429"}}'), f"{OF} 429"),
                (_grown(f"registry_cache_refused_credentials_total{{{CHOSEN}}}"), f"{OF} credentials"),
            ),
            "short",
        ),
        Panel(
            "Refused requests",
            "What the caches answered with an error, upon which containerd asks the upstream itself, by reason.",
            ((f"{_rate('registry_cache_refused_requests_total', 'reason')} > 0", _with("reason")),),
            "reqps",
            without_value="none",
        ),
    ]


def _storage() -> list[Panel]:
    stored, capacity = _by_pod("registry_cache_stored_bytes"), _by_pod("registry_cache_capacity_bytes")
    forecast = f"max by ({BY_POD}) (predict_linear(registry_cache_stored_bytes{{{CHOSEN}}}[6h], {FOUR_DAYS}))"
    return [
        Panel(
            "Room in use",
            "Share of what content may take that it takes, and where eviction begins.",
            (
                (f"{stored} / ({capacity} > 0)", OF_POD),
                (f"max by (upstream_host) (registry_cache_high_water_ratio{{{CHOSEN}}})", f"{OF} eviction begins"),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Room in use in four days",
            "The same as it will be if it goes on as in the last six hours; eviction ends it before it is all.",
            ((f"clamp(({forecast}) / ({capacity} > 0), 0, 1)", OF_POD),),
            "percentunit",
            most=1,
        ),
        Panel("Stored", "Bytes of content on each volume.", ((stored, OF_POD),), "decbytes"),
        Panel(
            "Room left",
            "What content may still take, and what is free on the disk, whoever may take it.",
            (
                (f"{capacity} - {stored}", OF_POD),
                (_by_pod("registry_cache_free_bytes"), f"{OF_POD} on the disk"),
            ),
            "decbytes",
        ),
        Panel(
            "Removed from the volumes",
            "Blobs and manifests that went: evicted for room, expired, or damaged.",
            ((_rate("registry_cache_removed_blobs_total", "reason"), _with("reason")),),
            "ops",
        ),
        Panel(
            "Fetched again after eviction",
            "Bytes that a larger volume would have saved.",
            ((_rate("registry_cache_returned_bytes_total"), OF),),
            "Bps",
        ),
        Panel(
            "Kept for",
            "Time since the last use of what was used least recently.",
            (
                (
                    f"time() - min by ({BY_POD}) (registry_cache_oldest_use_timestamp_seconds{{{CHOSEN}}})",
                    OF_POD,
                ),
            ),
            "s",
        ),
        Panel(
            "Objects",
            "Blobs (manifests included) and tags on each volume, and files that its disk refused.",
            tuple(
                (_by_pod(f"registry_cache_{name}"), f"{OF_POD} {words}")
                for name, words in (("stored_blobs", "blobs"), ("stored_tags", "tags"), ("stuck_files", "stuck files"))
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
            "How many of the nodes are pointed to the cache, and how many there are.",
            (
                (f"sum by (upstream_host) ({active})", f"{OF} use it"),
                (f"count by (upstream_host) ({active})", f"{OF} of"),
            ),
            "short",
        ),
        Panel(
            "Which node uses which cache",
            "1 where containerd on the node is pointed to the cache of the upstream, 0 where it is not.",
            ((f"max by (node, instance, upstream_host) ({active})", ""),),
            "none",
            kind="table",
        ),
        Panel(
            "Withdrawals",
            "How often a node left a cache that it had used, in the time before each point, by reason.",
            ((_grown(f"registry_cache_node_withdrawals_total{{{CHOSEN}}}", "reason"), _with("reason")),),
            "short",
            without_value="none",
        ),
        Panel(
            "Questions that failed",
            "Questions of the nodes whether a cache is there, a second, by what was wrong with the answer.",
            (
                (
                    f'sum by (upstream_host, result) (rate({probes},result!="ok"}}[$__rate_interval]))',
                    _with("result"),
                ),
            ),
            "ops",
            without_value="none",
        ),
        Panel(
            "Answers to nodes",
            "Time in which 95 of 100 questions of the nodes are answered.",
            ((f"histogram_quantile(0.95, sum by (upstream_host, le) (rate({bucket}[$__rate_interval])))", OF),),
            "s",
        ),
        Panel(
            "containerd reads the folder",
            "1 where containerd's configuration on the node names the folder of the caches, 0 where it does not.",
            ((f"min by (node, instance) ({reads})", "{{node}} {{instance}}"),),
            "none",
            most=1,
        ),
    ]


def _pods() -> list[Panel]:
    configured = (
        f"registry_cache_configuration_info{{{CHOSEN}}} * on ({BY_POD}) group_left (version) "
        f"registry_cache_build_info{{{CHOSEN}}}"
    )
    known = f"{BY_POD}, remote_url, tag_window, credentials, proxy, ca, version"
    began = f'process_start_time_seconds{{{CHOSEN},upstream_host!=""}}'
    return [
        Panel(
            "Ready",
            "1 where the cache can serve, 0 where it cannot.",
            ((_by_pod("registry_cache_ready", "min"), OF_POD),),
            "none",
            most=1,
        ),
        Panel(
            "Running for",
            "Time since the program that fetches was started.",
            ((f"time() - max by ({BY_POD}) ({began})", OF_POD),),
            "s",
        ),
        Panel(
            "Memory",
            "What the program that fetches takes; nginx and distribution are not in it.",
            ((_by_pod("process_resident_memory_bytes"), OF_POD),),
            "bytes",
        ),
        Panel(
            "CPU",
            "Share of a core that the program that fetches takes.",
            ((f"sum by ({BY_POD}) (rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval]))", OF_POD),),
            "percentunit",
        ),
        Panel(
            "Fetches",
            "Blobs that are coming from the upstream at the moment.",
            ((_by_pod("registry_cache_fetches"), OF_POD),),
            "short",
        ),
        Panel(
            "Answers of unknown size",
            "Answers that are missing in the bytes to nodes, since nginx sent more of them than were counted.",
            ((_rate("registry_cache_untold_answers_total"), OF),),
            "ops",
        ),
        Panel(
            "Configuration",
            "The chart's version that each cache was configured by, and where and how it fetches.",
            ((f"max by ({known}) ({configured})", ""),),
            "none",
            FULL,
            kind="table",
        ),
    ]


def _number(  # noqa: PLR0913 - what a number is shown with
    title: str, description: str, query: str, unit: str, without_value: str = "", *, least: float | None = 0,
    width: int = SIXTH,
) -> Panel:  # fmt: skip
    most = 1 if unit == "percentunit" else None
    return Panel(title, description, ((query, ""),), unit, width, LOW, "stat", without_value, least, most)


def _with(label: str) -> str:
    return f"{OF} {{{{{label}}}}}"


def _by_pod(metric: str, how: str = "max") -> str:
    return f"{how} by ({BY_POD}) ({metric}{{{CHOSEN}}})"


def _grown(counter: str, *by: str) -> str:
    return f"sum by ({', '.join(('upstream_host', *by))}) (increase({counter}[$__rate_interval]))"


def _increase(metric: str) -> str:
    return f"sum(increase({metric}{{{CHOSEN}}}[$__range]))"


def _rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(('upstream_host', *by))}) (rate({metric}{{{CHOSEN}}}[$__rate_interval]))"


def _place(rows: list[tuple[str, list[Panel]]]) -> list[dict[str, Any]]:
    """Put the panels from left to right below their row's title, and number them."""
    placed: list[dict[str, Any]] = []
    top = 0
    for title, panels in rows:
        grid = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        placed.append(
            {"collapsed": False, "gridPos": grid, "id": len(placed) + 1, "panels": [], "title": title, "type": "row"}
        )
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            grid = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            placed.append({**_panel(panel), "gridPos": grid, "id": len(placed) + 1})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        "timeseries": {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
        "table": {"showHeader": True},
    }
    bounds = {"min": panel.least, "max": panel.most, "noValue": panel.without_value or None}
    defaults = {"unit": panel.unit, **{name: value for name, value in bounds.items() if value is not None}}
    more = {"format": "table", "instant": True} if panel.kind == "table" else {}
    return {
        "datasource": "$datasource",
        "description": panel.description,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options[panel.kind],
        "targets": [
            {"expr": expression, "legendFormat": legend, "refId": chr(ord("A") + number), **more}
            for number, (expression, legend) in enumerate(panel.queries)
        ],
        "title": panel.title,
        "type": panel.kind,
    }


def _variables() -> list[dict[str, Any]]:
    """Data source, namespace, release and upstream: each of the last three among what is there in those before it."""
    source = {"hide": 0, "label": "Data source", "name": "datasource", "query": "prometheus", "type": "datasource"}
    return [
        source,
        _variable("namespace", "Namespace", "label_values(registry_proxy_requests_total, namespace)", ".*"),
        _variable(
            "release",
            "Release",
            'label_values(registry_proxy_requests_total{namespace=~"$namespace"}, release)',
            ".*",
        ),
        _variable(
            "upstream",
            "Upstream",
            f"label_values(registry_proxy_requests_total{{{PLACE}}}, upstream_host)",
            ".+",
        ),
    ]


def _variable(name: str, label: str, query: str, all_value: str) -> dict[str, Any]:
    return {
        "allValue": all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": "$datasource",
        "hide": 0,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }
