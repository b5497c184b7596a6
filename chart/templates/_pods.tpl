{{- /*
registry-cache.restricted: the security context of a container that meets Pod Security's level "restricted".
*/}}
{{- define "registry-cache.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: ["ALL"]
readOnlyRootFilesystem: true
{{- end -}}

{{- /*
registry-cache.livenessTimings: when a container of a cache pod counts as hung. A pull that it holds ends only with its
connection, so the container is ended within 30 s, and without the grace period in which pulls end otherwise.
*/}}
{{- define "registry-cache.livenessTimings" -}}
periodSeconds: 5
timeoutSeconds: 5
failureThreshold: 4
terminationGracePeriodSeconds: 1
{{- end -}}
