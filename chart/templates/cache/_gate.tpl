{{- /*
registry-cache.gateContainer: our program, which decides, fetches, sends manifests and evicts. Scope: the record of a cache.
*/}}
{{- define "registry-cache.gateContainer" -}}
- name: gate
  image: {{ .images.gate.image | quote }}
  imagePullPolicy: {{ .images.gate.pullPolicy | quote }}
  command: ["python3", "-B", "-u", "-m", "gate", "--config", "/etc/registry-cache/config"]
  env:
    - name: PYTHONPATH
      value: /opt/registry-cache
    {{- if and .settings.ownerPerZone (gt (int .replicas) 1) }}
    {{- /* Empty where the cluster gives pods no such label. */}}
    - name: REGISTRY_CACHE_ZONE
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.labels['topology.kubernetes.io/zone']
    {{- end }}
  ports:
    - name: debug
      containerPort: {{ .endpoint.metricsPort }}
  livenessProbe:
    {{- include "registry-cache.livenessProbe" (dict "cache" . "path" "/healthz" "port" "debug") | nindent 4 }}
  {{- with .settings.resources.gate }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .settings.containerSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "registry-cache.programMounts" "cache" | nindent 4 }}
    - name: config
      mountPath: /etc/registry-cache/config
      readOnly: true
    - name: cache-volume
      mountPath: /var/lib/registry
    - name: sockets
      mountPath: /run/registry-cache
    {{- include "registry-cache.certificateMounts" . | nindent 4 }}
    {{- if .secretName }}
    - name: credentials
      mountPath: /etc/registry-cache/credentials
      readOnly: true
    {{- end }}
    {{- if .settings.proxySecretName }}
    - name: proxy-credentials
      mountPath: /etc/registry-cache/proxy-credentials
      readOnly: true
    {{- end }}
    {{- if or .settings.caConfigMapName .settings.caSecretName }}
    - name: ca
      mountPath: /etc/registry-cache/ca
      readOnly: true
    {{- end }}
    {{- with .settings.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
