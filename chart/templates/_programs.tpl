{{- /*
registry-cache.programPackages: the Python packages that each kind of pod mounts, in YAML. Each package has a ConfigMap of
its own: all of them in one would be too large for the annotation that a client-side `kubectl apply` writes.
*/}}
{{- define "registry-cache.programPackages" -}}
cache: [access, authentication, common, fetching, gate, store, upstream]
node: [common, node_program]
test: [common, helm_test]
{{- end -}}

{{- /*
registry-cache.programName: the name of a package's ConfigMap. It has no dash after the prefix, so it cannot be the name of
a cache (registry-cache.cacheName).
  {{ include "registry-cache.programName" (dict "root" $ "package" "gate") }}
*/}}
{{- define "registry-cache.programName" -}}
{{- include "registry-cache.suffixedName" (dict "root" .root "suffix" (.package | replace "_" "")) -}}
{{- end -}}

{{- /*
registry-cache.programMounts, registry-cache.programVolumes: the packages of one kind of pod, below one folder.
  {{ include "registry-cache.programMounts" "cache" }}
  {{ include "registry-cache.programVolumes" (dict "root" $ "pod" "cache") }}
*/}}
{{- define "registry-cache.programMounts" -}}
{{- range get (include "registry-cache.programPackages" . | fromYaml) . }}
- name: {{ print "program-" (. | replace "_" "-") | quote }}
  mountPath: {{ print "/opt/registry-cache/" . | quote }}
  readOnly: true
{{- end }}
{{- end -}}
{{- define "registry-cache.programVolumes" -}}
{{- $root := .root }}
{{- range get (include "registry-cache.programPackages" . | fromYaml) .pod }}
- name: {{ print "program-" (. | replace "_" "-") | quote }}
  configMap:
    name: {{ include "registry-cache.programName" (dict "root" $root "package" .) | quote }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.programChecksum: a text that changes with the code in some folders of files/, so that a pod with it in an
annotation restarts. Comments do not count. `make generate` writes the checksums.
  {{ include "registry-cache.programChecksum" (dict "root" $ "folders" (list "front" "programs/gate")) }}
*/}}
{{- define "registry-cache.programChecksum" -}}
{{- $all := .root.Files.Get "files/checksums.yaml" | fromYaml -}}
{{- range .folders -}}
{{- get $all . -}}
{{- end -}}
{{- end -}}
