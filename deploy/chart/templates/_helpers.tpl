{{- define "sluice.labels" -}}
app.kubernetes.io/component: {{ .Values.name }}
app.kubernetes.io/part-of: flux
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "sluice.image" -}}
{{- $image := .Values.image -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* The labels of an object that is taken from a file: those of the release, over those in the file. */}}
{{- define "sluice.mergedLabels" -}}
{{- $labels := (include "sluice.labels" .root) | fromYaml -}}
{{- mergeOverwrite (deepCopy (.labels | default dict)) $labels (.more | default dict) | toYaml -}}
{{- end }}

{{/* The shards, as a list of suffix and selector; the first is the controller of what belongs to no shard. */}}
{{- define "sluice.controllers" -}}
{{- $shards := .Values.shards -}}
- suffix: ""
  selector: {{ ternary "!sharding.fluxcd.io/key" "" (gt (len $shards) 0) | quote }}
{{- range $shards }}
- suffix: {{ printf "-%s" . | quote }}
  selector: {{ printf "sharding.fluxcd.io/key=%s" . | quote }}
{{- end }}
{{- end }}

{{/* Source-watcher's arguments in its order, for tools that patch them by position; ours follow. */}}
{{- define "sluice.args" -}}
{{- $values := .root.Values -}}
{{- if $values.eventsAddr }}
- {{ printf "--events-addr=%s" $values.eventsAddr | quote }}
{{- end }}
- {{ ternary "--watch-all-namespaces" "--watch-all-namespaces=false" $values.watchAllNamespaces }}
- --log-level={{ $values.logLevel }}
- --log-encoding={{ $values.logEncoding }}
- --enable-leader-election
- --storage-path=/data
- --storage-adv-addr={{ .name }}.$(RUNTIME_NAMESPACE).svc.{{ $values.clusterDomain }}.
{{- if not $values.allowLoopbackSources }}
- --no-loopback-sources
{{- end }}
{{- with .selector }}
- {{ printf "--watch-label-selector=%s" . | quote }}
{{- end }}
{{- if $values.featureGates }}
{{- $gates := list }}
{{- range $gate, $on := $values.featureGates }}
{{- $gates = append $gates (printf "%s=%t" $gate $on) }}
{{- end }}
- --feature-gates={{ join "," $gates }}
{{- end }}
{{- if $values.noCrossNamespaceRefs }}
- --no-cross-namespace-refs=true
{{- end }}
{{- range $values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
