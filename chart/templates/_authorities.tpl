{{- /*
registry-cache.authorityFile: where the pods of the node program and of `helm test` have the authorities of a cache.
Scope: the record of the cache.
*/}}
{{- define "registry-cache.authorityFile" -}}
{{- printf "/etc/registry-cache-authorities/%s.crt" .tlsSecretName -}}
{{- end -}}

{{- /*
registry-cache.clientSecretName: the Secret with the nodes' certificate. Scope: the root context.
*/}}
{{- define "registry-cache.clientSecretName" -}}
{{- $default := include "registry-cache.suffixedName" (dict "root" . "suffix" "client") -}}
{{- .Values.cachePods.clientSecretName | default $default -}}
{{- end -}}

{{- /*
registry-cache.withCertificates: where a program finds the certificates for a cache with TLS, in JSON: its endpoint.
  {{ include "registry-cache.withCertificates" (dict "cache" . "endpoint" $endpoint) | fromJson }}
*/}}
{{- define "registry-cache.withCertificates" -}}
{{- $endpoint := deepCopy .endpoint -}}
{{- if .cache.tls -}}
{{- $_ := set $endpoint "ca" (include "registry-cache.authorityFile" .cache) -}}
{{- end -}}
{{- if .cache.nodesOnly -}}
{{- $_ := set $endpoint "client" (print "/etc/registry-cache-clients/" .cache.clientSecretName) -}}
{{- end -}}
{{- toJson $endpoint -}}
{{- end -}}

{{- /*
registry-cache.authorityVolume, registry-cache.authorityMount: the authorities (ca.crt, and no key) of all caches with TLS,
and the nodes' certificate if a cache serves only nodes. A Secret may be missing: the node program reports it and uses the
other caches. Scope: the root context.
*/}}
{{- define "registry-cache.authorityVolume" -}}
{{- $sources := dict -}}
{{- $servesOnlyNodes := false -}}
{{- range include "registry-cache.caches" . | fromJsonArray -}}
{{- $servesOnlyNodes = or $servesOnlyNodes .nodesOnly -}}
{{- if .tls -}}
{{- $item := dict "key" "ca.crt" "path" (print .tlsSecretName ".crt") -}}
{{- $secret := dict "name" .tlsSecretName "optional" true "items" (list $item) -}}
{{- $_ := set $sources .tlsSecretName (dict "secret" $secret) -}}
{{- end -}}
{{- end -}}
{{- with $sources }}
- name: authorities
  projected:
    defaultMode: 0444
    sources:
      {{- range . }}
      - {{ toJson . }}
      {{- end }}
{{- end }}
{{- if $servesOnlyNodes }}
- name: client
  secret:
    secretName: {{ include "registry-cache.clientSecretName" . | quote }}
    defaultMode: 0440
    optional: true
    items: {{ list (dict "key" "tls.crt" "path" "tls.crt") (dict "key" "tls.key" "path" "tls.key") | toJson }}
{{- end }}
{{- end -}}
{{- define "registry-cache.authorityMount" -}}
{{- $caches := include "registry-cache.caches" . }}
{{- if contains `"tls":true` $caches }}
- name: authorities
  mountPath: /etc/registry-cache-authorities
  readOnly: true
{{- end }}
{{- if contains `"nodesOnly":true` $caches }}
- name: client
  mountPath: {{ print "/etc/registry-cache-clients/" (include "registry-cache.clientSecretName" .) | quote }}
  readOnly: true
{{- end }}
{{- end -}}
