{{- /*
registry-cache.nodePodSpec: the pod of the node program without its containers and volumes. Scope: the root context.
*/}}
{{- define "registry-cache.nodePodSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- /* The node's own network shows what containerd can reach. Cluster DNS gives the addresses of the Services. */}}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
terminationGracePeriodSeconds: 30
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeProgram.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeProgram.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeProgram.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- /* containerd's registry directory belongs to root. Every capability is dropped. */}}
  runAsUser: 0
  runAsGroup: 0
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /*
registry-cache.nodeVolumes: the volumes of the node program's pod. Scope: the root context.
*/}}
{{- define "registry-cache.nodeVolumes" -}}
{{- $paths := include "registry-cache.nodePaths" . | fromYaml }}
{{- include "registry-cache.programVolumes" (dict "root" . "pod" "node") }}
- name: config
  configMap:
    name: {{ include "registry-cache.suffixedName" (dict "root" . "suffix" "node") | quote }}
- name: registry-directory
  hostPath:
    path: {{ $paths.registryDirectory | quote }}
    type: DirectoryOrCreate
{{- /* The folder of the configuration, because a missing file would be created as a folder, where containerd needs a file. */}}
- name: containerd
  hostPath:
    path: {{ dir $paths.containerdConfig | quote }}
    type: DirectoryOrCreate
- name: state
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end -}}
