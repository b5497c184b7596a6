{{- /*
registry-cache.nodePodSpec: the pod of the node program without its containers and volumes. Scope: the root context.
*/}}
{{- define "registry-cache.nodePodSpec" -}}
{{- include "registry-cache.podSpec" (dict "root" . "component" "node" "settings" .Values.nodeProgram) }}
{{- /* The node's own network shows what containerd can reach. Cluster DNS gives the addresses of the Services. */}}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
terminationGracePeriodSeconds: 30
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
{{- range $number, $directory := (include "registry-cache.proxyCheck" . | fromYaml).directories }}
- name: units-{{ $number }}
  hostPath:
    path: {{ $directory | quote }}
    type: DirectoryOrCreate
{{- end }}
{{- include "registry-cache.authorityVolume" . }}
- name: state
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end -}}
