{{- /*
registry-cache.distributionContainer: distribution, which serves what is stored while the gate is away. Scope: the record of
a cache.
*/}}
{{- define "registry-cache.distributionContainer" -}}
- name: distribution
  image: {{ .images.distribution.image | quote }}
  imagePullPolicy: {{ .images.distribution.pullPolicy | quote }}
  command: ["registry", "serve", "/etc/registry-cache/pod/distribution.yml"]
  env:
    {{- /* Otherwise distribution looks for a collector of traces on this host, and logs that there is none. */}}
    - name: OTEL_TRACES_EXPORTER
      value: none
  {{- /* It listens on a Unix socket alone, so the probe goes through the front. */}}
  livenessProbe:
    {{- include "registry-cache.livenessProbe" (dict "cache" . "path" "/-/distribution" "port" (int .endpoint.port)) | nindent 4 }}
  {{- with .settings.resources.distribution }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .settings.containerSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: pod-config
      mountPath: /etc/registry-cache/pod
      readOnly: true
    - name: cache-volume
      mountPath: /var/lib/registry
      readOnly: true
    - name: sockets
      mountPath: /run/registry-cache
{{- end -}}
