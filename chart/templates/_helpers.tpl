{{- /*
registry-cache.fullname: what the names of all objects begin with: fullnameOverride, or the release's name where it
holds the chart's name, else both. At most 63 characters. A release's name may have dots, a Service's may not.
Scope: the root context.
  {{ include "registry-cache.fullname" . }}
*/}}
{{- define "registry-cache.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /*
registry-cache.caches: the caches, as a list in YAML. Where the chart was made for one configuration it has caches of
its own; a list of values in which an entry has no upstream then changes those, each entry the one at its place, as
Helm makes of --set caches[1].volume.size=20Gi. Any other list replaces them. Scope: the root context.
*/}}
{{- define "registry-cache.caches" -}}
{{- $given := .Values.caches -}}
{{- $own := .Files.Get "files/caches.yaml" | fromYamlArray -}}
{{- $changes := false -}}
{{- range $given -}}
{{- if not (and . .upstream) -}}
{{- $changes = true -}}
{{- end -}}
{{- end -}}
{{- if $changes -}}
{{- $caches := list -}}
{{- range $index := until (max (len $given) (len $own) | int) -}}
{{- $cache := dict -}}
{{- if lt $index (len $own) -}}
{{- $cache = index $own $index -}}
{{- end -}}
{{- if lt $index (len $given) -}}
{{- $cache = mergeOverwrite $cache (index $given $index | default dict | deepCopy) -}}
{{- end -}}
{{- $caches = append $caches $cache -}}
{{- end -}}
{{- toYaml $caches -}}
{{- else -}}
{{- toYaml $given -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.suffixedName: a name with a suffix, cut so that it stays within 63 characters.
  {{ include "registry-cache.suffixedName" (dict "root" $ "suffix" "node") }}
*/}}
{{- define "registry-cache.suffixedName" -}}
{{- $room := sub 62 (len .suffix) | int -}}
{{- printf "%s-%s" (include "registry-cache.fullname" .root | trunc $room | trimSuffix "-") .suffix -}}
{{- end -}}

{{- /*
registry-cache.cacheName: the name of a cache's objects, of its upstream alone, so that one more cache renames no other.
Dots and colons become dashes. That is ambiguous where the upstream holds a dash or a colon (a.b:5000, a.b-5000), may be
the name of another of the chart's objects where it has no dot (node, test), and may be too long: a StatefulSet's name is
a label with 11 more characters, so 52. Such names end in a hash.
  {{ include "registry-cache.cacheName" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheName" -}}
{{- $fullname := include "registry-cache.fullname" .root -}}
{{- $name := printf "%s-%s" $fullname (.cache.upstream | replace "." "-" | replace ":" "-") -}}
{{- if or (regexMatch "[-:]|^[^.]+$" .cache.upstream) (gt (len $name) 52) -}}
{{- $hash := printf "%s/%s" $fullname .cache.upstream | sha256sum | trunc 8 -}}
{{- printf "%s-%s" ($name | trunc 43 | trimAll "-") $hash -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.serviceName: the name of a cache's Service; `serviceNameSuffix` of RegistryConfig replaces it. It must
begin with a letter, which a release's name need not.
  {{ include "registry-cache.serviceName" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.serviceName" -}}
{{- if .cache.serviceNameSuffix -}}
{{- printf "registry-%s" .cache.serviceNameSuffix -}}
{{- else -}}
{{- regexReplaceAll "^[0-9]" (include "registry-cache.cacheName" .) "s${0}" -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.gardenerServiceName: what Gardener calls the Service of a cache without a suffix.
  {{ include "registry-cache.gardenerServiceName" $cache.upstream }}
*/}}
{{- define "registry-cache.gardenerServiceName" -}}
{{- $label := . | replace ":" "-" -}}
{{- if gt (len .) 43 -}}
{{- $label = printf "%s-%s" ($label | trunc 37) (sha256sum . | trunc 5) -}}
{{- end -}}
{{- printf "registry-%s" ($label | replace "." "-") -}}
{{- end -}}

{{- /*
registry-cache.upstreamLabel: the upstream as a label's value: no colon, at most 63 characters. For people and
dashboards; selectors use the object's name, which is unique.
  {{ include "registry-cache.upstreamLabel" $cache.upstream }}
*/}}
{{- define "registry-cache.upstreamLabel" -}}
{{- $label := . | replace ":" "-" -}}
{{- if gt (len $label) 63 -}}
{{- printf "%s-%s" ($label | trunc 54 | trimAll "-.") (sha256sum . | trunc 8) -}}
{{- else -}}
{{- $label -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.remoteURL: where a cache fetches from. The host of docker.io is registry-1.docker.io.
  {{ include "registry-cache.remoteURL" $cache }}
*/}}
{{- define "registry-cache.remoteURL" -}}
{{- $default := ternary "https://registry-1.docker.io" (printf "https://%s" .upstream) (eq .upstream "docker.io") -}}
{{- default $default .remoteURL | trimSuffix "/" -}}
{{- end -}}

{{- /*
registry-cache.selector: what tells the pods of one component from all others; never changes.
  {{ include "registry-cache.selector" (dict "root" $ "component" "node") }}
*/}}
{{- define "registry-cache.selector" -}}
app.kubernetes.io/name: registry-cache
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /*
registry-cache.labels: the labels of an object that is not a pod; versions stay off pods, which they would restart.
Each once, whatever commonLabels says: of equal keys the chart's own win, then `more` (optional), then commonLabels.
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
registry-cache.cacheSelector: what tells the pods of one cache from all others.
  {{ include "registry-cache.cacheSelector" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheSelector" -}}
app: {{ include "registry-cache.cacheName" . | quote }}
{{ include "registry-cache.selector" (dict "root" .root "component" "cache") }}
{{- end -}}

{{- /*
registry-cache.cachePodLabels: the labels of a cache's pod and of its volume claim.
  {{ include "registry-cache.cachePodLabels" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cachePodLabels" -}}
{{ include "registry-cache.cacheSelector" . }}
upstream-host: {{ include "registry-cache.upstreamLabel" .cache.upstream | quote }}
{{- end -}}

{{- /*
registry-cache.cacheLabels: the labels of a cache's other objects.
  {{ include "registry-cache.cacheLabels" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheLabels" -}}
{{- $own := include "registry-cache.cachePodLabels" . | fromYaml -}}
{{- include "registry-cache.labels" (dict "root" .root "component" "cache" "more" $own) -}}
{{- end -}}

{{- /*
registry-cache.image: an image's reference; the digest wins over the tag. Scope: an image of the values.
  {{ include "registry-cache.image" .Values.cache.image }}
*/}}
{{- define "registry-cache.image" -}}
{{- $name := printf "%s/%s" .registry .repository | trimPrefix "/" -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name .tag -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.restricted: the security context of a container that Pod Security's "restricted" takes.
*/}}
{{- define "registry-cache.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{- /*
registry-cache.cacheConfigData: the data of a cache's ConfigMap, whose hash is on the pod.
  {{ include "registry-cache.cacheConfigData" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheConfigData" -}}
config.yml: |
  version: 0.1
  log:
    level: warn # each node asks every few seconds; two lines each would hide all else
    accesslog:
      disabled: true
    fields:
      service: registry
  storage:
    delete:
      enabled: true # what has expired is removed only with this
    filesystem:
      rootdirectory: /var/lib/registry
    tag:
      concurrencylimit: 5
  http:
    addr: :5000
    draintimeout: 25s
    debug:
      addr: :5001
      prometheus:
        enabled: true
        path: /metrics
    headers:
      X-Content-Type-Options: [nosniff]
  health:
    storagedriver:
      enabled: true
      interval: 10s
      threshold: 3
  proxy:
    remoteurl: {{ include "registry-cache.remoteURL" .cache | quote }}
    ttl: {{ dig "garbageCollection" "ttl" "168h" .cache | quote }}
    exec: # and not username and password: so it does not ask the upstream at its start, and starts without it
      command: /etc/distribution/credentials
      lifetime: 30s
credentials: |
{{ .root.Files.Get "files/cache/credentials" | indent 2 }}
{{- end -}}

{{- /*
registry-cache.nodePaths: where containerd's registry folder and configuration are on the nodes: what the values say,
else what node.preset stands for; as YAML. Scope: the root context.
*/}}
{{- define "registry-cache.nodePaths" -}}
{{- $preset := get (.Files.Get "files/presets.yaml" | fromYaml) .Values.node.preset -}}
registryDirectory: {{ default $preset.registryDirectory .Values.node.registryDirectory | quote }}
containerdConfig: {{ default $preset.containerdConfig .Values.node.containerdConfig | quote }}
{{- end -}}

{{- /*
registry-cache.nodeConfigData: the data of the node program's ConfigMap, whose hash is on the pod.
*/}}
{{- define "registry-cache.nodeConfigData" -}}
{{- $byUpstream := dict -}}
{{- range include "registry-cache.caches" . | fromYamlArray -}}
{{- $scope := dict "root" $ "cache" . -}}
{{- $service := printf "%s.%s.svc" (include "registry-cache.serviceName" $scope) $.Release.Namespace -}}
{{- $_ := set $byUpstream .upstream (dict "upstream" .upstream "server" (include "registry-cache.remoteURL" .) "service" $service "port" 5000) -}}
{{- end -}}
{{- /* in their own order, so that caches in another order restart nothing */ -}}
{{- $caches := list -}}
{{- range $byUpstream -}}
{{- $caches = append $caches . -}}
{{- end -}}
{{- $owner := printf "%s/%s" .Release.Namespace (include "registry-cache.fullname" .) -}}
{{- $configuration := dict "owner" $owner "registryDirectory" "/host/registry" "stateDirectory" "/run/registry-cache" "dialTimeout" .Values.node.dialTimeout "probe" .Values.node.probe "caches" $caches -}}
{{- $paths := include "registry-cache.nodePaths" . | fromYaml -}}
{{- $containerd := dict "configuration" $paths.containerdConfig "registryDirectory" $paths.registryDirectory "version" .Values.node.containerdVersion -}}
{{- $_ := set $containerd "mounts" (dict (dir $paths.containerdConfig) "/host/containerd" $paths.registryDirectory "/host/registry") -}}
{{- $_ := set $configuration "containerd" $containerd -}}
{{- $_ := set $configuration "metricsPort" (ternary .Values.node.metrics.port 0 .Values.node.metrics.enabled | int) -}}
{{- with .Values.node.configureContainerd -}}
{{- if .enabled -}}
{{- $onHost := list "nsenter" "-t" "1" "-m" "-u" "-i" "-n" "-p" "--" -}}
{{- $_ := set $configuration "configure" (dict "onHost" $onHost "containerd" .containerd "restart" .restart "answers" .answers) -}}
{{- end -}}
{{- end -}}
node.json: |
{{ toPrettyJson $configuration | indent 2 }}
{{- range $path, $_ := .Files.Glob "files/node/*.py" }}
{{ base $path }}: |
{{ $.Files.Get $path | indent 2 }}
{{- end }}
{{- end -}}
