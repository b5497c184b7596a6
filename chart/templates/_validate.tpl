{{- /*
registry-cache.validate: what the schema cannot see: combinations. All problems in one message. Scope: the root context.
*/}}
{{- define "registry-cache.validate" -}}
{{- $problems := list -}}
{{- $upstreams := dict -}}
{{- $names := dict -}}
{{- $services := dict -}}
{{- range $index, $cache := .Values.caches -}}
{{- $path := printf "caches[%d]" $index -}}
{{- $scope := dict "root" $ "cache" $cache -}}
{{- if hasKey $upstreams $cache.upstream -}}
{{- $problems = append $problems (printf "%s.upstream: %s is there already, at %s; write each upstream once" $path $cache.upstream (get $upstreams $cache.upstream)) -}}
{{- else -}}
{{- $_ := set $upstreams $cache.upstream $path -}}
{{- $name := include "registry-cache.cacheName" $scope -}}
{{- if hasKey $names $name -}}
{{- $problems = append $problems (printf "%s.upstream: its objects would be called %s, as those of %s; set fullnameOverride" $path $name (get $names $name)) -}}
{{- end -}}
{{- $_ := set $names $name $path -}}
{{- $service := include "registry-cache.serviceName" $scope -}}
{{- if hasKey $services $service -}}
{{- $problems = append $problems (printf "%s.serviceNameSuffix: the Service would be called %s, as that of %s; write another suffix" $path $service (get $services $service)) -}}
{{- end -}}
{{- $_ := set $services $service $path -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\nThe values are not valid, nothing was changed:\n  %s\n" (join "\n  " $problems)) -}}
{{- end -}}
{{- end -}}
