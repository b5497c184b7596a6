"""The values of the objects for Prometheus and Grafana."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from registry_cache import rules
from registry_cache.model.base import Model
from registry_cache.model.scalars import (
    Annotations,
    Labels,
    Namespace,
    Objects,
    OptionalPrometheusDuration,
    Passthrough,
    PrometheusDuration,
)

RELEASE_LABEL = {"release": "kube-prometheus-stack"}
TEAM = {"example.com/team": "platform"}
ALERTS = [alert.name for alert in rules.alerts()]


def _check_alert(name: str) -> str:
    if name not in ALERTS:
        message = "not the name of an alert"
        raise ValueError(message)
    return name


AlertName = Annotated[
    str,
    AfterValidator(_check_alert),
    WithJsonSchema({"type": "string", "title": "the name of an alert", "enum": ALERTS}),
]


class GrafanaOperator(Model):
    """The dashboard as an object of the Grafana operator."""

    enabled: bool = Field(
        False, description="Creates a GrafanaDashboard. The Grafana operator, version 5, must be installed."
    )
    instanceSelector: Passthrough = Field(
        {},
        description="Label selector of the Grafanas that show the dashboard. Empty selects all of them.",
        examples=[{"matchLabels": {"dashboards": "grafana"}}],
    )


class Dashboard(Model):
    """The dashboard for Grafana."""

    enabled: bool = Field(
        False, description="Creates a ConfigMap with the dashboard, for the sidecar of Grafana or Gardener's Plutono."
    )
    namespace: Namespace = Field(
        "", description="Namespace of the dashboard, if Grafana looks for dashboards only in its own."
    )
    labels: Labels = Field(
        {"grafana_dashboard": "1", "dashboard.monitoring.gardener.cloud/shoot": "true"},
        description="Labels by which the sidecar finds the ConfigMap.",
    )
    annotations: Annotations = Field(
        {}, description="Annotations of the ConfigMap.", examples=[{"grafana_folder": "Registries"}]
    )
    grafanaOperator: GrafanaOperator = Field(
        default_factory=GrafanaOperator, description="The dashboard for the Grafana operator."
    )


class Monitor(Model):
    """A PodMonitor or a ServiceMonitor."""

    enabled: bool = Field(False, description="Creates them.")
    namespace: Namespace = Field("", description="Their namespace, if Prometheus looks only in its own.")
    labels: Labels = Field({}, description="Labels by which a Prometheus finds them.", examples=[RELEASE_LABEL])
    annotations: Annotations = Field({}, description="Their annotations.", examples=[TEAM])
    interval: PrometheusDuration = Field("30s", description="Time between two scrapes.")
    scrapeTimeout: OptionalPrometheusDuration = Field(
        "", description="How long a scrape may take. Empty uses the default of Prometheus.", examples=["10s"]
    )
    relabelings: Objects = Field(
        [],
        description="Relabelings of the targets, after the chart's own.",
        examples=[[{"targetLabel": "cluster", "replacement": "production"}]],
    )
    metricRelabelings: Objects = Field(
        [],
        description="Relabelings of the samples, for example to drop metrics that you do not need.",
        examples=[[{"sourceLabels": ["__name__"], "regex": "registry_cache_.*_bucket", "action": "drop"}]],
    )


class PodMonitor(Monitor):
    """The PodMonitors of the caches and of the node program."""

    enabled: bool = Field(
        False,
        description="Creates PodMonitors. Use them with the Prometheus operator; without it, the pods have "
        "prometheus.io annotations.",
    )


class ServiceMonitor(Monitor):
    """The ServiceMonitors of the caches and of the node program."""

    enabled: bool = Field(
        False,
        description="Creates ServiceMonitors instead of PodMonitors, if your Prometheus has no PodMonitors. With "
        "both, everything would be scraped twice.",
    )


class PrometheusRule(Model):
    """The recording rules and alerts."""

    enabled: bool = Field(
        False,
        description="Creates a PrometheusRule. The Prometheus operator must be installed. The rules cover all "
        "releases in the cluster, so enable them in one. Without the operator, use "
        "files/monitoring/registry-caches.rules.yaml.",
    )
    namespace: Namespace = Field("", description="Its namespace, if Prometheus looks only in its own.")
    labels: Labels = Field({}, description="Labels by which a Prometheus finds it.", examples=[RELEASE_LABEL])
    annotations: Annotations = Field({}, description="Its annotations.", examples=[TEAM])
    runbookUrl: str = Field(
        "https://github.com/registry-cache/registry-cache/blob/main/docs/runbook.md",
        description="Address of the runbook, which the annotation runbook_url of each alert links to. Empty leaves "
        "the annotation out.",
        examples=["https://wiki.example.com/registry-caches"],
    )
    disabledAlerts: list[AlertName] = Field([], description="Names of alerts to leave out.", examples=[ALERTS[:1]])


class Monitoring(Model):
    """The objects for Prometheus and Grafana."""

    dashboard: Dashboard = Field(default_factory=Dashboard, description='The dashboard "Registry Caches" for Grafana.')
    podMonitor: PodMonitor = Field(
        default_factory=PodMonitor, description="PodMonitors of the Prometheus operator. Off by default."
    )
    serviceMonitor: ServiceMonitor = Field(
        default_factory=ServiceMonitor, description="ServiceMonitors of the Prometheus operator. Off by default."
    )
    prometheusRule: PrometheusRule = Field(
        default_factory=PrometheusRule, description="Recording rules and alerts. Off by default."
    )
