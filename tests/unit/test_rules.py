"""Each rule parses, and each alert fires when it should, stays quiet when it should, and is documented."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from known_metrics import OTHERS, known_metrics, metrics_of
from machine import tools
from machine.paths import REPOSITORY
from registry_cache.rules import alerts, recording_rules, rules, rules_text

if TYPE_CHECKING:
    from pathlib import Path

OF = 'namespace="space",release="x",upstream_host="docker.io"'
OTHER = 'namespace="space",release="x",upstream_host="quay.io"'
REQUESTS = "registry_cache_upstream_requests_total"
DAYS = 1440
# Series in the notation of promtool with a value for each minute, the minute of the check, and the upstreams for which
# the alert fires then.
FIRES: dict[str, list[tuple[dict[str, str], int, list[str]]]] = {
    "RegistryCacheDown": [
        (
            {f'registry_cache_node_mirror_active{{{OF},node="{node}"}}': "1x5 0x20" for node in ("a", "b")}
            | {f'registry_cache_node_mirror_active{{{OTHER},node="a"}}': "1x25"},
            12,
            ["docker.io"],
        ),
        ({f"registry_cache_ready{{{OF}}}": "0x20", f"registry_cache_ready{{{OTHER}}}": "1x20"}, 6, ["docker.io"]),
        # A scraper that sets no labels.
        ({'registry_cache_ready{upstream_host="docker.io"}': "0x20"}, 6, ["docker.io"]),
    ],
    "RegistryCacheReplicaDown": [
        (
            {
                f'registry_cache_ready{{{OF},pod="0"}}': "1x30",
                f'registry_cache_ready{{{OF},pod="1"}}': "1x5 _x25",
                f'registry_cache_configured_replicas{{{OF},pod="0"}}': "2x30",
                f"registry_cache_ready{{{OTHER}}}": "1x30",
                f"registry_cache_configured_replicas{{{OTHER}}}": "1x30",
            },
            28,
            ["docker.io"],
        ),
    ],
    "RegistryCacheNodeNotUsingCache": [
        (
            {
                f'registry_cache_node_mirror_active{{{OF},instance="a"}}': "0x20",
                f'registry_cache_node_mirror_active{{{OF},instance="b"}}': "1x20",
            },
            16,
            ["docker.io"],
        ),
    ],
    "RegistryCacheNodeNotReading": [
        (
            {
                'registry_cache_node_containerd_reads_registry_directory{instance="a"}': "0x20",
                'registry_cache_node_containerd_reads_registry_directory{instance="b"}': "1x20",
            },
            16,
            [""],
        ),
    ],
    "RegistryCacheNodeUsesProxy": [
        (
            {
                f'registry_cache_node_containerd_uses_proxy{{{OF},instance="a"}}': "1x20",
                f'registry_cache_node_containerd_uses_proxy{{{OTHER},instance="a"}}': "0x20",
            },
            16,
            ["docker.io"],
        ),
    ],
    "RegistryCacheHitRatioCollapsed": [
        (
            {
                f"registry_proxy_requests_total{{{OF}}}": f"0+10x{2 * DAYS}",
                f"registry_proxy_hits_total{{{OF}}}": f"0+9x{DAYS + 300} {9 * (DAYS + 300)}+1x500",
                f"registry_proxy_requests_total{{{OTHER}}}": f"0+10x{2 * DAYS}",
                f"registry_proxy_hits_total{{{OTHER}}}": f"0+9x{2 * DAYS}",
            },
            DAYS + 300 + 100,
            ["docker.io"],
        ),
    ],
    "RegistryCacheUpstreamFailing": [
        (
            {
                f'{REQUESTS}{{{OF},method="GET",outcome="2xx"}}': "0+1x30",
                f'{REQUESTS}{{{OF},method="GET",outcome="timeout"}}': "0+1x30",
                f'{REQUESTS}{{{OTHER},method="GET",outcome="2xx"}}': "0+1x30",
                f'{REQUESTS}{{{OTHER},method="GET",outcome="5xx"}}': "0x30",
            },
            20,
            ["docker.io"],
        ),
    ],
    "RegistryCacheUpstreamLimitsRate": [
        ({f'{REQUESTS}{{{OF},method="GET",outcome="429"}}': "0x5 1x10"}, 8, ["docker.io"]),
    ],
    "RegistryCacheCredentialsRefused": [
        (
            {
                f"registry_cache_upstream_credentials_refused_total{{{OF}}}": "0x5 1x10",
                f"registry_cache_upstream_credentials_refused_total{{{OTHER}}}": "0x15",
            },
            8,
            ["docker.io"],
        ),
    ],
    "RegistryCacheVolumeFull": [
        (
            {
                f'registry_cache_stored_bytes{{{OF},pod="0"}}': "90x20",
                f'registry_cache_capacity_bytes{{{OF},pod="0"}}': "100x20",
                f'registry_cache_high_water_ratio{{{OF},pod="0"}}': "0.85x20",
            },
            12,
            ["docker.io"],
        ),
        (
            {f'registry_cache_refused_requests_total{{{OF},pod="0",reason="no-room"}}': "0x5 1+1x30"},
            20,
            ["docker.io"],
        ),
        ({f"registry_cache_inaccessible_files{{{OF}}}": "3x20"}, 12, ["docker.io"]),
    ],
    "RegistryCacheVolumeUnusable": [
        (
            {f"registry_cache_volume_usable{{{OF}}}": "0x10", f"registry_cache_volume_usable{{{OTHER}}}": "1x10"},
            6,
            ["docker.io"],
        ),
    ],
    "RegistryCacheVolumeTooSmall": [
        (
            {
                f"registry_cache_refetched_bytes_total{{{OF}}}": "0+20x100",
                f'registry_proxy_pulled_bytes_total{{{OF},type="blob"}}': "0+100x100",
                f"registry_cache_refetched_bytes_total{{{OTHER}}}": "0+5x100",
                f'registry_proxy_pulled_bytes_total{{{OTHER},type="blob"}}': "0+100x100",
            },
            60,
            ["docker.io"],
        ),
    ],
    "RegistryCacheCertificateEnds": [
        (
            {
                f"registry_cache_certificate_expiry_timestamp_seconds{{{OF}}}": "600000x90",
                f"registry_cache_certificate_expiry_timestamp_seconds{{{OTHER}}}": "700000x90",
            },
            80,
            ["docker.io"],
        ),
        (
            {
                f"registry_cache_certificate_expiry_timestamp_seconds{{{OF}}}": "700000x90",
                f"registry_cache_client_certificate_expiry_timestamp_seconds{{{OF}}}": "600000x90",
            },
            80,
            ["docker.io"],
        ),
    ],
    "RegistryCachePodRestarting": [
        ({f'process_start_time_seconds{{{OF},pod="0"}}': "1x5 2x5 3x5 4x5"}, 20, ["docker.io"]),
        (
            {
                f'registry_cache_build_info{{{OF},pod="0"}}': "1x20",
                'kube_pod_container_status_restarts_total{namespace="space",pod="0",container="front"}': "0x5 1+1x15",
                'kube_pod_container_status_restarts_total{namespace="space",pod="another"}': "0x5 1+1x15",
            },
            20,
            [""],
        ),
    ],
    "RegistryCacheOverloaded": [
        ({f'registry_cache_refused_requests_total{{{OF},reason="overload"}}': "0x5 20+20x15"}, 15, ["docker.io"]),
    ],
    "RegistryCacheDefect": [
        ({f'registry_cache_defects_total{{{OF},where="thread"}}': "0x5 1x15"}, 15, ["docker.io"]),
    ],
    "RegistryCacheNotScraped": [
        ({'up{job="registry-cache",instance="a"}': "0x20", 'up{job="other",instance="b"}': "0x20"}, 12, [""]),
    ],
}
QUIET: dict[str, list[tuple[dict[str, str], int]]] = {
    "RegistryCacheDown": [
        # A pod that is being replaced, and one node of two.
        ({f"registry_cache_ready{{{OF}}}": "1x5 0x3 1x10"}, 12),
        (
            {
                f'registry_cache_node_mirror_active{{{OF},node="a"}}': "0x20",
                f'registry_cache_node_mirror_active{{{OF},node="b"}}': "1x20",
            },
            15,
        ),
        # A cache that was removed from the values.
        ({f"registry_cache_ready{{{OF}}}": "1x5 stale"}, 20),
    ],
    "RegistryCacheReplicaDown": [
        (
            {
                **{f'registry_cache_ready{{{OF},pod="{pod}"}}': "1x30" for pod in (0, 1)},
                **{f'registry_cache_configured_replicas{{{OF},pod="{pod}"}}': "2x30" for pod in (0, 1)},
            },
            28,
        ),
    ],
    "RegistryCacheNodeNotUsingCache": [
        # If all nodes are affected, RegistryCacheDown fires.
        ({f'registry_cache_node_mirror_active{{{OF},instance="{node}"}}': "0x20" for node in "ab"}, 16),
        (
            {
                f'registry_cache_node_mirror_active{{{OF},instance="a"}}': "1x5 0x10 1x5",
                f'registry_cache_node_mirror_active{{{OF},instance="b"}}': "1x20",
            },
            16,
        ),
    ],
    "RegistryCacheNodeNotReading": [({"registry_cache_node_containerd_reads_registry_directory": "1x20"}, 16)],
    "RegistryCacheNodeUsesProxy": [
        ({f"registry_cache_node_containerd_uses_proxy{{{OF}}}": "0x20"}, 16),
        # It was put right within a while.
        ({f"registry_cache_node_containerd_uses_proxy{{{OF}}}": "1x5 0x15"}, 16),
    ],
    "RegistryCacheHitRatioCollapsed": [
        # A new cache, and one with few requests.
        (
            {
                f"registry_proxy_requests_total{{{OF}}}": "0+10x200",
                f"registry_proxy_hits_total{{{OF}}}": "0+9x50 450+1x150",
            },
            45,
        ),
        (
            {
                f"registry_proxy_requests_total{{{OF}}}": f"0+1x{2 * DAYS}",
                f"registry_proxy_hits_total{{{OF}}}": f"0+1x{DAYS + 300} {DAYS + 300}x500",
            },
            DAYS + 300 + 100,
        ),
    ],
    "RegistryCacheUpstreamFailing": [
        (
            {
                f'{REQUESTS}{{{OF},method="GET",outcome="2xx"}}': "0+4x30",
                f'{REQUESTS}{{{OF},method="GET",outcome="timeout"}}': "0+1x30",
                f'{REQUESTS}{{{OF},method="GET",outcome="404"}}': "0+9x30",
            },
            20,
        ),
        # A single request that failed.
        ({f'{REQUESTS}{{{OF},method="GET",outcome="dns"}}': "0x5 1x30"}, 14),
    ],
    "RegistryCacheUpstreamLimitsRate": [
        ({f'{REQUESTS}{{{OF},method="GET",outcome="429"}}': "0x5 1x40"}, 30),
        ({f'{REQUESTS}{{{OF},method="GET",outcome="2xx"}}': "0+1x40"}, 30),
    ],
    "RegistryCacheCredentialsRefused": [({f"registry_cache_upstream_credentials_refused_total{{{OF}}}": "7x20"}, 15)],
    "RegistryCacheVolumeFull": [
        (
            {
                f"registry_cache_stored_bytes{{{OF}}}": "84x5 90x5 84x20",
                f"registry_cache_capacity_bytes{{{OF}}}": "100x30",
                f"registry_cache_high_water_ratio{{{OF}}}": "0.85x30",
                f'registry_cache_refused_requests_total{{{OF},reason="no-room"}}': "3x30",
                f'registry_cache_refused_requests_total{{{OF},reason="not-found"}}': "0+1x30",
                f"registry_cache_inaccessible_files{{{OF}}}": "0x30",
            },
            25,
        ),
    ],
    # Another pod uses the volume for a moment.
    "RegistryCacheVolumeUnusable": [({f"registry_cache_volume_usable{{{OF}}}": "0x3 1x7"}, 6)],
    "RegistryCacheVolumeTooSmall": [
        (
            {
                f"registry_cache_refetched_bytes_total{{{OF}}}": "0x100",
                f'registry_proxy_pulled_bytes_total{{{OF},type="blob"}}': "0x100",
            },
            60,
        ),
    ],
    "RegistryCacheCertificateEnds": [
        ({f"registry_cache_certificate_expiry_timestamp_seconds{{{OF}}}": "600000x30 900000x90"}, 80)
    ],
    "RegistryCachePodRestarting": [
        (
            {
                f"process_start_time_seconds{{{OF}}}": "1x5 2x20",
                "process_start_time_seconds": "1x5 2x5 3x5 4x5",
                'kube_pod_container_status_restarts_total{namespace="space",pod="another"}': "0x5 1+1x15",
            },
            20,
        ),
    ],
    "RegistryCacheOverloaded": [
        (
            {
                f'registry_cache_refused_requests_total{{{OF},reason="overload"}}': "0x5 3x15",
                f'registry_cache_refused_requests_total{{{OF},reason="not-found"}}': "0x5 20+20x15",
            },
            15,
        ),
    ],
    "RegistryCacheDefect": [({f'registry_cache_defects_total{{{OF},where="thread"}}': "1x20"}, 15)],
    "RegistryCacheNotScraped": [({'up{job="registry-cache",instance="a"}': "1x5 0x5 1x10"}, 12)],
}


@pytest.fixture(scope="module")
def promtool() -> Path:
    tools.ensure_registry()
    return tools.debian_program("promtool")


def promtool_errors(promtool: Path, folder: Path, *tests: dict[str, Any]) -> str:
    """Return the output of promtool, or "" if all tests pass."""
    (folder / "rules.yaml").write_text(rules_text())
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": list(tests)}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document))
    command = [promtool, "test", "rules", folder / "tests.yaml"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def case(series: dict[str, str], minute: int, name: str, firing: list[str]) -> dict[str, Any]:
    """Return a test that counts the firing alerts with this name, by upstream."""
    expression = f'count by (upstream_host) (ALERTS{{alertname="{name}",alertstate="firing"}})'
    expected = [
        {"labels": f'{{upstream_host="{upstream}"}}' if upstream else "{}", "value": 1} for upstream in sorted(firing)
    ]
    return {
        "interval": "1m",
        "input_series": [{"series": name_, "values": values} for name_, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": f"{minute}m", "exp_samples": expected}],
    }


def test_prometheus_accepts_the_rules(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules_text())
    command = [str(promtool), "check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_cases_that_fire_and_cases_that_do_not() -> None:
    names = [alert.name for alert in alerts()]
    assert len(names) == len(set(names)) >= 8
    assert sorted(FIRES) == sorted(QUIET) == sorted(names)


@pytest.mark.parametrize("name", FIRES)
def test_alert_fires(promtool: Path, tmp_path: Path, name: str) -> None:
    cases = [case(series, minute, name, firing) for series, minute, firing in FIRES[name]]
    assert promtool_errors(promtool, tmp_path, *cases) == ""


@pytest.mark.parametrize("name", QUIET)
def test_alert_stays_quiet(promtool: Path, tmp_path: Path, name: str) -> None:
    cases = [case(series, minute, name, []) for series, minute in QUIET[name]]
    assert promtool_errors(promtool, tmp_path, *cases) == ""


def test_annotations_expand_without_missing_labels(promtool: Path, tmp_path: Path) -> None:
    """Expand the annotations of every alert, in the first case in which it fires."""
    for name, cases in FIRES.items():
        series, minute, _ = cases[0]
        alert = next(alert for alert in alerts() if alert.name == name)
        probe = {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []}],
        }
        output = promtool_errors(promtool, tmp_path, probe)
        assert alert.name in output
        for wrong in ("<no value>", "error expanding", "{{"):
            assert wrong not in output, output


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_alert_is_described_and_has_a_section_in_the_runbook(alert: Any) -> None:
    assert alert.severity in {"critical", "warning", "info"}
    assert len(alert.summary) < 110
    assert not alert.summary.endswith(".")
    assert alert.description.endswith(".")
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert alert.runbook == f"docs/runbook.md#{alert.name.lower()}"
    section = sections[alert.name]
    for part in ("**Meaning.**", "**Diagnosis.**", "**Mitigation.**"):
        assert part in section


def test_runbook_has_no_section_for_an_unknown_alert() -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    names = {name for name in re.findall(r"^## (\w+)$", runbook, re.MULTILINE) if name.startswith("RegistryCache")}
    assert names == {alert.name for alert in alerts()}


def test_runbook_uses_only_known_metrics() -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    named = set(re.findall(r"\bregistry_(?:cache|proxy)_\w+", runbook))
    assert named <= known_metrics()


@pytest.mark.parametrize("expression", [*recording_rules().values(), *(alert.expression for alert in alerts())])
def test_rule_uses_only_known_metrics(expression: str) -> None:
    assert metrics_of(promql_parser.parse(expression)) <= known_metrics() | set(recording_rules())


def test_rule_file_is_stable_and_valid_yaml() -> None:
    assert yaml.safe_load(rules_text()) == rules()
    assert rules_text() == rules_text()


def test_monitoring_page_explains_exactly_our_metrics() -> None:
    page = (REPOSITORY / "docs" / "monitoring.md").read_text()
    explained = set(re.findall(r"`((?:registry|process)_\w+)", page)) - {"registry_proxy_"}
    ours = {re.sub("(_seconds)_(bucket|sum|count)$", r"\1", name) for name in known_metrics() - OTHERS}
    assert explained == ours


def test_scrape_job_on_the_monitoring_page_sets_the_labels_that_rules_and_dashboard_use() -> None:
    page = (REPOSITORY / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (job,) = yaml.safe_load(block)["scrape_configs"]
    given = {rule["target_label"] for rule in job["relabel_configs"] if "target_label" in rule}
    assert given == {"__address__", "namespace", "pod", "release", "node"}
    assert f'up{{job="{job["job_name"]}"}}' in rules_text()
