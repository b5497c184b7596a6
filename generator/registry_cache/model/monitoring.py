"""The values of the objects for Prometheus and Grafana."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from registry_cache.model.base import Model
from registry_cache.model.scalars import Annotations, Labels, PrometheusDuration

RELEASE_LABEL = {"release": "kube-prometheus-stack"}


class GrafanaOperator(Model):
    """The dashboard as an object of the Grafana operator."""

    enabled: bool = Field(
        False, description="Creates a GrafanaDashboard. The Grafana operator, version 5, must be installed."
    )
    instanceSelector: dict[str, Any] = Field(
        {},
        description="Label selector of the Grafanas that show the dashboard. Empty selects all of them.",
        examples=[{"matchLabels": {"dashboards": "grafana"}}],
    )


class Dashboard(Model):
    """The dashboard for Grafana."""

    enabled: bool = Field(True, description="Creates a ConfigMap with the dashboard.")
    labels: Labels = Field(
        {"grafana_dashboard": "1", "dashboard.monitoring.gardener.cloud/shoot": "true"},
        description="Labels by which a Grafana sidecar, or Gardener's Plutono, finds the ConfigMap.",
    )
    annotations: Annotations = Field(
        {}, description="Annotations of the ConfigMap.", examples=[{"grafana_folder": "Registries"}]
    )
    grafanaOperator: GrafanaOperator = Field(
        default_factory=GrafanaOperator, description="The dashboard for the Grafana operator."
    )


class PodMonitor(Model):
    """The PodMonitors of the caches and of the node program."""

    enabled: bool = Field(
        False,
        description="Creates PodMonitors. The Prometheus operator must be installed. A Prometheus without the "
        "operator finds the pods by their prometheus.io annotations.",
    )
    labels: Labels = Field({}, description="Labels by which a Prometheus finds them.", examples=[RELEASE_LABEL])
    interval: PrometheusDuration = Field("30s", description="Time between two scrapes.")


class PrometheusRule(Model):
    """The recording rules and alerts."""

    enabled: bool = Field(
        False,
        description="Creates a PrometheusRule. The Prometheus operator must be installed. The rules cover all "
        "releases in the cluster, so enable them in one. Without the operator, use "
        "files/monitoring/registry-caches.rules.yaml.",
    )
    labels: Labels = Field({}, description="Labels by which a Prometheus finds it.", examples=[RELEASE_LABEL])
    runbookUrl: str = Field(
        "https://github.com/registry-cache/registry-cache/blob/main/docs/runbook.md",
        description="Address of the runbook, which the annotation runbook_url of each alert links to. Empty leaves "
        "the annotation out.",
        examples=["https://wiki.example.com/registry-caches"],
    )


class Monitoring(Model):
    """The objects for Prometheus and Grafana."""

    dashboard: Dashboard = Field(default_factory=Dashboard, description='The dashboard "Registry Caches" for Grafana.')
    podMonitor: PodMonitor = Field(
        default_factory=PodMonitor, description="PodMonitors of the Prometheus operator. Off by default."
    )
    prometheusRule: PrometheusRule = Field(
        default_factory=PrometheusRule, description="Recording rules and alerts. Off by default."
    )
