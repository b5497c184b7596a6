{{- /*
registry-cache.image: the reference of an image of the values. global.imageRegistry replaces its registry, and its digest
replaces its tag.
  {{ include "registry-cache.image" (dict "root" $ "image" .Values.images.python) }}
*/}}
{{- define "registry-cache.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .image.registry | trimSuffix "/" -}}
{{- $name := printf "%s/%s" $registry .image.repository | trimPrefix "/" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name .image.tag -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.imagePullSecrets: the pull secrets of all pods, each once, as a list in YAML. Scope: the root context.
*/}}
{{- define "registry-cache.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "string" . | ternary dict .) "name")) -}}
{{- end -}}
{{- range $names | uniq }}
- name: {{ . | quote }}
{{- end -}}
{{- end -}}
