{{- /*
registry-cache.fullname: the prefix of the names of all objects: fullnameOverride, or else the release's name, followed
by the chart's name unless the release's name contains it. At most 63 characters. A release's name may contain dots, but
the name of a Service may not. Scope: the root context.
  {{ include "registry-cache.fullname" . }}
*/}}
{{- define "registry-cache.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /*
registry-cache.namespace: the namespace of all objects: that of the release, unless namespaceOverride says another. Scope:
the root context.
*/}}
{{- define "registry-cache.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /*
registry-cache.suffixedName: the name of an object that exists once in a release, cut to 63 characters.
  {{ include "registry-cache.suffixedName" (dict "root" $ "suffix" "node") }}
*/}}
{{- define "registry-cache.suffixedName" -}}
{{- $length := sub 62 (len .suffix) | int -}}
{{- printf "%s-%s" (include "registry-cache.fullname" .root | trunc $length | trimSuffix "-") .suffix -}}
{{- end -}}

{{- /*
registry-cache.cacheName: the name of a cache's objects. It depends on nothing but the upstream, so adding a cache never
renames another one, which would lose its volume. Dots and colons become dashes. A hash follows where that is not unique:
  - the upstream contains a dash or a colon (a.b:5000 and a.b-5000);
  - it has no dot and could be the name of another object of the chart (node, test);
  - the name is longer than 52 characters. A StatefulSet's name becomes a label with 11 more characters.
  {{ include "registry-cache.cacheName" (dict "root" $ "upstream" "docker.io") }}
*/}}
{{- define "registry-cache.cacheName" -}}
{{- $fullname := include "registry-cache.fullname" .root -}}
{{- $name := printf "%s-%s" $fullname (.upstream | replace "." "-" | replace ":" "-") -}}
{{- if or (regexMatch "[-:]|^[^.]+$" .upstream) (gt (len $name) 52) -}}
{{- $hash := printf "%s/%s" $fullname .upstream | sha256sum | trunc 8 -}}
{{- printf "%s-%s" ($name | trunc 43 | trimAll "-") $hash -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.asServiceName: a name that may begin with a digit, as a release's name does, as the name of a Service,
which may not. Scope: the name.
  {{ include "registry-cache.asServiceName" $name }}
*/}}
{{- define "registry-cache.asServiceName" -}}
{{- regexReplaceAll "^[0-9]" . "s${0}" -}}
{{- end -}}

{{- /*
registry-cache.upstreamLabel: an upstream as the value of a label, which takes no colon and at most 63 characters. It is
for people and dashboards. Selectors use the name of the cache's objects, which is unique. Scope: the upstream.
  {{ include "registry-cache.upstreamLabel" "docker.io" }}
*/}}
{{- define "registry-cache.upstreamLabel" -}}
{{- $label := . | replace ":" "-" -}}
{{- if gt (len $label) 63 -}}
{{- printf "%s-%s" ($label | trunc 54 | trimAll "-.") (sha256sum . | trunc 8) -}}
{{- else -}}
{{- $label -}}
{{- end -}}
{{- end -}}
