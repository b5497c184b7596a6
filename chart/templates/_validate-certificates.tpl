{{- /*
registry-cache.certificateProblems: Secrets into which cert-manager would put two certificates. Names that nobody wrote are
all different, so a name that was written is what can be changed. Scope: root, and the records of all caches.
*/}}
{{- define "registry-cache.certificateProblems" -}}
{{- $values := .root.Values -}}
{{- $caches := list -}}
{{- $upstreams := list -}}
{{- $hasNodes := false -}}
{{- range .caches -}}
{{- if and .tls (not (has .upstream $upstreams)) -}}
{{- $caches = append $caches . -}}
{{- $upstreams = append $upstreams .upstream -}}
{{- $hasNodes = or $hasNodes .nodesOnly -}}
{{- end -}}
{{- end -}}
{{- if and $values.certManager.enabled $caches -}}
{{- $holders := dict -}}
{{- $written := list -}}
{{- if or $hasNodes (not $values.certManager.issuerRef.name) -}}
{{- $_ := set $holders (include "registry-cache.authorityName" .root) "the release's own authority" -}}
{{- end -}}
{{- range $caches -}}
{{- if .settings.tlsSecretName -}}
{{- $path := include "registry-cache.pathOf" (list "upstreamSettings" .upstream) -}}
{{- $written = append $written (dict "path" (print $path ".tlsSecretName") "name" .tlsSecretName "holder" .path) -}}
{{- else -}}
{{- $_ := set $holders .tlsSecretName .path -}}
{{- end -}}
{{- end -}}
{{- if $hasNodes -}}
{{- $name := include "registry-cache.clientSecretName" .root -}}
{{- if $values.cachePods.clientSecretName -}}
{{- $written = append $written (dict "path" "cachePods.clientSecretName" "name" $name "holder" "the nodes") -}}
{{- else -}}
{{- $_ := set $holders $name "the nodes" -}}
{{- end -}}
{{- end -}}
{{- range $written -}}
{{- if hasKey $holders .name -}}
{{- $holder := get $holders .name -}}
{{- $reason := printf "the Secret %s gets the certificate of %s; write another name, or leave this out" .name $holder -}}
{{- include "registry-cache.problem" (list .path $reason) -}}
{{- else -}}
{{- $_ := set $holders .name .holder -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
