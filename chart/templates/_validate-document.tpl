{{- /*
registry-cache.foreignProblems: why a document cannot be values of this chart although `registry-cache convert` can make
values of it, as a list in YAML: it is a Shoot, a RegistryConfig of an older version, or a file of another program. The
schema lets these through, so that the answer can be given here. Scope: the root context.
*/}}
{{- define "registry-cache.foreignProblems" -}}
{{- $problems := list -}}
{{- $known := .Files.Get "files/foreign-values.yaml" | fromYaml -}}
{{- range $key, $expected := pick $known "apiVersion" "kind" -}}
{{- $value := get $.Values $key -}}
{{- if ne $value $expected -}}
{{- $problems = append $problems (printf "%s: %s is not %s" $key (toJson $value) (toJson $expected)) -}}
{{- end -}}
{{- end -}}
{{- range $known.keys -}}
{{- if hasKey $.Values . -}}
{{- $problems = append $problems (printf "%s: is not a known key" .) -}}
{{- end -}}
{{- end -}}
{{- range $index, $cache := .Values.caches -}}
{{- if hasKey ($cache | default dict) "size" -}}
{{- $problems = append $problems (printf "caches[%d].size: is not a known key" $index) -}}
{{- end -}}
{{- if hasKey (get ($cache | default dict) "garbageCollection" | default dict) "enabled" -}}
{{- $problems = append $problems (printf "caches[%d].garbageCollection.enabled: is not a known key" $index) -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- $convert := "registry-cache convert FILE > registry-config.yaml" -}}
{{- $advice := printf "These are not values of this chart. Run `%s`, and install with --values registry-config.yaml." $convert -}}
{{- $problems = append $problems $advice -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}
