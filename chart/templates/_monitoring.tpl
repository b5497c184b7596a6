{{- /*
registry-cache.targetLabels: the labels that a PodMonitor adds to a pod's metrics, besides its name and namespace.
*/}}
{{- define "registry-cache.targetLabels" -}}
- sourceLabels: ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"]
  targetLabel: release
- sourceLabels: ["__meta_kubernetes_pod_node_name"]
  targetLabel: node
{{- end -}}

{{- /*
registry-cache.scrapeAnnotations: the annotations by which a Prometheus without the operator finds a pod's metrics. Scope:
the port.
*/}}
{{- define "registry-cache.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ int . | quote }}
prometheus.io/path: /metrics
{{- end -}}
