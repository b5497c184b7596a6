{{- /*
registry-cache.validate: what the schema cannot see: what null took away, and combinations. All problems in one message,
in the words of `registry-cache validate`. Every template that makes an object begins with it. Scope: the root context.
*/}}
{{- define "registry-cache.validate" -}}
{{- $problems := list -}}
{{- range $path := .Files.Lines "files/value-paths.txt" -}}
{{- $value := $.Values -}}
{{- $parts := splitList "." $path -}}
{{- range $index, $part := $parts -}}
{{- if kindIs "map" $value -}}
{{- if hasKey $value $part -}}
{{- $value = get $value $part -}}
{{- else -}}
{{- $value = "" -}}
{{- if eq $index (sub (len $parts) 1 | int) -}}
{{- $problems = append $problems (printf "%s: null is no value; leave the key out" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- include "registry-cache.refuse" $problems -}}
{{- end -}}
{{- $upstreams := dict -}}
{{- $services := dict -}}
{{- $suffixes := dict -}}
{{- $inGardener := dict -}}
{{- range $index, $cache := include "registry-cache.caches" . | fromYamlArray -}}
{{- $path := printf "caches[%d]" $index -}}
{{- $scope := dict "root" $ "cache" $cache -}}
{{- if not $cache.upstream -}}
{{- $problems = append $problems (printf "%s: upstream is missing; write upstream: \"docker.io\"" $path) -}}
{{- else if hasKey $upstreams $cache.upstream -}}
{{- $problems = append $problems (printf "%s.upstream: %s is there already, at %s; write each upstream once" $path $cache.upstream (get $upstreams $cache.upstream)) -}}
{{- else -}}
{{- $_ := set $upstreams $cache.upstream $path -}}
{{- $service := include "registry-cache.serviceName" $scope -}}
{{- if hasKey $services $service -}}
{{- $problems = append $problems (printf "%s.serviceNameSuffix: the Service would be called %s, as that of %s; write another suffix" $path $service (get $services $service)) -}}
{{- else -}}
{{- $_ := set $services $service $path -}}
{{- if $cache.serviceNameSuffix -}}
{{- $_ := set $suffixes $service $path -}}
{{- end -}}
{{- end -}}
{{- if not $cache.serviceNameSuffix -}}
{{- $_ := set $inGardener (include "registry-cache.gardenerServiceName" $cache.upstream) $path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $service, $path := $suffixes -}}
{{- if hasKey $inGardener $service -}}
{{- $problems = append $problems (printf "%s.serviceNameSuffix: Gardener calls the Service of %s %s; write another suffix" $path (get $inGardener $service) $service) -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- include "registry-cache.refuse" $problems -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.refuse: end with all problems. Scope: a list of them.
*/}}
{{- define "registry-cache.refuse" -}}
{{- fail (printf "\nThe values are not valid, nothing was changed:\n  %s\n" (join "\n  " .)) -}}
{{- end -}}
