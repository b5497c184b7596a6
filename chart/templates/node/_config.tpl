{{- /*
registry-cache.nodePreset: the preset that the values name, in YAML. Scope: the root context.
*/}}
{{- define "registry-cache.nodePreset" -}}
{{- get (.Files.Get "files/presets.yaml" | fromYaml) .Values.nodeProgram.preset | toYaml -}}
{{- end -}}

{{- /*
registry-cache.nodePaths: where containerd's registry directory and configuration are on the nodes, in YAML: what the values
say, or else the paths of nodeProgram.preset. Scope: the root context.
*/}}
{{- define "registry-cache.nodePaths" -}}
{{- $preset := include "registry-cache.nodePreset" . | fromYaml -}}
registryDirectory: {{ default $preset.registryDirectory .Values.nodeProgram.registryDirectory | quote }}
containerdConfig: {{ default $preset.containerdConfig .Values.nodeProgram.containerdConfig | quote }}
{{- end -}}

{{- /*
registry-cache.proxyCheck: the units that start containerd and their directories on the nodes, in YAML, or nothing if there
is nothing to check: what the values say, or else what nodeProgram.preset has. Scope: the root context.
*/}}
{{- define "registry-cache.proxyCheck" -}}
{{- $check := .Values.nodeProgram.proxyCheck -}}
{{- $preset := include "registry-cache.nodePreset" . | fromYaml -}}
{{- $units := $check.units | default $preset.units -}}
{{- $directories := $check.directories | default $preset.unitDirectories -}}
{{- if and $check.enabled $units $directories -}}
{{- dict "units" $units "directories" $directories | toYaml -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.nodeConfig: what the node program reads when it starts. A change restarts it. The caches are in the order of
their upstreams, so that another order in the values restarts nothing. Scope: the root context.
*/}}
{{- define "registry-cache.nodeConfig" -}}
{{- $values := .Values.nodeProgram -}}
{{- $byUpstream := dict -}}
{{- range include "registry-cache.caches" . | fromJsonArray -}}
{{- $endpoint := pick .endpoint "scheme" "host" "port" -}}
{{- if .tls -}}
{{- /* The certificate names the address of the Service, since nodes cannot resolve its name. */ -}}
{{- $_ := set $endpoint "host" .settings.clusterIP -}}
{{- end -}}
{{- $endpoint = include "registry-cache.withCertificates" (dict "cache" . "endpoint" $endpoint) | fromJson -}}
{{- $cache := dict "upstream" .upstream "server" .remoteURL "endpoint" $endpoint "identity" .upstream -}}
{{- $_ := set $byUpstream .upstream $cache -}}
{{- end -}}
{{- $caches := list -}}
{{- range $byUpstream -}}
{{- $caches = append $caches . -}}
{{- end -}}
{{- $owner := printf "%s/%s" (include "registry-cache.namespace" .) (include "registry-cache.fullname" .) -}}
{{- $config := dict "owner" $owner "caches" $caches "dialTimeout" $values.dialTimeout "probe" $values.probe -}}
{{- $_ := set $config "registryDirectory" "/host/registry" -}}
{{- $_ := set $config "stateDirectory" "/run/registry-cache" -}}
{{- $_ := set $config "metricsPort" (ternary $values.metrics.port 0 $values.metrics.enabled | int) -}}
{{- $paths := include "registry-cache.nodePaths" . | fromYaml -}}
{{- $mounts := dict (dir $paths.containerdConfig) "/host/containerd" $paths.registryDirectory "/host/registry" -}}
{{- $containerd := dict "configuration" $paths.containerdConfig "registryDirectory" $paths.registryDirectory -}}
{{- $_ := set $config "containerd" (merge $containerd (dict "version" $values.containerdVersion "mounts" $mounts)) -}}
{{- with include "registry-cache.proxyCheck" . | fromYaml -}}
{{- $mounts := dict -}}
{{- range $number, $directory := .directories -}}
{{- $_ := set $mounts $directory (printf "/host/units/%d" $number) -}}
{{- end -}}
{{- $_ := set $config "proxyCheck" (merge (dict "mounts" $mounts) .) -}}
{{- end -}}
{{- if $values.configureContainerd.enabled -}}
{{- $onHost := list "nsenter" "-t" "1" "-m" "-u" "-i" "-n" "-p" "--" -}}
{{- $_ := set $config "configure" (merge (dict "onHost" $onHost) (omit $values.configureContainerd "enabled")) -}}
{{- end -}}
node.json: |
{{ include "registry-cache.json" $config }}
{{- end -}}
