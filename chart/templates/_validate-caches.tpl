{{- /*
registry-cache.cacheProblems: problems of single caches and of several together. Scope: the records of all caches.
*/}}
{{- define "registry-cache.cacheProblems" -}}
{{- if not . -}}
{{- $reason := `no cache is defined; write for example [{"upstream": "docker.io"}]` -}}
{{- include "registry-cache.problem" (list "caches" $reason) -}}
{{- end -}}
{{- include "registry-cache.duplicates" . -}}
{{- $upstreams := list -}}
{{- range . -}}
{{- $upstreams = append $upstreams .upstream -}}
{{- end -}}
{{- range . -}}
{{- /* An image can be named by registry-1.docker.io too, so a cache of it may stand beside one of docker.io. */ -}}
{{- $isAlias := and (eq .upstream "registry-1.docker.io") (not (has "docker.io" $upstreams)) -}}
{{- if or $isAlias (has .upstream (list "index.docker.io" "hub.docker.com")) -}}
{{- $reason := "image references name Docker Hub docker.io; write \"docker.io\"" -}}
{{- include "registry-cache.problem" (list (print .path ".upstream") $reason) -}}
{{- end -}}
{{- if lt (.sizeBytes | float64) 1048576.0 -}}
{{- $reason := printf "a volume of %s bytes is too small; write at least \"1Mi\"" .sizeBytes -}}
{{- include "registry-cache.problem" (list (print .path ".volume.size") $reason) -}}
{{- end -}}
{{- if and .upstream .proxy.httpProxy (not .proxy.httpsProxy) (eq .remoteScheme "https") -}}
{{- $reason := "is not used, because the cache speaks https to its upstream; write httpsProxy" -}}
{{- include "registry-cache.problem" (list (print .path ".proxy.httpProxy") $reason) -}}
{{- end -}}
{{- if and .tls (not .settings.clusterIP) -}}
{{- $settings := include "registry-cache.pathOf" (list "upstreamSettings" .upstream) -}}
{{- $reason := printf "the certificate needs a fixed address of the Service; write %s.clusterIP, or false here" $settings -}}
{{- include "registry-cache.problem" (list (print .path ".http.tls") $reason) -}}
{{- end -}}
{{- if and .nodesOnly (not .tls) -}}
{{- $settings := include "registry-cache.pathOf" (list "upstreamSettings" .upstream) -}}
{{- $reason := printf "a cache that serves only nodes needs TLS; write true, or %s.nodesOnly: false" $settings -}}
{{- include "registry-cache.problem" (list (print .path ".http.tls") $reason) -}}
{{- end -}}
{{- include "registry-cache.accessProblems" . -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.accessProblems: what does not go with access: Puller. Scope: the record of a cache.
*/}}
{{- define "registry-cache.accessProblems" -}}
{{- if eq .settings.access "Puller" -}}
{{- if not .tls -}}
{{- $reason := "pullers show their credentials (access: Puller), which needs TLS; write true, or access: Anyone" -}}
{{- include "registry-cache.problem" (list (print .path ".http.tls") $reason) -}}
{{- end -}}
{{- if .secretName -}}
{{- $reason := "pullers show their own credentials (access: Puller); leave it out, or write access: Anyone" -}}
{{- include "registry-cache.problem" (list (print .path ".secretReferenceName") $reason) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.duplicates: upstreams and names of Services that two caches share. Scope: the records of all caches.
*/}}
{{- define "registry-cache.duplicates" -}}
{{- $upstreams := dict -}}
{{- $services := dict -}}
{{- range $cache := . -}}
{{- if not .upstream -}}
{{- include "registry-cache.problem" (list .path "upstream is missing; write upstream: \"docker.io\"") -}}
{{- else if hasKey $upstreams .upstream -}}
{{- $reason := printf "%s has a cache already, at %s; write each upstream once" .upstream (get $upstreams .upstream) -}}
{{- include "registry-cache.problem" (list (print .path ".upstream") $reason) -}}
{{- else -}}
{{- $_ := set $upstreams .upstream .path -}}
{{- range $name := ternary (list .serviceName .peersName) (list .serviceName) (gt (int .replicas) 1) -}}
{{- if hasKey $services $name -}}
{{- $reason := printf "the name %s belongs to the Service of %s; write another suffix" $name (get $services $name) -}}
{{- include "registry-cache.problem" (list (print $cache.path ".serviceNameSuffix") $reason) -}}
{{- else -}}
{{- $_ := set $services $name $cache.path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
