{{- define "mue.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The longest suffix is "-dashboard-operations". */}}
{{- define "mue.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- $name := include "mue.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "mue.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mue.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name an existing account, or set serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mue.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "mue.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mue.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mue.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "mue.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mue.rules" -}}
- apiGroups: [argoproj.io]
  resources: [workflows]
  verbs: [list, watch, patch]
{{- end }}

{{/* The name of the container's port for metrics. */}}
{{- define "mue.metricsPort" -}}
{{- if .Values.metrics.port }}metrics{{ else }}admin{{ end }}
{{- end }}

{{/* The Secret with the certificate of the gRPC port. Empty: no TLS. */}}
{{- define "mue.tlsSecret" -}}
{{- if .Values.tls.secretName }}
{{- .Values.tls.secretName }}
{{- else if .Values.tls.certManager.enabled }}
{{- printf "%s-tls" (include "mue.fullname" .) }}
{{- end }}
{{- end }}

{{/* The ClusterRole with the right to subscribe. Empty: none is created. */}}
{{- define "mue.subscriberRole" -}}
{{- if and (ne .Values.auth.mode "none") .Values.auth.clusterRole.create }}
{{- printf "%s-subscriber" (include "mue.fullname" .) }}
{{- end }}
{{- end }}

{{- define "mue.subjects" -}}
- kind: ServiceAccount
  name: {{ include "mue.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* The source of the volume with ML Metadata's certificate authority. Empty: there is none. */}}
{{- define "mue.metadataStoreCA" -}}
{{- with .Values.metadataStoreCA }}
{{- if and .secretName .configMapName }}
{{- fail "metadataStoreCA: name a Secret or a ConfigMap, not both" }}
{{- else if and (or .secretName .configMapName) (not (hasPrefix "https://" $.Values.metadataStore)) }}
{{- fail "metadataStoreCA: only for TLS; write metadataStore with https://" }}
{{- else if .secretName -}}
secret:
  secretName: {{ .secretName }}
{{- else if .configMapName -}}
configMap:
  name: {{ .configMapName }}
{{- end }}
{{- end }}
{{- end }}

{{/* The sources of the volumes by their names, under which they are mounted in /etc/model-update-eventsource. */}}
{{- define "mue.volumes" -}}
{{- with include "mue.metadataStoreCA" . }}
metadata-store-ca:
  {{- . | nindent 2 }}
{{- end }}
{{- with include "mue.tlsSecret" . }}
tls:
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}
