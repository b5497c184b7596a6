{{- /*
registry-cache.json: JSON as the text of a file in a ConfigMap. JSON may have the character U+0085, which YAML takes for the
end of a line.
  {{ include "registry-cache.json" $config }}
*/}}
{{- define "registry-cache.json" -}}
{{- toPrettyJson . | replace "\u0085" "\\u0085" | indent 2 -}}
{{- end -}}
