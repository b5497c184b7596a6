{{- /*
registry-cache.certificate: an object Certificate of cert-manager. Each renewal makes a new key, as its default is since
v1.18. Scope: root, labels, name, secretName, issuerRef, duration, renewBefore, and more fields of the spec.
*/}}
{{- define "registry-cache.certificate" -}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ .name | quote }}
  namespace: {{ include "registry-cache.namespace" .root | quote }}
  labels:
    {{- .labels | toYaml | nindent 4 }}
spec:
  secretName: {{ .secretName | quote }}
  issuerRef: {{ toJson .issuerRef }}
  duration: {{ .duration | quote }}
  {{- with .renewBefore }}
  renewBefore: {{ . | quote }}
  {{- end }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  {{- toYaml .spec | nindent 2 }}
{{ end -}}

{{- /*
registry-cache.authorityName: the name of the release's own authority, its issuer and its Secret. Scope: the root context.
*/}}
{{- define "registry-cache.authorityName" -}}
{{- include "registry-cache.suffixedName" (dict "root" . "suffix" "ca") -}}
{{- end -}}

{{- /*
registry-cache.ownIssuer: a reference to the issuer of the release's own authority, in JSON. Scope: the root context.
*/}}
{{- define "registry-cache.ownIssuer" -}}
{{- dict "name" (include "registry-cache.authorityName" .) "kind" "Issuer" "group" "cert-manager.io" | toJson -}}
{{- end -}}

{{- /*
registry-cache.certificateHosts: the names by which `helm test` and the other replicas reach the pods of a cache, in JSON, as
generator/registry_cache/certificates.py has them. Scope: the record of a cache.
*/}}
{{- define "registry-cache.certificateHosts" -}}
{{- $hosts := list .serviceName .endpoint.host -}}
{{- if gt (int .replicas) 1 -}}
{{- range .pods -}}
{{- $hosts = append $hosts (printf "%s.%s" . $.peersHost) -}}
{{- end -}}
{{- end -}}
{{- toJson $hosts -}}
{{- end -}}
