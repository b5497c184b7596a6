{{- /*
registry-cache.caches: all caches as finished records (registry-cache.cache), as a list in JSON. Invalid values end the
rendering here, so a template that has a record can rely on it. Scope: the root context.
  {{- range include "registry-cache.caches" . | fromJsonArray }}
*/}}
{{- define "registry-cache.caches" -}}
{{- include "registry-cache.refuse" (include "registry-cache.foreignProblems" . | fromYamlArray) -}}
{{- $defaults := .Files.Get "files/cache-defaults.yaml" | fromYaml -}}
{{- $caches := list -}}
{{- range $index, $entry := include "registry-cache.cacheEntries" . | fromYamlArray -}}
{{- /* Gardener reads a garbageCollection without ttl as zero, and not as the default. */ -}}
{{- if eq (toJson (get $entry "garbageCollection")) "{}" -}}
{{- $_ := set $entry "garbageCollection" (dict "ttl" "0s") -}}
{{- end -}}
{{- $entry = include "registry-cache.overlay" (dict "base" $defaults "top" $entry) | fromJson -}}
{{- $scope := dict "root" $ "index" $index "entry" $entry -}}
{{- $caches = append $caches (include "registry-cache.cache" $scope | fromYaml) -}}
{{- end -}}
{{- $problems := include "registry-cache.problems" (dict "root" . "caches" $caches) | fromYamlArray -}}
{{- include "registry-cache.refuse" $problems -}}
{{- toJson $caches -}}
{{- end -}}

{{- /*
registry-cache.cacheEntries: the entries of `caches`, as a list in YAML. A chart that `registry-cache generate` made has
entries of its own. An entry without an upstream, as Helm makes it of --set caches[1].volume.size=20Gi, changes the
chart's entry at the same place. Any other list replaces the chart's. Scope: the root context.
*/}}
{{- define "registry-cache.cacheEntries" -}}
{{- $given := .Values.caches -}}
{{- $own := .Files.Get "files/caches.yaml" | fromYamlArray -}}
{{- $changesOwn := false -}}
{{- range $given -}}
{{- $changesOwn = or $changesOwn (empty .) (empty (get (. | default dict) "upstream")) -}}
{{- end -}}
{{- $entries := $given -}}
{{- if $changesOwn -}}
{{- $entries = list -}}
{{- range $index := until (max (len $given) (len $own) | int) -}}
{{- $entry := dict -}}
{{- if lt $index (len $own) -}}
{{- $entry = index $own $index -}}
{{- end -}}
{{- if lt $index (len $given) -}}
{{- $top := index $given $index | default dict -}}
{{- $entry = include "registry-cache.overlay" (dict "base" $entry "top" $top) | fromJson -}}
{{- end -}}
{{- $entries = append $entries $entry -}}
{{- end -}}
{{- end -}}
{{- toYaml $entries -}}
{{- end -}}

{{- /*
registry-cache.overlay: one mapping merged over another, in JSON. Unlike mergeOverwrite, it takes over false, 0 and "" too.
In caches, null stands for a field that is left out, as in Gardener.
  {{ include "registry-cache.overlay" (dict "base" $defaults "top" $entry) | fromJson }}
*/}}
{{- define "registry-cache.overlay" -}}
{{- $merged := deepCopy .base -}}
{{- range $key, $value := .top -}}
{{- $below := get $merged $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $below) -}}
{{- $value = include "registry-cache.overlay" (dict "base" $below "top" $value) | fromJson -}}
{{- end -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}
