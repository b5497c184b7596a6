{{- /*
registry-cache.selector: the labels by which a selector finds the pods of one component. They never change, because
selectors are immutable.
  {{ include "registry-cache.selector" (dict "root" $ "component" "node") }}
*/}}
{{- define "registry-cache.selector" -}}
app.kubernetes.io/name: registry-cache
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end -}}

{{- /*
registry-cache.labels: the labels of every object except pods. They include the versions, which would restart a pod
with each release of the chart. Each label appears once: the chart's own labels win over `more` (optional), and those
over commonLabels.
  {{ include "registry-cache.labels" (dict "root" $ "component" "node" "more" $labels) }}
*/}}
{{- define "registry-cache.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimAll "-._" -}}
{{- $versions := dict "app.kubernetes.io/version" .root.Chart.AppVersion "helm.sh/chart" $chart -}}
{{- $rest := dict "app.kubernetes.io/managed-by" .root.Release.Service "app.kubernetes.io/part-of" "registry-cache" -}}
{{- $own := merge (include "registry-cache.selector" . | fromYaml) $versions $rest -}}
{{- merge $own (.more | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- /*
registry-cache.cacheSelector, registry-cache.cachePodLabels, registry-cache.cacheLabels: the labels of one cache: those by
which its pods are selected, those of its pods and its claims, and those of its other objects.
  {{ include "registry-cache.cacheLabels" (dict "root" $ "name" $name "upstream" "docker.io") }}
*/}}
{{- define "registry-cache.cacheSelector" -}}
app: {{ .name | quote }}
{{ include "registry-cache.selector" (dict "root" .root "component" "cache") }}
{{- end -}}
{{- define "registry-cache.cachePodLabels" -}}
{{ include "registry-cache.cacheSelector" . }}
upstream-host: {{ include "registry-cache.upstreamLabel" .upstream | quote }}
{{- end -}}
{{- define "registry-cache.cacheLabels" -}}
{{- $own := include "registry-cache.cachePodLabels" . | fromYaml -}}
{{- include "registry-cache.labels" (dict "root" .root "component" "cache" "more" $own) -}}
{{- end -}}
