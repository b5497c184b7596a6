{{- /*
registry-cache.certificateVolumes, registry-cache.certificateMounts: the certificate of a cache with TLS, and the nodes' one
if it serves only nodes. The key of that is only for replicas, which show it to each other. Scope: the record of the cache.
*/}}
{{- define "registry-cache.certificateVolumes" -}}
{{- if .tls }}
{{- /* Not optional: nginx does not start without a certificate, and the kubelet's event names the Secret. */}}
- name: tls
  secret:
    secretName: {{ .tlsSecretName | quote }}
    defaultMode: 0440
{{- end }}
{{- if .nodesOnly }}
- name: client
  secret:
    secretName: {{ .clientSecretName | quote }}
    defaultMode: 0440
    items:
      {{- range ternary (list "ca.crt" "tls.crt" "tls.key") (list "ca.crt" "tls.crt") (gt (int .replicas) 1) }}
      - {{ dict "key" . "path" . | toJson }}
      {{- end }}
{{- end }}
{{- end -}}
{{- define "registry-cache.certificateMounts" -}}
{{- if .tls }}
- name: tls
  mountPath: /etc/registry-cache/tls
  readOnly: true
{{- end }}
{{- if .nodesOnly }}
- name: client
  mountPath: /etc/registry-cache/client
  readOnly: true
{{- end }}
{{- end -}}
