{{- /*
registry-cache.frontContainer: nginx, which receives all requests and sends blobs. Scope: the record of a cache.
*/}}
{{- define "registry-cache.frontContainer" -}}
{{- $ssl := ternary " ssl" "" .tls }}
- name: front
  image: {{ .images.front.image | quote }}
  imagePullPolicy: {{ .images.front.pullPolicy | quote }}
  {{- /* nginx does not start with an IPv6 listener on a node without IPv6. A request needs no large receive buffer, and
        the kernel counts these buffers as memory of the container. Many container runtimes give a program 1024 file
        descriptors, and let it take more. Each of the four workers may have a fifth of the memory: one that needs more
        closes connections, while the kernel would end all of nginx. */}}
  command:
    - /bin/sh
    - -c
    - |
      echo 'listen {{ .endpoint.port }}{{ $ssl }} backlog=4096 rcvbuf=16k;' > /run/front/listen.conf
      if [ -e /proc/net/if_inet6 ]; then
        echo 'listen [::]:{{ .endpoint.port }}{{ $ssl }} ipv6only=on backlog=4096 rcvbuf=16k;' >> /run/front/listen.conf
      fi
      {{- /* While the gate is away, nobody knows who may pull what. A token may be longer than other headers. */}}
      {{- if eq .settings.access "Puller" }}
      echo 'set $needs_gate yes; large_client_header_buffers 1 8k;' >> /run/front/listen.conf
      {{- else }}
      echo 'set $needs_gate "";' >> /run/front/listen.conf
      {{- end }}
      {{- if .tls }}
      cat /etc/registry-cache/pod/tls.conf >> /run/front/listen.conf
      {{- if .nodesOnly }}
      cat /etc/registry-cache/pod/nodes-only.conf >> /run/front/listen.conf
      cat /etc/registry-cache/client/ca.crt > /run/front/clients.crt
      {{- end }}
      sh /etc/registry-cache/pod/reload.sh &
      {{- end }}
      ulimit -n "$(ulimit -Hn)"
      ulimit -d $((MEMORY_LIMIT_KIB / 5))
      exec nginx -e stderr -c /etc/registry-cache/pod/nginx.conf -g 'daemon off;'
  env:
    - name: MEMORY_LIMIT_KIB
      valueFrom:
        resourceFieldRef:
          resource: limits.memory
          divisor: 1Ki
  ports:
    - name: registry-cache
      containerPort: {{ .endpoint.port }}
  {{- /* The request goes through front and gate. The gate watches distribution and the volume. */}}
  readinessProbe:
    httpGet:
      path: /-/ready
      port: registry-cache
      {{- if .tls }}
      scheme: HTTPS
      {{- end }}
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
    {{- include "registry-cache.certificateMounts" . | nindent 4 }}
    - name: sockets
      mountPath: /run/registry-cache
    - name: front
      mountPath: /run/front
{{- end -}}
