{{- /*
registry-cache.testConfig: what `helm test` checks of each cache: that it answers, and that an image can be pulled through
it, if one is known. The metrics are those of all replicas. Scope: the root context.
*/}}
{{- define "registry-cache.testConfig" -}}
{{- $known := .Files.Get "files/helm-test-images.yaml" | fromYaml -}}
{{- $images := include "registry-cache.overlay" (dict "base" $known "top" .Values.helmTest.images) | fromJson -}}
{{- $tests := list -}}
{{- range $cache := include "registry-cache.caches" . | fromJsonArray -}}
{{- $hosts := list .endpoint.host -}}
{{- if gt (int .replicas) 1 -}}
{{- $hosts = list -}}
{{- range .pods -}}
{{- $hosts = append $hosts (printf "%s.%s" . $cache.peersHost) -}}
{{- end -}}
{{- end -}}
{{- $scheme := dict "scheme" .endpoint.scheme -}}
{{- $scheme = include "registry-cache.withCertificates" (dict "cache" . "endpoint" $scheme) | fromJson -}}
{{- $metrics := list -}}
{{- range $hosts -}}
{{- $metrics = append $metrics (merge (dict "host" . "port" $cache.endpoint.metricsPort) $scheme) -}}
{{- end -}}
{{- $endpoint := merge (pick .endpoint "host" "port") $scheme -}}
{{- $image := get $images .upstream | default "" -}}
{{- $tests = append $tests (dict "upstream" .upstream "endpoint" $endpoint "metrics" $metrics "image" $image) -}}
{{- end -}}
caches.json: |
{{ dict "caches" $tests | include "registry-cache.json" }}
{{- end -}}
