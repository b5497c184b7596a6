{{- /*
registry-cache.problems: all problems of the values that the schema cannot find, as a list in YAML. The
paths and the reasons are those of `registry-cache validate`, which adds suggestions. Scope: root, and the records
of all caches.
*/}}
{{- define "registry-cache.problems" -}}
{{ include "registry-cache.renamedValues" .root }}
{{ include "registry-cache.cacheProblems" .caches }}
{{ include "registry-cache.upstreamSettingsProblems" . }}
{{ include "registry-cache.imageProblems" . }}
{{ include "registry-cache.certificateProblems" . }}
{{ include "registry-cache.networkPolicyProblems" .root }}
{{- end -}}

{{- /*
registry-cache.problem: one entry of such a list. Scope: the path of a value, and the reason.
  {{ include "registry-cache.problem" (list "caches" "the list is empty") }}
*/}}
{{- define "registry-cache.problem" -}}
- {{ printf "%s: %s" (first .) (last .) | toJson }}
{{ end -}}

{{- /*
registry-cache.refuse: end the rendering with all problems in one message. Scope: a list of them, which may be empty.
*/}}
{{- define "registry-cache.refuse" -}}
{{- if . -}}
{{- fail (printf "\nThe values are not valid. Nothing was changed.\n  %s\n" (join "\n  " .)) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.pathOf: the path of a key in a mapping, as a person writes it: upstreamSettings["docker.io"].
  {{ include "registry-cache.pathOf" (list "upstreamSettings" $upstream) }}
*/}}
{{- define "registry-cache.pathOf" -}}
{{- if regexMatch "^[A-Za-z0-9_-]{1,60}$" (last .) -}}
{{- join "." . -}}
{{- else -}}
{{- printf "%s[%s]" (first .) (last . | toJson) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.renamedValues: values with a name of an earlier version. Scope: the root context.
*/}}
{{- define "registry-cache.renamedValues" -}}
{{- range $old, $new := .Files.Get "files/renamed-values.yaml" | fromYaml -}}
{{- $value := $.Values -}}
{{- $present := true -}}
{{- range $key := splitList "." $old -}}
{{- $present = and $present (kindIs "map" $value) -}}
{{- if $present -}}
{{- $present = hasKey $value $key -}}
{{- $value = get $value $key -}}
{{- end -}}
{{- end -}}
{{- if $present -}}
{{- include "registry-cache.problem" (list $old (print "has a new name; write " $new)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
