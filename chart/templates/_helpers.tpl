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
  {{ include "registry-cache.image" .Values.images.python }}
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
registry-cache.liveness: when a container of a cache is hung. Pulls that it holds end only with their connections, so it
is ended before 30 s are over, and without the time that pulls in flight are given else.
*/}}
{{- define "registry-cache.liveness" -}}
periodSeconds: 5
timeoutSeconds: 5
failureThreshold: 4
terminationGracePeriodSeconds: 1
{{- end -}}

{{- /*
registry-cache.targetLabels: what a PodMonitor adds to the labels of a pod's metrics, beside its name and namespace.
*/}}
{{- define "registry-cache.targetLabels" -}}
- sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance]
  targetLabel: release
- sourceLabels: [__meta_kubernetes_pod_node_name]
  targetLabel: node
{{- end -}}

{{- /*
registry-cache.programPackages: the Python packages that each kind of pod mounts, each from a ConfigMap of its own: all of
them in one would be too large for the annotation that a client-side `kubectl apply` writes. As YAML.
*/}}
{{- define "registry-cache.programPackages" -}}
cache: [common, gate, store, upstream]
node: [common, node_program]
{{- end -}}

{{- /*
registry-cache.programName: the name of the ConfigMap of a package. It has no dash after the chart's own name, and so is no
cache's (registry-cache.cacheName).
  {{ include "registry-cache.programName" (dict "root" $ "package" "gate") }}
*/}}
{{- define "registry-cache.programName" -}}
{{- include "registry-cache.suffixedName" (dict "root" .root "suffix" (.package | replace "_" "")) -}}
{{- end -}}

{{- /*
registry-cache.programMounts, registry-cache.programVolumes: the packages of one kind of pod, below one folder.
  {{ include "registry-cache.programMounts" "cache" }}
  {{ include "registry-cache.programVolumes" (dict "root" $ "pod" "cache") }}
*/}}
{{- define "registry-cache.programMounts" -}}
{{- range get (include "registry-cache.programPackages" . | fromYaml) . }}
- name: program-{{ . | replace "_" "-" }}
  mountPath: /opt/registry-cache/{{ . }}
  readOnly: true
{{- end }}
{{- end -}}
{{- define "registry-cache.programVolumes" -}}
{{- $root := .root }}
{{- range get (include "registry-cache.programPackages" . | fromYaml) .pod }}
- name: program-{{ . | replace "_" "-" }}
  configMap:
    name: {{ include "registry-cache.programName" (dict "root" $root "package" .) | quote }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.programChecksum: what the code of some folders of files/ is, as a text that changes with it. Comments do
not count: a corrected one restarts nothing. `make generate` writes the checksums.
  {{ include "registry-cache.programChecksum" (dict "root" $ "folders" (list "front" "programs/gate")) }}
*/}}
{{- define "registry-cache.programChecksum" -}}
{{- $all := .root.Files.Get "files/checksums.yaml" | fromYaml -}}
{{- range .folders -}}
{{- get $all . -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.cachePodConfigData: what front and distribution read: the same for each cache, and so in one ConfigMap.
*/}}
{{- define "registry-cache.cachePodConfigData" -}}
nginx.conf: |
{{ .Files.Get "files/front/nginx.conf" | indent 2 }}
distribution.yml: |
{{ .Files.Get "files/distribution/distribution.yml" | indent 2 }}
{{- end -}}

{{- /*
registry-cache.cacheRoomData: what one cache is told of its volume and its ttl, and which chart does so; it reads it again
while it runs.
  {{ include "registry-cache.cacheRoomData" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheRoomData" -}}
{{- $room := dict "highWaterMarkPercent" .root.Values.cachePods.highWaterMarkPercent "ttl" (dig "garbageCollection" "ttl" "168h" .cache) -}}
{{- $_ := set $room "version" (regexReplaceAll "[+].*" .root.Chart.Version "") -}}
{{- $_ := set $room "capacity" (dig "volume" "size" "10Gi" .cache | include "registry-cache.bytes" | int64) -}}
room.json: |
{{ toPrettyJson $room | indent 2 }}
{{- end -}}

{{- /*
registry-cache.cacheConfigData: what one cache is told at its start; its hash is on the pod.
  {{ include "registry-cache.cacheConfigData" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.cacheConfigData" -}}
{{- $values := .root.Values.cachePods -}}
{{- $more := get .root.Values.upstreamSettings .cache.upstream | default dict -}}
{{- $proxy := .cache.proxy | default dict -}}
{{- $folder := "/etc/registry-cache/" -}}
{{- $configuration := dict "upstream" .cache.upstream "remoteURL" (include "registry-cache.remoteURL" .cache) -}}
{{- $_ := set $configuration "tagCheckInterval" $values.tagCheckInterval -}}
{{- $_ := set $configuration "httpProxy" ($proxy.httpProxy | default "") -}}
{{- $_ := set $configuration "httpsProxy" ($proxy.httpsProxy | default "") -}}
{{- $_ := set $configuration "noProxy" $values.noProxy -}}
{{- $certified := or $more.caConfigMapName $more.caSecretName -}}
{{- $kind := ternary "ConfigMap" "Secret" (not (empty $more.caConfigMapName)) -}}
{{- $authority := printf "the %s %s (upstreamSettings[%q].ca%sName)" $kind $certified .cache.upstream $kind -}}
{{- $_ := set $configuration "caSource" (ternary $authority "" (not (empty $certified))) -}}
{{- $_ := set $configuration "caFile" (ternary (print $folder "ca/ca.crt") "" (not (empty $certified))) -}}
{{- $_ := set $configuration "credentials" (ternary (print $folder "credentials") "" (not (empty .cache.secretReferenceName))) -}}
{{- $_ := set $configuration "credentialsSource" (ternary (printf "the Secret %s" .cache.secretReferenceName) "" (not (empty .cache.secretReferenceName))) -}}
{{- $_ := set $configuration "proxyCredentials" (ternary (print $folder "proxy-credentials") "" (not (empty $more.proxySecretName))) -}}
{{- $replicas := list -}}
{{- $count := include "registry-cache.replicas" .cache | int -}}
{{- if gt $count 1 -}}
{{- $name := include "registry-cache.cacheName" . -}}
{{- $peers := include "registry-cache.peersName" . -}}
{{- range $ordinal := until $count -}}
{{- $replicas = append $replicas (printf "%s-%d.%s" $name $ordinal $peers) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $configuration "replicas" $replicas -}}
cache.json: |
{{ toPrettyJson $configuration | indent 2 }}
{{- end -}}

{{- /*
registry-cache.nodePaths: where containerd's registry folder and configuration are on the nodes: what the values say,
else what nodeProgram.preset stands for; as YAML. Scope: the root context.
*/}}
{{- define "registry-cache.nodePaths" -}}
{{- $preset := get (.Files.Get "files/presets.yaml" | fromYaml) .Values.nodeProgram.preset -}}
registryDirectory: {{ default $preset.registryDirectory .Values.nodeProgram.registryDirectory | quote }}
containerdConfig: {{ default $preset.containerdConfig .Values.nodeProgram.containerdConfig | quote }}
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
{{- $configuration := dict "owner" $owner "registryDirectory" "/host/registry" "stateDirectory" "/run/registry-cache" "dialTimeout" .Values.nodeProgram.dialTimeout "probe" .Values.nodeProgram.probe "caches" $caches -}}
{{- $paths := include "registry-cache.nodePaths" . | fromYaml -}}
{{- $containerd := dict "configuration" $paths.containerdConfig "registryDirectory" $paths.registryDirectory "version" .Values.nodeProgram.containerdVersion -}}
{{- $_ := set $containerd "mounts" (dict (dir $paths.containerdConfig) "/host/containerd" $paths.registryDirectory "/host/registry") -}}
{{- $_ := set $configuration "containerd" $containerd -}}
{{- $_ := set $configuration "metricsPort" (ternary .Values.nodeProgram.metrics.port 0 .Values.nodeProgram.metrics.enabled | int) -}}
{{- with .Values.nodeProgram.configureContainerd -}}
{{- if .enabled -}}
{{- $onHost := list "nsenter" "-t" "1" "-m" "-u" "-i" "-n" "-p" "--" -}}
{{- $_ := set $configuration "configure" (merge (dict "onHost" $onHost) (omit . "enabled")) -}}
{{- end -}}
{{- end -}}
node.json: |
{{ toPrettyJson $configuration | indent 2 }}
{{- end -}}

{{- /*
registry-cache.replicas: how many pods a cache has, each with a volume of its own.
  {{ include "registry-cache.replicas" $cache }}
*/}}
{{- define "registry-cache.replicas" -}}
{{- ternary 2 1 (dig "highAvailability" "enabled" false .) -}}
{{- end -}}

{{- /*
registry-cache.claimName: the name of the claim of one replica of a cache, as the StatefulSet's controller makes it of the
template's name, its own and the replica's number (pkg/controller/statefulset, getPersistentVolumeClaimName).
  {{ include "registry-cache.claimName" (dict "root" $ "cache" $cache "replica" 0) }}
*/}}
{{- define "registry-cache.claimName" -}}
{{- printf "cache-volume-%s-%d" (include "registry-cache.cacheName" .) (int .replica) -}}
{{- end -}}

{{- /*
registry-cache.peersName: the name of the headless Service by which the replicas of a cache find each other:
<cacheName>-0.<peersName>. No cache's name ends so, as only those have two dashes in a row that end in a hash. It must
begin with a letter, which a release's name need not.
  {{ include "registry-cache.peersName" (dict "root" $ "cache" $cache) }}
*/}}
{{- define "registry-cache.peersName" -}}
{{- printf "%s--peers" (regexReplaceAll "^[0-9]" (include "registry-cache.cacheName" .) "s${0}") -}}
{{- end -}}

{{- /*
registry-cache.bytes: the number of bytes that a quantity is, whole ones. Exponents (1e3) are numbers already.
  {{ include "registry-cache.bytes" "1.5Gi" }}
*/}}
{{- define "registry-cache.bytes" -}}
{{- $binary := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $units := merge (dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "" 1) $binary -}}
{{- $unit := regexFind "([KMGTPE]i|[numkMGTPE])$" (toString .) -}}
{{- printf "%.0f" (mulf (toString . | trimSuffix $unit | float64) (get $units $unit)) -}}
{{- end -}}

{{- /*
registry-cache.nearest: which of some names a wrong one was most likely meant to be, as `did you mean docker.io?`; all of
them where it is like none. Likest is the one that holds the most of its pairs of neighbouring letters, at least half.
  {{ include "registry-cache.nearest" (dict "name" "dokcer.io" "known" (list "docker.io" "quay.io")) }}
*/}}
{{- define "registry-cache.nearest" -}}
{{- $name := .name -}}
{{- $pairs := max 0 (sub (len $name) 1) | int -}}
{{- $nearest := "" -}}
{{- $most := max 1 (div (add1 $pairs) 2) | int -}}
{{- range $known := .known -}}
{{- $held := 0 -}}
{{- range $index := until $pairs -}}
{{- if contains (substr $index (add $index 2 | int) $name) $known -}}
{{- $held = add1 $held | int -}}
{{- end -}}
{{- end -}}
{{- if or (gt $held $most) (and (eq $held $most) (not $nearest)) -}}
{{- $nearest = $known -}}
{{- $most = $held -}}
{{- end -}}
{{- end -}}
{{- if $nearest -}}
{{- printf "did you mean %s?" $nearest -}}
{{- else -}}
{{- printf "there is %s" (join ", " .known) -}}
{{- end -}}
{{- end -}}
