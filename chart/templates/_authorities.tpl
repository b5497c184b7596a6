{{- /*
registry-cache.authorityFile: where the pods of the node program and of `helm test` have the authorities of a cache.
Scope: the record of the cache.
*/}}
{{- define "registry-cache.authorityFile" -}}
{{- printf "/etc/registry-cache-authorities/%s.crt" .tlsSecretName -}}
{{- end -}}

{{- /*
registry-cache.authorityVolume, registry-cache.authorityMount: the authorities (ca.crt, and no key) of all caches with TLS,
or nothing. A Secret may be missing: the node program reports it and uses the other caches. Scope: the root context.
*/}}
{{- define "registry-cache.authorityVolume" -}}
{{- $sources := dict -}}
{{- range include "registry-cache.caches" . | fromJsonArray -}}
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
{{- end -}}
{{- define "registry-cache.authorityMount" -}}
{{- if include "registry-cache.authorityVolume" . }}
- name: authorities
  mountPath: /etc/registry-cache-authorities
  readOnly: true
{{- end }}
{{- end -}}
