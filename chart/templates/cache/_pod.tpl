{{- /*
registry-cache.cachePodSpec: the pod of a cache without its containers and volumes.
  {{ include "registry-cache.cachePodSpec" (dict "root" $ "cache" .) }}
*/}}
{{- define "registry-cache.cachePodSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- /* Each container takes less than this to drain, so pulls in flight end first. */}}
terminationGracePeriodSeconds: 30
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .cache.settings.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .cache.settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .cache.settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .cache.settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if gt (int .cache.replicas) 1 }}
{{- /* Two replicas run on two nodes where there are two. On a single node both run there: a pod that waits for a second
      node would keep the install from ever being complete. */}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- toYaml .cache.selector | nindent 8 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}
