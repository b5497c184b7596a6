{{- /*
registry-cache.upstreamSettingsProblems: settings of upstreams that have no cache, and settings that contradict each other
or the cache. Scope: root, and the records of all caches.
*/}}
{{- define "registry-cache.upstreamSettingsProblems" -}}
{{- $caches := dict -}}
{{- range reverse .caches -}}
{{- $_ := set $caches .upstream . -}}
{{- end -}}
{{- range $upstream, $settings := .root.Values.upstreamSettings -}}
{{- $path := include "registry-cache.pathOf" (list "upstreamSettings" $upstream) -}}
{{- $cache := get $caches $upstream -}}
{{- if not $cache -}}
{{- include "registry-cache.problem" (list $path "no cache has this upstream") -}}
{{- else -}}
{{- if and $settings.caConfigMapName $settings.caSecretName -}}
{{- include "registry-cache.problem" (list (print $path ".caSecretName") "caConfigMapName is set too; keep one of the two") -}}
{{- end -}}
{{- if and $settings.proxySecretName (not (or $cache.proxy.httpProxy $cache.proxy.httpsProxy)) -}}
{{- $proxy := printf "%s.proxy.%sProxy" $cache.path $cache.remoteScheme -}}
{{- $reason := printf "the cache has no proxy; write %s, or leave this out" $proxy -}}
{{- include "registry-cache.problem" (list (print $path ".proxySecretName") $reason) -}}
{{- end -}}
{{- if and (hasKey $settings "replicas") (lt (int $settings.replicas) (len $cache.pods)) -}}
{{- $reason := printf "is too few, because %s.highAvailability.enabled is true; write at least 2, or leave this out" $cache.path -}}
{{- include "registry-cache.problem" (list (print $path ".replicas") $reason) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.imageProblems: images without a tag and a digest, and images for `helm test` that no cache could pull.
Scope: root, and the records of all caches.
*/}}
{{- define "registry-cache.imageProblems" -}}
{{- range $name, $image := pick .root.Values.images "distribution" "nginx" "python" -}}
{{- if not (or $image.tag $image.digest) -}}
{{- $reason := "is empty, and there is no digest; write one of the two" -}}
{{- include "registry-cache.problem" (list (printf "images.%s.tag" $name) $reason) -}}
{{- end -}}
{{- end -}}
{{- $upstreams := list -}}
{{- range .caches -}}
{{- $upstreams = append $upstreams .upstream -}}
{{- end -}}
{{- range $upstream, $_ := .root.Values.helmTest.images -}}
{{- if not (has $upstream $upstreams) -}}
{{- $path := include "registry-cache.pathOf" (list "helmTest.images" $upstream) -}}
{{- include "registry-cache.problem" (list $path "no cache has this upstream") -}}
{{- end -}}
{{- end -}}
{{- end -}}
