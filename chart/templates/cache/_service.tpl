{{- /*
registry-cache.ipFamilies: the IP families of a cache's Services. Scope: the record of the cache.
*/}}
{{- define "registry-cache.ipFamilies" -}}
{{- with .settings.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . | quote }}
{{- end }}
{{- with .settings.service.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end -}}
