{{- /*
registry-cache.bytes: the whole number of bytes that a quantity stands for. An exponent (1e3) is a number already.
  {{ include "registry-cache.bytes" "1.5Gi" }}
*/}}
{{- define "registry-cache.bytes" -}}
{{- $binary := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $units := merge (dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "" 1) $binary -}}
{{- $unit := regexFind "([KMGTPE]i|[numkMGTPE])$" (toString .) -}}
{{- printf "%.0f" (mulf (toString . | trimSuffix $unit | float64) (get $units $unit)) -}}
{{- end -}}
