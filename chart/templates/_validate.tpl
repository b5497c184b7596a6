{{- /*
registry-cache.validate: what the schema cannot see. All problems in one message,
in the words of `registry-cache validate`. Every template that makes an object begins with it. Scope: the root context.
*/}}
{{- define "registry-cache.validate" -}}
{{- $problems := list -}}
{{- range $old, $new := .Files.Get "files/renamed-values.yaml" | fromYaml -}}
{{- $value := $.Values -}}
{{- $present := true -}}
{{- range $name := splitList "." $old -}}
{{- $present = and $present (kindIs "map" $value) -}}
{{- if $present -}}
{{- $present = hasKey $value $name -}}
{{- $value = get $value $name -}}
{{- end -}}
{{- end -}}
{{- if $present -}}
{{- $problems = append $problems (printf "%s: this value has a new name; write %s" $old $new) -}}
{{- end -}}
{{- end -}}
{{- $upstreams := dict -}}
{{- $services := dict -}}
{{- $suffixes := dict -}}
{{- $inGardener := dict -}}
{{- $caches := include "registry-cache.caches" . | fromYamlArray -}}
{{- if not $caches -}}
{{- $problems = append $problems "caches: at least one cache must be given; write [{upstream: docker.io}]" -}}
{{- end -}}
{{- range $index, $cache := $caches -}}
{{- $path := printf "caches[%d]" $index -}}
{{- $scope := dict "root" $ "cache" $cache -}}
{{- if not $cache.upstream -}}
{{- $problems = append $problems (printf "%s: upstream is missing; write upstream: \"docker.io\"" $path) -}}
{{- else if hasKey $upstreams $cache.upstream -}}
{{- $problems = append $problems (printf "%s.upstream: %s is there already, at %s; write each upstream once" $path $cache.upstream (get $upstreams $cache.upstream)) -}}
{{- else -}}
{{- $_ := set $upstreams $cache.upstream $path -}}
{{- $own := list (include "registry-cache.serviceName" $scope) -}}
{{- if gt (include "registry-cache.replicas" $cache | int) 1 -}}
{{- $own = append $own (include "registry-cache.peersName" $scope) -}}
{{- end -}}
{{- range $service := $own -}}
{{- if hasKey $services $service -}}
{{- $problems = append $problems (printf "%s.serviceNameSuffix: the Service would be called %s, as that of %s; write another suffix" $path $service (get $services $service)) -}}
{{- else -}}
{{- $_ := set $services $service $path -}}
{{- if $cache.serviceNameSuffix -}}
{{- $_ := set $suffixes $service $path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $cache.serviceNameSuffix -}}
{{- $_ := set $inGardener (include "registry-cache.gardenerServiceName" $cache.upstream) $path -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $proxies := dict -}}
{{- range $index, $cache := $caches -}}
{{- $path := printf "caches[%d]" $index -}}
{{- $upstream := $cache.upstream | default "" -}}
{{- /* an image can be named by registry-1.docker.io too, so a cache of it may stand beside one of docker.io */ -}}
{{- if or (has $upstream (list "index.docker.io" "hub.docker.com")) (and (eq $upstream "registry-1.docker.io") (not (hasKey $upstreams "docker.io"))) -}}
{{- $problems = append $problems (printf "%s.upstream: names of images of Docker Hub begin with docker.io; write \"docker.io\"" $path) -}}
{{- end -}}
{{- $size := dig "volume" "size" "10Gi" $cache -}}
{{- $bytes := include "registry-cache.bytes" $size -}}
{{- if lt ($bytes | float64) 1048576.0 -}}
{{- $written := ternary (toJson $size) (int64 $size | toString) (kindIs "string" $size) -}}
{{- $instead := "at least \"1Mi\"" -}}
{{- if regexMatch "^\"?[1-9][0-9]{0,3}m?\"?$" $written -}}
{{- $unit := ternary "Mi" "Gi" (contains "m" $written) -}}
{{- $instead = printf "\"%s%s\"" (regexFind "[0-9]+" $written) $unit -}}
{{- end -}}
{{- $problems = append $problems (printf "%s.volume.size: %s is %s bytes; write %s" $path $written $bytes $instead) -}}
{{- end -}}
{{- if $upstream -}}
{{- $proxy := $cache.proxy | default dict -}}
{{- $kind := ternary "httpsProxy" "httpProxy" (include "registry-cache.remoteURL" $cache | lower | hasPrefix "https:") -}}
{{- if and $proxy.httpProxy (not $proxy.httpsProxy) (eq $kind "httpsProxy") -}}
{{- $problems = append $problems (printf "%s.proxy.httpProxy: is not used, since the upstream is asked by https; write httpsProxy" $path) -}}
{{- end -}}
{{- if and (eq (get $upstreams $upstream) $path) (not (or $proxy.httpProxy $proxy.httpsProxy)) -}}
{{- $_ := set $proxies $upstream (printf "%s.proxy.%s" $path $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $upstream, $settings := .Values.upstreamSettings -}}
{{- $path := include "registry-cache.pathIn" (dict "mapping" "upstreamSettings" "key" $upstream) -}}
{{- if not (hasKey $upstreams $upstream) -}}
{{- $nearest := include "registry-cache.nearest" (dict "name" $upstream "known" (keys $upstreams | sortAlpha)) -}}
{{- $problems = append $problems (printf "%s: is no upstream of caches; %s" $path $nearest) -}}
{{- else -}}
{{- if and $settings.caConfigMapName $settings.caSecretName -}}
{{- $problems = append $problems (printf "%s.caSecretName: caConfigMapName is there already; write one of the two" $path) -}}
{{- end -}}
{{- if and $settings.proxySecretName (hasKey $proxies $upstream) -}}
{{- $problems = append $problems (printf "%s.proxySecretName: the cache of %s has no proxy; write %s, or leave this out" $path $upstream (get $proxies $upstream)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $image := pick .Values.images "distribution" "nginx" "python" -}}
{{- if not (or $image.tag $image.digest) -}}
{{- $problems = append $problems (printf "images.%s.tag: is empty, and there is no digest; write one of the two" $name) -}}
{{- end -}}
{{- end -}}
{{- range $upstream, $_ := .Values.helmTest.images -}}
{{- if not (hasKey $upstreams $upstream) -}}
{{- $path := include "registry-cache.pathIn" (dict "mapping" "helmTest.images" "key" $upstream) -}}
{{- $nearest := include "registry-cache.nearest" (dict "name" $upstream "known" (keys $upstreams | sortAlpha)) -}}
{{- $problems = append $problems (printf "%s: is no upstream of caches; %s" $path $nearest) -}}
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
registry-cache.validateClaims: what the claims that are there cannot become: a volume does not shrink, and keeps its
storage class (pkg/apis/core/validation, ValidatePersistentVolumeClaimUpdate). Told before anything is changed, since the
API server would refuse it with a part of an upgrade done. The one look at the cluster of all templates, and only to
fail: what is rendered never depends on it. `helm template`, and so Argo CD, see no claim here; there the API server
refuses. The class that the values named stands in an annotation of the claim, as the claim itself has one too where it
is the cluster's default. Scope: the root context.
*/}}
{{- define "registry-cache.validateClaims" -}}
{{- $problems := list -}}
{{- range $index, $cache := include "registry-cache.caches" . | fromYamlArray -}}
{{- $size := dig "volume" "size" "10Gi" $cache -}}
{{- $class := dig "volume" "storageClassName" "" $cache -}}
{{- range $replica := include "registry-cache.replicas" $cache | int | until -}}
{{- $name := include "registry-cache.claimName" (dict "root" $ "cache" $cache "replica" $replica) -}}
{{- with lookup "v1" "PersistentVolumeClaim" $.Release.Namespace $name -}}
{{- $else := printf "or take the cache out, see the claim %s gone, and put the cache back, empty" $name -}}
{{- $asked := .spec.resources.requests.storage -}}
{{- $wanted := include "registry-cache.bytes" $size | float64 -}}
{{- $has := include "registry-cache.bytes" $asked | float64 -}}
{{- $capacity := include "registry-cache.bytes" (dig "status" "capacity" "storage" "0" .) | float64 -}}
{{- $pending := not .spec.volumeName -}}
{{- $was := dig "metadata" "annotations" "registry-cache/storage-class" "" . -}}
{{- if .metadata.deletionTimestamp -}}
{{- $problems = append $problems (printf "caches[%d]: the claim %s is being deleted; try again when it is gone" $index $name) -}}
{{- else if not (dig "metadata" "annotations" "meta.helm.sh/release-name" "" .) -}}
{{- /* Helm would stop at it, since a part of it is the controller's */ -}}
{{- $kubectl := printf "kubectl --namespace %s" $.Release.Namespace -}}
{{- $set := include "registry-cache.cacheName" (dict "root" $ "cache" $cache) -}}
{{- $problems = append $problems (printf "caches[%d]: the claim %s is not Helm's, the StatefulSet %s made it; run `%s scale statefulset %s --replicas 0` and `%s delete persistentvolumeclaim %s`, and try again" $index $name $set $kubectl $set $kubectl $name) -}}
{{- else -}}
{{- if and $class .spec.storageClassName (ne $class .spec.storageClassName) -}}
{{- $problems = append $problems (printf "caches[%d].volume.storageClassName: %q is not the class of the claim that is there, which cannot change; write %q, %s" $index $class .spec.storageClassName $else) -}}
{{- else if and $was (not $class) -}}
{{- $problems = append $problems (printf "caches[%d].volume.storageClassName: is missing, and the class of the claim that is there cannot change; write %q, %s" $index $was $else) -}}
{{- end -}}
{{- if and (lt $wanted $has) (le $wanted $capacity) -}}
{{- $problems = append $problems (printf "caches[%d].volume.size: %q is less than the volume has, and none shrinks; write %q, %s" $index (toString $size) $asked $else) -}}
{{- else if and $pending (ne $wanted $has) -}}
{{- $problems = append $problems (printf "caches[%d].volume.size: %q is not what the claim that is there asks for, and it has no volume yet that could grow; write %q, %s" $index (toString $size) $asked $else) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- include "registry-cache.refuse" ($problems | uniq) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.pathIn: the path of a key in a mapping, as a person writes it: upstreamSettings["docker.io"].
  {{ include "registry-cache.pathIn" (dict "mapping" "upstreamSettings" "key" $upstream) }}
*/}}
{{- define "registry-cache.pathIn" -}}
{{- if regexMatch "^[A-Za-z0-9_-]{1,60}$" .key -}}
{{- printf "%s.%s" .mapping .key -}}
{{- else -}}
{{- printf "%s[%s]" .mapping (toJson .key) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.refuse: end with all problems. Scope: a list of them.
*/}}
{{- define "registry-cache.refuse" -}}
{{- fail (printf "\nThe values are not valid, nothing was changed:\n  %s\n" (join "\n  " .)) -}}
{{- end -}}
