{{- /*
registry-cache.validateClaims: refuse changes that the existing claims do not allow. A volume cannot shrink or change its
storage class (pkg/apis/core/validation, ValidatePersistentVolumeClaimUpdate). The API server would refuse them too, but in
the middle of an upgrade. This is the only lookup in the templates, and it can only refuse: no manifest depends on it.
`helm template`, and so Argo CD, find no claim here. Scope: the root context.
*/}}
{{- define "registry-cache.validateClaims" -}}
{{- $problems := list -}}
{{- range $cache := include "registry-cache.caches" . | fromJsonArray -}}
{{- range $name := .claims -}}
{{- with lookup "v1" "PersistentVolumeClaim" (include "registry-cache.namespace" $) $name -}}
{{- $scope := dict "root" $ "cache" $cache "claim" . -}}
{{- $problems = concat $problems (include "registry-cache.claimProblems" $scope | fromYamlArray) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "registry-cache.refuse" ($problems | uniq) -}}
{{- end -}}

{{- /*
registry-cache.claimProblems: why a claim cannot change as its cache needs it, as a list in YAML. Scope: root, the record
of the cache, and the claim.
*/}}
{{- define "registry-cache.claimProblems" -}}
{{- $name := .claim.metadata.name -}}
{{- $kubectl := printf "kubectl --namespace %s" (include "registry-cache.namespace" .root) -}}
{{- if .claim.metadata.deletionTimestamp -}}
{{- $reason := printf "the claim %s is being deleted; try again when it is gone" $name -}}
{{- include "registry-cache.problem" (list .cache.path $reason) -}}
{{- else if not (dig "metadata" "annotations" "meta.helm.sh/release-name" "" .claim) -}}
{{- /* Helm would stop at this claim, because the controller owns a part of it. */ -}}
{{- $scale := printf "%s scale statefulset %s --replicas 0" $kubectl .cache.name -}}
{{- $delete := printf "%s delete persistentvolumeclaim %s" $kubectl $name -}}
{{- $reason := printf "the claim %s was created by the StatefulSet %s and not by Helm; run `%s` and `%s`, and try again" $name .cache.name $scale $delete -}}
{{- include "registry-cache.problem" (list .cache.path $reason) -}}
{{- else -}}
{{- include "registry-cache.claimAccessProblem" . -}}
{{- include "registry-cache.claimClassProblem" . -}}
{{- include "registry-cache.claimSizeProblem" . -}}
{{- end -}}
{{- end -}}
