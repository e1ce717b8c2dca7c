{{/* What the DaemonSet, its Service and its PodMonitor select by; it cannot change in an upgrade. */}}
{{- define "meshnetd.selector" -}}
app.kubernetes.io/name: meshnetd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "meshnetd.labels" -}}
{{ include "meshnetd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "meshnetd.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The chart's own key stands before everything, since a key after a table would belong to the table. */}}
{{- define "meshnetd.config" -}}
# By the Helm chart: the pod is in the host's network namespace.
host_netns = "/proc/self/ns/net"
{{ with .Values.config }}
# config of the chart's values.
{{ trim . }}
{{ end }}
{{- if .Values.metrics.enabled }}
# By the Helm chart.
[metrics]
address = "[::]:{{ .Values.metrics.port }}"
{{- if .Values.kubectl.read }}
status = true
{{- end }}
{{ end }}
{{- end }}
