{{- /*
registry-cache.cacheVolumes: the volumes of a cache's pod except the claim. Secrets and the CA bundle are optional: a
cache without them serves what it has and what needs no credentials, and its log says what is missing.
  {{ include "registry-cache.cacheVolumes" (dict "root" $ "cache" .) }}
*/}}
{{- define "registry-cache.cacheVolumes" -}}
{{- include "registry-cache.programVolumes" (dict "root" .root "pod" "cache") }}
- name: pod-config
  configMap:
    name: {{ include "registry-cache.suffixedName" (dict "root" .root "suffix" "cache") | quote }}
- name: config
  configMap:
    name: {{ .cache.name | quote }}
- name: sockets
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: front
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- include "registry-cache.certificateVolumes" .cache }}
{{- with .cache.secretName }}
- name: credentials
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    optional: true
{{- end }}
{{- with .cache.settings.proxySecretName }}
- name: proxy-credentials
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    optional: true
{{- end }}
{{- $item := dict "key" "ca.crt" "path" "ca.crt" }}
{{- with .cache.settings.caConfigMapName }}
- name: ca
  configMap:
    name: {{ . | quote }}
    optional: true
    items: {{ list $item | toJson }}
{{- end }}
{{- with .cache.settings.caSecretName }}
- name: ca
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    optional: true
    items: {{ list $item | toJson }}
{{- end }}
{{- with .cache.settings.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
