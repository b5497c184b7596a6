{{- /*
registry-cache.networkPolicyProblems: policies that no node would pass. Scope: the root context.
*/}}
{{- define "registry-cache.networkPolicyProblems" -}}
{{- if and .Values.networkPolicies.enabled (not .Values.networkPolicies.nodes) -}}
{{- $reason := `is empty, so no node could reach a cache; write the networks of your nodes, such as ["10.0.0.0/16"]` -}}
{{- include "registry-cache.problem" (list "networkPolicies.nodes" $reason) -}}
{{- end -}}
{{- end -}}

{{- /*
registry-cache.networkPolicyPorts: some TCP ports, as a NetworkPolicy has them, in JSON. Scope: a list of ports.
*/}}
{{- define "registry-cache.networkPolicyPorts" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $ports = append $ports (dict "protocol" "TCP" "port" (int .)) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- /*
registry-cache.upstreamPorts: the ports that a cache connects to, in JSON: those of its upstream and its proxies, and 443,
where token servers and hosts of blobs are. Scope: the record of the cache.
*/}}
{{- define "registry-cache.upstreamPorts" -}}
{{- $ports := list 443 -}}
{{- range list .remoteURL .proxy.httpProxy .proxy.httpsProxy -}}
{{- with . -}}
{{- $url := urlParse . -}}
{{- $default := ternary "443" "80" (eq (lower $url.scheme) "https") -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default $default | int) -}}
{{- end -}}
{{- end -}}
{{- uniq $ports | toJson -}}
{{- end -}}

{{- /*
registry-cache.policyIngress: who may connect to a cache: the nodes with containerd, the node program and the kubelet, the
monitoring, the pod of `helm test`, and the other replicas.
  {{ include "registry-cache.policyIngress" (dict "root" $ "cache" .) }}
*/}}
{{- define "registry-cache.policyIngress" -}}
{{- $policies := .root.Values.networkPolicies -}}
{{- $port := list .cache.endpoint.port | include "registry-cache.networkPolicyPorts" | fromJsonArray -}}
{{- $metricsPort := list .cache.endpoint.metricsPort | include "registry-cache.networkPolicyPorts" | fromJsonArray -}}
{{- $nodes := list -}}
{{- range $policies.nodes -}}
{{- $nodes = append $nodes (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- $test := include "registry-cache.selector" (dict "root" .root "component" "test") | fromYaml -}}
{{- $inside := append $nodes (dict "podSelector" (dict "matchLabels" $test)) -}}
{{- $monitoring := dict "namespaceSelector" (dict "matchLabels" $policies.monitoring) -}}
{{- $rules := list (dict "from" $inside "ports" (concat $port $metricsPort)) -}}
{{- $rules = append $rules (dict "from" (list $monitoring) "ports" $metricsPort) -}}
{{- if gt (int .cache.replicas) 1 -}}
{{- $replicas := dict "podSelector" (dict "matchLabels" .cache.selector) -}}
{{- $rules = append $rules (dict "from" (list $replicas) "ports" $port) -}}
{{- end -}}
{{- concat $rules $policies.extraIngress | toYaml -}}
{{- end -}}

{{- /*
registry-cache.policyEgress: where a cache may connect to: DNS, its upstream, its proxies, and the other replicas. Scope: as
of registry-cache.policyIngress.
*/}}
{{- define "registry-cache.policyEgress" -}}
{{- $policies := .root.Values.networkPolicies -}}
{{- $dns := list -}}
{{- range $number := $policies.dnsPorts -}}
{{- range list "UDP" "TCP" -}}
{{- $dns = append $dns (dict "protocol" . "port" (int $number)) -}}
{{- end -}}
{{- end -}}
{{- $rules := list (dict "ports" $dns) -}}
{{- with $policies.upstreams -}}
{{- $ports := include "registry-cache.upstreamPorts" $.cache | fromJsonArray | include "registry-cache.networkPolicyPorts" -}}
{{- $rules = append $rules (dict "to" . "ports" ($ports | fromJsonArray)) -}}
{{- end -}}
{{- if gt (int .cache.replicas) 1 -}}
{{- $replicas := dict "podSelector" (dict "matchLabels" .cache.selector) -}}
{{- $port := list .cache.endpoint.port | include "registry-cache.networkPolicyPorts" | fromJsonArray -}}
{{- $rules = append $rules (dict "to" (list $replicas) "ports" $port) -}}
{{- end -}}
{{- concat $rules $policies.extraEgress | toYaml -}}
{{- end -}}
