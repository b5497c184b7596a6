{{- /*
registry-cache.cache: everything that the templates need to know about one cache, in YAML: its entry of `caches` with the
defaults filled in, its settings, and what follows from them. Scope: root, the entry, and its index in the list.
*/}}
{{- define "registry-cache.cache" -}}
{{- $upstream := .entry.upstream | default "" -}}
{{- $name := include "registry-cache.cacheName" (dict "root" .root "upstream" $upstream) -}}
{{- $ownName := include "registry-cache.asServiceName" $name -}}
{{- $serviceName := ternary (print "registry-" .entry.serviceNameSuffix) $ownName (hasKey .entry "serviceNameSuffix") -}}
{{- $host := ternary "registry-1.docker.io" $upstream (eq $upstream "docker.io") -}}
{{- $remoteURL := .entry.remoteURL | default (print "https://" $host) | trimSuffix "/" -}}
{{- $size := .entry.volume.size -}}
{{- if not (kindIs "string" $size) -}}
{{- $size = int64 $size | toString -}}
{{- end -}}
{{- $settings := include "registry-cache.cacheSettings" (dict "root" .root "upstream" $upstream) | fromJson -}}
{{- $pods := list -}}
{{- range $ordinal := until (max $settings.replicas (ternary 2 1 .entry.highAvailability.enabled) | int) -}}
{{- $pods = append $pods (printf "%s-%d" $name $ordinal) -}}
{{- end -}}
path: {{ printf "caches[%d]" .index }}
upstream: {{ $upstream | quote }}
remoteURL: {{ $remoteURL | quote }}
remoteScheme: {{ splitList ":" $remoteURL | first | lower | quote }}
name: {{ $name | quote }}
serviceName: {{ $serviceName | quote }}
{{- /* No cache has this name: two dashes in a row appear in a name only before its hash. */}}
peersName: {{ print $ownName "--peers" | quote }}
peersHost: {{ printf "%s--peers.%s.svc" $ownName (include "registry-cache.namespace" .root) | quote }}
{{- $tls := eq (toString .entry.http.tls) "true" }}
tls: {{ $tls }}
nodesOnly: {{ $settings.nodesOnly }}
clientSecretName: {{ include "registry-cache.clientSecretName" .root | quote }}
tlsSecretName: {{ $settings.tlsSecretName | default (print $name "-tls") | quote }}
endpoint:
  scheme: {{ ternary "https" "http" $tls }}
  host: {{ printf "%s.%s.svc" $serviceName (include "registry-cache.namespace" .root) | quote }}
  port: 5000
  metricsPort: 5001
replicas: {{ len $pods }}
pods: {{ toJson $pods }}
{{- /* As the StatefulSet's controller would name them (pkg/controller/statefulset, getPersistentVolumeClaimName). */}}
claims:
  {{- range $pods }}
  - {{ print "cache-volume-" . | quote }}
  {{- end }}
size: {{ $size | quote }}
sizeBytes: {{ include "registry-cache.bytes" $size | quote }}
storageClassName: {{ .entry.volume.storageClassName | default "" | quote }}
ttl: {{ .entry.garbageCollection.ttl | quote }}
secretName: {{ .entry.secretReferenceName | default "" | quote }}
proxy: {{ toJson .entry.proxy }}
settings: {{ toJson $settings }}
{{- $scope := dict "root" .root "name" $name "upstream" $upstream }}
labels: {{ include "registry-cache.cacheLabels" $scope | fromYaml | toJson }}
podLabels: {{ include "registry-cache.cachePodLabels" $scope | fromYaml | toJson }}
selector: {{ include "registry-cache.cacheSelector" $scope | fromYaml | toJson }}
images:
  {{- range $container, $image := dict "front" "nginx" "gate" "python" "distribution" "distribution" }}
  {{- with get $.root.Values.images $image }}
  {{- $reference := include "registry-cache.image" (dict "root" $.root "image" .) }}
  {{ $container }}: {image: {{ $reference | quote }}, pullPolicy: {{ .pullPolicy | quote }}}
  {{- end }}
  {{- end }}
{{- end -}}

{{- /*
registry-cache.cacheSettings: the settings of one cache, in JSON: those of upstreamSettings for its upstream, and those of
cachePods for all else. Scope: root, upstream.
*/}}
{{- define "registry-cache.cacheSettings" -}}
{{- $settings := deepCopy .root.Values.cachePods -}}
{{- range $key, $value := get .root.Values.upstreamSettings .upstream | default dict -}}
{{- if eq $key "resources" -}}
{{- range $container, $resources := $value -}}
{{- $_ := set $settings.resources $container $resources -}}
{{- end -}}
{{- else -}}
{{- $_ := set $settings $key $value -}}
{{- end -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}
