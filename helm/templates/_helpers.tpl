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

{{/* The name of objects of the cluster: another release may have this fullname in another namespace. */}}
{{- define "mue.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "mue.fullname" .) }}
{{- end }}

{{- define "mue.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mue.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name an existing account, or set serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mue.image" -}}
{{- with .Values.global.imageRegistry }}
{{- printf "%s/" (trimSuffix "/" .) }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The pull secrets of this chart and of the umbrella chart, as a list in YAML. */}}
{{- define "mue.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with $secrets | uniq }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "mue.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mue.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Differ from the server's, so that no other Service selects the demo. */}}
{{- define "mue.demoLabels" -}}
app.kubernetes.io/name: {{ include "mue.name" . }}-demo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Without a version: a change of these labels replaces all Pods, which ends all streams. */}}
{{- define "mue.podLabels" -}}
{{ include "mue.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
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
{{- if .Values.kubernetesEvents.enabled }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
{{- if include "mue.kfpToken" . }}
# Kubeflow's API asks for this right. Nothing of this group exists in the Kubernetes API.
- apiGroups: [pipelines.kubeflow.org]
  resources: [runs]
  verbs: [get]
{{- end }}
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
{{- printf "%s-subscriber" (include "mue.clusterName" .) }}
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

{{/* The address of Kubeflow's API. Empty: it is not asked. */}}
{{- define "mue.kfpApi" -}}
{{- if and (eq .Values.artifacts "kfp") (not .Values.kfp.api) }}
{{- fail "artifacts: kfp needs kfp.api, the address of Kubeflow's API" }}
{{- end }}
{{- if ne .Values.artifacts "mlmd" }}
{{- .Values.kfp.api }}
{{- end }}
{{- end }}

{{/* Whether calls to Kubeflow's API have a token. */}}
{{- define "mue.kfpToken" -}}
{{- if and .Values.kfp.token (include "mue.kfpApi" .) }}true{{ end }}
{{- end }}

{{/* The source of the volume with the certificate authority of Kubeflow's API. Empty: there is none. */}}
{{- define "mue.kfpCA" -}}
{{- with .Values.kfp.ca }}
{{- if and .secretName .configMapName }}
{{- fail "kfp.ca: name a Secret or a ConfigMap, not both" }}
{{- else if and (or .secretName .configMapName) (not (hasPrefix "https://" (include "mue.kfpApi" $))) }}
{{- fail "kfp.ca: only for TLS; write kfp.api with https://" }}
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
{{- with include "mue.kfpCA" . }}
kfp-ca:
  {{- . | nindent 2 }}
{{- end }}
{{- if include "mue.kfpToken" . }}
# The kubelet replaces the token before it expires.
kfp-token:
  projected:
    sources:
      - serviceAccountToken:
          audience: pipelines.kubeflow.org
          expirationSeconds: 3600
          path: token
{{- end }}
{{- with include "mue.tlsSecret" . }}
tls:
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{/*
Refuses to upgrade a release of another chart, whose objects Helm would delete. kfp-operator's own documentation gives its
release the name that begins this chart's Service. `lookup` finds nothing without a cluster (`helm template`).
*/}}
{{- define "mue.checkRelease" -}}
{{- if .Release.IsUpgrade }}
{{- $previous := printf "sh.helm.release.v1.%s.v%d" .Release.Name (sub .Release.Revision 1) }}
{{- $ours := false }}
{{- range $kind := list "Service" "ServiceAccount" }}
{{- range (lookup "v1" $kind $.Release.Namespace "").items }}
{{- $labels := .metadata.labels | default dict }}
{{- if and (eq (index $labels "app.kubernetes.io/instance" | default "") $.Release.Name) (hasPrefix (printf "%s-" $.Chart.Name) (index $labels "helm.sh/chart" | default "")) }}
{{- $ours = true }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (not $ours) (lookup "v1" "Secret" .Release.Namespace $previous) }}
{{- fail (printf "the release %s in the namespace %s contains no Service of this chart, so it is a release of another chart, and an upgrade would delete that; install this chart under another release name, with fullnameOverride=%s to keep the name of its Service" .Release.Name .Release.Namespace (include "mue.fullname" .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The port of a URL or of HOST:PORT. */}}
{{- define "mue.port" -}}
{{- $url := contains "://" . | ternary . (printf "http://%s" .) | urlParse }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- default (eq $url.scheme "https" | ternary "443" "80") $port }}
{{- end }}

{{- define "mue.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A file of files/, by (list . "NAME"). Some tools drop or empty files when they package a chart. */}}
{{- define "mue.file" -}}
{{- $name := printf "files/%s" (index . 1) }}
{{- $text := (index . 0).Files.Get $name }}
{{- if not $text }}
{{- fail (printf "%s is missing or empty in this copy of the chart" $name) }}
{{- end }}
{{- $text }}
{{- end }}
