{{- /*
registry-cache.claimAccessProblem: access modes that the claim does not have. Scope: as of registry-cache.claimProblems.
*/}}
{{- define "registry-cache.claimAccessProblem" -}}
{{- $modes := .cache.settings.volumeClaims.accessModes -}}
{{- if ne (sortAlpha $modes | join ", ") (sortAlpha .claim.spec.accessModes | join ", ") -}}
{{- $start := include "registry-cache.startEmpty" . -}}
{{- $reason := printf "%s are not the access modes of the claim of %s, which cannot change; write %s, %s" (toJson $modes) .cache.path (toJson .claim.spec.accessModes) $start -}}
{{- include "registry-cache.problem" (list "cachePods.volumeClaims.accessModes" $reason) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.claimClassProblem: another storage class than before. An annotation records the class that the values named,
because the cluster fills in its default class if they name none. Scope: as of registry-cache.claimProblems.
*/}}
{{- define "registry-cache.claimClassProblem" -}}
{{- $path := print .cache.path ".volume.storageClassName" -}}
{{- $class := .cache.storageClassName -}}
{{- $named := dig "metadata" "annotations" "registry-cache/storage-class" "" .claim -}}
{{- $start := include "registry-cache.startEmpty" . -}}
{{- if and $class .claim.spec.storageClassName (ne $class .claim.spec.storageClassName) -}}
{{- $reason := printf "%q is not the class of the existing claim, which cannot change; write %q, %s" $class .claim.spec.storageClassName $start -}}
{{- include "registry-cache.problem" (list $path $reason) -}}
{{- else if and $named (not $class) -}}
{{- $reason := printf "is missing, and the class of the existing claim cannot change; write %q, %s" $named $start -}}
{{- include "registry-cache.problem" (list $path $reason) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.claimSizeProblem: a volume that is larger than the values say, or a claim that has no volume yet and so
cannot change its size. Scope: as of registry-cache.claimProblems.
*/}}
{{- define "registry-cache.claimSizeProblem" -}}
{{- $path := print .cache.path ".volume.size" -}}
{{- $requested := .claim.spec.resources.requests.storage -}}
{{- $requestedBytes := include "registry-cache.bytes" $requested | float64 -}}
{{- $capacityBytes := include "registry-cache.bytes" (dig "status" "capacity" "storage" "0" .claim) | float64 -}}
{{- $bytes := .cache.sizeBytes | float64 -}}
{{- $start := include "registry-cache.startEmpty" . -}}
{{- if and (lt $bytes $requestedBytes) (le $bytes $capacityBytes) -}}
{{- $reason := printf "%q is less than the volume has, and a volume does not shrink; write %q, %s" .cache.size $requested $start -}}
{{- include "registry-cache.problem" (list $path $reason) -}}
{{- else if and (not .claim.spec.volumeName) (ne $bytes $requestedBytes) -}}
{{- $reason := printf "%q is not what the existing claim asks for, and it has no volume yet that could grow; write %q, %s" .cache.size $requested $start -}}
{{- include "registry-cache.problem" (list $path $reason) -}}
{{- end -}}
{{- end -}}

{{- define "registry-cache.startEmpty" -}}
{{- printf "or remove the cache, wait until the claim %s is gone, and add the cache again, empty" .claim.metadata.name -}}
{{- end -}}
