{{- /*
registry-cache.podSpec: the part of a pod's spec that comes from the values of its component: cachePods or nodeProgram.
No pod has an API token.
  {{ include "registry-cache.podSpec" (dict "root" $ "component" "cache" "settings" .Values.cachePods) }}
*/}}
{{- define "registry-cache.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "registry-cache.serviceAccountName" . }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with include "registry-cache.imagePullSecrets" .root | fromYamlArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.serviceAccountName: the name of a component's service account, or nothing for the namespace's default one.
  {{ include "registry-cache.serviceAccountName" (dict "root" $ "component" "cache" "settings" .Values.cachePods) }}
*/}}
{{- define "registry-cache.serviceAccountName" -}}
{{- $generated := include "registry-cache.suffixedName" (dict "root" .root "suffix" .component) -}}
{{- .settings.serviceAccount.name | default (ternary $generated "" .settings.serviceAccount.create) -}}
{{- end -}}
