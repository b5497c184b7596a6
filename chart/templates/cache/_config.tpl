{{- /*
registry-cache.sharedConfig: the configuration of front and distribution, which is the same for each cache. Scope: the root
context.
*/}}
{{- define "registry-cache.sharedConfig" -}}
nginx.conf: |
{{ .Files.Get "files/front/nginx.conf" | indent 2 }}
tls.conf: |
{{ .Files.Get "files/front/tls.conf" | indent 2 }}
nodes-only.conf: |
{{ .Files.Get "files/front/nodes-only.conf" | indent 2 }}
reload.sh: |
{{ .Files.Get "files/front/reload.sh" | indent 2 }}
distribution.yml: |
{{ .Files.Get "files/distribution/distribution.yml" | indent 2 }}
{{- end -}}

{{- /*
registry-cache.gateConfig: what the gate of one cache reads when it starts. A change restarts the pod. Scope: the record of
the cache.
*/}}
{{- define "registry-cache.gateConfig" -}}
{{- $folder := "/etc/registry-cache/" -}}
{{- $config := dict "upstream" .upstream "remoteURL" .remoteURL "tagCheckInterval" .settings.tagCheckInterval -}}
{{- $_ := set $config "fetchAhead" .settings.fetchAhead -}}
{{- $_ := set $config "httpProxy" (.proxy.httpProxy | default "") -}}
{{- $_ := set $config "httpsProxy" (.proxy.httpsProxy | default "") -}}
{{- $_ := set $config "noProxy" .settings.noProxy -}}
{{- $kind := ternary "ConfigMap" "Secret" (not (empty .settings.caConfigMapName)) -}}
{{- $bundle := .settings.caConfigMapName | default .settings.caSecretName | default "" -}}
{{- $source := printf "the %s %s (upstreamSettings[%q].ca%sName)" $kind $bundle .upstream $kind -}}
{{- $_ := set $config "caSource" (ternary $source "" (not (empty $bundle))) -}}
{{- $_ := set $config "caFile" (ternary (print $folder "ca/ca.crt") "" (not (empty $bundle))) -}}
{{- $_ := set $config "credentials" (ternary (print $folder "credentials") "" (not (empty .secretName))) -}}
{{- $_ := set $config "credentialsSource" (ternary (print "the Secret " .secretName) "" (not (empty .secretName))) -}}
{{- $hasLogin := not (empty .settings.proxySecretName) -}}
{{- $_ := set $config "proxyCredentials" (ternary (print $folder "proxy-credentials") "" $hasLogin) -}}
{{- $_ := set $config "allowedRepositories" (.settings.allowedRepositories | default list) -}}
{{- $_ := set $config "access" .settings.access -}}
{{- $_ := set $config "accessCheckInterval" .settings.accessCheckInterval -}}
{{- $_ := set $config "accessGracePeriod" .settings.accessGracePeriod -}}
{{- $_ := set $config "tokenServers" (.settings.tokenServers | default list) -}}
{{- $_ := set $config "allowedNetworks" (.settings.allowedNetworks | default list) -}}
{{- if .tls -}}
{{- $_ := set $config "certificates" (print $folder "tls") -}}
{{- end -}}
{{- if .nodesOnly -}}
{{- $_ := set $config "clientCertificate" (print $folder "client") -}}
{{- end -}}
{{- $replicas := list -}}
{{- if gt (int .replicas) 1 -}}
{{- range .pods -}}
{{- $host := printf "%s.%s" . $.peersHost -}}
{{- $replica := dict "scheme" $.endpoint.scheme "host" $host "port" $.endpoint.port -}}
{{- if $.tls -}}
{{- $_ := set $replica "ca" (print $folder "tls/ca.crt") -}}
{{- end -}}
{{- if $.nodesOnly -}}
{{- $_ := set $replica "client" (print $folder "client") -}}
{{- end -}}
{{- $replicas = append $replicas $replica -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "replicas" $replicas -}}
cache.json: |
{{ include "registry-cache.json" $config }}
{{- end -}}

{{- /*
registry-cache.roomConfig: what a cache reads again while it runs: how much it may store and for how long, and the version
of the chart that wrote this.
  {{ include "registry-cache.roomConfig" (dict "root" $ "cache" .) }}
*/}}
{{- define "registry-cache.roomConfig" -}}
{{- $room := dict "highWaterMarkPercent" .cache.settings.highWaterMarkPercent "ttl" .cache.ttl -}}
{{- $_ := set $room "version" (regexReplaceAll "[+].*" .root.Chart.Version "") -}}
{{- $_ := set $room "capacity" (int64 .cache.sizeBytes) -}}
room.json: |
{{ include "registry-cache.json" $room }}
{{- end -}}
