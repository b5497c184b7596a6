{{- /*
registry-cache.image: the reference of an image of the values. A digest wins over the tag.
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
