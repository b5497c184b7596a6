{{- /*
registry-cache.nodeContainer: the node program, which writes and removes hosts.toml. Scope: the root context.
*/}}
{{- define "registry-cache.nodeContainer" -}}
- name: node
  image: {{ include "registry-cache.image" (dict "root" . "image" .Values.images.python) | quote }}
  imagePullPolicy: {{ .Values.images.python.pullPolicy | quote }}
  command: ["python3", "-B", "-u", "-m", "node_program", "--config", "/etc/registry-cache/node.json"]
  env:
    - name: PYTHONPATH
      value: /opt/registry-cache
    - name: METRICS_ADDRESS
      {{- with .Values.nodeProgram.metrics.listenAddress }}
      value: {{ . | quote }}
      {{- else }}
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: status.hostIP
      {{- end }}
  {{- $ready := ternary "test -e ready || test -e not-ready" "test -e ready" (eq .Values.nodeProgram.readyWhen "Running") }}
  readinessProbe:
    exec:
      command:
        - sh
        - -c
        - cd /run/registry-cache; {{ $ready }} || { cat not-ready 2>/dev/null || echo it starts; exit 1; }
    periodSeconds: 5
    failureThreshold: 1
  {{- with .Values.nodeProgram.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "registry-cache.nodeSecurityContext" . | nindent 2 }}
  volumeMounts:
    {{- include "registry-cache.programMounts" "node" | nindent 4 }}
    - name: config
      mountPath: /etc/registry-cache
      readOnly: true
    - name: registry-directory
      mountPath: /host/registry
    - name: containerd
      mountPath: /host/containerd
      readOnly: true
    {{- include "registry-cache.authorityMount" . | nindent 4 }}
    - name: state
      mountPath: /run/registry-cache
{{- end -}}

{{- /*
registry-cache.nodeSecurityContext: the security context of the containers without privileges. Scope: the root context.
*/}}
{{- define "registry-cache.nodeSecurityContext" -}}
{{- $security := deepCopy .Values.nodeProgram.containerSecurityContext }}
{{- with .Values.nodeProgram.seLinuxOptions | default (include "registry-cache.nodePreset" . | fromYaml).seLinuxOptions }}
{{- $security = merge $security (dict "seLinuxOptions" .) }}
{{- end }}
{{- with $security }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
registry-cache.findProxyContainer: the program that reads how systemd starts containerd, and ends. The files of services
may hold passwords, so that the container that runs all the time does not see them. Scope: the root context.
*/}}
{{- define "registry-cache.findProxyContainer" -}}
- name: find-proxy
  image: {{ include "registry-cache.image" (dict "root" . "image" .Values.images.python) | quote }}
  imagePullPolicy: {{ .Values.images.python.pullPolicy | quote }}
  command: ["python3", "-B", "-u", "-m", "node_program.find_proxy", "--config", "/etc/registry-cache/node.json"]
  env:
    - name: PYTHONPATH
      value: /opt/registry-cache
  {{- with .Values.nodeProgram.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "registry-cache.nodeSecurityContext" . | nindent 2 }}
  volumeMounts:
    {{- include "registry-cache.programMounts" "node" | nindent 4 }}
    - name: config
      mountPath: /etc/registry-cache
      readOnly: true
    {{- range $number, $directory := (include "registry-cache.proxyCheck" . | fromYaml).directories }}
    - name: units-{{ $number }}
      mountPath: /host/units/{{ $number }}
      readOnly: true
    {{- end }}
    - name: state
      mountPath: /run/registry-cache
{{- end -}}

{{- /*
registry-cache.configureContainerdContainer: the privileged program that changes containerd's configuration once, where it
does not name the registry directory, and restarts containerd. Scope: the root context.
*/}}
{{- define "registry-cache.configureContainerdContainer" -}}
- name: configure-containerd
  image: {{ include "registry-cache.image" (dict "root" . "image" .Values.images.python) | quote }}
  imagePullPolicy: {{ .Values.images.python.pullPolicy | quote }}
  command: ["python3", "-B", "-u", "-m", "node_program.configure_containerd", "--config", "/etc/registry-cache/node.json"]
  env:
    - name: PYTHONPATH
      value: /opt/registry-cache
  {{- with .Values.nodeProgram.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    privileged: true
    readOnlyRootFilesystem: true
  volumeMounts:
    {{- include "registry-cache.programMounts" "node" | nindent 4 }}
    - name: config
      mountPath: /etc/registry-cache
      readOnly: true
    - name: registry-directory
      mountPath: /host/registry
      readOnly: true
    - name: containerd
      mountPath: /host/containerd
{{- end -}}
