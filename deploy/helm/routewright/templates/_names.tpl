{{- define "routewright.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "routewright.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "routewright.labels" -}}
{{ include "routewright.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* `drain_seconds` of the config, and 15 for the last lines and spans. */}}
{{- define "routewright.graceSeconds" -}}
{{- $server := (fromYaml .Values.config).server | default dict -}}
{{- $drain := 30.0 -}}
{{- if hasKey $server "drain_seconds" -}}{{- $drain = float64 $server.drain_seconds -}}{{- end -}}
{{- add (ceil $drain | int) 15 -}}
{{- end -}}
