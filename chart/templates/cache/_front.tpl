{{- /*
registry-cache.frontContainer: nginx, which receives all requests and sends blobs. Scope: the record of a cache.
*/}}
{{- define "registry-cache.frontContainer" -}}
- name: front
  image: {{ .images.front.image | quote }}
  imagePullPolicy: {{ .images.front.pullPolicy | quote }}
  {{- /* nginx does not start with an IPv6 listener on a node without IPv6. Many container runtimes give a program 1024
        file descriptors, and let it take more. */}}
  command:
    - /bin/sh
    - -c
    - |
      if [ -e /proc/net/if_inet6 ]; then
        echo 'listen [::]:{{ .endpoint.port }} ipv6only=on backlog=4096;' > /run/front/listen-ipv6.conf
      fi
      ulimit -n "$(ulimit -Hn)"
      exec nginx -e stderr -c /etc/registry-cache/pod/nginx.conf -g 'daemon off;'
  ports:
    - name: registry-cache
      containerPort: {{ .endpoint.port }}
  {{- /* The request goes through front and gate. The gate watches distribution and the volume. */}}
  readinessProbe:
    httpGet:
      path: /v2/
      port: registry-cache
    {{- toYaml .settings.readinessProbe | nindent 4 }}
  livenessProbe:
    {{- include "registry-cache.livenessProbe" (dict "cache" . "path" "/-/front" "port" "registry-cache") | nindent 4 }}
  {{- with .settings.resources.front }}
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
    - name: front
      mountPath: /run/front
{{- end -}}
