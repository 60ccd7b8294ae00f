{{- define "funkenshield.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "funkenshield.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "funkenshield.labels" -}}
{{ include "funkenshield.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "funkenshield.metadata" -}}
name: {{ include "funkenshield.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "funkenshield.labels" . | nindent 2 }}
{{- end }}

{{/* The port in the address of a store. */}}
{{- define "funkenshield.storePort" -}}
{{ regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" | default "6379" }}
{{- end }}

{{/* Any address of the pod's family. */}}
{{- define "funkenshield.any" -}}
{{ ternary "[::]" "0.0.0.0" (eq .Values.ipFamily "IPv6") }}
{{- end }}
