{{- /*
registry-cache.scrapeSettings: what an endpoint of a PodMonitor or a ServiceMonitor takes from the values. The labels
`release` and `node` are added to the namespace and the name of the pod, and the user's relabelings come last.
  {{ include "registry-cache.scrapeSettings" (dict "settings" .Values.monitoring.podMonitor "relabelings" list) }}
*/}}
{{- define "registry-cache.scrapeSettings" -}}
path: /metrics
interval: {{ .settings.interval | quote }}
{{- with .settings.scrapeTimeout }}
scrapeTimeout: {{ . | quote }}
{{- end }}
relabelings:
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  - sourceLabels: ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"]
    targetLabel: release
  - sourceLabels: ["__meta_kubernetes_pod_node_name"]
    targetLabel: node
  {{- with .settings.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .settings.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.scrapeTLS, registry-cache.scrapeSchemes: how Prometheus scrapes the caches with TLS, which say so in an
annotation, beside those without. It connects to the addresses of pods, which no certificate names. Scope: the root context.
*/}}
{{- define "registry-cache.scrapeTLS" -}}
{{- if contains `"tls":true` (include "registry-cache.caches" .) }}
tlsConfig:
  insecureSkipVerify: true
{{- end }}
{{- end -}}
{{- define "registry-cache.scrapeSchemes" -}}
{{- if contains `"tls":true` (include "registry-cache.caches" .) }}
- sourceLabels: ["__meta_kubernetes_pod_annotation_prometheus_io_scheme"]
  regex: https
  targetLabel: __scheme__
  replacement: https
{{- end }}
{{- end -}}

{{- /*
registry-cache.monitorMetadata: the metadata of an object for Prometheus, which may have a namespace of its own.
  {{ include "registry-cache.monitorMetadata" (dict "root" $ "suffix" "cache" "settings" .Values.monitoring.podMonitor) }}
*/}}
{{- define "registry-cache.monitorMetadata" -}}
name: {{ include "registry-cache.suffixedName" . | quote }}
namespace: {{ .settings.namespace | default (include "registry-cache.namespace" .root) | quote }}
labels:
  {{- include "registry-cache.labels" (dict "root" .root "component" "monitoring" "more" .settings.labels) | nindent 2 }}
{{- with .settings.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.monitorSelector: how a PodMonitor or a ServiceMonitor finds what it scrapes. The job is called
registry-cache, by which an alert finds what cannot be scraped.
  {{ include "registry-cache.monitorSelector" (dict "root" $ "component" "cache" "settings" .Values.monitoring.podMonitor) }}
*/}}
{{- define "registry-cache.monitorSelector" -}}
jobLabel: app.kubernetes.io/name
selector:
  matchLabels:
    {{- include "registry-cache.selector" . | nindent 4 }}
{{- if .settings.namespace }}
namespaceSelector:
  matchNames:
    - {{ include "registry-cache.namespace" .root | quote }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.nodeMetricsEnabled: "true" if there is a node program with metrics. Scope: the root context.
*/}}
{{- define "registry-cache.nodeMetricsEnabled" -}}
{{- if and .Values.nodeProgram.enabled .Values.nodeProgram.metrics.enabled -}}
true
{{- end -}}
{{- end -}}

{{- /*
registry-cache.scrapeAnnotations: the annotations by which a Prometheus without the operator finds a pod's metrics. 
  {{ include "registry-cache.scrapeAnnotations" (dict "port" 5001 "tls" false) }}
*/}}
{{- define "registry-cache.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ int .port | quote }}
prometheus.io/path: /metrics
{{- if .tls }}
prometheus.io/scheme: https
{{- end }}
{{- end -}}
