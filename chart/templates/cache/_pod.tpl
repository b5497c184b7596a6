{{- /*
registry-cache.cachePodSpec: the pod of a cache without its containers and volumes.
  {{ include "registry-cache.cachePodSpec" (dict "root" $ "cache" .) }}
*/}}
{{- define "registry-cache.cachePodSpec" -}}
{{- include "registry-cache.podSpec" (dict "root" .root "component" "cache" "settings" .cache.settings) }}
{{- /* Each container takes less than this to drain, so pulls in flight end first. */}}
terminationGracePeriodSeconds: 30
{{- if gt (int .cache.replicas) 1 }}
{{- with .cache.settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" $.cache.selector) }}
  - {{- ternary . (merge (deepCopy .) $own) (hasKey . "labelSelector") | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- with .cache.settings.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .cache.settings.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.livenessProbe: when a container of a cache pod counts as hung. A pull that it holds ends only with its
connection, so the container is ended soon, and without the grace period in which pulls end otherwise.
  {{ include "registry-cache.livenessProbe" (dict "cache" . "path" "/healthz" "port" "debug") }}
*/}}
{{- define "registry-cache.livenessProbe" -}}
httpGet:
  path: {{ .path | quote }}
  port: {{ .port | toJson }}
  {{- if .cache.tls }}
  scheme: HTTPS
  {{- end }}
{{ toYaml .cache.settings.livenessProbe }}
terminationGracePeriodSeconds: 1
{{- end -}}
